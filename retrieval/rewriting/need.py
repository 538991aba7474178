"""A question, its history and its first hits → whether a model need be asked what to search for. No model is asked."""

import re
from collections.abc import Callable, Sequence
from typing import Literal

from retrieval.prompts import Message, language_of
from retrieval.rewriting.plans import About, Way
from retrieval.rewriting.rules import refers

GOOD = 0.6
"""Estimated probability that the documents answer the question (retrieval/answerability.py) from which its first hits
are good enough. Of the handbook's 85 first questions 21 reach it, all with a gold document among the first three hits,
against 81 in 100 of the others; none of the 15 without an answer does (from .5 on it is 31, 90 in 100 and none)."""
LONGEST = 1_000
"""Characters of the longest question that is rewritten: a longer one says what it is about."""

NoNeed = Literal["no_history", "good_hits", "long"]

_ASKS = re.compile(
    r"\b(?:who|what|when|where|why|which|how|whom|whose)\b|什么|怎么|怎样|如何|多少|哪|谁|为何|几[个种年次]",
    re.IGNORECASE,
)


def several_parts(question: str) -> bool:
    """Whether a question asks for more than one thing: two question marks, or two question words ("What is LoRA and how
    does it differ from QLoRA?")."""
    return len(re.findall(r"[?？]", question)) > 1 or len(_ASKS.findall(question)) > 1


def no_need(
    way: Way,
    question: str,
    history: Sequence[Message],
    about: Callable[[], About],
    sure: Callable[[], float],
) -> NoNeed | None:
    """Why no model need be asked, or None where one should be.

    A line that stands alone is needed in a conversation only. There, a question is left as it is where no word of it
    points back and its own first hits are good; words alone do not tell: of the turns that people rewrote, 6 in 100 in
    CANARD, 11 in CAsT and 29 in a Chinese set point at nothing. A whole plan helps first questions too, unless their
    first hits are good already, they ask for one thing, and in the documents' language. `about` and `sure` (the
    confidence of the first hits) are looked at only where the question itself does not tell.
    """
    if len(question) > LONGEST:
        return "long"
    if way == "condense":
        if not history:
            return "no_history"
    elif several_parts(question):
        return None
    if history and refers(question):
        return None
    if way == "plan" and about().languages and language_of(question) not in about().languages:
        return None
    return "good_hits" if sure() >= GOOD else None
