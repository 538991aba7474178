"""`fathom data cloze SOURCES… --out FOLDER`: documents → a question set made by rules. Only words."""

from pathlib import Path
from typing import Annotated

import typer

from app.commands.data.options import DrawSeed, DryRun, Replace
from app.commands.options import AsJson, Workspace, begin

_SHOWN = 10


def command(
    sources: Annotated[
        list[str],
        typer.Argument(
            metavar="SOURCE...",
            help="Documents: files, folders, rows (.jsonl, .csv, .parquet; FILE#FIELD names the field).",
            show_default=False,
        ),
    ],
    out: Annotated[Path, typer.Option("--out", "-o", metavar="DIR", help="Folder of the question set.")],
    every: Annotated[
        int | None,
        typer.Option("--every", metavar="N", min=1, help="One question for about N characters.", show_default="150"),
    ] = None,
    most: Annotated[
        int | None,
        typer.Option("--most", metavar="N", min=1, help="Questions of one document.", show_default="12"),
    ] = None,
    limit: Annotated[
        int | None,
        typer.Option("--limit", metavar="N", min=1, help="Documents of each source.", show_default="all"),
    ] = None,
    hold_out: Annotated[
        float, typer.Option("--hold-out", metavar="SHARE", min=0.0, max=0.99, help="Of the documents, the last.")
    ] = 0.0,
    seed: DrawSeed = None,
    replace: Replace = False,
    dry_run: DryRun = False,
    workspace: Workspace = None,
    as_json: AsJson = False,
) -> None:
    """Ask what documents say, by rules and without a model: names, numbers, years and nouns become question words."""
    from adapt.corpus.sources import LeftOut
    from adapt.instructions.cloze import Clozing, Counts, cloze_questions, drawn_documents, rows_of_cloze
    from adapt.instructions.question_sets import require_new_folder, write_question_set
    from app.commands.data.options import tell_left_out
    from app.failures import DONE_WITH_ERRORS
    from eval.data.corpora import CorpusDocument
    from retrieval.errors import FathomError

    run = begin(workspace, as_json)
    given = {"every": every, "most": most, "seed": seed}
    clozing = Clozing(**{name: value for name, value in given.items() if value is not None})
    require_new_folder(out, replace=replace)
    left_out, counts = LeftOut(), Counts()
    with run.terminal.progress() as progress:
        texts = drawn_documents(sources, Path.cwd(), left_out, limit=limit, hold_out=hold_out, progress=progress)
        asked = list(cloze_questions(texts, clozing, counts))
    if not asked:
        raise FathomError(
            f"no question came of {counts.documents:,} documents with {counts.sentences:,} sentences; what is asked "
            "about are names, numbers and last nouns in sentences of 7 to 40 words"
        )
    if not dry_run:
        documents = (CorpusDocument(text.id, text.title, text.text) for text in texts)
        write_question_set(out, rows_of_cloze(asked), documents)
    if run.terminal.as_json:
        first = list(rows_of_cloze(asked[:_SHOWN]))
        told = {"documents": counts.documents, "sentences": counts.sentences, "questions": counts.questions}
        written = None if dry_run else str(out)
        run.terminal.json(
            {**told, "kinds": counts.by_kind, "left_out": left_out.counts, "written": written, "first": first}
        )
    else:
        tell_left_out(run, "left out", left_out)
        run.terminal.table(
            ("kind", "question", "answer"), [[one.kind, one.question, one.answer] for one in asked[:_SHOWN]]
        )
        kinds = ", ".join(f"{name} {count:,}" for name, count in sorted(counts.by_kind.items(), key=lambda kv: -kv[1]))
        what = "would be written" if dry_run else f"in {out}"
        run.terminal.note(kinds, style="dim")
        run.terminal.done(f"{counts.questions:,} questions of {counts.documents:,} documents {what}")
    if left_out.counts:
        raise typer.Exit(DONE_WITH_ERRORS)
