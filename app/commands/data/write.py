"""`fathom data write DOCUMENTS…`: a user's own documents → questions with quoted answers, by a model. Only words."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from app.commands.data.modelling import AskAgain, AtOnce, Engine, Plan, Seed, given, opened_writer, show_plan
from app.commands.data.options import Replace, tell_left_out
from app.commands.options import AsJson, Run, Workspace, begin
from app.failures import DONE_WITH_ERRORS
from app.terminal import Progress, count
from retrieval.errors import UsageError

if TYPE_CHECKING:
    from adapt.instructions.writing.pair_passages import Gathered


def command(
    out: Annotated[
        Path, typer.Option("--out", "-o", metavar="FOLDER", help="Where the question set goes: a new folder.")
    ],
    documents: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="DOCUMENTS…",
            help="Files and folders of any format Fathom reads, rows (.jsonl, .parquet) among them.",
            show_default=False,
        ),
    ] = None,
    collection: Annotated[
        str | None,
        typer.Option("--collection", "-c", metavar="NAME", help="Instead: the documents of this collection."),
    ] = None,
    engine: Engine = None,
    per_passage: Annotated[
        int | None, typer.Option("--per-passage", metavar="N", help="Questions asked for of each passage.")
    ] = None,
    limit: Annotated[
        int | None,
        typer.Option("--count", metavar="N", help="Stop at so many good ones; passages are drawn at random."),
    ] = None,
    top: Annotated[
        int | None, typer.Option("--top", metavar="N", help="Rank down to which a question must find its passage.")
    ] = None,
    longest_answer: Annotated[
        int | None, typer.Option("--longest-answer", metavar="WORDS", help="Words of an answer, at most.")
    ] = None,
    answer_again: Annotated[
        bool, typer.Option("--answer-again", help="Have each question answered once more; both answers must agree.")
    ] = False,
    support: Annotated[
        str | None,
        typer.Option(
            "--support",
            metavar="NAME",
            help="Ask a support checker too: lexical, encoder or the folder of a trained one.",
            show_default=False,
        ),
    ] = None,
    temperature: Annotated[
        float | None, typer.Option("--temperature", metavar="T", help="Of the model, 0 to 2.")
    ] = None,
    seed: Seed = None,
    text: Annotated[
        str | None, typer.Option("--text", metavar="COLUMN", help="Of rows: the text.", show_default="text")
    ] = None,
    title: Annotated[
        str | None, typer.Option("--title", metavar="COLUMN", help="Of rows: the title.", show_default="title")
    ] = None,
    at_once: AtOnce = None,
    ask_again: AskAgain = False,
    replace: Replace = False,
    dry_run: Plan = False,
    workspace: Workspace = None,
    as_json: AsJson = False,
) -> None:
    """Have a model write questions about documents, with answers quoted from them; keep those that pass every check."""
    from adapt.instructions.question_sets import require_new_folder
    from adapt.instructions.writing.pair_checks import PairLimits
    from adapt.instructions.writing.pair_set import drawn, make_question_set
    from adapt.instructions.writing.pairs import PairWriting, wanted_of
    from app.build import embedder as embedder_of
    from app.build import engine_settings
    from retrieval.supporting.load import load_checker

    run = begin(workspace, as_json)
    writing = PairWriting(
        **given(per_passage=per_passage, count=limit, temperature=temperature, seed=seed), answer_again=answer_again
    )
    limits = PairLimits(**given(top=top, longest_answer=longest_answer))
    if not documents and collection is None or documents and collection is not None:
        raise UsageError("name the documents to ask about, or a collection with --collection, and not both")
    require_new_folder(out, replace=replace)
    engine_settings(run.settings, engine)  # a wrong word is told before anything is read
    load = embedder_of(run.settings)
    checker = load_checker(support, cache=run.settings.embedding.cache_folder()) if support else None
    with run.terminal.progress() as progress:
        gathered = _gathered(run, documents, collection, text, title, load, progress)
        found = drawn(gathered, writing, load(), progress)
        if not dry_run:
            with opened_writer(run, engine, at_once, out, ask_again=ask_again) as writer:
                report = make_question_set(
                    out, gathered, found, writer, writing=writing, limits=limits, embedder=load(),
                    indexes=run.settings.cache / "questions", checker=checker, progress=progress,
                )  # fmt: skip
    if dry_run:
        if not as_json:
            tell_left_out(run, "left out", gathered.left_out)
            tell_left_out(run, "not asked about", found.skipped)
        plan = {
            "documents": len(gathered.documents),
            "passages": len(found.passages),
            "questions_asked_for": len(found.passages) * writing.per_passage,
            "requests_at_most": len(found.passages) * (1 + (writing.per_passage if answer_again else 0)),
        }
        show_plan(run, plan, wanted_of(found.passages[0], writing))
        return
    _tell(run, gathered, report, out)
    if gathered.left_out.total or report["rejected"].get("engine failed"):
        raise typer.Exit(DONE_WITH_ERRORS)


def _gathered(
    run: Run,
    documents: list[str] | None,
    collection: str | None,
    text: str | None,
    title: str | None,
    load: Any,
    progress: Progress,
) -> "Gathered":
    from adapt.instructions.writing.pair_passages import gather, gather_collection
    from app.build import open_collection

    if collection is None:
        return gather(documents or (), progress, text=text, title=title)
    with open_collection(run.settings, collection, load=load) as opened:
        return gather_collection(opened, progress)


def _tell(run: Run, gathered: "Gathered", report: Mapping[str, Any], out: Path) -> None:
    if run.terminal.as_json:
        run.terminal.json({**report, "written": str(out)})
        return
    tell_left_out(run, "left out", gathered.left_out)
    rows = [
        [reason, f"{found['count']:,}", (found["examples"] or [""])[0][:160]]
        for reason, found in report["rejected"].items()
    ]
    if rows:
        run.terminal.table(("rejected", "count", "such as"), rows, right=(1,))
    ranks = ", ".join(f"{number:,} at rank {rank}" for rank, number in report["ranks"].items())
    run.terminal.note(f"their passage is found: {ranks}", style="dim")
    reused = report["requests"]["reused"]
    known = f" ({count(reused, 'reply', 'replies')} of an earlier run)" if reused else ""
    run.terminal.done(
        f"{report['kept']:,} of {report['candidates']:,} questions about {report['asked']:,} passages{known} are good, "
        f"in {out}"
    )
