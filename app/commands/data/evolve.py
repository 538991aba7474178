"""`fathom data evolve EXAMPLES`: examples and a model → harder and rarer ones, with the yields. Only words."""

from dataclasses import asdict
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
from app.commands.data.options import Examples, Out, Replace, require_new
from app.commands.options import AsJson, Workspace, begin
from retrieval.errors import UsageError


def command(
    examples: Examples,
    out: Out,
    rounds: Annotated[
        int | None, typer.Option("--rounds", metavar="N", min=1, help="Times each is evolved.", show_default="4")
    ] = None,
    engine: Engine = None,
    steps: Annotated[
        list[str] | None,
        typer.Option(
            "--step",
            metavar="WORD",
            help="Only this way: constraints, deepen, concretise, reasoning, breadth; may be repeated.",
            show_default="all",
        ),
    ] = None,
    limit: Annotated[
        int | None, typer.Option("--limit", metavar="N", min=1, help="Begin with the first N examples only.")
    ] = None,
    temperature: Annotated[
        float | None, typer.Option("--temperature", metavar="T", help="Of instructions.", show_default="0.7")
    ] = None,
    max_tokens: MaxTokens = None,
    verdict_tokens: VerdictTokens = None,
    seed: Seed = None,
    at_once: AtOnce = None,
    ask_again: AskAgain = False,
    replace: Replace = False,
    dry_run: Plan = False,
    workspace: Workspace = None,
    as_json: AsJson = False,
) -> None:
    """Have a model make instructions harder or rarer, round by round, and answer them; drop what gained nothing."""
    from itertools import islice

    from adapt.instructions.example import read_examples
    from adapt.instructions.writing.evolve import Evolving, evolvable, evolve, first_prompt
    from adapt.instructions.writing.finishing import finish
    from adapt.instructions.writing.yields import Yields
    from app.build import engine_settings

    run = begin(workspace, as_json)
    chosen = given(
        rounds=rounds, seed=seed, temperature=temperature, max_tokens=max_tokens, verdict_tokens=verdict_tokens
    )
    settings = Evolving(**chosen, **({"steps": tuple(dict.fromkeys(steps))} if steps else {}))  # type: ignore[arg-type]
    require_new(out, replace=replace, sources=(examples,))
    engine_settings(run.settings, engine)  # a wrong word is told before anything is read
    yields = Yields()
    found = list(islice(evolvable(read_examples(examples), yields), limit))
    if not found:
        why = yields.of("read").rejected.first()
        raise UsageError(
            f"'{examples}' holds nothing to evolve{f' (such as {why})' if why else ''}; give examples of one question "
            "without passages"
        )
    if dry_run:
        plan = {
            "examples": len(found),
            "left_out": yields.of("read").rejected.total,
            "rounds": settings.rounds,
            "requests_at_most": 4 * settings.rounds * len(found),
        }
        show_plan(run, plan, first_prompt(found, settings))
        return
    with (
        run.terminal.progress() as progress,
        opened_writer(run, engine, at_once, out, ask_again=ask_again) as writer,
    ):
        made = evolve(found, writer, settings, yields, progress)
        report = finish(out, made, yields, writer, source=examples, settings=asdict(settings))
    show_report(run, report, yields, out)
