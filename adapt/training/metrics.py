"""metrics.jsonl: one line for each step of the optimizer, in order, no step twice, whatever was killed in between."""

import json
import os
from pathlib import Path
from typing import Any

from eval.runs.parts import finite
from retrieval.storage.durable import sync_to_disk

NAME = "metrics.jsonl"


class MetricsFile:
    """Opened for one session, which goes on after step `since`: lines of later steps, which a killed session wrote and
    the checkpoint does not know, are cut off. Raises OSError."""

    def __init__(self, file: Path, *, since: int) -> None:
        self._file = file
        lines = [line for line in read(file) if line["step"] <= since]
        temporary = file.with_name(f".{file.name}.new")
        temporary.write_text("".join(_line(line) for line in lines), "utf-8")
        sync_to_disk(temporary)
        os.replace(temporary, file)
        self._stream = file.open("a", encoding="utf-8")
        self.last = lines[-1] if lines else None
        self.losses = [float(line["loss"]) for line in lines[-200:] if line.get("loss") is not None]

    def append(self, line: dict[str, Any]) -> None:
        self._stream.write(_line(line))
        self._stream.flush()
        self.last = line

    def sync(self) -> None:
        """Make what was written as durable as the checkpoint beside it."""
        self._stream.flush()
        os.fsync(self._stream.fileno())

    def close(self) -> None:
        self.sync()
        self._stream.close()


def read(file: Path) -> list[dict[str, Any]]:
    """Whole lines in the order of their steps; what a kill left half written is none. Raises OSError."""
    if not file.is_file():
        return []
    lines: list[dict[str, Any]] = []
    for text in file.read_text("utf-8", errors="replace").splitlines():
        try:
            line = json.loads(text)
            in_order = isinstance(line["step"], int) and (not lines or line["step"] > lines[-1]["step"])
        except (ValueError, KeyError, TypeError, RecursionError):
            break
        if not in_order:
            break
        lines.append(line)
    return lines


def _line(line: dict[str, Any]) -> str:
    return json.dumps(finite(line), ensure_ascii=True, allow_nan=False) + "\n"
