"""`fathom eval export RUN --to ragas FILE`: the answers of a run → a file that other evaluators read."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from app.commands.options import AsJson, Workspace, begin


def command(
    answers: Annotated[str, typer.Argument(metavar="RUN", help="A run with answers: its name, folder, or 'latest'.")],
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Where to write, one JSON object a line.")],
    to: Annotated[Literal["ragas"], typer.Option("--to", help="Whose form.")] = "ragas",
    part: Annotated[
        str | None, typer.Option("--part", metavar="NAME", help="Part of the run with the answers.", show_default=False)
    ] = None,
    replace: Annotated[bool, typer.Option("--replace", help="Overwrite the file if it is there.")] = False,
    workspace: Workspace = None,
    as_json: AsJson = False,
) -> None:
    """Write answers with their passages and references in the form of ragas' SingleTurnSample."""
    run = begin(workspace, as_json)
    from app.commands.evaluation.judge import place_of_answers
    from app.terminal import count
    from eval.data.samples import answers_file, read_samples
    from eval.ragas_export import write_ragas

    samples, failed = read_samples(answers_file(place_of_answers(run.settings, answers), part))
    write_ragas(samples, file, replace=replace)
    if as_json:
        run.terminal.json({"file": str(file), "form": to, "samples": len(samples), "left_out": failed})
        return
    if failed:
        run.terminal.note(f"{count(failed, 'item')} without an answer, because of an error, left out")
    run.terminal.done(f"{count(len(samples), 'sample')} written to {file}")
