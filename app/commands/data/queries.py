"""`fathom data queries SOURCES… --out FILE`: documents without labels → queries with their passages. Only words."""

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from app.commands.data.modelling import AskAgain, AtOnce, Engine, Seed, given, opened_writer
from app.commands.data.options import Replace, require_new, tell_left_out
from app.commands.options import AsJson, Run, Workspace, begin
from app.failures import DONE_WITH_ERRORS
from app.terminal import Progress, count
from retrieval.errors import UsageError

if TYPE_CHECKING:
    from adapt.queries.making import QueryMaking
    from adapt.queries.pair_file import QueryPair
    from adapt.queries.pieces import Papers
    from retrieval.collection import Collection
    from retrieval.embedding.embedder import Embedder

_SHOWN = 8


def command(
    sources: Annotated[
        list[str],
        typer.Argument(
            metavar="SOURCE…",
            help="Collections of the workspace by name, or files and folders of any format, rows among them.",
            show_default=False,
        ),
    ],
    out: Annotated[Path, typer.Option("--out", "-o", metavar="FILE", help="Where the pairs go: .jsonl or .jsonl.gz.")],
    kinds: Annotated[
        list[str] | None,
        typer.Option(
            "--kind",
            metavar="KIND",
            help="title, heading, half, cloze, faq, code, or question (a model writes them); may be repeated.",
            show_default="all but question",
        ),
    ] = None,
    per_document: Annotated[
        int | None, typer.Option("--per-document", metavar="N", help="Pairs of one document, at most.")
    ] = None,
    most: Annotated[
        int | None, typer.Option("--count", metavar="N", help="Pairs in all, drawn evenly over the documents.")
    ] = None,
    negatives: Annotated[
        int | None,
        typer.Option("--negatives", metavar="N", help="Wrong passages that look right, mined for each pair."),
    ] = None,
    per_passage: Annotated[
        int | None, typer.Option("--per-passage", metavar="N", help="Questions asked for of each passage, 1 to 3.")
    ] = None,
    top: Annotated[
        int | None, typer.Option("--top", metavar="N", help="Rank down to which a question must find its passage.")
    ] = None,
    temperature: Annotated[
        float | None, typer.Option("--temperature", metavar="T", help="Of the model, 0 to 2.")
    ] = None,
    engine: Engine = None,
    at_once: AtOnce = None,
    ask_again: AskAgain = False,
    seed: Seed = None,
    replace: Replace = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Write and ask nothing: show what would be made, and the first prompt.")
    ] = False,
    workspace: Workspace = None,
    as_json: AsJson = False,
) -> None:
    """Make training pairs for retrieval from documents alone: titles, headings, halves, sentences, and questions that a
    model writes and that find their own passage again."""
    from adapt.queries.making import QueryMaking, make
    from app.build import embedder as embedder_of
    from app.build import engine_settings

    run = begin(workspace, as_json)
    chosen = given(
        per_document=per_document, count=most, negatives=negatives, per_passage=per_passage, top=top,
        temperature=temperature, seed=seed,
    )  # fmt: skip
    if kinds:
        chosen["kinds"] = tuple(dict.fromkeys(kinds))
    making = QueryMaking(**chosen)
    require_new(out, replace=replace)
    if making.asks:
        engine_settings(run.settings, engine)  # a wrong word is told before anything is read
    load = embedder_of(run.settings)
    with ExitStack() as stack, run.terminal.progress() as progress:
        papers, search, model = _read(run, sources, load, stack, progress)
        if dry_run:
            _show_plan(run, papers, making)
            return
        writer = None
        if making.asks:
            writer = stack.enter_context(opened_writer(run, engine, at_once, out, ask_again=ask_again))
        report = make(out, papers, making, search=search, embedder=model, writer=writer, progress=progress)
    _tell(run, papers, report, out)
    asked = report["questions"]
    if papers.left_out.counts.keys() - _BY_WISH or (asked and asked["rejected"].get("engine failed")):
        raise typer.Exit(DONE_WITH_ERRORS)


_BY_WISH = frozenset({"too short to ask about", "repeats another passage"})
"""Reasons for which a passage is passed over that are no fault of a document."""


def _read(
    run: Run, sources: list[str], load: "Callable[[], Embedder]", stack: ExitStack, progress: Progress
) -> "tuple[Papers, Callable[[], Collection], Callable[[], Embedder]]":
    """The documents, what opens their collection, and the model of that. An index of files is made at the first need,
    and kept in the cache."""
    from adapt.queries.pieces import of_collection, of_files
    from app.build import collection_exists, open_collection
    from eval.data.datasets import RetrievalDataset
    from eval.search.indexed import indexed

    named = [source for source in sources if _is_name(source) and collection_exists(run.settings, source)]
    if named and len(sources) > 1:
        raise UsageError(
            f"'{named[0]}' is a collection, which is asked alone; for a file or folder of that name write ./{named[0]}"
        )
    if named:
        opened = stack.enter_context(open_collection(run.settings, named[0], load=load))
        return of_collection(opened, progress), lambda: opened, opened.embedder
    papers = of_files(sources, load(), run.settings.splitting, progress)
    made: list[Collection] = []

    def search() -> "Collection":
        if not made:
            dataset = RetrievalDataset("queries", "queries", "", papers.corpus, {}, {})
            cache = run.settings.cache / "questions"
            shape = run.settings.splitting
            made.append(stack.enter_context(indexed(dataset, load(), cache, splitting=shape, progress=progress)))
        return made[0]

    return papers, search, load


def _is_name(source: str) -> bool:
    from app.workspace import collection_name

    try:
        return collection_name(source) == source
    except UsageError:
        return False


def _show_plan(run: Run, papers: "Papers", making: "QueryMaking") -> None:
    from adapt.queries.making import asked_about, counted, own_pairs, wanted_of

    pairs = own_pairs(papers, making)
    asked = asked_about(papers, making) if making.asks else []
    prompt = wanted_of(asked[0][1], making).messages if asked else ()
    plan: dict[str, Any] = {
        "documents": len(papers.papers),
        "passages": papers.pieces,
        "pairs": len(pairs),
        "kinds": counted(pairs),
        "requests_at_most": len(asked),
        "questions_asked_for": len(asked) * making.per_passage,
    }
    if run.terminal.as_json:
        first = [{"role": message.role, "content": message.text} for message in prompt]
        shown = [pair.as_json() for pair in pairs[:_SHOWN]]
        run.terminal.json({**plan, "dry_run": True, "first": shown, "first_prompt": first})
        return
    tell_left_out(run, "passed over", papers.left_out)
    _table(run, pairs)
    for message in prompt:
        run.terminal.line(f"[{message.role}]", style="bold")
        run.terminal.line(message.text)
    run.terminal.done(
        f"would make {count(len(pairs), 'pair')} ({_kinds(plan['kinds'])}) of {count(len(papers.papers), 'document')}"
        + (f", and ask about {count(len(asked), 'passage')}" if making.asks else "")
    )


def _table(run: Run, pairs: "list[QueryPair]") -> None:
    rows = [[pair.kind, pair.query[:100], " ".join(pair.positive.split())[:100]] for pair in pairs[:_SHOWN]]
    run.terminal.table(("kind", "query", "passage"), rows)


def _tell(run: Run, papers: "Papers", report: Mapping[str, Any], out: Path) -> None:
    terminal = run.terminal
    if terminal.as_json:
        terminal.json({**report, "written": str(out)})
        return
    tell_left_out(run, "passed over", papers.left_out)
    asked = report["questions"]
    if asked is not None:
        rows = [
            [reason, f"{found['count']:,}", (found["examples"] or [""])[0][:160]]
            for reason, found in asked["rejected"].items()
        ]
        if rows:
            terminal.table(("questions rejected", "count", "such as"), rows, right=(1,))
        ranks = ", ".join(f"{number:,} at rank {rank}" for rank, number in asked["ranks"].items())
        terminal.note(
            f"questions: {asked['kept']:,} kept of {asked['candidates']:,} about {count(asked['passages'], 'passage')}"
            f"{f' ({ranks})' if ranks else ''}",
            style="dim",
        )
    if report["without_negatives"] is not None:
        terminal.note(
            f"{report['negatives']:,} negatives; {report['without_negatives']:,} pairs have none that is surely wrong",
            style="dim",
        )
    terminal.done(f"{count(report['pairs'], 'pair')} ({_kinds(report['kinds'])}) in {out}")


def _kinds(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{kind} {number:,}" for kind, number in counts.items()) or "none"
