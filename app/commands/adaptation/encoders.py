"""`fathom adapt plan|run` of a recipe with the key `encoder`: its plan and its result on the screen. Only words."""

import signal
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from app.commands.adaptation.stopping import run_name_of, stopping
from app.commands.options import Run
from app.failures import FAILED, STOPPED, TERMINATED, WRONG_USAGE

if TYPE_CHECKING:
    from adapt.encoders.pair_plan import PairPlan
    from adapt.encoders.pair_recipe import PairRecipe
    from adapt.encoders.pair_run import EncoderResult


def encoder_of(recipe: Path) -> str | None:
    """The kind of encoder that a recipe trains; None where it trains none. Raises UsageError."""
    from adapt.encoders.pair_recipe import encoder_of as said

    return said(recipe)


def plan_encoder(run: Run, kind: str, recipe: Path, changes: Mapping[str, Any]) -> None:
    """Show what a recipe's training takes; exit 2 where it cannot be."""
    plan = _plan(run, _loaded(kind, recipe, changes))
    _show_plan(run, plan)
    if plan.refusals:
        raise typer.Exit(WRONG_USAGE)


def run_encoder(
    run: Run,
    kind: str,
    recipe: Path,
    changes: Mapping[str, Any],
    *,
    name: str | None,
    fresh: bool,
    dry_run: bool,
) -> None:
    """Do what is not done yet of a recipe and show what came of it."""
    loaded = _loaded(kind, recipe, changes)
    name = run_name_of(name or loaded.name)
    if dry_run:
        _show_plan(run, _plan(run, loaded))
        return
    from adapt.encoders.running import run_pairs
    from app.build import embedder

    with stopping(run) as asked, run.terminal.progress() as progress:
        result = run_pairs(
            loaded,
            workspace=run.settings.workspace,
            embedder=embedder(run.settings),
            progress=progress,
            stop=asked.event,
            run=name,
            fresh=fresh,
            cache=run.settings.cache,
        )
    _show_result(run, result)
    if result.failed:
        raise typer.Exit(FAILED)
    if result.result is None:
        raise typer.Exit(TERMINATED if asked.number == signal.SIGTERM else STOPPED)


def _loaded(kind: str, recipe: Path, changes: Mapping[str, Any]) -> "PairRecipe":
    from adapt.encoders.pair_recipe import ENCODERS, load_pair_recipe, require_kind

    require_kind(kind, ENCODERS)
    return load_pair_recipe(recipe, **changes)


def _plan(run: Run, recipe: "PairRecipe") -> "PairPlan":
    from adapt.encoders.pair_plan import plan_pairs

    with run.terminal.progress() as progress:
        return plan_pairs(recipe, progress=progress)


def _show_plan(run: Run, plan: "PairPlan") -> None:
    if run.terminal.as_json:
        run.terminal.json(plan.as_json())
        return
    from app.commands.adaptation.plan import long_time

    terminal = run.terminal
    terminal.line(f"{plan.name}: {plan.described}", style="bold")
    rows = [
        [one.name, one.kind, f"{one.learned:,}", f"{one.held_out:,}", f"{one.texts:,}", one.path]
        for one in plan.sources
    ]
    terminal.table(("source", "kind", "to learn from", "held out", "texts", "path"), rows, right=(2, 3, 4))
    if plan.seconds is not None:
        terminal.note(f"{plan.steps:,} steps, about {plan.tokens:,} tokens and {long_time(plan.seconds)}; {plan.basis}")
    for refusal in plan.refusals:
        terminal.note(f"cannot run: {refusal}", style="red")


def _show_result(run: Run, result: "EncoderResult") -> None:
    if run.terminal.as_json:
        run.terminal.json(
            {
                "run": {"name": result.name, "folder": str(result.folder), "status": result.status},
                "result": str(result.result) if result.result is not None else None,
                "figures": {
                    name: {"mean": one.mean, "low": one.low, "high": one.high, "n": one.n}
                    for name, one in result.figures.items()
                },
                "facts": dict(result.facts),
                "failed": list(result.failed),
            }
        )
        return
    terminal = run.terminal
    if result.figures:
        rows = [
            [name, f"{one.mean:.3f}", f"{one.low:.3f}–{one.high:.3f}", f"{one.n:,}"]
            for name, one in result.figures.items()
        ]
        terminal.table(("held-out questions", "mean", "95 % interval", "n"), rows, right=(1, 2, 3))
    for gate in result.failed:
        terminal.note(f"the gate '{gate}' is not passed; the result stays in {result.folder} and is not offered")
    terminal.note(f"run: {result.folder} ({result.status})")
    if result.result is not None:
        if result.facts["recipe"]["encoder"] == "reranker":
            terminal.note(f"try it: fathom eval retrieval DATASET --pipeline hybrid+rerank --reranker {result.result}")
        else:
            terminal.note(f"adapter: {result.result}")
