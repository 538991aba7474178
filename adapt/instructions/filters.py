"""One example → why nothing should learn from it, or None. Cheap rules, each with a name; it knows no other example."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache

from adapt.corpus.duplicates import content_key
from adapt.corpus.languages import language
from adapt.corpus.quality import fault as quality_fault
from adapt.instructions.example import Example

REASONS: Mapping[str, str] = {
    "rejected": "was rejected in review",
    "too-short": "has an answer shorter than is wanted",
    "too-long": "is longer than is wanted",
    "word": "has a word that is not wanted",
    "score": "has a lower score than is wanted",
    "language": "is not in a language that is wanted",
    "echo": "answers with the question",
    "boilerplate": "speaks of itself as a language model, as the model that wrote it was taught to",
    "repetition": "says the same again and again",
    "garbled": "holds characters that stand for bytes no encoding explains",
}
"""Name of a reason → what it says of an example."""
ALWAYS = ("echo", "boilerplate", "repetition", "garbled")
"""Reasons that count without being asked for; each can be switched off."""
_BOILERPLATE = re.compile(
    "|".join(
        (
            r"\bas an? (?:artificial intelligence|ai)\b(?: (?:language )?model| assistant| chatbot)?[ ,]",
            r"\bas a (?:large )?language model\b",
            r"\bI(?:'m| am) (?:just |only )?an? (?:AI|artificial intelligence|language model)\b",
            r"\bmy (?:knowledge|training)(?: data)? (?:cut-?off|only goes)\b",
            r"\b(?:ChatGPT|OpenAI)\b.{0,40}\b(?:trained|developed|created)\b",
            "(?:作为|身为)(?:一个|一名|一款)?(?:大型|大)?(?:人工智能|AI|语言模型)",
            "我只?是(?:一个|一名|一款)?(?:大型|大)?(?:人工智能|AI|语言模型)",
            "我的(?:知识|训练数据)(?:截止|只到)",
        )
    ),
    re.IGNORECASE,
)
_BEGINNING = 400
"""Characters of an answer in which a model says what it is; later it may be the subject."""
_DAMAGE = {"garbled": "garbled", "repeated-lines": "repetition", "repeated-words": "repetition"}


@dataclass(frozen=True)
class Limits:
    """What is wanted; None and empty ask for nothing."""

    least_answer: int | None = None
    """Characters of the shortest answer."""
    most_characters: int | None = None
    """Characters of all messages together."""
    without: tuple[str, ...] = ()
    """Words (of Chinese, strings) that no message may have, whatever their case."""
    languages: tuple[str, ...] = ()
    """ISO 639-1; an answer too short to tell passes."""
    scores: tuple[tuple[str, float], ...] = ()
    """Name in `checks` and its least value; an example without the score passes."""
    skip: frozenset[str] = frozenset()
    """Of `ALWAYS`."""


def fault(example: Example, limits: Limits) -> tuple[str, str] | None:
    """(key of `REASONS`, the detail that decided) of the first rule that is broken, or None."""
    if example.rejected:
        return "rejected", example.review.note[:80] if example.review else ""
    answers = [message.content for message in example.messages if message.role == "assistant"]
    shortest = min(len(answer.strip()) for answer in answers)
    if limits.least_answer is not None and shortest < limits.least_answer:
        return "too-short", f"{shortest:,} characters"
    size = sum(len(message.content) for message in example.messages)
    if limits.most_characters is not None and size > limits.most_characters:
        return "too-long", f"{size:,} characters"
    return _by_words(example, limits) or _by_scores(example, limits) or _always(example, answers, limits)


def _by_words(example: Example, limits: Limits) -> tuple[str, str] | None:
    if limits.without:
        found = any_of(limits.without)("\n".join(message.content for message in example.messages))
        if found:
            return "word", found
    return None


def _by_scores(example: Example, limits: Limits) -> tuple[str, str] | None:
    for name, least in limits.scores:
        value = example.checks.get(name)
        if isinstance(value, int | float) and not isinstance(value, bool) and value < least:
            return "score", f"{name} is {value:g}, less than {least:g}"
    return None


def _always(example: Example, answers: list[str], limits: Limits) -> tuple[str, str] | None:
    if limits.languages:
        told = language(answers[-1])
        if told is not None and told != "code" and told not in limits.languages:
            return "language", told
    if "echo" not in limits.skip:
        for asked, answer in zip(questions(example), answers, strict=True):
            if content_key(asked.lower()) == content_key(answer.lower()):
                return "echo", ""
    for answer in answers:
        if "boilerplate" not in limits.skip and (match := _BOILERPLATE.search(answer[:_BEGINNING])):
            return "boilerplate", match[0]
        broken = quality_fault(answer)
        reason = _DAMAGE.get(broken.reason) if broken else None
        if broken and reason and reason not in limits.skip:
            return reason, broken.detail
    return None


def questions(example: Example) -> list[str]:
    """What the user says, in order."""
    return [message.content for message in example.messages if message.role == "user"]


@cache
def any_of(words: tuple[str, ...]) -> Callable[[str], str | None]:
    """A function that finds the first of the words in a text; one of Latin letters must stand alone."""
    parts = [
        rf"(?<!\w){re.escape(word)}(?!\w)"
        if word.isascii() and word[:1].isalnum() and word[-1:].isalnum()
        else re.escape(word)
        for word in words
    ]
    pattern = re.compile("|".join(parts), re.IGNORECASE)

    def find(text: str) -> str | None:
        match = pattern.search(text)
        return match[0] if match else None

    return find
