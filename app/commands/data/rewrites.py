"""`fathom data rewrites SOURCE… --out FILE`: human rewrites → examples of rewriting a question. Only words."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from app.commands.data.options import DryRun, Licence, Out, Replace, finish, require_new
from app.commands.options import AsJson, Workspace, begin

if TYPE_CHECKING:
    from adapt.instructions.example import Example


def command(
    out: Out,
    sources: Annotated[
        list[Path],
        typer.Argument(
            metavar="SOURCE...",
            help="Turns with human rewrites, as 'fathom eval rewrites' reads them: files, or folders of them.",
            show_default=False,
        ),
    ],
    untouched: Annotated[
        float | None,
        typer.Option(
            "--untouched", metavar="SHARE", min=0.0, max=0.99, help="Examples whose question already stands alone.",
            show_default="0.1",
        ),
    ] = None,
    hold_out: Annotated[
        float | None,
        typer.Option(
            "--hold-out", metavar="SHARE", min=0.0, max=0.99, help="Of the turns, whole conversations.",
            show_default="0",
        ),
    ] = None,
    held_out_to: Annotated[
        Path | None,
        typer.Option("--held-out-to", metavar="DIR", help="Write what is held out there, for 'fathom eval rewrites'."),
    ] = None,
    limit: Annotated[
        int | None,
        typer.Option("--limit", metavar="N", min=1, help="Examples of each file, drawn.", show_default="all"),
    ] = None,
    seed: Annotated[int | None, typer.Option("--seed", metavar="N", help="Of all that is drawn.")] = None,
    licence: Licence = "",
    replace: Replace = False,
    dry_run: DryRun = False,
    workspace: Workspace = None,
    as_json: AsJson = False,
) -> None:  # fmt: skip
    """Turn human rewrites of conversational questions into examples of rewriting, as the search asks for it."""
    from adapt.instructions.from_rewrites import RewriteMaking, examples_from_rewrites, turn_files, write_held_out
    from adapt.instructions.importing import Imported
    from adapt.instructions.question_sets import require_new_folder
    from retrieval.errors import UsageError

    run = begin(workspace, as_json)
    given = {"untouched": untouched, "hold_out": hold_out, "limit": limit, "seed": seed}
    making = RewriteMaking(**{name: value for name, value in given.items() if value is not None})  # type: ignore[arg-type]
    if held_out_to is not None and not making.hold_out:
        raise UsageError("--held-out-to needs --hold-out, the share of the turns that is held out")
    if held_out_to is not None:
        require_new_folder(held_out_to, replace=replace)
    files = turn_files(sources)
    require_new(out, replace=replace, sources=tuple(files))
    if held_out_to is not None and not dry_run:
        for name, count in write_held_out(held_out_to, files, making).items():
            run.terminal.note(f"{count:,} turns of {name} are in {held_out_to}")
    into = Imported()
    with run.terminal.progress() as progress:

        def examples() -> "Iterator[Example]":
            for file in files:
                yield from examples_from_rewrites(file, making, into, licence=licence, progress=progress)

        finish(run, examples(), into, out, dry_run=dry_run)
