"""`fathom eval run SUITE.yaml` and `fathom eval runs`: words of the command line → a measured suite, a list of runs."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from app.commands.evaluation.options import DryRun, Ended, Fresh, RunName
from app.commands.options import AsJson, Run, Workspace, begin

if TYPE_CHECKING:
    from eval.runs.executing import PartResult, RunResult

HEADLINES = 3
"""Metrics of a part in the table; the report has all of them."""


def run_suite(
    suite: Annotated[Path, typer.Argument(metavar="SUITE", help="YAML file that names what to measure.")],
    only: Annotated[
        list[str] | None,
        typer.Option("--only", metavar="PART", help="Measure this part only; may be repeated.", show_default=False),
    ] = None,
    data: Annotated[
        Path | None,
        typer.Option("--data", metavar="DIR", help="Where paths of the suite begin.", show_default="as the suite says"),
    ] = None,
    run_name: RunName = None,
    fresh: Fresh = False,
    dry_run: DryRun = False,
    seed: Annotated[
        int | None,
        typer.Option("--seed", metavar="N", min=0, help="Seed in place of the suite's.", show_default=False),
    ] = None,
    workspace: Workspace = None,
    as_json: AsJson = False,
) -> None:
    """Measure every part of a suite into one run folder; the same command goes on where it was stopped."""
    run = begin(workspace, as_json)
    from app.evaluation import RunOptions, measure_suite
    from app.failures import DONE_WITH_ERRORS
    from eval.runs.suites import load_suite

    loaded = load_suite(suite, data=data, seed=seed)
    if only:
        loaded = loaded.only(only)
    options = RunOptions(run=run_name, fresh=fresh, dry_run=dry_run, seed=loaded.seed)
    result = measure_suite(run, loaded, options, label=loaded.name)
    if result is None:
        return
    if result.failed:
        Ended.code = DONE_WITH_ERRORS
    if as_json:
        parts = {name: part.figures() for name, part in result.parts.items()}
        run.terminal.json({"run": {"folder": str(result.folder), **result.manifest}, "parts": parts})
        return
    _print_run(run, result)


def _print_run(run: Run, result: "RunResult") -> None:
    from app.terminal import count, seconds

    headings = ("part", "headline (95 % interval)", "n", "errors", "time")
    rows = [
        [
            name,
            headline(part.kind, part.figures()),
            f"{_done(part):,}",
            f"{part.errors:,}" if part.errors else "",
            seconds(part.seconds),
        ]
        for name, part in result.parts.items()
    ]
    run.terminal.table(headings, rows, right=(2, 3, 4))
    for name, why in result.manifest.get("skipped", {}).items():
        run.terminal.note(f"{name} skipped: {why}")
    for name, part in result.parts.items():
        if part.error:
            run.terminal.note(f"{name} was given up: {part.error}")
        elif part.errors:
            first = next(record for record in part.records.values() if record.get("error"))
            run.terminal.note(f"{name}, {first['id']}: {first['error']} ({count(part.errors, 'error')})")
    run.terminal.note(f"run: {result.folder}")
    run.terminal.note(f"see it with: fathom eval report {result.name}")
    taken = seconds(sum(part.seconds for part in result.parts.values()))
    run.terminal.note(f"{count(len(result.parts), 'part')} measured in {taken}", style="dim")


def _done(part: "PartResult") -> int:
    return len(part.records) - part.errors


def headline(kind: str, figures: Mapping[str, Any], most: int = HEADLINES) -> str:
    """Figures of a part as in metrics.json → "nDCG@10 0.679 (0.641–0.717), R@100 0.925 (…)"."""
    from app.evaluation import interval
    from eval.figures.measures import format_value, in_order

    shown = []
    for metric in in_order(kind, tuple(figures["metrics"]))[:most]:
        low, high = figures["intervals"][metric]
        bounds = "" if low is None else f" ({interval(metric, low, high)})"
        shown.append(f"{metric} {format_value(metric, figures['metrics'][metric])}{bounds}")
    return ", ".join(shown) or figures.get("error") or "no figures"


def list_runs(
    workspace: Workspace = None,
    as_json: AsJson = False,
) -> None:
    """List the runs of the workspace, the newest first, with the main figure of each part."""
    run = begin(workspace, as_json)
    from app.evaluation import runs_folder
    from eval.runs.executing import read_figures
    from eval.runs.plans import manifests
    from retrieval.errors import DamagedError

    listed: list[dict[str, Any]] = []
    for folder, manifest in manifests(runs_folder(run.settings)):
        try:
            parts = read_figures(folder)["parts"]
            lines = [f"{name}: {headline(part['kind'], part, 1)}" for name, part in parts.items()]
        except DamagedError as error:
            run.terminal.note(str(error))
            continue
        entry = {key: manifest.get(key) for key in ("name", "started", "finished", "status", "config_hash")}
        listed.append(entry | {"folder": str(folder), "headlines": lines, "parts": parts})
    if as_json:
        run.terminal.json(listed)
        return
    if not listed:
        run.terminal.note(f"there is no run in {runs_folder(run.settings)} yet; 'fathom eval run SUITE' makes one")
        return
    rows = []
    for entry in listed:
        lines = entry["headlines"]
        more = [f"{len(lines) - HEADLINES} more"] if len(lines) > HEADLINES else []
        rows.append([entry["name"], entry["started"], entry["status"], "; ".join(lines[:HEADLINES] + more)])
    run.terminal.table(("run", "started", "status", "parts"), rows)
