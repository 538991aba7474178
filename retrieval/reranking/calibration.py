"""A reranker's logits and the scores of the search before it → probabilities of relevance.

One logistic regression for each way of searching (both legs, vectors, words, none), fitted on questions the reranker
was not trained on. What the first stage knew stays in the result: rerankers of their own order are often worse than the
search before them outside of the domain they were trained in.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np

from retrieval.errors import DamagedError
from retrieval.passages import Hit

Legs = Literal["hybrid", "dense", "lexical", "none"]
FEATURES: Mapping[Legs, tuple[str, ...]] = {
    "hybrid": ("logit", "fused", "best logit", "best dense"),
    "dense": ("logit", "dense", "best logit"),
    "lexical": ("logit", "lexical", "best logit"),
    "none": ("logit",),
}
"""dense: cosine. lexical: BM25, fused: the search's own, each over the best of the same hits, so that another way of
fusing (several queries by their ranks) has the same scale. Missing ones are 0.

"best …" is the highest of the same hits, one number for a question: it leaves their order alone and tells whether any
of them answers, which a score relative to the best cannot. Where there is a fused score the legs' own have no say in
the order: it weighed them for each question, and with four weights fitted to 109 questions nDCG@10 of others fell by
.01 below the search's own."""
LARGEST_WEIGHT = 1e4


def legs_of(hits: Sequence[Hit]) -> Legs:
    """Which legs scored any of the hits."""
    dense = any(hit.scores.dense is not None for hit in hits)
    lexical = any(hit.scores.lexical is not None for hit in hits)
    if dense and lexical:
        return "hybrid"
    return "dense" if dense else "lexical" if lexical else "none"


def features(hits: Sequence[Hit], logits: Sequence[float], legs: Legs) -> np.ndarray:
    """(hits, len(FEATURES[legs])) float64."""
    columns = {
        "logit": list(logits),
        "dense": [hit.scores.dense or 0.0 for hit in hits],
        "lexical": _over_best([hit.scores.lexical or 0.0 for hit in hits]),
        "fused": _over_best([hit.scores.fused or 0.0 for hit in hits]),
        "best logit": [max(logits, default=0.0)] * len(hits),
        "best dense": [max((hit.scores.dense or 0.0 for hit in hits), default=0.0)] * len(hits),
    }
    return np.stack([np.array(columns[name], dtype=np.float64) for name in FEATURES[legs]], axis=1)


def _over_best(scores: list[float]) -> list[float]:
    best = max(scores, default=0.0)
    return [score / best if best > 0.0 else 0.0 for score in scores]


@dataclass(frozen=True, slots=True)
class Calibration:
    """`weights[legs]` are those of its features in order, then the bias."""

    weights: Mapping[Legs, tuple[float, ...]]

    def __call__(self, hits: Sequence[Hit], logits: Sequence[float]) -> list[float]:
        """A probability for each hit, in [0, 1]."""
        legs = legs_of(hits)
        *slopes, bias = self.weights[legs]
        sums = features(hits, logits, legs) @ np.array(slopes) + bias
        return [1.0 / (1.0 + math.exp(-min(max(float(value), -500.0), 500.0))) for value in sums]

    def to_json(self) -> dict[str, Any]:
        """As it stands in fathom.json."""
        return {
            legs: dict(zip((*FEATURES[legs], "bias"), weights, strict=True)) for legs, weights in self.weights.items()
        }

    @classmethod
    def from_json(cls, said: Any, name: str) -> "Calibration":
        """Inverse of `to_json`. Raises DamagedError."""
        try:
            weights = {
                legs: tuple(float(said[legs][feature]) for feature in (*FEATURES[legs], "bias"))
                for legs in get_args(Legs)
            }
        except (KeyError, TypeError, ValueError) as error:
            raise DamagedError(f"'{name}' has a calibration that lacks numbers ({error!r}); copy it again") from error
        if not all(abs(value) <= LARGEST_WEIGHT for row in weights.values() for value in row):
            raise DamagedError(f"'{name}' has a calibration with numbers beyond all sense; copy it again")
        return cls(weights)
