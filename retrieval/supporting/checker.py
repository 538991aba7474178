"""What every support checker is: claims beside passages → how likely each passage bears its claim out, or contradicts
it. It knows no kind of checker, and no citation.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from retrieval.passages import Hit, Support

YES, PARTLY = 0.5, 0.25
"""Probabilities of support from which a claim counts as borne out, and as borne out in part."""
CONTRADICTED = 0.5
"""Probability from which a passage counts as saying the opposite."""
ORDER: dict[Support, int] = {"no": 0, "partly": 1, "yes": 2}


@dataclass(frozen=True, slots=True)
class Odds:
    """Probabilities that the passage bears the claim out and that it says the opposite; what is left is that it says
    nothing on it. A checker that cannot tell the opposite from nothing has `contradicted` 0."""

    supported: float
    contradicted: float = 0.0

    @property
    def verdict(self) -> Support:
        """As the marks of citations have it."""
        if self.contradicted >= CONTRADICTED:
            return "no"
        return "yes" if self.supported >= YES else "partly" if self.supported >= PARTLY else "no"


class SupportChecker(Protocol):
    """Whatever tells support. `described` is what decides its verdicts, ready for JSON, for records."""

    @property
    def name(self) -> str: ...

    @property
    def described(self) -> Mapping[str, Any]: ...

    def __call__(self, pairs: Sequence[tuple[str, str]]) -> list[Odds]:
        """One `Odds` for each (claim, passage), in their order. Raises FathomError where a model fails."""
        ...


def checked_text(hit: Hit) -> str:
    """What a checker reads of a hit: its title and headings in one line, which name what the text speaks of, then its
    text. A title that the text begins with is said once."""
    text = hit.passage.text
    start = " ".join(text[:400].split())
    path = " › ".join(name for name in hit.names if not start.startswith(name))
    return f"{path}\n{text}" if path else text
