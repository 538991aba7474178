"""The parts of a suite → one run folder with records and figures; a run folder → its results. It continues what a kill
left and repeats nothing that is finished. It knows no kind of part."""

import json
import logging
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from eval.runs.parts import PartFolder, Progress, Record, Tools, finite, read_records
from eval.runs.plans import Plan, make_plan, refuse_other
from eval.runs.run_folder import (
    FINISHED,
    MANIFEST,
    METRICS,
    UNFINISHED,
    WITH_ERRORS,
    now,
    read_json,
    read_manifest,
    write_json,
)
from eval.runs.suites import Suite
from retrieval.errors import DamagedError, FathomError
from retrieval.storage.locking import WriterLock

if TYPE_CHECKING:
    from eval.figures.statistics import Estimate

FIGURES = frozenset({"kind", "metrics", "intervals", "counts", "timings", "extras", "seconds"})
_LOCK = ".lock"
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class PartResult:
    """One part of a run as it stands on disk.

    `records` holds failed items too; `items` is how many there were to do. `estimates` come with 95 % intervals;
    `timings` are {stage: {"p50", "p90", "p99", "mean"}} in ms over the finished items. `error` says why the part could
    not be finished. `folder` is the part's own: `folder.parent.parent` is that of the run.
    """

    name: str
    kind: str
    settings: dict[str, Any]
    data: dict[str, str]
    records: dict[str, Record]
    estimates: "dict[str, Estimate]"
    timings: dict[str, dict[str, float]]
    extras: dict[str, Any]
    seconds: float
    items: int
    folder: Path = field(default_factory=Path)
    described: str = ""
    error: str | None = None

    @property
    def errors(self) -> int:
        """How many items ended in an error."""
        return sum(bool(record.get("error")) for record in self.records.values())

    def counts(self) -> dict[str, Any]:
        """Items, done, errors; and by metric how many had no value and how many had one."""
        return {
            "items": self.items,
            "done": len(self.records) - self.errors,
            "errors": self.errors,
            "missing": {metric: estimate.missing for metric, estimate in self.estimates.items()},
            "n": {metric: estimate.n for metric, estimate in self.estimates.items()},
        }

    def figures(self) -> dict[str, Any]:
        """What metrics.json and `--json` say of the part."""
        return {
            "kind": self.kind,
            "metrics": {metric: estimate.value for metric, estimate in self.estimates.items()},
            "intervals": {metric: [estimate.low, estimate.high] for metric, estimate in self.estimates.items()},
            "counts": self.counts(),
            "timings": self.timings,
            "extras": self.extras,
            "seconds": self.seconds,
            **({"error": self.error} if self.error else {}),
        }


@dataclass(frozen=True)
class RunResult:
    """A run folder. `manifest` is run.json; `parts` has those that have begun, in the order of the suite."""

    folder: Path
    name: str
    manifest: dict[str, Any]
    parts: dict[str, PartResult]

    @property
    def failed(self) -> bool:
        """Whether an item or a part ended in an error."""
        return any(part.errors or part.error for part in self.parts.values())


def execute(
    suite: Suite,
    folder: Path,
    tools: Tools,
    progress: Progress,
    *,
    plan: Plan | None = None,
    replace: bool = False,
) -> RunResult:
    """Run what `folder` lacks of the suite and return everything in it. `replace` removes first what is there.

    run.json is written before the work, metrics.json after each part. A part that gives up leaves its error and the
    next one begins. Raises UsageError if the folder holds another configuration or data has changed since it was begun,
    BusyError if another process measures into it, OSError on a full disk; finished items are kept whatever happens.
    """
    plan = plan or make_plan(suite, tools)
    folder.mkdir(parents=True, exist_ok=True)
    with WriterLock(folder / _LOCK, doing="measuring", guarded=f"the run '{folder.name}'"):
        if replace:
            _clear(folder)
        manifest = _begin(plan, folder)
        figures = {"name": folder.name, "seed": suite.seed, "parts": read_figures(folder)["parts"]}
        results = {}
        for name, prepared in plan.parts.items():
            known = figures["parts"].get(name)
            if known and _is_complete(known, folder / "parts" / name):
                continue
            fact = manifest["parts"][name]
            extras: Mapping[str, Any] = {}
            error: str | None = None
            part_folder = PartFolder(folder / "parts" / name)
            with _timed(fact, manifest, folder):
                try:
                    extras = prepared.run(part_folder, _named(progress, name, len(plan.parts)))
                except FathomError as problem:
                    error = str(problem)
                finally:
                    part_folder.close()
            results[name] = _measured(name, fact, part_folder.path, part_folder.all(), extras, error, suite.seed)
            figures["parts"][name] = results[name].figures()
            write_json(folder / METRICS, figures)
        failed = any(part.get("error") or part["counts"]["errors"] for part in figures["parts"].values())
        manifest |= {"status": WITH_ERRORS if failed else FINISHED, "finished": now()}
        write_json(folder / MANIFEST, manifest)
    return _read(folder, results)


def _clear(folder: Path) -> None:
    """Remove what a run left in its folder, and only that: somebody may have put a note beside it."""
    for name in (METRICS, "report.html", "report.md", MANIFEST):
        (folder / name).unlink(missing_ok=True)
    shutil.rmtree(folder / "parts", ignore_errors=True)


def read_figures(folder: Path) -> dict[str, Any]:
    """metrics.json; no parts where none has ended yet. Raises DamagedError if it is not what was written."""
    if not (folder / METRICS).exists():
        return {"parts": {}}
    figures = read_json(folder / METRICS)
    parts = figures.get("parts")
    if not isinstance(parts, dict) or not all(
        isinstance(part, dict) and FIGURES <= set(part) for part in parts.values()
    ):
        raise DamagedError(
            f"{folder / METRICS} lacks what figures have; remove it and run the command again, the records are kept"
        )
    return figures


def _begin(plan: Plan, folder: Path) -> dict[str, Any]:
    """The manifest, on disk before any work."""
    from eval.runs.environment import environment

    earlier = read_manifest(folder) if (folder / MANIFEST).exists() else None
    if earlier is not None:
        refuse_other(plan, folder, earlier)
    parts = {
        name: fact | {"seconds": earlier["parts"].get(name, {}).get("seconds", 0.0) if earlier else 0.0}
        for name, fact in plan.facts.items()
    }
    manifest = {
        "name": folder.name,
        "suite": plan.suite.resolved(),
        "seed": plan.suite.seed,
        "config_hash": plan.config_hash,
        "environment": environment(),
        "started": earlier["started"] if earlier else now(),
        "finished": None,
        "status": UNFINISHED,
        "parts": parts,
        "skipped": dict(plan.skipped),
    }
    write_json(folder / MANIFEST, manifest)
    return manifest


def _is_complete(known: Mapping[str, Any], folder: Path) -> bool:
    """Whether the figures are those of all the records, and no item is left to be tried again."""
    counts = known["counts"]
    return not known.get("error") and not counts["errors"] and counts["done"] == len(read_records(folder))


@contextmanager
def _timed(fact: dict[str, Any], manifest: Mapping[str, Any], folder: Path) -> Iterator[None]:
    """Add the seconds of a part to the manifest, also when it is stopped: the next attempt goes on counting."""
    begun = time.monotonic()
    try:
        yield
    finally:
        fact["seconds"] = round(fact["seconds"] + time.monotonic() - begun, 3)
        try:
            write_json(folder / MANIFEST, manifest)
        except OSError as error:
            _log.warning("the time that '%s' took could not be written: %s", folder.name, error.strerror)


def _named(progress: Progress, name: str, parts: int) -> Progress:
    if parts == 1:
        return progress
    return lambda stage, done, total: progress(stage if stage.startswith(name) else f"{name}: {stage}", done, total)


def _measured(
    name: str,
    fact: Mapping[str, Any],
    folder: Path,
    records: dict[str, Record],
    extras: Mapping[str, Any],
    error: str | None,
    seed: int,
) -> PartResult:
    from eval.figures.statistics import clusters_of, estimates, table_of

    table = table_of({key: record for key, record in records.items() if not record.get("error")})
    return PartResult(
        name=name,
        kind=fact["kind"],
        settings=dict(fact["settings"]),
        data=dict(fact["data"]),
        records=records,
        estimates=estimates(table, clusters=clusters_of(records), seed=seed) if table else {},
        timings=_timings(records),
        extras=json.loads(json.dumps(finite(extras), default=str)),  # as it will be read back
        seconds=fact.get("seconds", 0.0),
        items=fact["items"],
        folder=folder,
        described=fact["described"],
        error=error,
    )


def _timings(records: Mapping[str, Record]) -> dict[str, dict[str, float]]:
    import numpy as np

    stages: dict[str, list[float]] = {}
    for record in records.values():
        for stage, milliseconds in ({} if record.get("error") else record.get("timings") or {}).items():
            if milliseconds is not None:
                stages.setdefault(stage, []).append(float(milliseconds))
    found = {}
    for stage, values in stages.items():
        p50, p90, p99 = np.percentile(values, (50, 90, 99)).tolist()
        found[stage] = {"p50": p50, "p90": p90, "p99": p99, "mean": float(np.mean(values))}
    return found


def read_run(folder: Path) -> RunResult:
    """The results in a run folder, finished or not. Raises UsageError if it is none, DamagedError if it is damaged."""
    return _read(folder, {})


def _read(folder: Path, at_hand: Mapping[str, PartResult]) -> RunResult:
    """`at_hand` are parts measured just now: reading ten thousand rankings back takes seconds."""
    from eval.figures.statistics import Estimate

    manifest = read_manifest(folder)
    figures = read_figures(folder)["parts"]
    parts = {}
    for name, fact in manifest["parts"].items():
        if name in at_hand:
            parts[name] = at_hand[name]
            continue
        place = folder / "parts" / name
        known = figures.get(name)
        if known is None and not place.is_dir():
            continue
        records = read_records(place)
        failed = sum(bool(record.get("error")) for record in records.values())
        try:
            counts = known["counts"] if known else {}
            if known is None or (counts["done"], counts["errors"]) != (len(records) - failed, failed):
                # Stopped in the middle: what is there counts, without what only the end of a part knows.
                parts[name] = _measured(name, fact, place, records, {}, None, manifest["seed"])
                continue
            parts[name] = PartResult(
                name=name,
                kind=fact["kind"],
                settings=fact["settings"],
                data=fact["data"],
                records=records,
                estimates={
                    metric: Estimate(value, low, high, n=counts["n"][metric], missing=counts["missing"][metric])
                    for metric, value in known["metrics"].items()
                    for low, high in (known["intervals"][metric],)
                },
                timings=known["timings"],
                extras=known["extras"],
                seconds=known["seconds"],
                items=fact["items"],
                folder=place,
                described=fact["described"],
                error=known.get("error"),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise DamagedError(
                f"{folder / METRICS} lacks what figures have ({error!r}); remove it and run the command again, the "
                "records are kept"
            ) from error
    return RunResult(folder, folder.name, manifest, parts)
