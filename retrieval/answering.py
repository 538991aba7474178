"""Question → search → packed context → streamed text → checked citations, as a stream of events.

One pipeline for the command line, the page, the API and evaluation. It knows no interface and no particular model.
"""

import re
import threading
import time
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Literal, Protocol

from retrieval.citing import check_citations
from retrieval.errors import MissingError, UsageError
from retrieval.filters import Filter
from retrieval.fusion import ranked, reciprocal_rank
from retrieval.passages import Answer, Document, Hit, Mode
from retrieval.prompts import REFUSALS, Language, Message, answer_messages, language_of, passage_block
from retrieval.quoting import best_coverage, quoted_answer
from retrieval.rewriting import with_previous
from retrieval.sentences import sentence_spans

if TYPE_CHECKING:
    from llama_index.core.llms import LLM

    from retrieval.collection import SearchResult
    from retrieval.embedding.embedder import Embedder

AnswerMode = Literal["generate", "quote"]
PASSAGES = 8
"""Passages found for an answer where nobody says otherwise."""


class Searchable(Protocol):
    """A Collection, or whatever searches like one."""

    def search(
        self, query: str, *, mode: Mode, k: int, filters: Sequence[Filter], owners: frozenset[str] | None
    ) -> "SearchResult": ...

    def document(self, document_id: int) -> Document: ...


@dataclass(frozen=True, slots=True)
class AnswerSettings:
    """How much is shown to the model and when an answer is refused."""

    context_tokens: int = 1500
    """Tokens of passages in the prompt, counted by the answering model; whole passages only."""
    history_messages: int = 6
    """Earlier messages shown."""
    history_characters: int = 600
    """Characters of each."""
    least_coverage: float = 0.25
    """Share of the question's telling words that the best passage must have …"""
    least_dense: float = 0.35
    """… unless its cosine reaches this."""
    quotes: int = 3
    """Sentences of an answer in quote mode."""


@dataclass(frozen=True, slots=True)
class Searched:
    """The search is done. Hit i has number i + 1, and the answer is made from the first `given`; `timings` are
    milliseconds."""

    queries: tuple[str, ...]
    hits: tuple[Hit, ...]
    timings: Mapping[str, float]
    given: int = 0


@dataclass(frozen=True, slots=True)
class Token:
    """A piece of text as the model writes it, citations unchecked."""

    text: str


@dataclass(frozen=True, slots=True)
class Finished:
    """The checked answer; its text replaces what was streamed."""

    answer: Answer


AnswerEvent = Searched | Token | Finished

# What models write when the passages have no answer, though they were not refused it.
_NO_ANSWER = re.compile(
    r"(?:passages?|documents?|text|context|information)\b[^.]{0,60}\b(?:do(?:es)? not|don't|doesn't|did not)\s+"
    r"(?:answer|contain|mention|provide|say|specify|give|include|state)"
    r"|(?:cannot|can't|can not|unable to)\s+(?:be )?(?:answer|answered|determined?|found?)\b"
    r"|(?:段落|文档|文中|资料|文本)[^。]{0,20}(?:没有|并未|未|无法)(?:回答|提到|提及|说明|提供|包含)|无法(?:回答|确定)",
    re.IGNORECASE,
)


def says_no_answer(text: str) -> bool:
    """Whether a model's own words are that the passages hold no answer, in English or Chinese."""
    return bool(_NO_ANSWER.search(text))


def answer(question: str, **options: Any) -> Answer:
    """The finished answer; takes what `answer_stream` takes."""
    for event in answer_stream(question, **options):
        if isinstance(event, Finished):
            return event.answer
    raise AssertionError("answer_stream ends with Finished")


def answer_stream(
    question: str,
    *,
    collection: Searchable,
    llm: "LLM | None" = None,
    mode: AnswerMode = "generate",
    k: int = PASSAGES,
    search_mode: Mode = "hybrid",
    filters: Sequence[Filter] = (),
    owners: frozenset[str] | None = None,
    history: Sequence[Message | Mapping[str, str]] = (),
    embedder: "Embedder | None" = None,
    settings: AnswerSettings | None = None,
    stop: threading.Event | None = None,
) -> Iterator[AnswerEvent]:
    """Yield Searched, then Tokens, then Finished.

    `mode="quote"` (or no `llm`) answers with sentences of the sources. `history` are earlier messages, oldest first,
    as Message or {"role", "content"}. `embedder` lets quotes be chosen by meaning as well. Setting `stop`, or closing
    the iterator, ends generation at once; with `stop` what was written so far is checked and finished.
    Raises UsageError for an empty question, and what the search and the engine raise.
    """
    settings = settings or AnswerSettings()
    clock = _Clock()
    if not question.strip():
        raise UsageError("the question is empty; write what you want to know")
    earlier = _messages(history, settings)
    language = language_of(question)
    queries, found, timings = _search(question, earlier, collection, search_mode, k, filters, owners)
    clock.add(timings)
    clock.lap("search")
    generate = mode == "generate" and llm is not None
    given, hits = _pack(found, _room(llm, settings) if generate else None, llm)
    clock.lap("pack")
    yield Searched(queries, hits, dict(clock.times), len(given))

    documents = _Documents(collection)
    clock.lap("outside")  # what the reader of the stream took between two events is not ours
    if not any(_near(query, hits, settings) for query in queries):
        yield Finished(_refusal(language, queries, hits, "none", clock))
        return
    if not generate or llm is None:
        yield from _quote(question, hits, queries, language, "quote", embedder, documents, settings, clock)
        return
    messages = answer_messages(question, given, earlier, language=language)
    text, stopped = "", False
    raw: dict[str, Any] = {}
    stream = _generate(llm, messages, stop)
    try:
        for delta, reported in stream:
            raw = reported or raw
            if delta and not text:
                clock.lap("first_token")
            text += delta
            if delta:
                yield Token(delta)
            if stop is not None and stop.is_set():
                stopped = True
                break
    finally:
        stream.close()
    clock.lap("generate")
    for name in ("prompt_tokens", "completion_tokens", "tokens_per_second"):
        if name in raw:
            clock.times[name] = float(raw[name])
    model = llm.metadata.model_name
    text = _tidy(text, cut=raw.get("finish_reason") in ("length", "repetition"))
    checked = check_citations(text, given, documents.text, question=question)
    clock.lap("check")
    if not stopped and not checked.supported:
        if says_no_answer(text):
            yield Finished(_refusal(language, queries, hits, model, clock))
        else:
            # Nothing of what the model wrote stands in the passages: better the passages' own words.
            yield from _quote(question, hits, queries, language, f"{model}+quote", embedder, documents, settings, clock)
        return
    yield Finished(Answer(checked.text, False, checked.citations, queries, hits, model, clock.done()))


def _search(
    question: str,
    history: Sequence[Message],
    collection: Searchable,
    mode: Mode,
    k: int,
    filters: Sequence[Filter],
    owners: frozenset[str] | None,
) -> tuple[tuple[str, ...], list[Hit], dict[str, float]]:
    """Search for the question and, in a conversation, for it together with the one before ("and its price?")."""
    queries = list(dict.fromkeys([question.strip(), with_previous(question, history)]))
    results = [collection.search(query, mode=mode, k=k, filters=filters, owners=owners) for query in queries]
    timings: dict[str, float] = {}
    for result in results:
        for name, value in result.timings.items():
            timings[f"search.{name}"] = timings.get(f"search.{name}", 0.0) + value
    if len(results) == 1:
        return tuple(queries), list(results[0].hits), timings
    hits = {hit.passage.id: hit for result in results for hit in result.hits}
    fused = reciprocal_rank([[hit.passage.id for hit in result.hits] for result in results])
    return tuple(queries), [hits[key] for key, _ in ranked(fused, k)], timings


def _pack(found: Sequence[Hit], room: int | None, llm: "LLM | None") -> tuple[tuple[Hit, ...], tuple[Hit, ...]]:
    """(passages for the prompt, all hits), numbered the same way: those in the prompt come first.

    Whole passages, best first, as many as have room; copies and passages mostly inside another one are left out.
    """
    given: list[Hit] = []
    rest: list[Hit] = []
    left = room
    texts: set[str] = set()
    for hit in found:
        text = " ".join(hit.passage.text.split())
        if not text or text in texts or any(_inside(hit, other) for other in given):
            continue
        texts.add(text)
        cost = 0 if left is None else _tokens(llm, passage_block(len(given) + 1, hit))
        if left is not None and cost > left and given:
            rest.append(hit)
            continue
        left = None if left is None else left - cost
        given.append(hit)
    numbered = tuple(replace(hit, rank=n) for n, hit in enumerate([*given, *rest], start=1))
    return numbered[: len(given)], numbered


def _inside(hit: Hit, other: Hit) -> bool:
    """Whether most of a passage is part of another one of the same document (splitters overlap a little)."""
    one, two = hit.passage, other.passage
    if one.document_id != two.document_id:
        return False
    shared = min(one.end, two.end) - max(one.start, two.start)
    return shared > 0.7 * (one.end - one.start)


def _room(llm: "LLM | None", settings: AnswerSettings) -> int:
    """Tokens for passages: the budget, or what the model's window leaves after answer, instructions and history."""
    assert llm is not None
    metadata = llm.metadata
    history = settings.history_messages * settings.history_characters // 4
    return max(
        200, min(settings.context_tokens, metadata.context_window - max(metadata.num_output, 64) - 400 - history)
    )


def _tokens(llm: "LLM | None", text: str) -> int:
    count = getattr(llm, "count_tokens", None)
    if count is not None:
        return int(count(text))
    plain = sum(character.isascii() for character in text)
    return plain // 4 + (len(text) - plain) + 1  # about right for English; on the safe side for Chinese


def nearness(question: str, hits: Sequence[Hit], settings: AnswerSettings | None = None) -> float:
    """How much the nearest hit has to do with the question: 0 is nothing, below 1 the answer is refused.

    The better of two shares, each of what AnswerSettings asks for at least: best cosine, and telling words found in one
    passage. Fused scores cannot tell: the best of them is always 1.
    """
    settings = settings or AnswerSettings()
    words = _share(best_coverage(question, hits), settings.least_coverage) if hits else 0.0
    return max(0.0, _meaning(hits, settings), words)


def _near(question: str, hits: Sequence[Hit], settings: AnswerSettings) -> bool:
    """Whether `nearness` reaches 1. Counting words takes 5 to 10 ms, which a cosine that is high enough saves."""
    return _meaning(hits, settings) >= 1 or nearness(question, hits, settings) >= 1


def _meaning(hits: Sequence[Hit], settings: AnswerSettings) -> float:
    return _share(max((hit.scores.dense or 0.0 for hit in hits), default=0.0), settings.least_dense)


def _share(found: float, least: float) -> float:
    """`found` in units of the least that is asked for; where nothing is asked for, whatever was found is enough."""
    return found / least if least > 0 else 1.0 + found - least


def _quote(
    question: str,
    hits: tuple[Hit, ...],
    queries: tuple[str, ...],
    language: Language,
    model: str,
    embedder: "Embedder | None",
    documents: "_Documents",
    settings: AnswerSettings,
    clock: "_Clock",
) -> Iterator[AnswerEvent]:
    text, citations = quoted_answer(
        question, hits, embedder=embedder, document_text=documents.text, limit=settings.quotes
    )
    clock.lap("quote")
    if not citations:
        yield Finished(_refusal(language, queries, hits, model, clock))
        return
    if model == "quote":
        yield Token(text)
    yield Finished(Answer(text, False, citations, queries, hits, model, clock.done()))


def _refusal(
    language: Language, queries: tuple[str, ...], hits: tuple[Hit, ...], model: str, clock: "_Clock"
) -> Answer:
    return Answer(REFUSALS[language], True, (), queries, hits, model, clock.done())


def _generate(
    llm: "LLM", messages: Sequence[Message], stop: threading.Event | None
) -> Generator[tuple[str, dict[str, Any]], None, None]:
    """(delta, raw) pairs; `raw` is what the engine reports with its last one."""
    from llama_index.core.base.llms.types import ChatMessage, MessageRole

    chat = [ChatMessage(role=MessageRole(message.role), content=message.text) for message in messages]
    # Other engines would send the flag along to their server.
    options = {"stop": stop} if stop is not None and getattr(llm, "stoppable", False) else {}
    responses = llm.stream_chat(chat, **options)
    try:
        for response in responses:
            yield response.delta or "", response.raw if isinstance(response.raw, dict) else {}
    finally:
        close = getattr(responses, "close", None)
        if close is not None:
            close()


def _tidy(text: str, *, cut: bool) -> str:
    """Without sentences said twice (small models run in circles) and, if the answer was `cut` off at its length,
    without the half sentence at its end, as long as a whole one stays."""
    spans = sentence_spans(text)
    if cut and len(spans) > 1 and not text.rstrip().endswith((".", "!", "?", "。", "！", "？", "]")):
        text = text[: spans[-1][0]].rstrip()
        spans = spans[:-1]
    parts: list[str] = []
    seen: set[str] = set()
    position = 0
    for start, end in spans:
        key = re.sub(r"\W+", " ", text[start:end].casefold()).strip()
        if key not in seen:
            parts.append(text[position:end])
        seen.add(key)
        position = end
    parts.append(text[position:])
    return "".join(parts).strip()


def _messages(history: Sequence[Message | Mapping[str, str]], settings: AnswerSettings) -> list[Message]:
    """The last messages, each cut; anything that is not a user's or an assistant's is refused."""
    messages = []
    for item in history:
        message = item if isinstance(item, Message) else Message(item["role"], item["content"])  # type: ignore[arg-type]
        if message.role not in ("user", "assistant"):
            raise UsageError(f"the history has a message of role '{message.role}'; roles are user and assistant")
        messages.append(Message(message.role, message.text[: settings.history_characters]))
    return messages[-settings.history_messages :] if settings.history_messages else []


class _Documents:
    """Stored texts by id, a few kept, to check quotes against."""

    def __init__(self, collection: Searchable) -> None:
        self._read = lru_cache(maxsize=16)(lambda document_id: collection.document(document_id).text)

    def text(self, document_id: int) -> str:
        """Raises nothing where the document is gone: it has no text any more, so no quote stands in it."""
        try:
            return self._read(document_id)
        except MissingError:
            return ""


class _Clock:
    """Milliseconds between laps, by name."""

    def __init__(self) -> None:
        self.times: dict[str, float] = {}
        self._began = self._last = time.perf_counter()

    def add(self, times: Mapping[str, float]) -> None:
        self.times.update(times)

    def lap(self, name: str) -> None:
        now = time.perf_counter()
        self.times[name] = round(self.times.get(name, 0.0) + (now - self._last) * 1000, 2)
        self._last = now

    def done(self) -> dict[str, float]:
        times = {name: value for name, value in self.times.items() if name != "outside"}
        return {**times, "total": round((time.perf_counter() - self._began) * 1000, 2)}
