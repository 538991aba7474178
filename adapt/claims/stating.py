"""A question and an answer to it → the claim that they make together, as an assistant would write it.

By rules where the wording allows (QA2D, Demszky et al. 2018, arXiv:1809.02922, does it with a model); else question and
answer stand side by side, which is also how a short answer is checked (retrieval.supporting).
"""

import re

from retrieval.prompts import language_of
from retrieval.supporting.claims import in_question

_SUBJECT = re.compile(
    r"^(?:who|(?:what|which)\s+(?!(?:is|are|was|were|do|does|did|has|have|had|can|could|will|would|should|may|might)\b)"
    r"(?:[a-z]+\s+)?[a-z]+?)\s+(?P<rest>(?!(?:do|does|did|has|have|had|can|could|will|would|should|may|might)\b)"
    r"(?:is|are|was|were|[a-z]+(?:ed|es|s))\s.+?)\?*$",
    re.IGNORECASE,
)
_WHAT_IS = re.compile(r"^what (?P<verb>is|are|was|were) (?P<rest>(?:the|an?|[A-Z])[^?]*?)\?*$", re.IGNORECASE)
_ENDS_OPEN = re.compile(
    r"\b(?:\w+ed|\w+ing|known|called|made|given|of|for|to|in|on|at|by|with|from|as|about|like|do|paid|held|built|seen)$",
    re.IGNORECASE,
)
_ASKED_ZH = re.compile(
    r"(?:哪一?(?:個|个|位|種|种|座|所|家|項|项|本|部|條|条|國|国|城市|地區|地区)?(?:國家|国家|人|地方)?|什麼人|什么人|誰|谁|"
    r"(?<!為)(?<!为)(?:什麼|什么)(?:名字|地方|時候|时候)?|何時|何时|何地|何人|何處|何处|幾|几|多少)(?!些)"
)


def stated(question: str, answer: str) -> str:
    """The claim in one sentence."""
    text = " ".join(question.split())
    answer = " ".join(answer.split()).rstrip("。.")
    sentence = _chinese(text, answer) if language_of(question) == "zh" else _english(text, answer)
    return sentence or in_question(text, answer)


def _english(question: str, answer: str) -> str | None:
    match = _SUBJECT.match(question)
    if match is not None:
        return f"{answer[:1].upper()}{answer[1:]} {match['rest'].rstrip(' .')}."
    match = _WHAT_IS.match(question)
    if match is not None and not _ENDS_OPEN.search(match["rest"].strip()):
        rest = match["rest"].strip()
        return f"{rest[:1].upper()}{rest[1:]} {match['verb'].lower()} {answer}."
    return None


def _chinese(question: str, answer: str) -> str | None:
    """Chinese asks where the answer stands."""
    found = list(_ASKED_ZH.finditer(question))
    if len(found) != 1:
        return None
    start, end = found[0].span()
    after = question[end:]
    # 多少人 with the answer 300人: the unit is said once.
    overlap = next((n for n in range(min(3, len(answer) - 1), 0, -1) if after.startswith(answer[-n:])), 0)
    text = question[:start] + answer + after[overlap:]
    return re.sub(r"[呢嗎吗]?[?？]+$", "", text).rstrip("。") + "。"
