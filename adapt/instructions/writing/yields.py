"""What became of everything that was asked for, stage by stage: kept, or rejected with a reason. It knows no stage."""

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from adapt.corpus.sources import LeftOut
from adapt.instructions.importing import said
from eval.data.texts import storable
from eval.runs.run_folder import write_json
from retrieval.errors import FathomError
from retrieval.reading.normalising import one_line

_SHOWN = 160


@dataclass
class Stage:
    """One step of the way. `requests` to the model gave `candidates`, each of which was kept or rejected."""

    requests: int = 0
    candidates: int = 0
    kept: int = 0
    tokens: int = 0
    """That the model wrote; 0 where the engine does not count."""
    rejected: LeftOut = field(default_factory=LeftOut)
    noted: LeftOut = field(default_factory=LeftOut)
    """What was kept, but is worth knowing."""

    def reject(self, reason: str, text: str, detail: str = "") -> None:
        """A candidate that is not kept, with what it says."""
        self.rejected.add(reason, _short(text) or "(nothing)", _short(detail) or reason)

    def note(self, reason: str, text: str, detail: str = "") -> None:
        """Something that is no reason to reject."""
        self.noted.add(reason, _short(text) or "(nothing)", _short(detail) or reason)

    @property
    def share(self) -> float | None:
        """Kept of the candidates; None where there was none."""
        return self.kept / self.candidates if self.candidates else None

    def as_json(self) -> dict[str, Any]:
        """For programs."""
        return {
            "requests": self.requests,
            "candidates": self.candidates,
            "kept": self.kept,
            "yield": self.share,
            "tokens": self.tokens,
            "rejected": said(self.rejected),
            "noted": said(self.noted),
        }


@dataclass
class Yields:
    """Of a whole run, by stage in the order in which they came."""

    stages: dict[str, Stage] = field(default_factory=dict)

    def of(self, name: str) -> Stage:
        """A stage, begun where it is new."""
        return self.stages.setdefault(name, Stage())

    def as_json(self) -> dict[str, Any]:
        """Stage → counts."""
        return {name: stage.as_json() for name, stage in self.stages.items()}


def yields_beside(out: Path) -> Path:
    """Where the report of a written file lies."""
    return out.with_name(out.name.removesuffix(".gz").removesuffix(".jsonl") + ".yield.json")


def write_report(out: Path, report: dict[str, Any]) -> None:
    """Raises FathomError where it cannot be written."""
    path = yields_beside(out)
    try:
        write_json(path, report)
    except OSError as error:
        raise FathomError(
            f"'{os.fspath(path)}' cannot be written ({error.strerror or error}); name another place"
        ) from error


def _short(text: str) -> str:
    return one_line(storable(text), _SHOWN)
