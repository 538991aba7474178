"""`fathom adapt run RECIPE`: a recipe → its stages done, measured and held against their gates. Only words."""

import signal
from typing import TYPE_CHECKING, Annotated, Any

import typer

from app.commands.adaptation.encoders import encoder_of, run_encoder
from app.commands.adaptation.options import Data, RecipeFile, Root, Set, changes_of, recipe_of
from app.commands.adaptation.plan import plan_of, show
from app.commands.adaptation.stopping import run_name_of, stopping
from app.commands.options import AsJson, Run, Workspace, begin
from app.failures import FAILED, STOPPED, TERMINATED
from retrieval.errors import UsageError

if TYPE_CHECKING:
    from adapt.registering import StageResult
    from adapt.running import RunResult


def command(
    recipe: RecipeFile,
    from_stage: Annotated[
        str | None,
        typer.Option("--from", metavar="STAGE", help="Do this stage and all after it again.", show_default=False),
    ] = None,
    to_stage: Annotated[
        str | None, typer.Option("--to", metavar="STAGE", help="End after this stage.", show_default="the last")
    ] = None,
    fresh: Annotated[
        bool,
        typer.Option(
            "--fresh/--resume",
            help="Begin anew, or go on: finished stages are kept, an unfinished one goes on from its last checkpoint.",
        ),
    ] = False,
    root: Root = None,
    data: Data = None,
    settings: Set = None,
    run_name: Annotated[
        str | None,
        typer.Option("--run", metavar="NAME", help="Name of the run and of its model.", show_default="the recipe's"),
    ] = None,
    processes: Annotated[
        int | None,
        typer.Option(
            "--processes", metavar="N", min=1, help="Processes that train together.", show_default="one for each GPU"
        ),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only show the plan, as 'fathom adapt plan' does.")
    ] = False,
    workspace: Workspace = None,
    as_json: AsJson = False,
) -> None:
    """Do a recipe's stages in order, measure each, stop where a gate is crossed; the same command goes on."""
    run = begin(workspace, as_json)
    kind = encoder_of(recipe)
    if kind is not None:
        if from_stage is not None or to_stage is not None:
            raise UsageError("--from and --to name stages, and the recipe of an encoder has none; leave them out")
        run_encoder(run, kind, recipe, changes_of(root, data, settings), name=run_name, fresh=fresh, dry_run=dry_run)
        return
    loaded = recipe_of(recipe, root, data, settings)
    name = run_name_of(run_name or loaded.name)
    plan = plan_of(run, loaded)
    if dry_run:
        show(run, plan)
    plan.require()
    if dry_run:
        return
    for remark in plan.remarks:
        run.terminal.note(remark)
    from adapt.running import run as run_recipe
    from app.build import embedder

    with stopping(run) as asked, run.terminal.progress() as progress:
        result = run_recipe(
            loaded,
            workspace=run.settings.workspace,
            embedder=embedder(run.settings),
            progress=progress,
            stop=asked.event,
            run=name,
            from_stage=from_stage,
            to_stage=to_stage,
            fresh=fresh,
            processes=processes,
            cache=run.settings.cache,
        )
    show_result(run, result)
    if result.failed:
        raise typer.Exit(FAILED)
    if result.status == "stopped":
        raise typer.Exit(TERMINATED if asked.number == signal.SIGTERM else STOPPED)


def show_result(run: Run, result: "RunResult") -> None:
    """Print what became of each figure from the base to the last stage, the gates, and where everything lies."""
    if run.terminal.as_json:
        run.terminal.json(_as_json(result))
    else:
        _print(run, result)
    for gate in result.failed:
        run.terminal.note(f"the chain stopped at the gate '{gate.gate}': {gate.said}", style="red")


def _as_json(result: "RunResult") -> dict[str, Any]:
    return {
        "run": {"name": result.name, "folder": str(result.folder), "status": result.status},
        "base": result.base.as_json() if result.base is not None else None,
        "stages": [
            {
                "name": stage.name,
                "kind": stage.kind,
                "skipped": stage.skipped,
                "seconds": stage.seconds,
                "model": str(stage.model),
                "facts": stage.facts,
                "measured": stage.measured.as_json() if stage.measured is not None else None,
                "gates": [gate.as_json() for gate in stage.gates],
            }
            for stage in result.stages
        ],
        "model": result.model.name if result.model is not None else None,
        "report": str(result.report) if result.report is not None else None,
        "failed": [gate.as_json() for gate in result.failed],
    }


def _print(run: Run, result: "RunResult") -> None:
    from app.terminal import count, seconds

    terminal = run.terminal
    measured = [("base", result.base), *((stage.name, stage.measured) for stage in result.stages)]
    known = [(name, found) for name, found in measured if found is not None]
    if known:
        figures = list(dict.fromkeys(figure for _, found in known for figure in found.figures))
        rows = [
            [
                figure,
                *(_value(figure, found.figures.get(figure), known[0][1].figures.get(figure)) for _, found in known),
            ]
            for figure in figures
        ]
        terminal.table(("measure", *(name for name, _ in known)), rows, right=tuple(range(1, len(known) + 1)))
    for stage in result.stages:
        terminal.note(f"{stage.name}: {_how(stage)}")
        for gate in stage.gates:
            terminal.note(f"  {'kept' if gate.passed else 'crossed'}: {gate.said}")
    terminal.note(f"run: {result.folder}")
    if result.report is not None:
        terminal.note(f"report: {result.report}")
    if result.model is not None:
        terminal.note(f"model: {result.model.name}; try it with: fathom chat --model {result.model.name}")
    taken = seconds(sum(stage.seconds for stage in result.stages))
    terminal.note(f"{count(len(result.stages), 'stage')} in {taken}", style="dim")


def _how(stage: "StageResult") -> str:
    from app.terminal import seconds

    return "done before, kept" if stage.skipped else f"done in {seconds(stage.seconds)}"


def _value(figure: str, found: Any, base: Any) -> str:
    """A figure, and behind it how far it is from the base's."""
    from eval.figures.measures import format_value

    if found is None or found.value is None:
        return "–"
    metric = figure.partition(" ")[2] or figure
    text = format_value(metric, found.value)
    if base is None or base is found or not base.value:
        return text
    return f"{text} ({found.value / base.value - 1:+.1%})"
