"""The options that the commands of `fathom eval` share, each written once. Only words of the command line."""

from typing import Annotated

import typer

RunName = Annotated[
    str | None,
    typer.Option(
        "--run",
        metavar="NAME",
        help="Name of the run's folder in the workspace; a run of that name is continued.",
        show_default="date, kind and name",
    ),
]
Fresh = Annotated[
    bool, typer.Option("--fresh", help="Measure again, also what has been measured with these settings on this data.")
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Check everything and say what would be done; write nothing.")]
Seed = Annotated[int, typer.Option("--seed", metavar="N", min=0, help="Seed of all that is drawn: samples, resamples.")]
Engine = Annotated[
    str | None,
    typer.Option("--engine", metavar="NAME", help="Engine that writes the text.", show_default="of the settings"),
]


class Ended:
    """How the command that is running now will exit. A result with failed items is shown to its end first."""

    code = 0
