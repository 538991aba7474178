"""A model folder → its GGUF file of every kind, and how far what each reader makes of them is from the model: largest
difference of a logit, greedy texts that are equal. How a reader is asked is in export_readers.py.
"""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from adapt.experiments.export_readers import READERS, Asked, Said, by_transformers
from adapt.export.embedded_check import TEXTS
from adapt.export.gguf_file import Kind, export_gguf
from eval.data.corpora import numbered_jsonl
from eval.runs.parts import Progress
from eval.runs.run_folder import write_json
from retrieval.errors import MissingError, UsageError

TABLE_JSON, TABLE_MARKDOWN = "export.json", "export.md"


def fill_export(
    model: Path,
    *,
    questions: Path,
    prompts: int,
    count: int,
    kinds: Sequence[Kind],
    out: Path,
    progress: Progress,
    keep: bool = False,
) -> dict[str, Any]:
    """Write export.json and export.md to `out`; returns the former. Logits are those of texts of several scripts
    (adapt/export/embedded_check.py); prompts are the first questions of a file (a "question" a line), as the model's
    chat template has them where it has one, and `count` tokens are written after each.

    A reader that is not installed, or must not run the file, stands there with its reason. `keep` leaves the GGUF files
    in `out`. Raises UsageError for too few questions, and what exporting raises.
    """
    asked = _asked(model, questions, prompts, count)
    out.mkdir(parents=True, exist_ok=True)
    progress("the model itself", 0, len(kinds))
    own = by_transformers(model, asked)
    found: dict[str, Any] = {
        "model": str(model),
        "prompts": len(asked.prompts),
        "count": count,
        "tokens": sum(map(len, asked.ids)),
        "rows": [],
    }
    for number, kind in enumerate(kinds):
        file = out / f"{kind}.gguf"
        progress(f"{kind}: writing", number, len(kinds))
        refused = export_gguf(model, file, kind=kind)
        try:
            found["rows"] += _rows(
                file, kind, own, asked, refused, lambda what, at=number: progress(what, at, len(kinds))
            )
        finally:
            if not keep:
                file.unlink(missing_ok=True)
        write_json(out / TABLE_JSON, found)
        text = out / TABLE_MARKDOWN
        beside = text.with_suffix(".new")
        beside.write_text(to_markdown(found), encoding="utf-8")
        os.replace(beside, text)
    return found


def _rows(file: Path, kind: str, own: Said, asked: Asked, refused: str | None, tell: Any) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    read: Said | None = None
    for name, reader in READERS.items():
        tell(f"{kind}: {name}")
        row: dict[str, Any] = {"kind": kind, "bytes": file.stat().st_size, "reader": name, "skipped": None}
        if name == "OpenVINO GenAI" and refused:
            row["skipped"] = refused
        else:
            try:
                said = reader(file, asked)
                read = read or said  # transformers', the first: the weights as the file says them
                row |= {"model": _apart(own, said), "file": _apart(read, said)}
            except MissingError as error:
                row["skipped"] = str(error)
        rows.append(row)
    return rows


def _apart(one: Said, other: Said) -> dict[str, float]:
    """Rows of padding, which a file leaves out, are no tokens."""
    most, squares, of, places = 0.0, 0.0, 0.0, 0
    for a, b in zip(one.logits, other.logits, strict=True):
        width = min(a.shape[1], b.shape[1])
        gap = a[:, :width].astype(np.float64) - b[:, :width]
        most = max(most, float(np.abs(gap).max()))
        squares += float((gap**2).sum())
        of += float(((a[:, :width] - a[:, :width].mean()) ** 2).sum())
        places += gap.size
    same = sum(a == b for a, b in zip(one.written, other.written, strict=True))
    return {"most": most, "relative": float(np.sqrt(squares / of)), "same": same}


def _asked(model: Path, questions: Path, prompts: int, count: int) -> Asked:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(model, local_files_only=True)
    texts = [str(row["question"]) for _, row in numbered_jsonl(questions) if row.get("question")][:prompts]
    if len(texts) < prompts:
        raise UsageError(f"'{questions}' has {len(texts)} questions, fewer than the {prompts} asked for")

    def ids_of(text: str) -> list[int]:
        if not tokenizer.chat_template:
            return list(tokenizer(text, add_special_tokens=False)["input_ids"])
        turn = [{"role": "user", "content": text}]
        return list(tokenizer.apply_chat_template(turn, add_generation_prompt=True, return_dict=True)["input_ids"])

    own = [list(tokenizer(text, add_special_tokens=False)["input_ids"]) for text in TEXTS]
    return Asked(own, [ids_of(text) for text in texts], count)


def to_markdown(found: Mapping[str, Any]) -> str:
    """One table: distance from the model itself, and from the file's own weights (as transformers dequantises them)."""
    total = found["prompts"]
    lines = [
        "| kind | MiB | reader | logits, most from the model | rms, of their spread | texts equal | most from the file "
        "| texts equal |",
        "|---|--:|---|--:|--:|--:|--:|--:|",
    ]
    for row in found["rows"]:
        head = f"| {row['kind']} | {row['bytes'] / (1 << 20):,.0f} | {row['reader']} |"
        if row["skipped"]:
            lines.append(f"{head} skipped: {row['skipped']} | | | | |")
            continue
        model, file = row["model"], row["file"]
        own = f" {file['most']:.1g} | {file['same']} of {total} |" if row["reader"] != "transformers" else " | |"
        lines.append(f"{head} {model['most']:.2g} | {model['relative']:.2%} | {model['same']} of {total} |{own}")
    return "\n".join(lines) + "\n"
