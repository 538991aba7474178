"""Every sentence the chat page says, in English and in Chinese. It knows neither Gradio nor HTML."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from retrieval.passages import Support


@dataclass(frozen=True, slots=True)
class Words:
    """The page's words in one language; the fields' defaults are English."""

    language: str = "en"
    tagline: str = "Answers from your documents, with the place they stand."
    ask: str = "Ask about these documents"
    send: str = "Ask"
    stop: str = "Stop"
    clear: str = "New chat"
    retry: str = "Answer again"
    edit: str = "Edit this question"
    editing: str = "You are editing an earlier question. The turns after it are replaced once the new answer begins."
    cancel: str = "Leave it as it was"
    copy: str = "Copy"
    collection: str = "Collection"
    mode: str = "How to answer"
    mode_answer: str = "Write an answer"
    mode_quote: str = "Quote only"
    passages: str = "{n} passages"
    passages_label: str = "Passages to find"
    sources: str = "Sources"
    teach_title: str = "Ask your documents"
    teach: tuple[str, ...] = (
        "Ask in your own words; one question at a time works best.",
        "Numbers like 1 in an answer lead to the passage it rests on: click one.",
        "“Quote only” shows the best sentences word for word, without a model writing anything.",
    )
    teach_quotes: str = "Quoting is chosen here: a small model quotes better than it writes. “Write an answer” lets it."
    no_collections: str = (
        "There is no collection of documents yet. In a terminal: fathom index sync FOLDER — then reload this page."
    )
    about: str = "What is “{title}” about?"
    no_sources_yet: str = "The passages an answer rests on appear here as soon as they are found."
    nothing_found: str = "No passage matches this question. Other words may help, or another collection."
    sources_found: str = "{n} found"
    sources_cited: str = "{n} cited"
    whole_passage: str = "Whole passage"
    page: str = "page {page}"
    open_source: str = "Show source {n}"
    dense: str = "meaning"
    lexical: str = "words (BM25)"
    fused: str = "together"
    rerank: str = "reranked"
    support: Mapping[Support, str] = field(
        default_factory=lambda: {
            "yes": "The source says this.",
            "partly": "The source says part of this.",
            "no": "Not found in the source: check it.",
        }
    )
    searching: str = "Searching …"
    reading: str = "Reading the passages …"
    writing: str = "Writing …"
    stopped: str = "Stopped. What was written so far stays."
    stopped_before: str = "Stopped before anything was written."
    too_long: str = "Cut: the answer grew past {n} characters."
    refused: str = "The documents do not answer this."
    nearest: str = "Nearest to the question:"
    flag_number: str = "This number stands in none of the passages."
    flag_name: str = "This name stands in none of the passages."
    engine_loading: str = "The language model is loading; until then you get quotes."
    engine_preparing: str = (
        "The language model is being made ready for this machine, once (about half a minute); "
        "until then you get quotes."
    )
    engine_ready: str = "Ready · {model}"
    engine_failed: str = "Quotes only: {reason}"
    quoted_meanwhile: str = "The language model is still loading, so these are quotes; ask again for a written answer."
    quoted_after: str = "What the model wrote is not in the passages, so these are their own words."
    quoted_instead: str = "No language model is available, so these are quotes."
    ended: str = "The server ended while this was being written. What there was is kept; ask again for a whole answer."
    unexpected: str = "Something went wrong while answering ({kind}). The log has the details; the sources stay."
    question_too_long: str = "This question has {n} characters; up to {limit} can be asked."
    unsupported: str = "Not every statement was found in its source: look at the numbers marked in red."
    searched: str = "searched in {time}"
    first_token: str = "first word after {time}"
    total: str = "done in {time}"
    speed: str = "{n} tokens/s"
    seconds: str = "{value} s"
    milliseconds: str = "{value} ms"
    how: str = "How this was found"
    how_queries: str = "Searched for"
    how_filters: str = "Only documents with"
    how_collection: str = "Collection"
    how_passages: str = "Passages"
    how_found: str = "{found} found"
    how_given: str = "{found} found, {given} of them read by the model"
    how_score: str = "Confidence"
    how_needed: str = "{score} (an answer needs {threshold})"
    how_model: str = "Written by"
    how_quoted: str = "nobody: quotes of the passages"
    how_replaced: str = "{model}, whose words were then replaced by quotes"
    how_prompt: str = "Instructions"
    how_tokens: str = "Tokens"
    how_read: str = "{n} read"
    how_written: str = "{n} written"
    how_waited: str = "You waited"
    how_stages: str = "Stages"
    stages: Mapping[str, str] = field(
        default_factory=lambda: {
            "rewrite": "rewording",
            "expand": "short and long forms",
            "search": "search",
            "rerank": "reranking",
            "pack": "choosing passages",
            "first_token": "reading",
            "generate": "writing",
            "check": "checking citations",
            "quote": "choosing sentences",
            "search.filter": "filter",
            "search.embed": "meaning of the question",
            "search.dense": "search by meaning",
            "search.lexical": "search by words",
            "search.fuse": "joining both",
            "search.rerank": "reranking",
            "search.fetch": "fetching passages",
        }
    )
    how_steps: str = "Search"
    step_skipped: str = "{did} — {why}"
    step_did: Mapping[str, str] = field(
        default_factory=lambda: {
            "rewrite.as_asked": "searched as asked",
            "rewrite.with_previous": "searched together with the question before",
            "rewrite.condensed": "reworded so that it stands alone",
            "rewrite.planned": "planned by the model",
            "expand.expanded": "other forms: {forms}",
            "expand.kept": "no other form of its names is in the documents",
            "search.searched": "searches: {queries}, passages: {hits}",
            "rerank.reranked": "reranked: {depth} passages",
            "rerank.skipped": "not reranked",
            "cut.cut": "below {least}: {dropped} passages left out",
            "cut.skipped": "none left out",
        }
    )
    step_why: Mapping[str, str] = field(
        default_factory=lambda: {
            "no_history": "nothing was said before",
            "good_hits": "its own passages are good",
            "long": "it is long enough",
            "no_engine": "no language model is there: {error}",
            "no_hits": "no passage was found",
            "not_calibrated": "the reranker's scores are no probabilities",
            "unusable": "what the model wrote was no question to search for ({why})",
            "too_slow": "it took longer than {limit} s",
            "busy": "it is still busy with a question that took too long",
            "stopped": "stopped",
            "cannot": "the engine cannot do it: {error}",
            "failed": "it failed: {error}",
            "bad_scores": "its scores cannot be used: {error}",
        }
    )
    conversations: str = "Conversations"
    no_conversations: str = "What you ask is kept here, on this machine, and can be gone on with later."
    today: str = "Today"
    yesterday: str = "Yesterday"
    week: str = "Last seven days"
    earlier: str = "Earlier"
    rename: str = "Rename"
    delete: str = "Delete"
    delete_sure: str = "Delete it?"
    keep: str = "Keep"
    running: str = "An answer is being written"
    busy: str = (
        "An answer of this conversation is still being written. Your question stays in the box: stop that answer, or \
wait for its end, then send it."
    )
    gone: str = "This conversation is not there any more; here is a new one."
    failed: str = "That did not work ({kind}). The log has the details."
    unsaved: str = "Conversations are not being saved: {reason}"
    unsaved_reasons: Mapping[str, str] = field(
        default_factory=lambda: {
            "busy": "another program has {file} open. Close it and start the chat again.",
            "damaged": "{file} is damaged. It is left as it is; move it away and start the chat again to begin anew.",
            "newer": "{file} was made by a newer Fathom. Start the chat with that one.",
            "full": "the disk is full. Make some room and start the chat again.",
            "unwritable": "{file} cannot be written. Check who may write it and start the chat again.",
        }
    )
    filter: str = "Filter documents"
    filter_placeholder: str = "Filter: year>=2020"
    filter_add: str = "Add"
    filter_hint: str = "key=value, with = != >= <= > < or ~ for a pattern. Known here:"
    filter_remove: str = "Remove the filter {filter}"
    engine: str = "Model"
    engine_idle: str = "{model} loads with the first question."
    engine_missing: str = "{title} — not available"
    engine_missing_now: str = "{title} cannot be used here: {missing}"
    options: str = "Options"
    close: str = "Close"
    theme: str = "Light or dark"
    empty_collection: str = (
        "The collection “{name}” has no documents yet. In a terminal: fathom index sync FOLDER --collection {name}"
    )
    help: str = "Keyboard"
    keys: tuple[tuple[str, str], ...] = (
        ("Enter", "ask"),
        ("Shift Enter", "new line"),
        ("Esc", "stop the answer, close what is open"),
        ("/", "go to the question box"),
        ("↑", "in the empty box: edit the last question"),
        ("Ctrl K", "new chat"),
        ("?", "this list"),
    )


ENGLISH = Words()
CHINESE = Words(
    language="zh",
    tagline="从您的文档中作答，并指明出处。",
    ask="就这些文档提问",
    send="提问",
    stop="停止",
    clear="新对话",
    retry="重新回答",
    edit="修改这个问题",
    editing="正在修改先前的问题；新回答开始后，其后的内容将被取代。",
    cancel="保持原样",
    copy="复制",
    collection="文档集",
    mode="作答方式",
    mode_answer="撰写回答",
    mode_quote="只引原文",
    passages="{n} 段",
    passages_label="查找段落数",
    sources="出处",
    teach_title="向您的文档提问",
    teach=(
        "用自己的话提问；一次一个问题效果最好。",
        "回答中的数字（如 1）指向所依据的段落：点一下即可。",
        "“只引原文”逐字给出最相关的句子，不由模型撰写。",
    ),
    teach_quotes="此处已选“只引原文”：小模型引用比撰写更可靠；选“撰写回答”即由它撰写。",
    no_collections="还没有文档集。请在终端运行：fathom index sync 文件夹 ，然后刷新本页。",
    about="《{title}》讲的是什么？",
    no_sources_yet="找到回答所依据的段落后，会立即显示在这里。",
    nothing_found="没有段落与此问题相符。可换个说法，或换一个文档集。",
    sources_found="找到 {n} 段",
    sources_cited="引用 {n} 段",
    whole_passage="查看整段",
    page="第 {page} 页",
    open_source="查看出处 {n}",
    dense="语义",
    lexical="词语（BM25）",
    fused="综合",
    rerank="重排",
    support={"yes": "原文如此。", "partly": "原文只说了一部分。", "no": "原文中未找到，请核对。"},
    searching="正在检索……",
    reading="正在阅读段落……",
    writing="正在撰写……",
    stopped="已停止，已写出的内容保留。",
    stopped_before="已停止，尚未写出内容。",
    too_long="已截断：回答超过 {n} 个字符。",
    refused="文档没有回答这个问题。",
    nearest="与问题最接近的段落：",
    flag_number="所有段落中都没有这个数字。",
    flag_name="所有段落中都没有这个名称。",
    engine_loading="语言模型正在载入；在此之前先给出原文引语。",
    engine_preparing="首次启动：语言模型正在为本机做准备（约半分钟，仅此一次）；在此之前先给出原文引语。",
    engine_ready="就绪 · {model}",
    engine_failed="只引原文：{reason}",
    quoted_meanwhile="语言模型仍在载入，以下是原文引语；稍后再问可得到撰写的回答。",
    quoted_after="模型所写的内容不见于段落，因此以下是原文引语。",
    quoted_instead="没有可用的语言模型，以下是原文引语。",
    ended="撰写途中服务器已结束。已有内容保留；如需完整回答请重新提问。",
    unexpected="回答时出错（{kind}）。详情见日志；出处保留。",
    question_too_long="问题共 {n} 个字符；最多可问 {limit} 个字符。",
    unsupported="并非每句话都能在出处中找到：请看标红的数字。",
    searched="检索 {time}",
    first_token="首字 {time}",
    total="共 {time}",
    speed="每秒 {n} 词元",
    seconds="{value} 秒",
    milliseconds="{value} 毫秒",
    how="查找经过",
    how_queries="检索内容",
    how_filters="限于文档",
    how_collection="文档集",
    how_passages="段落",
    how_found="找到 {found} 段",
    how_given="找到 {found} 段，模型阅读其中 {given} 段",
    how_score="把握",
    how_needed="{score}（作答需达到 {threshold}）",
    how_model="撰写者",
    how_quoted="无：段落原文引语",
    how_replaced="{model}，其文字随后由原文引语取代",
    how_prompt="指令版本",
    how_tokens="词元",
    how_read="读入 {n}",
    how_written="写出 {n}",
    how_waited="等待时间",
    how_stages="各步骤",
    stages={
        "rewrite": "改写",
        "expand": "全称与缩写",
        "search": "检索",
        "rerank": "重排",
        "pack": "挑选段落",
        "first_token": "阅读",
        "generate": "撰写",
        "check": "核对引用",
        "quote": "挑选句子",
        "search.filter": "筛选",
        "search.embed": "理解问题",
        "search.dense": "按语义检索",
        "search.lexical": "按词语检索",
        "search.fuse": "合并结果",
        "search.rerank": "重排",
        "search.fetch": "读取段落",
    },
    how_steps="检索步骤",
    step_skipped="{did}（原因：{why}）",
    step_did={
        "rewrite.as_asked": "按原问题检索",
        "rewrite.with_previous": "与上一个问题合在一起检索",
        "rewrite.condensed": "已改写为独立的问题",
        "rewrite.planned": "由模型规划",
        "expand.expanded": "其他写法：{forms}",
        "expand.kept": "文档中没有其他写法",
        "search.searched": "检索 {queries} 次，得到 {hits} 段",
        "rerank.reranked": "重排 {depth} 段",
        "rerank.skipped": "未重排",
        "cut.cut": "低于 {least}：舍去 {dropped} 段",
        "cut.skipped": "未舍去任何段落",
    },
    step_why={
        "no_history": "此前没有对话",
        "good_hits": "原问题的结果已经很好",
        "long": "问题足够长",
        "no_engine": "没有可用的语言模型：{error}",
        "no_hits": "没有找到段落",
        "not_calibrated": "重排的分数不是概率",
        "unusable": "模型所写的不是可检索的问题（{why}）",
        "too_slow": "超过 {limit} 秒",
        "busy": "仍在处理一个超时的问题",
        "stopped": "已停止",
        "cannot": "该引擎做不到：{error}",
        "failed": "出错：{error}",
        "bad_scores": "分数无法使用：{error}",
    },
    conversations="对话",
    no_conversations="您的提问保存在这里（仅在本机），以后可以继续。",
    today="今天",
    yesterday="昨天",
    week="最近七天",
    earlier="更早",
    rename="重命名",
    delete="删除",
    delete_sure="确定删除？",
    keep="保留",
    running="正在撰写回答",
    busy="本对话的回答仍在撰写中。您的问题留在输入框里：请先停止该回答或等它结束，再发送。",
    gone="该对话已不存在，这里是一个新对话。",
    failed="操作未成功（{kind}）。详情见日志。",
    unsaved="对话未被保存：{reason}",
    unsaved_reasons={
        "busy": "另一个程序正在使用 {file}。请关闭它，然后重新启动。",
        "damaged": "{file} 已损坏，将原样保留；移走该文件并重新启动即可重新开始。",
        "newer": "{file} 由更新版本的 Fathom 创建，请用该版本启动。",
        "full": "磁盘已满。请腾出空间，然后重新启动。",
        "unwritable": "无法写入 {file}。请检查权限，然后重新启动。",
    },
    filter="筛选文档",
    filter_placeholder="筛选：year>=2020",
    filter_add="添加",
    filter_hint="键=值，可用 = != >= <= > <，或用 ~ 匹配模式。此处已有：",
    filter_remove="移除筛选 {filter}",
    engine="模型",
    engine_idle="{model} 将在第一次提问时载入。",
    engine_missing="{title}（不可用）",
    engine_missing_now="{title} 无法在此使用：{missing}",
    options="选项",
    close="关闭",
    theme="浅色或深色",
    empty_collection="文档集“{name}”中还没有文档。请在终端运行：fathom index sync 文件夹 --collection {name}",
    help="键盘",
    keys=(
        ("Enter", "提问"),
        ("Shift Enter", "换行"),
        ("Esc", "停止回答，关闭打开的面板"),
        ("/", "转到输入框"),
        ("↑", "输入框为空时：修改上一个问题"),
        ("Ctrl K", "新对话"),
        ("?", "显示此列表"),
    ),
)


def words_for(accept_language: str) -> Words:
    """The words for a browser's Accept-Language header: Chinese if it is asked for before English, else English."""
    for part in accept_language.lower().split(","):
        tag = part.split(";")[0].strip()
        if tag.startswith("zh"):
            return CHINESE
        if tag.startswith("en"):
            return ENGLISH
    return ENGLISH


def duration(seconds: float, words: Words) -> str:
    """'12 ms' or '1.1 s'."""
    if seconds < 0.9995:
        return words.milliseconds.format(value=max(1, round(seconds * 1000)))
    return words.seconds.format(value=f"{seconds:.1f}" if seconds < 100 else f"{seconds:.0f}")
