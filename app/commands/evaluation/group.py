"""`fathom eval …`: which command stands behind which word. Only names; every command has a file of its own."""

from typing import Any

import typer

from app.commands.evaluation import (
    answers,
    compare,
    export,
    judge,
    language,
    report,
    retrieval,
    rewrites,
    speed,
    suite,
    tune,
)
from app.commands.evaluation.options import Ended


def _exit_code(result: Any, **_: Any) -> Any:
    """What the command returned is its exit code; else the one that was noted while its result was shown."""
    return result or Ended.code


app = typer.Typer(
    help="Measure every part, with intervals; compare runs; write reports.",
    no_args_is_help=True,
    result_callback=_exit_code,
)


@app.callback()
def _group() -> None:
    Ended.code = 0


app.command("run")(suite.run_suite)
app.command("runs")(suite.list_runs)
app.command("compare")(compare.command)
app.command("report")(report.command)
app.command("retrieval")(retrieval.command)
app.command("answers")(answers.command)
app.command("judge")(judge.command)
app.command("rewrites")(rewrites.command)
app.command("export")(export.command)
app.command("language")(language.command)
app.command("speed")(speed.command)
app.command("tune")(tune.command)
