"""`fathom data judgements SOURCE…`: queries with judged documents → examples of judging a passage. Only words."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from app.commands.data.options import DrawSeed, DryRun, HoldOut, Licence, Out, Replace, finish, require_new
from app.commands.options import AsJson, Workspace, begin

if TYPE_CHECKING:
    from adapt.instructions.example import Example


def command(
    out: Out,
    sources: Annotated[
        list[str],
        typer.Argument(
            metavar="SOURCE…",
            help="A test collection's folder (its split 'train', or SOURCE#SPLIT), a folder with qa.jsonl, or a "
            "file of pairs {query, positive, negatives}.",
            show_default=False,
        ),
    ],
    share: Annotated[
        float | None, typer.Option("--share", metavar="SHARE", help="Of the examples, those that are relevant.")
    ] = None,
    passage_tokens: Annotated[
        int | None, typer.Option("--passage-tokens", metavar="N", min=8, help="Of a passage, at most.")
    ] = None,
    limit: Annotated[
        int | None, typer.Option("--limit", metavar="N", min=1, help="Queries of each source, drawn at random.")
    ] = None,
    documents: Annotated[
        int | None,
        typer.Option(
            "--documents", metavar="N", min=1, help="Documents of each source to search in, beside judged ones."
        ),
    ] = None,
    hold_out: HoldOut = None,
    held_out_to: Annotated[
        Path | None,
        typer.Option("--held-out-to", metavar="DIR", help="Write what is held out there, for 'fathom eval retrieval'."),
    ] = None,
    seed: DrawSeed = None,
    licence: Licence = "",
    replace: Replace = False,
    dry_run: DryRun = False,
    workspace: Workspace = None,
    as_json: AsJson = False,
) -> None:
    """Turn judged queries into examples of telling relevant passages from near misses, as the LLM reranker asks."""
    from adapt.instructions.from_judgements import Judging, examples_from_judgements
    from adapt.instructions.importing import Imported
    from adapt.instructions.judged_sets import drawn, held_out, judged_set
    from adapt.instructions.question_sets import require_new_folder, write_question_set
    from app.build import embedder as embedder_of
    from retrieval.errors import UsageError

    run = begin(workspace, as_json)
    given = {"share": share, "passage_tokens": passage_tokens, "seed": seed}
    making = Judging(**{name: value for name, value in given.items() if value is not None})  # type: ignore[arg-type]
    if hold_out is not None and not 0.0 <= hold_out < 1.0:
        raise UsageError(f"--hold-out is {hold_out}; it is a share from 0 to below 1")
    if held_out_to is not None:
        if not hold_out or len(sources) > 1:
            raise UsageError("--held-out-to needs --hold-out, the share that is held out, and one source")
        require_new_folder(held_out_to, replace=replace)
    require_new(out, replace=replace)
    into = Imported()
    found = []
    for word in sources:
        whole = held_out(judged_set(word), hold_out or 0.0)
        judged = drawn(whole, queries=limit, documents=documents, seed=making.seed)
        into.forms[word] = f"{judged.dataset.form}, {len(judged.dataset.queries):,} queries to learn from"
        found.append(judged)
    if held_out_to is not None and not dry_run:
        count = write_question_set(held_out_to, whole.held_out_rows(), whole.dataset.documents)
        run.terminal.note(f"{count:,} queries for held-out documents are in {held_out_to}")
    embedder = embedder_of(run.settings)()
    with run.terminal.progress() as progress:

        def examples() -> "Iterator[Example]":
            for judged in found:
                yield from examples_from_judgements(
                    judged,
                    making,
                    into,
                    embedder=embedder,
                    cache=run.settings.cache / "questions",
                    licence=licence,
                    progress=progress,
                )

        finish(run, examples(), into, out, dry_run=dry_run)
