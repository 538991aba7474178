"""`fathom eval report RUN`: words of the command line → one HTML file, or Markdown on the screen."""

import os
from pathlib import Path
from typing import Annotated

import typer

from app.commands.options import AsJson, Workspace, begin


def command(
    run_word: Annotated[str, typer.Argument(metavar="RUN", help="A run: its name, its folder, or 'latest'.")],
    against: Annotated[
        str | None,
        typer.Option("--against", metavar="RUN", help="An earlier run to compare it with.", show_default=False),
    ] = None,
    to: Annotated[
        Path | None,
        typer.Option(
            "--to", "-o", metavar="FILE", help="Write to this file.", show_default="report.html in the run's folder"
        ),
    ] = None,
    markdown: Annotated[
        bool, typer.Option("--markdown", help="Markdown: on the screen, or into the file of --to.")
    ] = False,
    open_items: Annotated[
        int,
        typer.Option("--open-items", metavar="N", min=0, max=1000, help="Questions that stand open, also in print."),
    ] = 0,
    workspace: Workspace = None,
    as_json: AsJson = False,
) -> None:
    """Turn a run into one HTML file with figures, plots and every question, or into Markdown."""
    run = begin(workspace, as_json)
    from app.evaluation import run_folder
    from eval.comparison.comparing import compare
    from eval.report.markdown import to_markdown
    from eval.report.page import to_html
    from eval.runs.executing import read_run
    from retrieval.errors import UsageError

    if to is not None and to.is_dir():
        raise UsageError(f"'{to}' is a folder; name a file for the report")
    if to is not None and not to.absolute().parent.is_dir():
        raise UsageError(f"the folder of '{to}' does not exist; make it first, or name another place with --to")
    with run.terminal.progress() as show:
        show("reading", 0, 0)
        result = read_run(run_folder(run.settings, run_word))
        other = read_run(run_folder(run.settings, against)) if against is not None else None
        show("comparing", 0, 0)
        # In the words of compare: from a to b, which is the run that the report is about.
        comparison = compare(other, result) if other is not None else None
        show("writing", 0, 0)
        if markdown:
            text = to_markdown(result, other, comparison)
        else:
            text = to_html(result, other, comparison, open_items=open_items)
    form = "markdown" if markdown else "html"
    if markdown and to is None:
        if as_json:
            run.terminal.json({"run": result.name, "against": other and other.name, "format": form, "text": text})
            return
        for line in text.splitlines():
            run.terminal.line(line)
        return
    name = f"report-against-{other.name}.html" if other is not None else "report.html"
    place = to if to is not None else result.folder / name
    size = _write(place, text)
    if as_json:
        written = {"run": result.name, "against": other and other.name, "format": form}
        run.terminal.json({**written, "file": str(place.absolute()), "bytes": size})
        return
    run.terminal.line(str(place))
    run.terminal.done(f"report of {result.name} written")


def _write(place: Path, text: str) -> int:
    """Whole or not at all; the bytes written."""
    data = text.encode("utf-8", "replace")
    beside = place.with_name(f".{place.name}.new")
    try:
        beside.write_bytes(data)
        os.replace(beside, place)
    except OSError:
        beside.unlink(missing_ok=True)
        raise
    return len(data)
