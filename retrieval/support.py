"""How far a stretch of text bears out a claim, by its words. No model: a floor that later checks can only raise.

A claim is supported as far as its content words stand in the evidence; every number of it must stand there too.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise

from retrieval.passages import Support
from retrieval.sentences import sentence_spans
from retrieval.tokenising import tokens

YES, PARTLY = 0.7, 0.4
"""Shares of a claim's content from which it counts as supported, and as supported in part."""
CONTEXT_SHARE = 0.3
"""Most that title and headings may bring in: they name the subject, they do not bear out the claim."""

_STOP_WORDS = (
    "a an the of to in on at by for with from and or as is are was were be been being it its this that these those "
    "which who whom what when where why how do does did has have had can could may might will would shall should "
    "must not no than then there their they them he she his her you your we our i me my if but so such also into "
    "about between both each more most other some any all only own same too very just over under again further "
    "的 了 是 在 和 与 或 及 也 都 而 就 着 被 把 对 从 以 为 于 之 其 这 那 有 个 吗 呢 吧 啊 么 什么 怎么 怎样 如何 "
    "多少 哪 哪个 哪里 哪些 谁 请 问 一个 可以 我 你 他 她 它 我们 你们 他们"
)
_NEGATION = re.compile(
    r"\b(?:not|no|never|cannot|neither|nor|without|none)\b|n't\b|不|没有|未|无法|并非", re.IGNORECASE
)
_NUMBER = re.compile(r"\d+(?:[.,:]\d+)*")
HEADING = re.compile(r"#{1,6}\s")
_CJK = re.compile(r"[\u3400-\u9fff\U00020000-\U0003ffff]")
MARKER = re.compile(r"[ \t]{0,3}[\[【［]\s?(\d{1,3}(?:\s?[,，、;\-–]\s?\d{1,3})*)\s?[\]】］]")
"""A citation as models write it: [1], [1, 2], 【1】."""


@dataclass(frozen=True, slots=True)
class Evidence:
    """The stretch [start, end) of a passage's text that bears out a claim best; `share` is 0 to 1.

    `most` is what any checker may say of it at most: "no" where a number of the claim stands nowhere, "partly" where
    one stands elsewhere or a negation does not fit. Models miss just these.
    """

    start: int
    end: int
    share: float
    verdict: Support
    most: Support = "yes"


@lru_cache(maxsize=1)
def _stops() -> frozenset[str]:
    return frozenset(token for word in _STOP_WORDS.split() for token in tokens(word))


@lru_cache(maxsize=8192)
def content_tokens(text: str) -> frozenset[str]:
    """Distinct tokens that carry meaning. Of Chinese, what is longer than one character."""
    stops = _stops()
    found = frozenset(tokens(text))
    kept = frozenset(t for t in found if t not in stops and not (len(t) == 1 and _CJK.match(t)))
    return kept or found


def numbers(text: str) -> frozenset[str]:
    """The numbers of a text as written, thousands marks gone."""
    return frozenset(found.replace(",", "").rstrip(".:") for found in _NUMBER.findall(text))


def best_evidence(
    claim: str, passage: str, *, context: str = "", around: str | None = None, question: str = ""
) -> Evidence:
    """The sentence, or the pair of neighbours, of `passage` that supports `claim` best.

    `context` (title and headings) may bring in what the passage leaves unsaid; numbers may come from all of `around`
    (the passage itself where not given). Of sentences that all support it, the one with most words of the `question`
    is taken: "1999" may stand in three. The verdict is "no" where there is no sentence at all.
    """
    claim = MARKER.sub("", claim)
    wanted = content_tokens(claim)
    claimed = numbers(claim)
    # A heading names what stands below it; it says nothing itself.
    spans = [span for span in sentence_spans(passage) if not HEADING.match(passage[span[0] : span[1]])]
    known = content_tokens(context) if context else frozenset()
    best = Evidence(0, 0, 0.0, "no")
    asked, near = content_tokens(question) if question else frozenset(), 0
    for start, end in spans:
        said = content_tokens(passage[start:end])
        share, shared = _share(wanted, said, known), len(asked & said)
        if share > best.share or (share == best.share >= YES and shared > near):
            best, near = Evidence(start, end, share, "no"), shared
    single = best.share
    for (start, _), (_, end) in pairwise(spans):
        share = _share(wanted, content_tokens(passage[start:end]), known)
        # A pair must earn its length, or every quote would be two sentences long.
        if share > max(best.share, single + 0.15):
            best = Evidence(start, end, share, "no")
    if best.end == 0:
        return best
    quote = passage[best.start : best.end]
    verdict: Support = "yes" if best.share >= YES else "partly" if best.share >= PARTLY else "no"
    most: Support = "yes"
    if claimed - numbers(f"{passage if around is None else around} {context}"):
        verdict = most = "no"
    elif claimed - numbers(f"{quote} {context}") or bool(_NEGATION.search(claim)) != bool(_NEGATION.search(quote)):
        most = "partly"
        verdict = "partly" if verdict == "yes" else verdict
    return Evidence(best.start, best.end, best.share, verdict, most)


def _share(wanted: frozenset[str], found: frozenset[str], known: frozenset[str]) -> float:
    if not wanted:
        return 0.0
    direct = len(wanted & found) / len(wanted)
    named = len((wanted - found) & known) / len(wanted)
    return direct + min(named, CONTEXT_SHARE, direct)


def inverse_frequencies(texts: Iterable[str]) -> Mapping[str, float]:
    """How telling each token is among these few texts, in (0, 1]: 1 where one text has it."""
    counts: dict[str, int] = {}
    total = 0
    for text in texts:
        total += 1
        for token in content_tokens(text):
            counts[token] = counts.get(token, 0) + 1
    return {token: 1.0 - 0.8 * (count - 1) / max(1, total) for token, count in counts.items()}


def coverage(question: str, text: str, weights: Mapping[str, float]) -> float:
    """Weighted share of the question's content words that `text` has, 0 to 1; words unknown to `weights` weigh 1."""
    wanted = content_tokens(question)
    total = sum(weights.get(token, 1.0) for token in wanted)
    if not total:
        return 0.0
    return sum(weights.get(token, 1.0) for token in wanted & content_tokens(text)) / total
