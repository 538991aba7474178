"""What a model is shown to write new tasks, to say of what kind one is, and to write an instance; how replies are read.

After Self-Instruct (Wang et al. 2023, arXiv:2212.10560), for chat models. It draws nothing and judges nothing.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from adapt.instructions.writing.tasks import Task
from retrieval.prompts import Language, Message


@dataclass(frozen=True, slots=True)
class _Words:
    writes: str
    tasks: str
    order: str
    about: str
    task: str
    sorts: str
    kind: str
    instance: str
    labelled: str
    input: str
    output: str
    label: str
    none: str
    demonstrations: tuple[Task, ...]


_WORDS: dict[Language, _Words] = {
    "en": _Words(
        writes="You write tasks for an assistant that reads and writes text and can do nothing else.",
        tasks="Here are {count} tasks:",
        order=(
            "Write {more} new tasks, Task {first} to Task {last}. They must differ from those above and from one "
            "another in subject, verb and form: questions and requests, factual and creative, simple and demanding. "
            "Text alone must be enough to do them. Where a task needs an input, speak of it and do not write it. Write "
            'in English, each on a line of its own that begins with "Task {first}:" and so on, and nothing else.'
        ),
        about="All new tasks are about this: {about}",
        task="Task {number}: {text}",
        sorts="You sort tasks. A task is a classification where its answer is one of a few labels known beforehand.",
        kind="Task: {text}\n\nIs this a classification? Reply with Yes or No and nothing else.",
        instance=(
            "You are shown a task. If it needs an input, make up a concrete one, complete and without placeholders; "
            'else write "none". Then do the task, rightly and completely. Reply in this form and nothing else:\n'
            "Input: …\nOutput: …"
        ),
        labelled=(
            "You are shown a classification task. Choose one of its labels and make up a concrete input, complete and "
            "without placeholders, that belongs to it; do so for up to three different labels. Reply in this form and "
            "nothing else:\nLabel: …\nInput: …"
        ),
        input="Input",
        output="Output",
        label="Label",
        none="none",
        demonstrations=(
            Task(
                "Rewrite the sentence so that it is polite.",
                "Send me the report.",
                "Could you please send me the report?",
                False,
            ),
            Task(
                "Why does ice float on water?",
                "",
                "Water expands when it freezes, so that ice is less dense than the water around it.",
                False,
            ),
            Task(
                "Does the review recommend the product? Answer yes or no.",
                "The battery died in a week. Save your money.",
                "no",
                True,
            ),
            Task(
                "Name the department a message is meant for: sales, support or accounts.",
                "I was charged twice for my order in May.",
                "accounts",
                True,
            ),
        ),
    ),
    "zh": _Words(
        writes="你为一个只能阅读和书写文字的助手编写任务。",
        tasks="下面是{count}个任务：",
        order=(
            "请再写{more}个新任务，从任务{first}到任务{last}。它们在主题、动词和形式上必须与上面的任务不同，彼此也不同："
            "有提问也有要求，有事实也有创作，有简单也有困难。只靠文字就必须能完成。需要输入的任务只提到输入，不写出输入。"
            "用中文书写，每个任务单独一行，以“任务{first}：”这样的编号开头，不要写别的内容。"
        ),
        about="所有新任务都围绕这个主题：{about}",
        task="任务{number}：{text}",
        sorts="你给任务分类。如果一个任务的答案是事先已知的少数几个标签之一，它就是分类任务。",
        kind="任务：{text}\n\n这是分类任务吗？只回答“是”或“否”。",
        instance=(
            "你会看到一个任务。如果它需要输入，就编写一个具体、完整、没有占位符的输入；否则写“无”。然后正确而完整地完成任务。"
            "只按下面的格式回复：\n输入：…\n输出：…"
        ),
        labelled=(
            "你会看到一个分类任务。选择其中一个标签，编写一个属于它的具体、完整、没有占位符的输入；最多为三个不同的标签这样做。"
            "只按下面的格式回复：\n标签：…\n输入：…"
        ),
        input="输入",
        output="输出",
        label="标签",
        none="无",
        demonstrations=(
            Task("把句子改写得更有礼貌。", "把报告发给我。", "请问您方便把报告发给我吗？", False),
            Task("冰为什么会浮在水面上？", "", "水结冰时体积变大，所以冰的密度比周围的水小，会浮起来。", False),
            Task("这条评论是否推荐该产品？回答“是”或“否”。", "电池一周就坏了，别浪费钱。", "否", True),
            Task("判断留言应交给哪个部门：销售、售后或财务。", "我五月的订单被重复扣款了。", "财务", True),
        ),
    ),
}
_NUMBERED = re.compile(
    r"^[ \t]*[*#>\-]{0,3}[ \t]*(?:Task|任务)?[ \t]*(\d{1,3})[ \t]*[.:：、)）][*]{0,2}[ \t]*", re.MULTILINE
)
_MARK = re.compile(
    r"^[ \t]*[*#]{0,3}[ \t]*(?:(?P<label>Class label|Label|类别标签|标签|类别)|(?P<input>Input|输入)"
    r"|(?P<output>Output|Answer|输出|答案))[ \t]*\d{0,2}[ \t]*[*]{0,2}[ \t]*[:：][*]{0,2}[ \t]*",
    re.MULTILINE | re.IGNORECASE,
)
_NONE = re.compile(r"[\s(（\[<\"“]*(?:none|n/?a|no input|无|没有|无输入|不需要)[\s)）\].>。\"”]*", re.IGNORECASE)
_YES_NO = re.compile(r"[\s\"'“*]*(yes|no|是|否|不是)(?![a-z])", re.IGNORECASE)
_BLANK_LINE = re.compile(r"\n[ \t]*\n")
_THINKING = re.compile(r"\A\s*<think>.*?</think>", re.DOTALL)


def new_tasks_messages(shown: Sequence[str], more: int, language: Language, about: str = "") -> tuple[Message, ...]:
    """Ask for `more` tasks after those shown."""
    words = _WORDS[language]
    count = len(shown)
    parts = [
        words.tasks.format(count=count),
        "\n".join(
            words.task.format(number=number, text=" ".join(text.split())) for number, text in enumerate(shown, 1)
        ),
    ]
    if about:
        parts.append(words.about.format(about=" ".join(about.split())))
    parts.append(words.order.format(more=more, first=count + 1, last=count + more))
    return Message("system", words.writes), Message("user", "\n\n".join(parts))


def read_new_tasks(reply: str) -> list[str]:
    """The numbered entries of a reply, in order, each up to a blank line: what else stands there is chatter."""
    text = _THINKING.sub("", reply)
    begins = list(_NUMBERED.finditer(text))
    ends = [match.start() for match in begins[1:]] + [len(text)]
    entries = [text[match.end() : end].strip() for match, end in zip(begins, ends, strict=False)]
    found = [_BLANK_LINE.split(entry, maxsplit=1)[0].strip("* ") for entry in entries]
    return [entry for entry in found if entry]


def kind_messages(instruction: str, language: Language) -> tuple[Message, ...]:
    """Ask whether a task is a classification."""
    words = _WORDS[language]
    return Message("system", words.sorts), Message("user", words.kind.format(text=instruction))


def read_kind(reply: str) -> bool | None:
    """None for what is neither yes nor no."""
    match = _YES_NO.match(_THINKING.sub("", reply))
    return None if match is None else match[1].lower() in ("yes", "是")


def own_demonstrations(classification: bool, language: Language) -> list[Task]:
    """For where the seeds have none of a kind."""
    return [task for task in _WORDS[language].demonstrations if task.classification == classification]


def instance_messages(
    instruction: str, classification: bool, demonstrations: Sequence[Task], language: Language
) -> tuple[Message, ...]:
    """Ask for an instance of a task: of a classification the label first, since a model that writes the input first
    writes inputs of one label alone; of others the input first."""
    words = _WORDS[language]
    messages = [Message("system", words.labelled if classification else words.instance)]
    for task in demonstrations:
        given = f"{words.input}: {task.input or words.none}"
        answer = (
            f"{words.label}: {task.output}\n{given}" if classification else f"{given}\n{words.output}: {task.output}"
        )
        messages += [Message("user", task.instruction), Message("assistant", answer)]
    return (*messages, Message("user", instruction))


def read_instances(reply: str, classification: bool) -> list[tuple[str, str]]:
    """(input, output) pairs of a reply in the form asked for, in order; none where it has another form."""
    text = _THINKING.sub("", reply)
    marks = list(_MARK.finditer(text))
    ends = [match.start() for match in marks[1:]] + [len(text)]
    parts = [(str(match.lastgroup), text[match.end() : end].strip()) for match, end in zip(marks, ends, strict=False)]
    if classification:
        pairs = zip(parts, parts[1:], strict=False)
        return [(two[1], one[1]) for one, two in pairs if one[0] == "label" and two[0] == "input"]
    names = [name for name, _ in parts]
    if names[:2] == ["input", "output"]:
        given = parts[0][1]
        # Whatever follows belongs to the answer, be it that the answer has such a heading itself.
        return [("" if _NONE.fullmatch(given) else given, text[marks[1].end() :].strip())]
    if names[:1] == ["output"]:
        return [("", text[marks[0].end() :].strip())]
    return []
