"""What each step of a search did, in stable words and numbers. How people are told is the interface's affair."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

StepName = Literal["rewrite", "expand", "search", "rerank", "cut"]
Did = Literal[
    "as_asked", "with_previous", "condensed", "planned", "expanded", "searched", "reranked", "cut", "kept", "skipped"
]
Skipped = Literal[
    "",
    "no_history",
    "good_hits",
    "long",
    "no_engine",
    "no_hits",
    "not_calibrated",
    "unusable",
    "too_slow",
    "busy",
    "stopped",
    "cannot",
    "failed",
    "bad_scores",
]
"""Why a step did less than it was set to. The first three: there was no need."""


@dataclass(frozen=True, slots=True)
class Step:
    """`did` is what came of it, `skipped` why it is not what was asked for; `values` are counts and names to say it
    with: `queries`, `hits`, `depth`, `kept`, `dropped`, `least`, `limit` (seconds), `why` (a word of `Plan.note`),
    `error` (a sentence)."""

    name: StepName
    milliseconds: float
    did: Did
    skipped: Skipped = ""
    values: Mapping[str, str | int | float] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        """For programs."""
        return {
            "step": self.name,
            "did": self.did,
            "skipped": self.skipped,
            "milliseconds": round(self.milliseconds, 2),
            **({"values": dict(self.values)} if self.values else {}),
        }
