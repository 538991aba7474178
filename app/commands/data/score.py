"""`fathom data score EXAMPLES`: examples and a model that judges → those with a good score. Only words."""

from dataclasses import asdict
from dataclasses import replace as changed
from typing import Annotated

import typer

from app.commands.data.modelling import (
    AskAgain,
    AtOnce,
    Engine,
    MaxTokens,
    Plan,
    Seed,
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
    least: Annotated[
        float | None,
        typer.Option("--least", metavar="SCORE", help="Keep what has this score (0 to 5) or more.", show_default="4.5"),
    ] = None,
    keep_all: Annotated[
        bool, typer.Option("--keep-all", help="Drop nothing: write the scores only, to look at them first.")
    ] = False,
    engine: Engine = None,
    retries: Annotated[
        int | None,
        typer.Option("--retries", metavar="N", min=0, help="Tries after an unreadable reply.", show_default="2"),
    ] = None,
    max_tokens: MaxTokens = None,
    seed: Seed = None,
    at_once: AtOnce = None,
    ask_again: AskAgain = False,
    replace: Replace = False,
    dry_run: Plan = False,
    workspace: Workspace = None,
    as_json: AsJson = False,
) -> None:
    """Have a model score each answer from 0 to 5, and keep those that reach a threshold."""
    from adapt.instructions.example import read_examples
    from adapt.instructions.writing.finishing import finish
    from adapt.instructions.writing.scoring import (
        SCORES,
        Scoring,
        histogram,
        score_messages,
        scored,
        scoring_hash,
    )
    from adapt.instructions.writing.writer import Wanted
    from adapt.instructions.writing.yields import Yields
    from app.build import engine_settings

    run = begin(workspace, as_json)
    if keep_all and least is not None:
        raise UsageError("--keep-all drops nothing, and --least says what to drop; leave one out")
    settings = Scoring(**given(least=least, retries=retries, max_tokens=max_tokens, seed=seed))
    if keep_all:
        settings = changed(settings, least=None)
    require_new(out, replace=replace, sources=(examples,))
    engine_settings(run.settings, engine)  # a wrong word is told before anything is read
    found = [example for example in read_examples(examples) if not example.rejected]
    if not found:
        raise UsageError(f"'{examples}' holds no example to score")
    if dry_run:
        plan = {"examples": len(found), "requests_at_least": len(found), "least": settings.least}
        show_plan(run, plan, Wanted(score_messages(found[0]), 0.0, settings.max_tokens))
        return
    yields = Yields()
    with (
        run.terminal.progress() as progress,
        opened_writer(run, engine, at_once, out, ask_again=ask_again) as writer,
    ):
        given_scores: list[float] = []
        kept = list(scored(found, writer, settings, yields, progress, total=len(found), scores=given_scores))
        more = {"scores": histogram(given_scores), "prompt_sha256": scoring_hash()}
        report = finish(out, kept, yields, writer, source=examples, settings=asdict(settings), more=more)
    if not as_json:
        run.terminal.table(
            ("score", "examples"), [[name, f"{n:,}"] for name, n in report["scores"].items()], right=(1,)
        )
        run.terminal.line()
    stage = report["yields"][SCORES]
    unscored = {**stage["rejected"], **stage["noted"]}.keys() & {"unreadable-verdict", "engine"}
    show_report(run, report, yields, out, complete=not unscored)
