"""`fathom data rewrites FILE…`: conversations with human rewrites → examples of rewriting. Only words."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from app.commands.data.options import DrawSeed, DryRun, Licence, Out, Replace, finish, require_new
from app.commands.options import AsJson, Workspace, begin

if TYPE_CHECKING:
    from adapt.instructions.example import Example


def command(
    out: Out,
    files: Annotated[
        list[Path],
        typer.Argument(
            metavar="FILE…",
            help="Lines {id, history, question, rewrite}, as 'fathom eval rewrites' reads them.",
            show_default=False,
        ),
    ],
    limit: Annotated[
        int | None, typer.Option("--limit", metavar="N", min=1, help="Turns of each file, drawn at random.")
    ] = None,
    unchanged: Annotated[
        float | None,
        typer.Option("--unchanged", metavar="SHARE", help="Of the examples, at most, whose question stays as it is."),
    ] = None,
    standalone: Annotated[
        float | None,
        typer.Option(
            "--standalone",
            metavar="SHARE",
            help="Of the examples, made ones whose question stands alone.",
            show_default="none",
        ),
    ] = None,
    hold_out: Annotated[
        float | None, typer.Option("--hold-out", metavar="SHARE", help="Of the conversations, whole topics, left out.")
    ] = None,
    held_out_to: Annotated[
        Path | None,
        typer.Option(
            "--held-out-to", metavar="FILE", help="Write what is held out there (.jsonl), for 'fathom eval rewrites'."
        ),
    ] = None,
    seed: DrawSeed = None,
    licence: Licence = "",
    replace: Replace = False,
    dry_run: DryRun = False,
    workspace: Workspace = None,
    as_json: AsJson = False,
) -> None:
    """Turn conversations whose questions people rewrote into examples of rewriting, as the search asks for it."""
    from adapt.instructions.from_rewrites import Rewriting, conversations, examples_from_rewrites, write_turns
    from adapt.instructions.importing import Imported
    from retrieval.errors import UsageError

    run = begin(workspace, as_json)
    given = {"limit": limit, "unchanged": unchanged, "standalone": standalone, "hold_out": hold_out, "seed": seed}
    making = Rewriting(**{name: value for name, value in given.items() if value is not None})  # type: ignore[arg-type]
    if held_out_to is not None:
        if not making.hold_out or len(files) > 1:
            raise UsageError("--held-out-to needs --hold-out, the share that is held out, and one file")
        require_new(held_out_to, replace=replace, sources=(*files, out))
    require_new(out, replace=replace, sources=tuple(files))
    into = Imported()
    found = [conversations(file.expanduser(), making) for file in files]
    for one in found:
        into.forms[str(one.path)] = f"{len(one.learnt):,} turns to learn from, {len(one.held_out):,} held out"
    if held_out_to is not None and not dry_run:
        write_turns(held_out_to, found[0].held_out)
        run.terminal.note(f"{len(found[0].held_out):,} turns of held-out conversations are in {held_out_to}")
    with run.terminal.progress() as progress:

        def examples() -> "Iterator[Example]":
            for one in found:
                yield from examples_from_rewrites(one, making, into, licence=licence, progress=progress)

        finish(run, examples(), into, out, dry_run=dry_run)
