"""`fathom data card EXAMPLES`: examples → the data card that describes them (Markdown). Only words."""

from pathlib import Path
from typing import Annotated

import typer

from app.commands.data.options import Examples
from app.commands.options import AsJson, Workspace, begin
from retrieval.errors import FathomError, UsageError


def command(
    examples: Examples,
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", metavar="FILE", help="Where the card goes (.md).", show_default="on the screen"),
    ] = None,
    model: Annotated[
        str, typer.Option("--model", metavar="M", help="Whose tokens are counted: a model as 'fathom adapt' names it.")
    ] = "packaged",
    replace: Annotated[bool, typer.Option("--replace", help="Write over a card that is there.")] = False,
    workspace: Workspace = None,
    as_json: AsJson = False,
) -> None:
    """Describe examples: origins, licences, languages, lengths, repetitions, checks, review, hash."""
    from adapt.amounts import tokenizer_of
    from adapt.instructions.card import card_of, facts_of
    from adapt.instructions.example import require_name
    from adapt.training.bases import base_of

    run = begin(workspace, as_json)
    require_name(examples)
    if out is not None and out.exists() and not replace:
        raise UsageError(f"'{out}' is there already; name another file, or write over it with --replace")
    with run.terminal.progress() as progress:
        count, _ = tokenizer_of(base_of(model, cache=run.settings.cache, models=run.settings.models))
        facts = facts_of(examples, lambda text: count([text]), tokenizer=model, progress=progress)
    card = card_of(facts)
    if out is not None:
        try:
            _write(out, card)
        except OSError as error:
            raise FathomError(f"'{out}' cannot be written ({error.strerror or error}); name another place") from error
    if as_json:
        run.terminal.json(facts)
    elif out is None:
        for line in card.splitlines():
            run.terminal.line(line)
    else:
        run.terminal.done(f"{facts['examples']:,} examples described in {out}")


def _write(out: Path, card: str) -> None:
    import os

    from retrieval.storage.durable import sync_to_disk

    temporary = out.with_name(f".{out.name}.{os.getpid()}.new")
    try:
        temporary.write_text(card, encoding="utf-8")
        sync_to_disk(temporary)
        os.replace(temporary, out)
    finally:
        temporary.unlink(missing_ok=True)
