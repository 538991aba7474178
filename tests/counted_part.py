"""A part whose items are numbers and whose work is a line in a journal: who ran what, how often, can be counted."""

import hashlib
import os
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from eval.runs.parts import PartFolder, Prepared, Progress, Record, Tools
from eval.runs.running import run_items
from retrieval.errors import FathomError, MissingError, UsageError


@dataclass(frozen=True)
class CountedPart:
    """`items` numbers; number i scores a value in [0, 1) that depends on i and `scale` alone, and takes `seconds`.

    Every attempt is a line in `journal`. Numbers named in `broken_file` fail, so that what is broken can be mended.
    """

    journal: Path
    items: int = 20
    seconds: float = 0.0
    scale: float = 1.0
    seed: int = 0
    concurrency: int = 1
    data: Path | None = None
    broken_file: Path | None = None
    words: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.items < 1:
            raise UsageError(f"items is at least 1; {self.items} was given")

    def prepare(self, tools: Tools) -> Prepared:
        data = {}
        if self.data is not None:
            if not self.data.is_file():
                raise MissingError(f"{self.data} is not there")
            data[str(self.data)] = hashlib.sha256(self.data.read_bytes()).hexdigest()
        return Prepared(self.items, data, f"{self.items} numbers", self._run, relies_on=())

    def _run(self, folder: PartFolder, progress: Progress) -> Mapping[str, Any]:
        run_items(
            folder,
            range(self.items),
            self._do,
            identify=str,
            total=self.items,
            what="counting",
            progress=progress,
            concurrency=self.concurrency,
            describe=lambda number: f"number {number}",
        )
        return {"curve": [[0.0, 1.0]], "scale": self.scale}

    def _do(self, number: int) -> Record:
        # O_APPEND: lines of several threads and of one attempt after another do not overwrite each other.
        with self.journal.open("ab", buffering=0) as journal:
            journal.write(f"{number}\n".encode())
        time.sleep(self.seconds)
        if self.broken_file is not None and str(number) in self.broken_file.read_text(encoding="utf-8").split():
            raise FathomError(f"number {number} is broken")
        return {
            "text": f"number {number}",
            "cluster": f"decade {number // 10}",
            "metrics": {"score": value(number, self.scale), "ratio": [number % 3, 2], "told": None},
            "timings": {"count": float(number)},
            "error": None,
            "worker": f"{os.getpid()} {threading.get_ident()}",
        }


def value(number: int, scale: float = 1.0) -> float:
    """The score of a number."""
    digest = hashlib.sha256(str(number).encode()).digest()
    return int.from_bytes(digest[:4], "big") / 2**32 * scale


def attempts(journal: Path) -> list[int]:
    """The numbers in the order in which they were begun, over all attempts."""
    return [int(line) for line in journal.read_text(encoding="utf-8").split()] if journal.exists() else []
