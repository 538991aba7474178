"""An instruction or an answer that a model wrote → why it is not kept, or None. It knows no other text."""

import re

from adapt.corpus.duplicates import content_key
from adapt.corpus.units import units
from adapt.instructions.example import Example
from adapt.instructions.filters import REASONS as EXAMPLE_REASONS
from adapt.instructions.filters import Limits, any_of
from adapt.instructions.filters import fault as example_fault
from retrieval.prompts import Language, language_of

REASONS = {
    **EXAMPLE_REASONS,
    "engine": "is none: the engine failed",
    "unreadable": "is not in the form that was asked for",
    "cut-off": "was cut off at its longest length",
    "circles": "ran in circles until it was stopped",
    "empty": "is empty",
    "too-short": "is too short",
    "too-long": "is too long",
    "language": "is not in the language that was asked for",
    "word": "needs more than text (pictures, files, the internet), or has a word that is not wanted",
    "form": "begins like no sentence",
    "near": "is like one that is there",
    "exact": "is word for word one that is there",
    "placeholder": "has a gap where something should stand",
    "copied": "was copied from what was shown",
    "sorry": "says sorry, or that it cannot",
    "signs": "has no word in it",
    "prompt-words": "speaks of the prompt it was written by",
    "no-gain": "asks for nothing that was not asked before",
    "unreadable-verdict": "could not be judged: no verdict could be read",
}
"""Name of a reason → what it says of a text."""
KEYWORDS = (
    *("image", "images", "picture", "pictures", "photo", "photos", "graph", "graphs", "chart", "flowchart", "diagram"),
    *("file", "files", "video", "videos", "audio", "map", "maps", "draw", "plot", "go to", "website", "link", "url"),
    *(
        "图片",
        "图像",
        "照片",
        "图表",
        "流程图",
        "示意图",
        "视频",
        "音频",
        "录音",
        "地图",
        "附件",
        "文件",
        "网址",
        "链接",
    ),
    *("画一", "画出", "绘制", "下载", "上传", "打开网"),
)
"""What a model that knows text alone can neither see nor make (after Self-Instruct's list)."""
SHORTEST, LONGEST = 4, 150
"""Words of an instruction."""
SHORTEST_CHINESE, LONGEST_CHINESE = 5, 300
"""Characters of a Chinese one."""
LONGEST_ANSWER = 8_000
"""Characters of an input or an output."""
SORRY_WORDS = 80
"""An answer that says sorry and is shorter than so many words is a refusal (Xu et al. 2023, arXiv:2304.12244)."""
DISTINCT = 0.6
"""Least share of the runs of three words that are different, of 12 words or more."""
_SORRY = re.compile(
    r"\b(?:sorry|I apologi[sz]e|I can(?:no|')t|I am (?:not able|unable)|I'm (?:not able|unable))\b"
    "|抱歉|对不起|很遗憾|我无法|我不能|我没有办法",
    re.IGNORECASE,
)
_APOLOGY = re.compile("apolog|sorry|regret|excuse|refus|declin|抱歉|道歉|歉意|对不起|拒绝|遗憾", re.IGNORECASE)
_PLACEHOLDER = re.compile(
    r"\A\s*(?:[\[<{【].{0,80}[\]>}】]|…|\.{3})\s*\Z|\[(?:your|insert|enter|add|name|date|topic|text|input)\b[^\]]{0,60}\]"
    r"|<(?:your|insert|enter|text|input|sentence|paragraph|article)\b[^>]{0,60}>|[【\[](?:此处|请|插入|填写)[^】\]]{0,40}[】\]]",
    re.IGNORECASE | re.DOTALL,
)
_WORD_OR_SIGN = re.compile(r"[\w\"'“‘「《(（`$¿¡]")
_STOP_WORDS = frozenset(
    "a an the and or but if of to in on at by for with as is are was were be been it its this that these those i you "
    "he she we they so do does did have has had "
    "的 了 在 和 也 就 都 而 及 与 着 或 一 个 我 你 他 她 它 们 这 那".split()
)


def instruction_fault(
    text: str, language: Language, without: tuple[str, ...] = KEYWORDS, *, any_length: bool = False
) -> tuple[str, str] | None:
    """(key of `REASONS`, what decided) of the first rule an instruction breaks, or None. `any_length`: long is fine."""
    if not text.strip():
        return "empty", ""
    if not _WORD_OR_SIGN.match(text.strip()):
        return "form", text.strip()[:10]
    size = len(units(text))
    chinese = language_of(text) == "zh"
    least, most = (SHORTEST_CHINESE, LONGEST_CHINESE) if chinese else (SHORTEST, LONGEST)
    unit = "characters" if chinese else "words"
    if size < least:
        return "too-short", f"{size} {unit}"
    if size > most and not any_length:
        return "too-long", f"{size:,} {unit}"
    if language_of(text) != language:
        return "language", language_of(text)
    if without and (found := any_of(without)(text)):
        return "word", found
    if _PLACEHOLDER.search(text):
        return "placeholder", ""
    share = distinct_runs(text)
    if share is not None and share < DISTINCT:
        return "repetition", f"{share:.0%} of its runs of three words are different"
    return None


def answer_fault(example: Example, limits: Limits) -> tuple[str, str] | None:
    """(key of `REASONS`, what decided) of the first rule that the last answer of an example breaks, or None."""
    answer, question = example.messages[-1].content, example.messages[-2].content
    if max(len(answer), len(question)) > LONGEST_ANSWER:
        return "too-long", f"{max(len(answer), len(question)):,} characters"
    if no_words(answer):
        return "signs", answer[:40]
    if _PLACEHOLDER.search(answer):
        return "placeholder", answer[:80]
    if (said := sorry(answer, question)) is not None:
        return "sorry", said
    return example_fault(example, limits)


def sorry(answer: str, question: str) -> str | None:
    """The words by which a short answer refuses, or None. Who asks for an apology may get one."""
    match = None if _APOLOGY.search(question) else _SORRY.search(answer)
    return match[0] if match and len(units(answer)) < SORRY_WORDS else None


def no_words(answer: str) -> bool:
    """Whether there is nothing but signs and, of several words, stop words: "yes" and "A" answer a question."""
    found = units(answer)
    return not found or (len(found) > 1 and all(unit in _STOP_WORDS for unit in found))


def distinct_runs(text: str) -> float | None:
    """Share of the runs of three words that are different; None of a text too short to tell."""
    found = units(text)
    if len(found) < 12:
        return None
    return len(set(zip(found, found[1:], found[2:], strict=False))) / (len(found) - 2)


def same(one: str, other: str) -> bool:
    """Whether two texts differ in case and blanks alone."""
    return content_key(one.lower()) == content_key(other.lower())
