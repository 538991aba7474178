"""One recipe → the remedies against forgetting side by side: what each gains on the domain and forgets of the rest.

Every cell (a row under a seed) is one training and one measurement, kept when finished. It knows no remedy: the rows
come from adapt/experiments/forgetting_rows.py, the training from whoever runs stages.
"""

import hashlib
import json
import logging
import shutil
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from adapt.experiments.forgetting_figures import DOMAIN, GENERAL, Cell, figures, to_markdown
from adapt.experiments.forgetting_rows import Row
from adapt.recipe import Dapt
from eval.language import LanguagePart
from eval.models.language_models import load_language_model
from eval.runs.parts import PartFolder, Progress, Record, Tools
from eval.runs.run_folder import now, read_json, write_json
from retrieval.errors import DamagedError, FathomError, UsageError
from retrieval.storage.locking import WriterLock

VERSION = 1
RESULT, FAILED, MEASURED = "result.json", "failed.json", "measured"
TABLE_JSON, TABLE_MARKDOWN = "forgetting.json", "forgetting.md"
_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class Trained:
    """What a stage left. `seconds` are those of training."""

    model: Path
    tokens: int
    seconds: float


class Stages(Protocol):
    """Whoever runs a stage as `fathom adapt run` does. `base` is the base model's folder, `held_out` a file of texts
    for "domain" and one for "general", `layers` the base's decoder layers, `key` changes whenever base or texts do."""

    @property
    def base(self) -> Path: ...

    @property
    def held_out(self) -> Mapping[str, Path]: ...

    @property
    def layers(self) -> int: ...

    @property
    def key(self) -> str: ...

    def train(
        self, settings: Dapt, *, seed: int, folder: Path, progress: Progress, stop: threading.Event | None
    ) -> Trained:
        """Train the base under `settings` in `folder`, going on with what a stopped training left there."""


def fill_table(
    rows: Sequence[Row],
    seeds: Sequence[int],
    stages: Stages,
    *,
    out: Path,
    cache: Path,
    limit_bytes: int | None = 100_000,
    device: str = "auto",
    progress: Progress,
    stop: threading.Event | None = None,
) -> dict[str, Any]:
    """Train and measure what `out` lacks, then write forgetting.json and forgetting.md there; returns the former.

    A cell that fails leaves its reason in the table and is tried again the next time; its model is removed once it is
    measured, for 24 models of 135 M weights are 13 GB. Raises UsageError for the same seed twice or texts that differ
    from those of an earlier call, KeyboardInterrupt (`stop`), BusyError, OSError (a full disk).
    """
    if not seeds or len(set(seeds)) != len(seeds):
        raise UsageError(f"seeds are different numbers, at least one; {list(seeds)} was given")
    if {DOMAIN, GENERAL} - stages.held_out.keys():
        raise UsageError(f"the table is measured on '{DOMAIN}' and '{GENERAL}'; there is {sorted(stages.held_out)}")
    out.mkdir(parents=True, exist_ok=True)
    with WriterLock(out / ".lock", doing="filling the table of remedies", guarded=f"the table in '{out}'"):
        measuring = _Measuring(stages, out, cache, limit_bytes, device)
        whole = len(rows) * len(seeds)
        before = measuring.base(progress)
        cells: list[Cell] = []
        for seed in seeds:  # by seed first: after a third of the time there is a whole table of one seed
            for row in rows:
                progress("cells of the table", len(cells), whole)
                if stop is not None and stop.is_set():
                    raise KeyboardInterrupt
                cells.append(_cell(row, seed, stages, measuring, out, progress, stop))
                progress("cells of the table", len(cells), whole)
        found = figures(before, cells)
        found["recipe_texts"] = stages.key
        found["written"] = now()
        write_json(out / TABLE_JSON, found)
        text = out / TABLE_MARKDOWN
        text.with_suffix(".new").write_text(to_markdown(found), encoding="utf-8")
        text.with_suffix(".new").replace(text)
        return found


def _cell(
    row: Row,
    seed: int,
    stages: Stages,
    measuring: "_Measuring",
    out: Path,
    progress: Progress,
    stop: threading.Event | None,
) -> Cell:
    """Read the finished cell, or train and measure it."""
    key = _hash([VERSION, row.settings.model_dump(mode="json"), seed, stages.key, measuring.key])
    folder = out / "cells" / f"{_slug(row.name)}-seed-{seed}-{key[:12]}"
    if (folder / RESULT).is_file():
        known = read_json(folder / RESULT)
        if known.get("key") != key or not all(
            isinstance(known.get(name), int | float) for name in ("tokens", "seconds")
        ):
            raise DamagedError(f"{folder / RESULT} is not what was written; remove {folder} and run again")
        return Cell(row, seed, int(known["tokens"]), float(known["seconds"]), PartFolder(folder / MEASURED).done())
    folder.mkdir(parents=True, exist_ok=True)
    work = folder / "stage"
    try:
        trained = stages.train(row.settings, seed=seed, folder=work, progress=progress, stop=stop)
        records = measuring.records(trained.model, folder / MEASURED, progress)
    except FathomError as error:
        if stop is not None and stop.is_set():
            raise
        _LOG.warning("%s, seed %d: %s", row.name, seed, error)
        write_json(folder / FAILED, {"error": str(error), "at": now()})
        return Cell(row, seed, error=str(error))
    if stop is not None and stop.is_set():
        raise KeyboardInterrupt
    write_json(folder / RESULT, {"key": key, "tokens": trained.tokens, "seconds": trained.seconds, "seed": seed})
    (folder / FAILED).unlink(missing_ok=True)
    shutil.rmtree(work, ignore_errors=True)
    return Cell(row, seed, trained.tokens, trained.seconds, records)


class _Measuring:
    """Bits per byte on the held-out texts, of the base once and of every cell's model."""

    def __init__(self, stages: Stages, out: Path, cache: Path, limit_bytes: int | None, device: str) -> None:
        self.stages, self.out, self.limit, self.device = stages, out, limit_bytes, device
        self.tools = Tools(
            cache=cache, language_model=lambda name: load_language_model(name, cache=cache, device=device)
        )
        self.key = _hash([limit_bytes, {label: str(path) for label, path in stages.held_out.items()}, str(stages.base)])

    def base(self, progress: Progress) -> Mapping[str, Record]:
        return self.records(self.stages.base, self.out / "base" / self.key[:12], progress)

    def records(self, model: Path, folder: Path, progress: Progress) -> Mapping[str, Record]:
        texts = {label: self.stages.held_out[label] for label in (DOMAIN, GENERAL)}
        prepared = LanguagePart(texts=texts, model=str(model), limit_bytes=self.limit).prepare(self.tools)
        kept = PartFolder(folder)
        try:
            prepared.run(kept, progress)
            return kept.done()
        finally:
            kept.close()


def _slug(name: str) -> str:
    return "-".join("".join(c if c.isalnum() else " " for c in name.lower()).split())


def _hash(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
