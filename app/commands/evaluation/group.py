"""`fathom eval …`: which command stands behind which word. Only names; every command has a file of its own."""

import typer

from app.commands.evaluation import retrieval

app = typer.Typer(help="Measure every part, with intervals; compare runs; write reports.", no_args_is_help=True)


@app.callback()
def _group() -> None:
    """Keeps a group of one command a group: typer would fold it."""


app.command("retrieval")(retrieval.command)
