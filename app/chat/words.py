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
    copy: str = "Copy"
    collection: str = "Collection"
    mode: str = "How to answer"
    mode_answer: str = "Write an answer"
    mode_quote: str = "Quote only"
    passages: str = "Find {n} passages"
    sources: str = "Sources"
    teach_title: str = "Ask your documents"
    teach: tuple[str, ...] = (
        "Ask in your own words; one question at a time works best.",
        "Numbers like 1 in an answer lead to the passage it rests on: click one.",
        "“Quote only” shows the best sentences word for word, without a model writing anything.",
    )
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
    refused: str = "The documents do not answer this; the passages nearest to the question are beside."
    engine_loading: str = "The language model is loading; until then you get quotes."
    engine_ready: str = "Ready · {model}"
    engine_failed: str = "Quotes only: {reason}"
    quoted_meanwhile: str = "The language model is still loading, so these are quotes; ask again for a written answer."
    quoted_after: str = "What the model wrote is not in the passages, so these are their own words."
    quoted_instead: str = "No language model is available, so these are quotes."
    unexpected: str = "Something went wrong while answering ({kind}). The log has the details; the sources stay."
    question_too_long: str = "This question has {n} characters; up to {limit} can be asked."
    unsupported: str = "Not every statement was found in its source: look at the numbers marked in red."
    searched: str = "searched in {time}"
    first_token: str = "first word after {time}"
    total: str = "done in {time}"
    speed: str = "{n} tokens/s"
    seconds: str = "{value} s"
    milliseconds: str = "{value} ms"


ENGLISH = Words()
CHINESE = Words(
    language="zh",
    tagline="从您的文档中作答，并指明出处。",
    ask="就这些文档提问",
    send="提问",
    stop="停止",
    clear="新对话",
    copy="复制",
    collection="文档集",
    mode="作答方式",
    mode_answer="撰写回答",
    mode_quote="只引原文",
    passages="查找 {n} 段",
    sources="出处",
    teach_title="向您的文档提问",
    teach=(
        "用自己的话提问；一次一个问题效果最好。",
        "回答中的数字（如 1）指向所依据的段落：点一下即可。",
        "“只引原文”逐字给出最相关的句子，不由模型撰写。",
    ),
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
    refused="文档没有回答这个问题；旁边是最相近的段落。",
    engine_loading="语言模型正在载入；在此之前先给出原文引语。",
    engine_ready="就绪 · {model}",
    engine_failed="只引原文：{reason}",
    quoted_meanwhile="语言模型仍在载入，以下是原文引语；稍后再问可得到撰写的回答。",
    quoted_after="模型所写的内容不见于段落，因此以下是原文引语。",
    quoted_instead="没有可用的语言模型，以下是原文引语。",
    unexpected="回答时出错（{kind}）。详情见日志；出处保留。",
    question_too_long="问题共 {n} 个字符；最多可问 {limit} 个字符。",
    unsupported="并非每句话都能在出处中找到：请看标红的数字。",
    searched="检索 {time}",
    first_token="首字 {time}",
    total="共 {time}",
    speed="每秒 {n} 词元",
    seconds="{value} 秒",
    milliseconds="{value} 毫秒",
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
