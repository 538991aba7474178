"""What the commands of `fathom data` share in which a model writes or scores: options, the open engine, the yields."""

from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from app.commands.options import Run
from app.failures import DONE_WITH_ERRORS

if TYPE_CHECKING:
    from adapt.instructions.writing.kept import KeptWriter
    from adapt.instructions.writing.writer import Wanted
    from adapt.instructions.writing.yields import Yields

MOST_AT_ONCE = 16
"""Requests to a server under way together where nobody says otherwise."""

Engine = Annotated[
    str | None, typer.Option("--engine", metavar="NAME", help="Engine that writes.", show_default="of the settings")
]
AtOnce = Annotated[
    int | None,
    typer.Option(
        "--at-once", metavar="N", min=1, max=256, help="Requests under way together.",
        show_default=f"1, of a server {MOST_AT_ONCE}",
    ),
]  # fmt: skip
AskAgain = Annotated[
    bool, typer.Option("--ask-again", help="Ask anew what was asked before, as of a model that was trained since.")
]
Seed = Annotated[int | None, typer.Option("--seed", metavar="N", help="Of the draw and the model.", show_default="0")]
Plan = Annotated[bool, typer.Option("--dry-run", help="Ask nothing: show what would be asked, and the first prompt.")]
MaxTokens = Annotated[
    int | None, typer.Option("--max-tokens", metavar="N", min=8, help="Longest reply.", show_default=False)
]
VerdictTokens = Annotated[
    int | None,
    typer.Option(
        "--verdict-tokens", metavar="N", min=1, help="Longest one-word reply; more for a model that thinks first.",
        show_default="16",
    ),
]  # fmt: skip


def given(**chosen: Any) -> dict[str, Any]:
    """Options that were given; the others are as their dataclass says."""
    return {name: value for name, value in chosen.items() if value is not None}


@contextmanager
def opened_writer(
    run: Run, engine: str | None, at_once: int | None, out: Path, *, ask_again: bool
) -> "Iterator[KeptWriter]":
    """The engine as a writer whose texts are kept beside `out`. Whoever stops it is told how it goes on."""
    from adapt.instructions.writing.kept import KeptWriter, kept_beside
    from adapt.instructions.writing.writer import EngineWriter
    from app.build import engine_named

    folder = kept_beside(out)
    with closing(engine_named(run.settings, engine)) as llm:  # type: ignore[type-var]
        together = at_once or min(MOST_AT_ONCE, int(getattr(llm, "concurrency", 1)))
        with KeptWriter(EngineWriter(llm, concurrency=together), folder, forget=ask_again) as writer:
            try:
                yield writer
            except KeyboardInterrupt:
                run.terminal.note(f"stopped; what was written is in {folder}, and the same command goes on with it")
                raise


def show_plan(run: Run, plan: Mapping[str, Any], first: "Wanted") -> None:
    """What would be done, and the first prompt."""
    prompt = [{"role": message.role, "content": message.text} for message in first.messages]
    if run.terminal.as_json:
        run.terminal.json({**plan, "first_prompt": prompt})
        return
    for name, value in plan.items():
        run.terminal.line(f"{name.replace('_', ' ')}: {value:,}" if isinstance(value, int) else f"{name}: {value}")
    for message in first.messages:
        run.terminal.line()
        run.terminal.line(f"[{message.role}]", style="bold")
        run.terminal.line(message.text)


def show_report(run: Run, report: Mapping[str, Any], yields: "Yields", out: Path, *, complete: bool = True) -> None:
    """The yields and the reasons, and the end: with 3 where less came of it than was wanted, or a row did not fit.

    Raises FathomError where nothing came of it.
    """
    from adapt.instructions.writing.finishing import nothing_left
    from adapt.instructions.writing.rules import REASONS
    from adapt.instructions.writing.yields import yields_beside

    if run.terminal.as_json:
        run.terminal.json({**report, "written": str(out) if report["examples"] else None})
    else:
        stages = [
            [name, f"{stage['requests']:,}", f"{stage['candidates']:,}", f"{stage['kept']:,}", _share(stage["yield"])]
            for name, stage in report["yields"].items()
        ]
        run.terminal.table(("step", "requests", "candidates", "kept", "yield"), stages, right=(1, 2, 3, 4))
        rows = [
            [name, reason, f"{found['count']:,}", f"it {REASONS.get(reason, reason)}", (found["examples"] or [""])[0]]
            for name, stage in report["yields"].items()
            for reason, found in sorted(stage["rejected"].items(), key=lambda item: -item[1]["count"])
        ]
        if rows:
            run.terminal.line()
            run.terminal.table(("step", "rejected", "count", "because", "such as"), rows, right=(2,))
        for name, stage in report["yields"].items():
            for reason, found in stage["noted"].items():
                run.terminal.note(f"{name}: {found['count']:,} kept, though {reason}", style="dim")
        asked = report["requests"]
        again = f", {asked['reused']:,} known from before" if asked["reused"] else ""
        run.terminal.note(f"{asked['asked']:,} requests{again}; report: {yields_beside(out)}", style="dim")
        if report["examples"]:
            run.terminal.done(f"{report['examples']:,} examples in {out}")
    if not report["examples"]:
        raise nothing_left(yields, out)
    if not complete:
        raise typer.Exit(DONE_WITH_ERRORS)


def _share(value: float | None) -> str:
    return "" if value is None else f"{value:.0%}"
