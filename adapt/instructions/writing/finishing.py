"""Examples that a model wrote or scored → their file and the report beside it, with the yield of every step."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from adapt.instructions.example import Example, write_examples
from adapt.instructions.writing.kept import KeptWriter, kept_beside
from adapt.instructions.writing.rules import REASONS
from adapt.instructions.writing.yields import Yields, write_report, yields_beside
from eval.runs.run_folder import now
from retrieval.embedding.stored import file_hash
from retrieval.errors import FathomError


def finish(
    out: Path,
    examples: Sequence[Example],
    yields: Yields,
    writer: KeptWriter,
    *,
    source: Path,
    settings: Mapping[str, Any],
    more: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Write both, and return the report; where there is no example, the report alone.

    Raises FathomError where they cannot be written.
    """
    report: dict[str, Any] = {
        "made": now(),
        "model": writer.name,
        "source": {"file": source.name, "sha256": file_hash(source)},
        "settings": dict(settings),
        "requests": {"asked": writer.asked, "reused": writer.reused},
        "examples": len(examples),
        "yields": yields.as_json(),
        **(more or {}),
        "sha256": None,
    }
    if examples:
        write_examples(out, examples)
        report["sha256"] = file_hash(out)
    write_report(out, report)
    return report


def nothing_left(yields: Yields, out: Path) -> FathomError:
    """The error that says why there is no example: the most frequent reason of each step."""
    lost = [
        f"{count:,} of {stage.candidates:,} {name}, since each {REASONS.get(reason, reason)}"
        for name, stage in yields.stages.items()
        for reason, count in stage.rejected.counts.most_common(1)
    ]
    why = "; ".join(lost) or "nothing was there to begin with"
    return FathomError(
        f"no example is left: {why}; all reasons are in {yields_beside(out)}, and what the model wrote lies in "
        f"{kept_beside(out)}"
    )
