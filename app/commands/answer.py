"""`fathom search`, `fathom ask`, `fathom chat`: a question → passages, a cited answer, a page. Knows how they look in a
terminal and in JSON, not how they are found."""

import json
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from app.commands.options import (
    AsJson,
    CollectionName,
    Filters,
    History,
    Hits,
    Profile,
    Rerank,
    Rewrite,
    Run,
    Workspace,
    begin,
)
from retrieval.errors import FathomError, MissingError, UsageError
from retrieval.passages import Answer, Citation, Hit, Mode
from retrieval.steps import Step

if TYPE_CHECKING:
    from app.assistance import Assistance
    from app.terminal import Terminal
    from retrieval.answering import AnswerEvent
    from retrieval.collection import Collection
    from retrieval.finding import Found
    from retrieval.reranking.sentences import SentenceReader
    from retrieval.rewriting.plans import Planner

MAX_QUESTION_CHARACTERS = 20_000
MAX_HISTORY_BYTES = 1_000_000
SNIPPET_CHARACTERS = 360

Question = Annotated[str, typer.Argument(metavar="QUESTION", help="What to look for, in any language.")]


def _question(text: str) -> str:
    text = text.strip()
    if not text:
        raise UsageError('the question is empty; write it in quotes, as in: fathom search "how are scores fused"')
    if len(text) > MAX_QUESTION_CHARACTERS:
        raise UsageError(
            f"the question has {len(text):,} characters and may have {MAX_QUESTION_CHARACTERS:,}; "
            "to find text like a whole document, ask with its main sentences"
        )
    return text


def search(
    question: Question,
    mode: Annotated[Mode | None, typer.Option("--mode", "-m", help="Which search to use.", show_default=False)] = None,
    k: Hits = None,
    rewrite: Rewrite = None,
    rerank: Rerank = None,
    history: History = None,
    filters: Filters = None,
    collection: CollectionName = None,
    steps: Annotated[
        bool, typer.Option("--steps", help="With --json: an object with queries, steps and hits, not the bare list.")
    ] = False,
    workspace: Workspace = None,
    as_json: AsJson = False,
) -> None:
    """Find the passages that answer a question."""
    flags: dict[str, dict[str, Any]] = {
        "search": {"mode": mode, "k": k},
        "assist": {"rewriter": rewrite, "reranker": rerank},
    }
    run = begin(workspace, as_json, flags=flags)
    question = _question(question)
    from retrieval.answering import messages_of

    turns = messages_of(read_history(history) if history else (), run.settings.answer)
    from app.assistance import Assistance
    from app.build import found, open_collection
    from retrieval.filters import parse_filter

    conditions = [parse_filter(text) for text in filters or ()]
    assistance = Assistance(run.settings)
    with open_collection(run.settings, collection) as opened, _planner(run, assistance, opened) as planner:
        result = found(
            run.settings,
            opened,
            question,
            assistance=assistance,
            planner=planner,
            filters=conditions,
            history=turns,
        )
    if as_json:
        hits = [hit_as_json(hit) for hit in result.hits]
        run.terminal.json({**found_as_json(result), "hits": hits} if steps else hits)
        return
    for hit in result.hits:
        _print_hit(run.terminal, result.standalone, hit)
    from app.terminal import count

    _print_steps(run.terminal, result.queries, question, result.steps)
    run.terminal.done(f"{count(len(result.hits), 'passage')} found")


@contextmanager
def _planner(run: Run, assistance: "Assistance", collection: "Collection") -> "Iterator[Planner]":
    """The planner, with what it and the reranker need loaded: no time limit is spent on that. An engine is opened where
    the settings' own word asks for the one that answers."""
    from contextlib import closing, nullcontext

    word = assistance.finding.rewriter
    asks = word in ("model", "plan")
    with run.terminal.progress() as show:
        show("opening", 0, 0)
        if asks:
            from app.build import engine

            llm = engine(run.settings)
        with closing(llm) if asks else nullcontext():  # type: ignore[type-var]
            planner = assistance.planner(llm if asks else None, strict=True)
            assistance.load(planner, assistance.finding_in(collection), llm if asks else None)
            yield planner


def found_as_json(result: "Found") -> dict[str, Any]:
    """How a search came to its hits: what was searched for, the question that stands alone, what each step did."""
    return {
        "queries": list(result.queries),
        "standalone": result.standalone,
        "steps": [step.as_json() for step in result.steps],
        "timings": dict(result.timings),
    }


def _print_steps(terminal: "Terminal", queries: Sequence[str], question: str, steps: Sequence[Step]) -> None:
    """What was searched for where it is not the question, and what did less than it was set to."""
    from app.chat.steps import step_text
    from app.chat.words import ENGLISH

    if tuple(queries) != (question,):
        terminal.note(f"searched for: {'  |  '.join(queries)}", style="dim")
    for step in steps:
        if step.skipped or step.name in ("expand", "rerank", "cut") or step.did in ("condensed", "planned"):
            terminal.note(f"{step.name}: {step_text(step, ENGLISH)}", style="dim")


def hit_as_json(hit: Hit) -> dict[str, Any]:
    """One hit of the `search --json` contract; `document` is the uri, `text` exactly the document's [start, end)."""
    passage, scores = hit.passage, hit.scores
    return {
        "rank": hit.rank,
        "score": hit.score,
        "document": hit.source.uri,
        "title": hit.source.title,
        "page": passage.page,
        "start": passage.start,
        "end": passage.end,
        "text": passage.text,
        "scores": {
            "dense": scores.dense,
            "lexical": scores.lexical,
            "fused": scores.fused,
            "rerank": scores.rerank,
        },
    }


def _print_hit(terminal: "Terminal", question: str, hit: Hit) -> None:
    from rich.text import Text

    from app.highlighting import matches, window
    from app.terminal import one_line

    titles = [hit.source.title or hit.source.uri, *hit.passage.headings]
    # A document whose first heading is its title would say it twice.
    path = " › ".join(dict.fromkeys(one_line(title) for title in titles if title.strip()))
    place = one_line(hit.source.uri) + (f", page {hit.passage.page}" if hit.passage.page else "")
    terminal.line(
        Text.assemble(
            (f"{hit.rank:>2}. ", "bold"), (f"{hit.score:.3f}  ", "cyan"), (path, "bold"), "  ", (place, "dim")
        )
    )
    text = one_line(hit.passage.text)
    spans = matches(question, text)
    begin_at, end_at = window(text, spans, SNIPPET_CHARACTERS)
    snippet = Text(text[begin_at:end_at])
    for start, end in spans:
        if start < end_at and end > begin_at:
            snippet.stylize("bold yellow", max(0, start - begin_at), end - begin_at)
    terminal.paragraph(Text.assemble("… " if begin_at else "", snippet, " …" if end_at < len(text) else ""))
    terminal.line()


def ask(
    question: Question,
    quote: Annotated[
        bool | None,
        typer.Option(
            "--quote/--write",
            help="Answer with the best sentences of the sources, word for word, or let the model write.",
            show_default="as suits the model",
        ),
    ] = None,
    history: History = None,
    k: Hits = None,
    rewrite: Rewrite = None,
    rerank: Rerank = None,
    filters: Filters = None,
    model: Annotated[
        Path | None,
        typer.Option(
            "--model",
            metavar="M",
            help="Registered model ('fathom model list'), GGUF file or OpenVINO folder to answer with.",
            show_default=False,
        ),
    ] = None,
    profile: Profile = None,
    collection: CollectionName = None,
    workspace: Workspace = None,
    as_json: AsJson = False,
) -> None:
    """Answer a question from the documents, with citations."""
    flags: dict[str, dict[str, Any]] = {
        "search": {"k": k},
        "engine": {"model": model},
        "assist": {"rewriter": rewrite, "reranker": rerank},
    }
    run = begin(workspace, as_json, flags=flags, profile=profile)
    question = _question(question)
    turns = read_history(history) if history else []
    from app.assistance import Assistance
    from app.build import answer_events, engine, open_collection, sentence_reader, writes
    from app.terminal import count
    from retrieval.filters import parse_filter
    from retrieval.prompts import language_of

    conditions = [parse_filter(text) for text in filters or ()]
    assistance = Assistance(run.settings)
    quoting = not writes(run.settings) if quote is None else quote
    # Whoever says --quote wants no model at all; else a follow-up is rewritten, by an adapter that beats the rule.
    asked = not quoting or (quote is None and bool(turns))
    with open_collection(run.settings, collection) as opened:
        with run.terminal.progress() as show:
            show("opening", 0, 0)
            llm = engine(run.settings, tell=lambda text: run.terminal.note(text, style="dim")) if asked else None
            planner = assistance.planner(llm, strict=rewrite is not None)
            assistance.load(planner, assistance.finding_in(opened), llm)
            reader = sentence_reader(run.settings) if quoting else None
            if reader is not None and language_of(question) in reader.languages:
                _load_ahead(run.terminal, reader)
        answer = _follow(
            run.terminal,
            answer_events(
                run.settings,
                opened,
                question,
                llm=llm,
                quote=quoting,
                assistance=assistance,
                planner=planner,
                history=turns,
                filters=conditions,
            ),
        )
    if as_json:
        run.terminal.json(answer_as_json(answer))
        return
    run.terminal.line(answer.text)
    for citation in answer.citations:
        _print_citation(run.terminal, citation)
    _print_steps(run.terminal, answer.queries, question, answer.steps)
    run.terminal.done(f"{_how(answer)} from {count(len(answer.hits), 'passage')}")


def _load_ahead(terminal: "Terminal", reader: "SentenceReader") -> None:
    """Wait for what helps to quote. Without it words and meaning choose, which is said."""
    try:
        reader.load()
    except FathomError as error:
        terminal.note(f"quotations are chosen by words and meaning alone: {error}")


def _how(answer: Answer) -> str:
    if answer.refused:
        return "no answer found"
    if answer.model == "quote":
        return "quoted"
    if answer.model.endswith("+quote"):
        return f"quoted, since {answer.model.removesuffix('+quote')} wrote nothing that the passages say,"
    return f"answered by {answer.model}"


def _follow(terminal: "Terminal", events: "Iterable[AnswerEvent]") -> Answer:
    """The finished answer. A person watches it being written; what stays on the screen is the checked one."""
    from retrieval.answering import Finished, Token

    finished: Answer | None = None
    text = ""
    with terminal.draft() as show:
        for event in events:
            if isinstance(event, Token):
                text += event.text
                show(text)
            elif isinstance(event, Finished):
                finished = event.answer
    if finished is None:
        raise RuntimeError("the answering stream ended without an answer")
    return finished


def answer_as_json(answer: Answer) -> dict[str, Any]:
    """The `ask --json` contract; `quote` is exactly the document's text from `start` to `end`; `flags` are numbers and
    names of `answer` that stand in no passage."""
    return {
        "answer": answer.text,
        "refused": answer.refused,
        "citations": [
            {
                "n": citation.n,
                "document": citation.document,
                "title": citation.title,
                "page": citation.page,
                "start": citation.start,
                "end": citation.end,
                "quote": citation.quote,
                "supported": citation.supported,
            }
            for citation in answer.citations
        ],
        "queries": list(answer.queries),
        "standalone": answer.standalone,
        "steps": [step.as_json() for step in answer.steps],
        "passages": [hit_as_json(hit) for hit in answer.hits],
        "model": answer.model,
        "confidence": answer.confidence,
        "threshold": answer.threshold,
        "flags": [
            {"start": flag.start, "end": flag.end, "text": flag.text, "kind": flag.kind} for flag in answer.flags
        ],
        "draft": answer.draft,
        "prompt_version": answer.prompt_version,
        "timings": dict(answer.timings),
    }


def _print_citation(terminal: "Terminal", citation: Citation) -> None:
    from rich.text import Text

    from app.terminal import one_line

    place = one_line(citation.document) + (f", page {citation.page}" if citation.page else "")
    title = one_line(citation.title)
    doubt = {"yes": "", "partly": "  (only partly supported)", "no": "  (not supported by the source)"}
    terminal.line(
        Text.assemble(
            (f"[{citation.n}] ", "bold cyan"),
            (title, "bold") if title and title != place else "",
            "  " if title and title != place else "",
            (place, "dim"),
            (doubt[citation.supported], "bold red"),
        )
    )
    quoted = one_line(citation.quote)
    if len(quoted) > SNIPPET_CHARACTERS:
        quoted = quoted[:SNIPPET_CHARACTERS] + " …"
    terminal.paragraph(Text(f"“{quoted}”", style="italic"))


def read_history(file: Path) -> list[dict[str, str]]:
    """The turns of a conversation. Raises MissingError, or UsageError that says which turn is not one."""
    try:
        with file.open("rb") as stream:
            data = stream.read(MAX_HISTORY_BYTES + 1)
    except OSError as error:
        raise MissingError(f"the history '{file}' cannot be read: {error.strerror}") from error
    if len(data) > MAX_HISTORY_BYTES:
        raise UsageError(f"the history '{file}' is larger than {MAX_HISTORY_BYTES // 1000} KB; keep its last turns")
    try:
        turns = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise UsageError(f"the history '{file}' is not JSON in UTF-8: {error}") from error
    form = 'a list of {"role": "user" or "assistant", "content": "text"}'
    if not isinstance(turns, list):
        raise UsageError(f"the history '{file}' must be {form}; it is a {type(turns).__name__}")
    for number, turn in enumerate(turns, start=1):
        if (
            not isinstance(turn, dict)
            or set(turn) != {"role", "content"}
            or turn["role"] not in ("user", "assistant")
            or not isinstance(turn["content"], str)
        ):
            raise UsageError(f"turn {number} of the history '{file}' is not as expected; it must be {form}")
    return turns
