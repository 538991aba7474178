"""`fathom adapt terms CORPUS`: domain texts → the words and phrases worth a token of their own, on the screen."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from app.commands.options import AsJson, Run, Workspace, begin
from retrieval.errors import UsageError

if TYPE_CHECKING:
    from adapt.vocabulary.terms import Candidates


def command(
    corpus: Annotated[
        str,
        typer.Argument(metavar="CORPUS", help="Texts: a folder, a file, rows.jsonl.gz#field, or hub:OWNER/NAME."),
    ],
    tokens: Annotated[int, typer.Option("--tokens", metavar="N", min=1, max=20_000, help="At most so many.")] = 250,
    model: Annotated[
        str,
        typer.Option(
            "--model",
            "-m",
            metavar="MODEL",
            help="Whose tokenizer: registered model, GGUF file, folder with safetensors, or OWNER/NAME of the hub.",
        ),
    ] = "packaged",
    title: Annotated[
        str | None, typer.Option("--title", metavar="FIELD", help="Column of the title, for rows.", show_default=False)
    ] = None,
    min_frequency: Annotated[
        int | None,
        typer.Option("--min-frequency", metavar="N", min=1, help="Occurrences at least.", show_default="the recipe's"),
    ] = None,
    min_documents: Annotated[
        int | None,
        typer.Option("--min-documents", metavar="N", min=1, help="Documents at least.", show_default="the recipe's"),
    ] = None,
    words_at_most: Annotated[
        int | None,
        typer.Option(
            "--words-at-most", metavar="N", min=1, max=20, help="Words of one token.", show_default="the recipe's"
        ),
    ] = None,
    workspace: Workspace = None,
    as_json: AsJson = False,
) -> None:
    """List the tokens that a vocabulary stage would add for these texts, with what each saves."""
    run = begin(workspace, as_json)
    chosen: dict[str, Any] = {
        "tokens": tokens,
        "min_frequency": min_frequency,
        "min_documents": min_documents,
        "words_at_most": words_at_most,
    }
    found = _found(run, corpus, model, title, {key: value for key, value in chosen.items() if value is not None})
    if as_json:
        run.terminal.json(found.facts())
        return
    rows = [
        [
            str(place),
            repr(term.text),
            " + ".join(repr(piece) for piece in term.pieces),
            f"{term.frequency:,}",
            f"{term.documents:,}",
            f"{term.saving:.3%}",
            f"{term.cumulative:.2%}",
        ]
        for place, term in enumerate(found.terms, 1)
    ]
    headings = ("", "token", "made of", "occurs", "documents", "saves", "with all before")
    run.terminal.table(headings, rows, right=(0, 3, 4, 5, 6))
    for reason, refused in found.refused.items():
        run.terminal.note(f"left out, {reason}: {refused['count']:,}", style="dim")
    if found.words_only:
        run.terminal.note(f"single words only, since this tokenizer cannot have phrases: {found.words_only}")
    if not found.terms:
        run.terminal.note("no word is frequent enough for a token of its own; add texts, or lower --min-frequency")
    run.terminal.done(
        f"{len(found.terms):,} tokens save {found.saving:.2%} of {found.tokens:,} in {found.documents:,} documents"
    )


def _found(run: Run, corpus: str, model: str, title: str | None, chosen: dict[str, Any]) -> "Candidates":
    if not corpus.strip():
        raise UsageError("no text is named; give a folder or a file")
    from transformers import AutoTokenizer

    from adapt.corpus.sources import OpenSource
    from adapt.planning import base_of
    from adapt.recipe import Source, Vocabulary
    from adapt.vocabulary.terms import candidates

    path, field = corpus, "text"
    if "#" in corpus and not Path(corpus).exists():
        path, _, field = corpus.rpartition("#")
    opened = OpenSource(Source(path=path, field=field or "text", title=title), Path.cwd())
    with run.terminal.progress() as progress:
        progress("looking at the model", 0, 0)
        folder = base_of(model, cache=run.settings.cache, models=run.settings.models)
        tokenizer = AutoTokenizer.from_pretrained(str(folder), local_files_only=True, trust_remote_code=False)
        found = candidates(opened.texts(progress), tokenizer, Vocabulary(**chosen), model=folder, progress=progress)
    for reason, number in opened.left_out.counts.items():
        run.terminal.note(f"{number:,} left out as {reason}")
    return found
