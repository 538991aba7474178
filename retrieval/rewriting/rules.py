"""A question and the messages before it → a question that stands alone, by rule. No model is asked."""

import re
from collections.abc import Sequence
from typing import Protocol

from retrieval.prompts import Message
from retrieval.support import content_tokens

_POINTING = re.compile(
    r"^\s*(?:and|but|so|or)\b|\b(?:its?|they|them|their|that|this|these|those|he|him|his|she|her|ones?|both|same|mine)\b"
    r"|[它他她那这其]|^\s*再",
    re.IGNORECASE,
)
LEANING_WORDS = 3
"""Telling words up to which a question is taken to lean on the one before it ("And what would it cost?")."""


class Rewriter(Protocol):
    """A question and the messages before it, oldest first → a question that stands alone."""

    def __call__(self, question: str, history: Sequence[Message]) -> str: ...


def as_asked(question: str, history: Sequence[Message]) -> str:
    """The question itself."""
    return question.strip()


def leans(question: str) -> bool:
    """Whether a question says too little to stand alone in a conversation."""
    return len(content_tokens(question)) <= LEANING_WORDS


def refers(question: str) -> bool:
    """Whether a question points at what was said before: it leans on it, or has a word that stands for something."""
    return leans(question) or bool(_POINTING.search(question))


def with_previous(question: str, history: Sequence[Message]) -> str:
    """The last question of the user and this one: names carry over ("What is a tide?" "Who found out?"). A last
    question that says little itself ("And for the neap?") brings the one before it along."""
    asked = [message.text.strip() for message in history if message.role == "user" and message.text.strip()]
    carried: list[str] = []
    for text in reversed(asked):
        carried.insert(0, text)
        if not leans(text):
            break
    return " ".join([*carried, question.strip()])
