"""Every word the review page says, in English and in Chinese. It knows neither Gradio nor HTML."""

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Words:
    """The page's words in one language; the fields' defaults are English."""

    language: str = "en"
    title: str = "Review"
    states: Mapping[str, str] = field(
        default_factory=lambda: {
            "": "all",
            "open": "open",
            "accepted": "accepted",
            "edited": "edited",
            "rejected": "rejected",
        }
    )
    roles: Mapping[str, str] = field(
        default_factory=lambda: {"system": "System", "user": "User", "assistant": "Assistant"}
    )
    progress: str = "{done} of {all} decided"
    place: str = "{at} of {of}"
    state: str = "State"
    origin: str = "Origin"
    any_origin: str = "any origin"
    no_origin: str = "not stated"
    score: str = "Score"
    any_score: str = "in the order of the file"
    lowest_first: str = "{score}, lowest first"
    below: str = "below"
    accept: str = "Accept"
    edit: str = "Edit"
    reject: str = "Reject"
    take_back: str = "Take back"
    previous: str = "Previous"
    next: str = "Next"
    save: str = "Save"
    cancel: str = "Cancel"
    note: str = "Note (goes with the decision)"
    theme: str = "Light or dark"
    source: str = "from"
    by: str = "by"
    licence: str = "licence"
    labels: str = "labels"
    checks: str = "checks"
    decided: str = "decided {at}"
    was: str = "It was edited; the file has:"
    cut: str = "… {n} more characters; edit shows all of them"
    hidden: str = (
        "Holds {n} characters that cannot be seen or that change the direction of the text; they are not shown."
    )
    nothing: str = "No example is of this kind."
    all_done: str = "All examples are decided. Write them out in a terminal:"
    again: str = "That was the last of this kind; here is the first."
    back: str = "That was the first of this kind; here is the last."
    overtaken: str = (
        "Somebody decided this one in another tab meanwhile: {state}. That is kept; decide again to replace it."
    )
    stalled: str = "The page's server does not answer. What was decided so far is kept; is the command still running?"
    failed: str = "That did not work ({kind}); details are in the terminal."
    keys: tuple[tuple[str, str], ...] = (
        ("A", "accept"),
        ("E", "edit"),
        ("R", "reject"),
        ("U", "take back"),
        ("← →", "previous, next"),
        ("N", "note"),
        ("Ctrl Enter", "save"),
        ("Esc", "cancel"),
    )


ENGLISH = Words()
CHINESE = Words(
    language="zh",
    title="审核",
    states={"": "全部", "open": "待审", "accepted": "已接受", "edited": "已修改", "rejected": "已拒绝"},
    roles={"system": "系统", "user": "用户", "assistant": "助手"},
    progress="已审 {done} / {all}",
    place="第 {at} 条，共 {of} 条",
    state="状态",
    origin="来源",
    any_origin="任意来源",
    no_origin="未注明",
    score="分数",
    any_score="按文件顺序",
    lowest_first="{score}，从低到高",
    below="低于",
    accept="接受",
    edit="修改",
    reject="拒绝",
    take_back="撤回",
    previous="上一条",
    next="下一条",
    save="保存",
    cancel="取消",
    note="备注（随决定保存）",
    theme="浅色或深色",
    source="出自",
    by="方式",
    licence="许可",
    labels="标签",
    checks="检查",
    decided="决定于 {at}",
    was="此条已修改，文件中的原文：",
    cut="……还有 {n} 个字符，修改时全部显示",
    hidden="含有 {n} 个不可见或改变文字方向的字符，此处未显示。",
    nothing="没有符合条件的样例。",
    all_done="全部样例均已审核。请在终端写出结果：",
    again="已是符合条件的最后一条，回到第一条。",
    back="已是符合条件的第一条，转到最后一条。",
    overtaken="此条刚在另一个标签页中被决定：{state}。该决定已保留；再次决定即可替换。",
    stalled="服务没有回应。此前的决定均已保存；命令还在运行吗？",
    failed="操作未成功（{kind}）。详情见终端。",
    keys=(
        ("A", "接受"),
        ("E", "修改"),
        ("R", "拒绝"),
        ("U", "撤回"),
        ("← →", "上一条、下一条"),
        ("N", "备注"),
        ("Ctrl Enter", "保存"),
        ("Esc", "取消"),
    ),
)


def words_for(accept_language: str) -> Words:
    """The words for a browser's Accept-Language header: Chinese if it is asked for before English, else English."""
    for part in accept_language.lower().split(","):
        tag = part.split(";")[0].strip()
        if tag.startswith(("zh", "en")):
            return CHINESE if tag.startswith("zh") else ENGLISH
    return ENGLISH
