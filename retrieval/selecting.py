"""Hits → those worth showing to a language model: near copies, and what is clearly less relevant than the best, are set
aside, each with its reason. It knows no budget and no prompt.

A small model reads few passages well, and a wrong one beside the right one misleads any (Yoran et al. 2023,
arXiv:2310.01558).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise

from retrieval.passages import Hit
from retrieval.support import numbers
from retrieval.tokenising import tokens

LOGIT_GAP = 4.0
"""A reranker that gives logits: how far below the best a passage is set aside, e^4 = 55 times less likely."""
SHINGLE = 3
CONTAINED = 0.9
"""Share of a passage's shingles in a longer one from which it says nothing of its own."""


@dataclass(frozen=True, slots=True)
class SetAside:
    """A hit that is not shown, and why: "like 2" is a near copy of hit 2 (counted from 1, best first)."""

    hit: Hit
    why: str


@dataclass(frozen=True, slots=True)
class Selected:
    """`hits` best first; at least one where there was one."""

    hits: tuple[Hit, ...]
    set_aside: tuple[SetAside, ...] = ()


def select(
    found: Sequence[Hit],
    *,
    most: int | None = None,
    least_relevance: float = 0.0,
    least_share: float = 0.0,
    near_copy: float = 1.0,
    calibrated: bool | None = None,
) -> Selected:
    """Best first. `near_copy`: Jaccard likeness of two documents' passages from which one is set aside, 1 is never.

    Where a reranker scored: `least_relevance` is the probability that a `calibrated` one must give (None: it is one if
    all its scores lie in [0, 1]); one that gives logits sets aside what is LOGIT_GAP below the best. Else a passage
    must have `least_share` of the best fused (else dense, else lexical) score. 0 sets nothing aside. `most` are shown
    at most.
    """
    kept: list[Hit] = []
    aside: list[SetAside] = []
    keeps = _threshold(found, least_relevance, least_share, calibrated)
    for hit in found:
        like = next((n for n, other in enumerate(kept, 1) if _near_copy(hit, other, near_copy)), None)
        if like is not None:
            aside.append(SetAside(hit, f"like {like}"))
        elif kept and not keeps(hit):
            aside.append(SetAside(hit, "less relevant"))
        elif most is not None and len(kept) >= max(1, most):
            aside.append(SetAside(hit, "beyond the most passages"))
        else:
            kept.append(hit)
    return Selected(tuple(kept), tuple(aside))


def _threshold(
    found: Sequence[Hit], least_relevance: float, least_share: float, calibrated: bool | None
) -> Callable[[Hit], bool]:
    reranked = [hit.scores.rerank for hit in found if hit.scores.rerank is not None]
    if reranked and len(reranked) == len(found):
        sure = all(0.0 <= score <= 1.0 for score in reranked) if calibrated is None else calibrated
        least = least_relevance if sure else (max(reranked) - LOGIT_GAP if least_relevance > 0 else float("-inf"))
        return lambda hit: hit.scores.rerank is not None and hit.scores.rerank >= least
    scores = [score for hit in found if (score := _score(hit)) is not None]
    least = least_share * max(scores, default=0.0)
    return lambda hit: (score := _score(hit)) is None or score >= least


def _score(hit: Hit) -> float | None:
    found = (hit.scores.fused, hit.scores.dense, hit.scores.lexical)
    return next((score for score in found if score is not None), None)


def _near_copy(hit: Hit, other: Hit, likeness: float) -> bool:
    """Of different documents: neighbours of one are joined elsewhere. Two years' reports that differ in their numbers
    alone are no copies."""
    if likeness >= 1.0 or hit.passage.document_id == other.passage.document_id:
        return False
    one, two = shingles(hit.passage.text), shingles(other.passage.text)
    if not one or not two:
        return False
    shared = len(one & two)
    alike = shared >= likeness * len(one | two) or shared >= max(likeness, CONTAINED) * len(one)
    return alike and not numbers(hit.passage.text) - numbers(other.passage.text)


@lru_cache(maxsize=512)
def shingles(text: str) -> frozenset[tuple[str, ...]]:
    """Runs of three tokens; of a shorter text its tokens as one."""
    found = list(tokens(text))
    if len(found) < SHINGLE:
        return frozenset([tuple(found)]) if found else frozenset()
    return frozenset((a, b, c) for (a, b), (_, c) in pairwise(pairwise(found)))
