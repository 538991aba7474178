"""`fathom data self-instruct SEEDS`: seed tasks and a model → new examples, with the yield of each step. Only words."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from app.commands.data.modelling import (
    AskAgain,
    AtOnce,
    Engine,
    MaxTokens,
    Plan,
    Seed,
    VerdictTokens,
    given,
    opened_writer,
    show_plan,
    show_report,
)
from app.commands.data.options import Out, Replace, require_new, tell_left_out
from app.commands.options import AsJson, Workspace, begin


def command(
    out: Out,
    seeds: Annotated[
        Path,
        typer.Argument(
            metavar="SEEDS",
            help="Tasks by people: Self-Instruct's form (instruction, instances), or anything 'data import' reads.",
            show_default=False,
        ),
    ],
    count: Annotated[
        int | None, typer.Option("--count", metavar="N", min=1, help="Examples wanted.", show_default="100")
    ] = None,
    engine: Engine = None,
    about: Annotated[
        str | None, typer.Option("--about", metavar="TEXT", help="A subject of all new tasks.", show_default=False)
    ] = None,
    language: Annotated[
        str | None,
        typer.Option("--language", metavar="CODE", help="Of the new tasks: en or zh.", show_default="as the seeds"),
    ] = None,
    near: Annotated[
        float | None,
        typer.Option(
            "--near", metavar="ROUGE-L", help="From which on an instruction is a repetition.", show_default="0.7"
        ),
    ] = None,
    without: Annotated[
        list[str] | None,
        typer.Option(
            "--without",
            metavar="WORD",
            help="Drop instructions with this word too; may be repeated.",
            show_default="those that need pictures, files or the internet",
        ),
    ] = None,
    temperature: Annotated[
        float | None,
        typer.Option("--temperature", metavar="T", help="Of instructions.", show_default="0.7"),
    ] = None,
    max_tokens: MaxTokens = None,
    verdict_tokens: VerdictTokens = None,
    patience: Annotated[
        int | None,
        typer.Option("--patience", metavar="N", min=1, help="Prompts in a row without an example that end it."),
    ] = None,
    seed: Seed = None,
    at_once: AtOnce = None,
    ask_again: AskAgain = False,
    replace: Replace = False,
    dry_run: Plan = False,
    workspace: Workspace = None,
    as_json: AsJson = False,
) -> None:
    """Have a model write new tasks after seed tasks, and an answer to each; keep those that pass every check."""
    from adapt.instructions.importing import Imported, said
    from adapt.instructions.writing.finishing import finish
    from adapt.instructions.writing.rules import KEYWORDS
    from adapt.instructions.writing.self_instruct import SelfInstruct, first_prompt, self_instruct
    from adapt.instructions.writing.tasks import read_tasks
    from adapt.instructions.writing.yields import Yields
    from app.build import engine_settings

    run = begin(workspace, as_json)
    settings = SelfInstruct(
        **given(
            count=count,
            seed=seed,
            near=near,
            language=language,
            about=about,
            without=(*KEYWORDS, *without) if without else None,
            temperature=temperature,
            max_tokens=max_tokens,
            verdict_tokens=verdict_tokens,
            patience=patience,
        )
    )
    require_new(out, replace=replace, sources=(seeds,))
    engine_settings(run.settings, engine)  # a wrong word is told before anything is read
    into, yields = Imported(), Yields()
    with run.terminal.progress() as progress:
        tasks = read_tasks(seeds, into, progress)
        if not dry_run:
            with opened_writer(run, engine, at_once, out, ask_again=ask_again) as writer:
                examples = self_instruct(tasks, writer, settings, yields, progress, source=seeds.name)
                more = {"seeds": {"tasks": len(tasks), "left_out": said(into.left_out)}}
                report = finish(out, examples, yields, writer, source=seeds, settings=asdict(settings), more=more)
    if not as_json:
        tell_left_out(run, "left out", into.left_out)
    if dry_run:
        languages = [task.language for task in tasks]
        plan = {
            "seed_tasks": len(tasks),
            "of_them_in_English": languages.count("en"),
            "of_them_in_Chinese": languages.count("zh"),
            "of_them_classifications": sum(task.classification is True for task in tasks),
            "examples_wanted": settings.count,
            "requests_at_least": -(-settings.count // settings.more) + 2 * settings.count,
        }
        show_plan(run, plan, first_prompt(tasks, settings))
        return
    if not as_json and 0 < len(examples) < settings.count:
        run.terminal.note(
            f"{len(examples):,} of {settings.count:,} examples: {settings.patience} prompts in a row gave none"
        )
    show_report(run, report, yields, out, complete=len(examples) == settings.count and not into.left_out.total)
