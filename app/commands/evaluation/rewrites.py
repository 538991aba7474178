"""`fathom eval rewrites FILE`: conversational questions with human rewrites → how good a rewriter is, on the screen."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from app.commands.evaluation.options import DryRun, Fresh, RunName, Seed
from app.commands.options import AsJson, Workspace, begin
from retrieval.errors import UsageError
from retrieval.passages import Mode

if TYPE_CHECKING:
    from app.terminal import Terminal
    from eval.runs.executing import PartResult


def command(
    file: Annotated[
        Path, typer.Argument(metavar="FILE", help="Lines with id, history, question and the human rewrite.")
    ],
    rewriter: Annotated[
        str | None,
        typer.Option(
            "--rewriter",
            metavar="NAME",
            help="none, previous (the question before put in front), auto, model, plan, plan:ENGINE, or an engine that "
            "condenses; an adapter's folder stands for the model that comes with Fathom under it.",
            show_default="previous",
        ),
    ] = None,
    predictions: Annotated[
        Path | None,
        typer.Option(
            "--predictions",
            metavar="FILE",
            help='Measure these instead of a rewriter: lines {"id", "rewrite"}.',
            show_default=False,
        ),
    ] = None,
    on: Annotated[
        Path | None,
        typer.Option(
            "--on",
            metavar="DATASET",
            help="Test collection with the same query ids, to search in.",
            show_default="the answers in the conversations",
        ),
    ] = None,
    split: Annotated[
        str | None, typer.Option("--split", metavar="NAME", help="Judgements of --on to use.", show_default=False)
    ] = None,
    pipeline: Annotated[
        Mode | None, typer.Option("--pipeline", help="Search that rewrites are for.", show_default="lexical")
    ] = None,
    retrieval: Annotated[bool, typer.Option(help="Whether to measure searches at all.")] = True,
    gate: Annotated[
        bool, typer.Option("--gate", help="Spare the model where serving would, and tell how often it is asked.")
    ] = False,
    limit: Annotated[
        int | None, typer.Option("--limit", metavar="N", min=1, help="Measure N turns, drawn at random.")
    ] = None,
    concurrency: Annotated[
        int | None,
        typer.Option("--concurrency", metavar="N", min=1, max=256, help="Turns rewritten at once.", show_default="1"),
    ] = None,
    run_name: RunName = None,
    fresh: Fresh = False,
    dry_run: DryRun = False,
    seed: Seed = 0,
    workspace: Workspace = None,
    as_json: AsJson = False,
) -> None:
    """Measure rewrites against human ones, and what they do to a search: raw question, rewrite, human rewrite."""
    run = begin(workspace, as_json)
    if predictions is not None and rewriter is not None:
        raise UsageError("--predictions are somebody else's rewrites; leave --rewriter out")
    from app.evaluation import RunOptions, measure, show
    from eval.rewrites import RewritesPart

    chosen: dict[str, Any] = {
        "rewriter": rewriter,
        "predictions": predictions.absolute() if predictions else None,
        "on": on.absolute() if on else None,
        "split": split,
        "pipeline": pipeline,
        "limit": limit,
        "concurrency": concurrency,
    }
    given = {name: value for name, value in chosen.items() if value is not None}
    part = RewritesPart(file=file.absolute(), retrieval=retrieval, gate=gate, seed=seed, **given)
    name = file.name.removesuffix(".gz").removesuffix(".jsonl")
    outcome = measure(run, "rewrites", name, part, RunOptions(run_name, fresh, dry_run, seed))
    if outcome is None:
        return
    if not as_json:
        _print_need(run.terminal, outcome)
    show(run, outcome)


def _print_need(terminal: "Terminal", outcome: "PartResult") -> None:
    """Turns that needed a rewrite, and what the rewrites did to a search beside what a person's did."""
    from eval.figures.measures import format_value

    needed = sum(bool(record.get("needed")) for record in outcome.records.values())
    terminal.line(f"{needed:,} of {len(outcome.records):,} questions cannot be understood alone")
    rows = []
    for measure, effect in outcome.extras.get("search", {}).items():
        name, _, over = measure.partition("_")
        values = [
            outcome.estimates.get(f"{name}_{side}{'_' * bool(over)}{over}") for side in ("raw", "rewritten", "human")
        ]
        low, high = effect["interval"]
        gain = f"{effect['gain']:+.3f}" + (f" ({low:+.3f} to {high:+.3f})" if low is not None else "")
        chance = "–" if effect["p"] is None else f"{effect['p']:.2g}"
        figures = [format_value(name, value.value if value else None) for value in values]
        rows.append([f"{name}, {over or 'all'}", *figures, gain, chance])
    if rows:
        headings = ("search", "as asked", "rewritten", "by a person", "gain by rewriting", "p")
        terminal.table(headings, rows, right=(1, 2, 3, 4, 5))
    terminal.line()
