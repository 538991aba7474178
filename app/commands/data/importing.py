"""`fathom data import FILE…`: conversations of known forms, and those that the chat keeps → examples. Only words."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from app.commands.data.options import DryRun, Licence, Out, Replace, finish, require_new
from app.commands.options import AsJson, Run, Workspace, begin
from app.terminal import Progress
from retrieval.errors import UsageError

if TYPE_CHECKING:
    from adapt.instructions.example import Example
    from adapt.instructions.importing import Imported

FORMS = ("examples", "sharegpt", "openai", "alpaca", "oasst", "chat")


def command(
    out: Out,
    files: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="FILE…",
            help="Conversations: .jsonl, .json, .parquet, or a workspace's chats.sqlite; none: the chats of this one.",
            show_default=False,
        ),
    ] = None,
    form: Annotated[
        str | None,
        typer.Option("--format", metavar="FORM", help=f"One of {', '.join(FORMS)}.", show_default="told by the rows"),
    ] = None,
    paths: Annotated[
        str, typer.Option("--paths", metavar="WORD", help="Of trees of replies: the best path, or all by rank.")
    ] = "best",
    licence: Licence = "",
    replace: Replace = False,
    dry_run: DryRun = False,
    workspace: Workspace = None,
    as_json: AsJson = False,
) -> None:
    """Turn conversations (ShareGPT, OpenAI, Alpaca, OASST, Fathom's own chats) into examples."""
    from adapt.instructions.importing import Imported

    run = begin(workspace, as_json)
    if paths not in ("best", "all"):
        raise UsageError(f"--paths is 'best' or 'all', not '{paths[:40]}'")
    if form is not None and form not in FORMS:
        raise UsageError(f"there is no form '{form[:40]}'; known are {', '.join(FORMS)}")
    found = tuple(files or (_chats(run),))
    require_new(out, replace=replace, sources=found)
    into = Imported()
    with run.terminal.progress() as progress:
        examples = _examples(found, into, form, paths, licence, progress)
        finish(run, examples, into, out, dry_run=dry_run)


def _examples(
    files: tuple[Path, ...], into: "Imported", form: str | None, paths: str, licence: str, progress: Progress
) -> "Iterator[Example]":
    from adapt.instructions.importing import import_conversations
    from adapt.instructions.tables import kind_of
    from app.chat.kept_examples import FORM, is_chats, kept_examples

    chats = [path for path in files if form == FORM or (form is None and is_chats(path))]
    for path in files:
        if path not in chats:
            kind_of(path)
    for path in files:
        if path in chats:
            yield from kept_examples(path, into, licence=licence)
        else:
            yield from import_conversations(
                [path], into, form=form, paths=paths, licence=licence, progress=progress  # type: ignore[arg-type]
            )  # fmt: skip


def _chats(run: Run) -> Path:
    """Where the chat of this workspace keeps its conversations."""
    from app.workspace import CHATS

    path = run.settings.workspace / CHATS
    if not path.is_file():
        raise UsageError(f"no file is named, and there are no chats in {run.settings.workspace} yet; name a file")
    return path
