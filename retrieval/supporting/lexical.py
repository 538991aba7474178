"""Support by shared words, numbers and negations: no model, the same every time (retrieval.support)."""

from collections.abc import Mapping, Sequence
from typing import Any

from retrieval import support
from retrieval.supporting.checker import PARTLY, YES, Odds

LEXICAL = "lexical"


class LexicalChecker:
    """The floor that others stand on: it sees that words are missing, not what they mean together."""

    name = LEXICAL
    described: Mapping[str, Any] = {"checker": LEXICAL}

    def __call__(self, pairs: Sequence[tuple[str, str]]) -> list[Odds]:
        """Raises nothing."""
        return [odds(support.best_evidence(claim, passage)) for claim, passage in pairs]


def odds(found: support.Evidence) -> Odds:
    """The share of a claim's words as a probability: the thresholds of one on those of the other, the verdict kept."""
    shares = {"no": (0.0, support.PARTLY), "partly": (support.PARTLY, support.YES), "yes": (support.YES, 1.0)}
    chances = {"no": (0.0, PARTLY), "partly": (PARTLY, YES), "yes": (YES, 1.0)}
    (low, high), (below, above) = shares[found.verdict], chances[found.verdict]
    place = min(1.0 if found.verdict == "yes" else 0.999, max(0.0, (found.share - low) / (high - low)))
    return Odds(below + (above - below) * place)
