"""What one reranking gave: scores, which passages a model really read, what was left undone and what it cost. And the
one question that all kinds put to an engine: whether it has an adapter of its own for reranking.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from retrieval.roles import RERANKER, in_role

MOST_LOGIT = 30.0
"""Beyond it a probability is 0 or 1 to twelve digits, and equal scores lose the order."""


@dataclass(frozen=True, slots=True)
class Reranked:
    """`scores` of all passages, in the order they were given; higher is better.

    `judged[i]` tells whether a model read passage i: those it did not keep their order behind the others. `note` says
    what was left out and why, "" where nothing was. `prompt_tokens` and `completion_tokens` are None where nobody
    counted; what a chat template adds is not in them.
    """

    scores: tuple[float, ...]
    judged: tuple[bool, ...]
    note: str = ""
    calls: int = 0
    seconds: float = 0.0
    prompt_tokens: int | None = None
    completion_tokens: int | None = None

    def costs(self) -> dict[str, float]:
        """What is known of the cost, for records."""
        found = {
            "calls": self.calls,
            "passages": sum(self.judged),
            "seconds": self.seconds,
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": self.completion_tokens,
        }
        return {name: value for name, value in found.items() if value is not None}


def outcome_of(reranker: Any, query: str, hits: Sequence[Any]) -> Reranked:
    """What a reranker gives: one that says more than scores has a method `rerank`; any other has read all. Raises what
    the reranker raises."""
    rerank = getattr(reranker, "rerank", None)
    if rerank is not None:
        found: Reranked = rerank(query, hits)
        return found
    return Reranked(tuple(reranker(query, hits)), (True,) * len(hits))


def as_reranker(llm: Any) -> Any:
    """The engine under its adapter for reranking, where it has one; else itself."""
    return in_role(llm, RERANKER)


def name_of(llm: Any) -> str:
    """What people call the engine's model. Raises what keeps a model from loading."""
    return str(getattr(llm, "model_name", "") or llm.metadata.model_name)


def sigmoid(logit: float) -> float:
    """The probability of a logit, never quite 0 or 1."""
    return 1.0 / (1.0 + math.exp(-max(-MOST_LOGIT, min(MOST_LOGIT, logit))))


def scores_behind(found: Sequence[float | None]) -> tuple[float, ...]:
    """Scores in [0, 1], those that are None filled in: in their order, below the lowest."""
    lowest = min((score for score in found if score is not None), default=1.0)
    missing = sum(score is None for score in found)
    scores, place = [], 0
    for score in found:
        if score is None:
            score, place = lowest * (missing - place) / (missing + 1), place + 1
        scores.append(score)
    return tuple(scores)
