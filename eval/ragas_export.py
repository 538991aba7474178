"""Samples → a jsonl of ragas' SingleTurnSample, so that other tools can judge the same answers. It knows no ragas."""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from eval.data.samples import Sample
from retrieval.errors import UsageError


def ragas_row(sample: Sample) -> dict[str, Any]:
    """The fields of `ragas.dataset_schema.SingleTurnSample` (0.2 to 0.4) that the sample has; what ragas does not know
    stands under `metadata`, which it leaves alone."""
    row: dict[str, Any] = {
        "user_input": sample.question,
        "retrieved_contexts": list(sample.passages),
        "retrieved_context_ids": list(sample.passage_ids),
        "response": sample.answer,
    }
    if sample.reference is not None:
        row["reference"] = sample.reference
    if sample.reference_passages:
        row["reference_contexts"] = list(sample.reference_passages)
    if sample.reference_ids:
        row["reference_context_ids"] = list(sample.reference_ids)
    row["metadata"] = {"id": sample.id, "cluster": sample.cluster, "refused": sample.refused, **sample.metadata}
    return row


def write_ragas(samples: Sequence[Sample], file: Path, *, replace: bool = False) -> None:
    """One line per sample, written beside and renamed. Raises UsageError where the file is there and `replace` is not
    given, OSError where it cannot be written."""
    if file.exists() and not replace:
        raise UsageError(f"'{file}' is there already; remove it, name another, or say --replace")
    if not file.parent.is_dir():
        raise UsageError(f"the folder '{file.parent}' is not there; make it first")
    temporary = file.with_name(f".{file.name}.{os.getpid()}")
    try:
        with temporary.open("w", encoding="utf-8", newline="\n") as stream:
            for sample in samples:
                line = json.dumps(ragas_row(sample), ensure_ascii=False)
                # No newline to JSON, but one to readers that use str.splitlines.
                for mark, escaped in (("\u2028", "\\u2028"), ("\u2029", "\\u2029"), ("\x85", "\\u0085")):
                    line = line.replace(mark, escaped)
                stream.write(line + "\n")
        temporary.replace(file)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
