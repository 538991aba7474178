"""How a collection is best searched by questions of its own ⇄ the text that is kept with it. It knows no search."""

import json
import math
from dataclasses import asdict, dataclass

from retrieval.errors import DamagedError, UsageError

_LONGEST_WORD = 4096


@dataclass(frozen=True, slots=True)
class Tuned:
    """What was found with the reranker that a word names; None is what was not told apart from the general default.

    `rerank`: whether that reranker should order this collection's hits. `least_relevance`: the probability of
    relevance, by that reranker, from which a hit is kept. Raises UsageError.
    """

    reranker: str
    rerank: bool | None = None
    least_relevance: float | None = None

    def __post_init__(self) -> None:
        if not self.reranker.strip() or len(self.reranker) > _LONGEST_WORD:
            raise UsageError("what is kept for a collection names no reranker; name one, as in 'packaged'")
        least = self.least_relevance
        if least is not None and not (math.isfinite(least) and 0.0 <= least <= 1.0):
            raise UsageError(f"a least relevance is a probability from 0 to 1; {least} was given")

    def to_json(self) -> str:
        """As it is kept."""
        return json.dumps(asdict(self), ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str, collection: str) -> "Tuned":
        """Inverse of `to_json`. A collection may come from elsewhere: raises DamagedError for anything else."""
        try:
            said = json.loads(text)
            reranker, rerank, least = (said[name] for name in ("reranker", "rerank", "least_relevance"))
            if isinstance(reranker, str) and (rerank is None or isinstance(rerank, bool)):
                return cls(reranker, rerank, None if least is None else float(least))
        except (ValueError, TypeError, LookupError, RecursionError, UsageError):
            pass
        raise DamagedError(
            f"what is kept of how to rerank '{collection}' cannot be read; take it back with "
            "'fathom index rerank --reset'"
        )
