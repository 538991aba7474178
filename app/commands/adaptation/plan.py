"""`fathom adapt plan RECIPE`: a recipe → what each stage takes on this machine, on the screen. Only words."""

from typing import TYPE_CHECKING, Annotated

import typer

from app.commands.adaptation.encoders import encoder_of, plan_encoder
from app.commands.adaptation.options import Data, RecipeFile, Root, Set, changes_of, recipe_of
from app.commands.options import AsJson, Run, Workspace, begin
from app.failures import WRONG_USAGE
from app.terminal import clean

if TYPE_CHECKING:
    from adapt.chat.looking import Sample
    from adapt.plans import Plan
    from adapt.recipe import Recipe

SHOWN = 400
"""Characters of what is not learned of a sample, from both ends; all of it is in the JSON."""
Probe = Annotated[
    bool, typer.Option("--probe", help="Measure the speed by a few real training steps instead of reckoning it.")
]


def command(
    recipe: RecipeFile,
    root: Root = None,
    data: Data = None,
    settings: Set = None,
    probe: Probe = False,
    explain: Annotated[bool, typer.Option("--explain", help="Show what memory and disk go to, and why.")] = False,
    workspace: Workspace = None,
    as_json: AsJson = False,
) -> None:
    """Show stages, tokens, steps, time and memory on this machine; refuse what cannot be, with the reason."""
    run = begin(workspace, as_json)
    kind = encoder_of(recipe)
    if kind is not None:
        plan_encoder(run, kind, recipe, changes_of(root, data, settings))
        return
    found = plan_of(run, recipe_of(recipe, root, data, settings), probe=probe)
    show(run, found, explain=explain)
    if found.refusals:
        raise typer.Exit(WRONG_USAGE)


def plan_of(run: Run, recipe: "Recipe", *, probe: bool = False) -> "Plan":
    """The plan, with a bar while texts are looked at."""
    from adapt.planning import plan

    with run.terminal.progress() as progress:
        return plan(
            recipe,
            cache=run.settings.cache,
            workspace=run.settings.workspace,
            models=run.settings.models,
            probe=probe,
            progress=progress,
        )


def show(run: Run, plan: "Plan", *, explain: bool = False) -> None:
    """Print a plan: sources, stages, with `explain` what memory and disk go to, then what stands in the way."""
    if run.terminal.as_json:
        run.terminal.json(plan.as_json())
        return
    from adapt.costs import said_bytes, total

    terminal = run.terminal
    terminal.line(f"{plan.recipe.name}: {plan.recipe.base}{_shape(plan)}", style="bold")
    terminal.line(f"on this machine: {plan.machine.described()}")
    terminal.line()
    sources = [
        [name, f"{found.documents:,}" if found else "?", found.said() if found else "?", plan.recipe.data[name].path]
        for name, found in plan.amounts.items()
    ]
    terminal.table(("source", "documents", "tokens to train on", "path"), sources, right=(1, 2))
    terminal.line()
    rows = []
    for stage in plan.stages:
        tokens = "?" if stage.tokens is None else f"{'about ' if stage.about else ''}{stage.tokens:,}"
        rows.append(
            [
                stage.name,
                tokens,
                "?" if stage.steps is None else f"{stage.steps:,}",
                "?" if stage.tokens_per_second is None else _rounded(stage.tokens_per_second),
                "?" if stage.seconds is None else long_time(stage.seconds),
                said_bytes(total(list(stage.memory))) if stage.memory else "?",
                said_bytes(total(list(stage.disk))) if stage.disk else "?",
                stage.described,
            ]
        )
    if plan.measuring is not None:
        rows.append(["measuring", "", "", "", long_time(plan.measuring), "", "", "the base and each stage"])
    headings = ("stage", "tokens", "steps", "tokens/s", "time, about", "memory", "disk", "what")
    terminal.table(headings, rows, right=(1, 2, 3, 4, 5, 6))
    needs = [
        [stage.name, where, need.what, said_bytes(need.bytes), need.why]
        for stage in plan.stages
        for where, found in (("memory", stage.memory), ("disk", stage.disk))
        for need in found
    ]
    if explain and needs:
        terminal.line()
        terminal.table(("stage", "of", "for", "size", "why"), needs, right=(3,))
    for stage in plan.stages:
        for sample in stage.samples:
            _show_sample(run, stage.name, sample)
    terminal.line()
    for basis in dict.fromkeys(f"{stage.name}: {stage.basis}" for stage in plan.stages if stage.basis):
        terminal.note(f"speed of {basis}", style="dim")
    for remark in plan.remarks:
        terminal.note(remark)
    if plan.seconds is not None:
        terminal.note(f"all of it takes about {long_time(plan.seconds)}; texts are counted before filters drop any")
    for refusal in plan.refusals:
        terminal.note(f"cannot run: {refusal}", style="red")


def _show_sample(run: Run, stage: str, sample: "Sample") -> None:
    """One example with what is learned in colour; where no person watches, in brackets."""
    from rich.text import Text

    terminal = run.terminal
    terminal.line()
    how = "green is learned" if terminal.interactive else "what stands between ⟦ and ⟧ is learned"
    terminal.line(f"{stage}: line {sample.row} of '{sample.source}' as it is trained; {how}", style="bold")
    shown = Text()
    for words, learned in sample.spans:
        if not learned and len(words) > 2 * SHOWN:
            words = f"{words[:SHOWN]} … {words[-SHOWN:]}"
        if terminal.interactive:
            shown.append(clean(words), style="bold green" if learned else "dim")
        else:
            shown.append(f"⟦{clean(words)}⟧" if learned else clean(words))
    terminal.line(shown)


def _shape(plan: "Plan") -> str:
    if plan.base is None:
        return ""
    return f", {plan.base.parameters / 1e6:,.0f} M parameters, {plan.base.rows:,} tokens, {plan.base.layers} layers"


def _rounded(number: float) -> str:
    from adapt.amounts import rounded

    return f"{rounded(number):,}"


def long_time(duration: float) -> str:
    """Seconds as people say them of something long: "3 min", "2.5 h"."""
    if duration < 90:
        return f"{duration:.0f} s"
    if duration < 90 * 60:
        return f"{duration / 60:.0f} min"
    if duration < 48 * 3600:
        return f"{duration / 3600:.1f} h"
    return f"{duration / 86400:.1f} days"
