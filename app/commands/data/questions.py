"""`fathom data questions SET`: questions with gold answers → examples of answering from passages. Only words."""

from pathlib import Path
from typing import Annotated

import typer

from app.commands.data.options import DrawSeed, DryRun, HoldOut, Licence, Out, Replace, finish, require_new
from app.commands.options import AsJson, Workspace, begin


def command(
    out: Out,
    questions: Annotated[
        Path,
        typer.Argument(
            metavar="SET",
            help="A question file or its folder, as 'fathom eval answers' reads it, documents beside it.",
            show_default=False,
        ),
    ],
    distractors: Annotated[
        int | None,
        typer.Option("--distractors", metavar="N", min=0, help="Wrong passages beside the right ones, at most."),
    ] = None,
    unanswerable: Annotated[
        float | None,
        typer.Option("--unanswerable", metavar="SHARE", help="Of the questions, asked without their passages."),
    ] = None,
    hold_out: HoldOut = None,
    held_out_to: Annotated[
        Path | None,
        typer.Option("--held-out-to", metavar="DIR", help="Write what is held out there, for 'fathom eval answers'."),
    ] = None,
    seed: DrawSeed = None,
    licence: Licence = "",
    replace: Replace = False,
    dry_run: DryRun = False,
    workspace: Workspace = None,
    as_json: AsJson = False,
) -> None:
    """Turn questions with gold answers into examples of answering from passages, as the chat does."""
    from adapt.instructions.from_questions import Making, examples_from_questions, held_out_questions
    from adapt.instructions.importing import Imported
    from adapt.instructions.question_sets import require_new_folder, write_question_set
    from app.build import embedder as embedder_of
    from eval.data.questions import read_questions
    from retrieval.errors import UsageError

    run = begin(workspace, as_json)
    given = {"distractors": distractors, "unanswerable": unanswerable, "hold_out": hold_out, "seed": seed}
    making = Making(**{name: value for name, value in given.items() if value is not None})  # type: ignore[arg-type]
    if held_out_to is not None and not making.hold_out:
        raise UsageError("--held-out-to needs --hold-out, the share of the documents that is held out")
    if held_out_to is not None:
        require_new_folder(held_out_to, replace=replace)
    require_new(out, replace=replace)
    found = read_questions(questions.expanduser().resolve())
    into = Imported(forms={found.name: f"{found.form}, {len(found.questions):,} questions"})
    embedder = embedder_of(run.settings)()
    cache = run.settings.cache / "questions"
    with run.terminal.progress() as progress:
        if held_out_to is not None and not dry_run:
            held = held_out_questions(found, making, embedder=embedder, cache=cache)
            count = write_question_set(held_out_to, held, found.documents)
            run.terminal.note(f"{count:,} questions of held-out documents are in {held_out_to}")
        examples = examples_from_questions(
            found, making, into, embedder=embedder, cache=cache, licence=licence, progress=progress
        )
        finish(run, examples, into, out, dry_run=dry_run)
