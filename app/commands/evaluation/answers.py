"""`fathom eval answers QUESTIONS`: a question file → answers measured. Only the words of the command line."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from app.commands.evaluation.options import DryRun, Engine, Fresh, RunName, Seed
from app.commands.options import AsJson, Hits, Run, Workspace, begin

if TYPE_CHECKING:
    from eval.runs.executing import PartResult

_GROUPS = ("answerable", "kind", "language", "group")
_MOST_ROWS = 12


def command(
    questions: Annotated[
        Path,
        typer.Argument(metavar="QUESTIONS", help="Question file (.jsonl, SQuAD's .json) or the folder that holds one."),
    ],
    context: Annotated[
        str | None,
        typer.Option(
            "--context",
            metavar="NAME",
            help="What to answer from: retrieved, gold, distractors (gold among others) or closed-book.",
            show_default="retrieved",
        ),
    ] = None,
    engine: Engine = None,
    quote: Annotated[
        bool | None,
        typer.Option(
            "--quote/--write",
            help="Answer with sentences of the sources, without a model, or let the engine write.",
            show_default="as 'fathom ask' does; with --engine or --support it writes",
        ),
    ] = None,
    collection: Annotated[
        str | None,
        typer.Option(
            "--collection",
            "-c",
            metavar="NAME",
            help="Ask this collection, not an index of the set's own documents.",
            show_default=False,
        ),
    ] = None,
    search: Annotated[
        str | None,
        typer.Option("--mode", "-m", metavar="NAME", help="lexical, dense or hybrid.", show_default="hybrid"),
    ] = None,
    support: Annotated[
        str | None,
        typer.Option(
            "--support",
            metavar="NAME",
            help="What tells whether passages bear answers out: lexical, encoder, llm or a folder.",
            show_default="of the settings",
        ),
    ] = None,
    rewriter: Annotated[
        str | None,
        typer.Option(
            "--rewriter",
            metavar="NAME",
            help="What rewrites questions before the search: none, previous, auto, model, plan[:ENGINE] or an engine.",
            show_default="of the settings",
        ),
    ] = None,
    reranker: Annotated[
        str | None,
        typer.Option(
            "--reranker",
            metavar="NAME",
            help="What orders the passages: none, packaged, a cross-encoder, llm[:ENGINE].",
            show_default="of the settings",
        ),
    ] = None,
    k: Hits = None,
    distractors: Annotated[
        int | None,
        typer.Option("--distractors", metavar="N", help="Passages without gold beside the gold.", show_default="4"),
    ] = None,
    split: Annotated[
        str | None, typer.Option("--split", metavar="NAME", help="Only questions of this split.", show_default=False)
    ] = None,
    limit: Annotated[
        int | None, typer.Option("--limit", metavar="N", help="Draw so many questions.", show_default="all")
    ] = None,
    sample_seed: Annotated[
        int | None, typer.Option("--sample-seed", metavar="N", help="Seed of that draw.", show_default="0")
    ] = None,
    concurrency: Annotated[
        int | None,
        typer.Option("--concurrency", metavar="N", help="Questions answered at the same time.", show_default="1"),
    ] = None,
    run_name: RunName = None,
    fresh: Fresh = False,
    dry_run: DryRun = False,
    seed: Seed = 0,
    workspace: Workspace = None,
    as_json: AsJson = False,
) -> None:
    """Ask every question of a file and measure the answers, their citations and what was refused, with 95 % intervals.

    The questions go through the same pipeline as in `fathom ask` and the page.
    """
    run = begin(workspace, as_json)
    from app.build import writes
    from app.evaluation import RunOptions, measure, show
    from eval.answers import AnswersPart

    if (
        quote is None and engine is None and support is None and context != "closed-book"
    ):  # as `fathom ask` and the page would answer
        quote = not writes(run.settings)
    given = {
        "context": context,
        "engine": engine,
        "quote": quote,
        "collection": collection,
        "search": search,
        "support": support,
        "planner": rewriter,
        "reranker": reranker,
        "k": k,
        "distractors": distractors,
        "split": split,
        "limit": limit,
        "sample_seed": sample_seed,
        "concurrency": concurrency,
    }
    chosen: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    place = questions.expanduser().resolve()
    part = AnswersPart(place, **chosen)
    name = place.name.partition(".")[0]
    result = measure(run, "answers", name, part, RunOptions(run_name, fresh, dry_run, seed))
    if result is None:
        return
    show(run, result)
    if not run.terminal.as_json:
        _also(run, result)


def _also(run: Run, result: "PartResult") -> None:
    """What is no figure of single answers: confidence, reasons of refusals, the groups that differ."""
    extras = result.extras
    run.terminal.line()
    for key in _GROUPS:
        table: Mapping[str, Any] = extras.get("by", {}).get(key, {})
        if table and len(table) <= _MOST_ROWS:
            _groups(run, result, key, table)
    curve = extras.get("risk_coverage")
    if curve:
        low, high = curve["AURC_interval"]
        run.terminal.line(
            f"AURC {curve['AURC']:.3f} ({low:.3f}–{high:.3f}): mean risk when the least sure of "
            f"{curve['n']:,} answers are withheld first; {curve['E-AURC']:.3f} above the best order there is"
        )
    refused = extras.get("refused_by", {})
    if refused:
        run.terminal.line("refused: " + ", ".join(f"{number:,} by {why}" for why, number in sorted(refused.items())))


def _groups(run: Run, result: "PartResult", key: str, table: Mapping[str, Any]) -> None:
    from eval.figures.measures import HEADLINE, format_value

    there = [name for name in HEADLINE[result.kind] if any(name in figures for figures in table.values())]
    rows = [
        [name, f"{figures['n']:,}", *(format_value(m, figures.get(m, {}).get("value")) for m in there)]
        for name, figures in table.items()
    ]
    run.terminal.table((key, "n", *there), rows, right=tuple(range(1, len(there) + 2)))
    run.terminal.line()
