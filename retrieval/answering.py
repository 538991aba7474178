"""Question → found passages → packed context → streamed text → checked citations, as a stream of events.

One pipeline for the command line, the page, the API and evaluation. It knows no interface and no particular model.
"""

import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Literal, Protocol

from retrieval.answerability import THRESHOLD, MeaningScale, confidence
from retrieval.citing import check_citations
from retrieval.clock import Clock
from retrieval.drafting import generate, tidy
from retrieval.errors import MissingError, UsageError
from retrieval.filters import Filter
from retrieval.finding import FindSettings, Found, find
from retrieval.flagging import flags
from retrieval.packing import Packed, pack
from retrieval.passages import Answer, Document, Hit, Mode
from retrieval.prompts import PROMPT_VERSION, REFUSALS, Language, Message, answer_messages, language_of
from retrieval.quoting import QUOTES, READ_SECONDS, quoted_answer
from retrieval.reranking.load import PACKAGED, Reranker
from retrieval.reranking.sentences import SentenceReader
from retrieval.rewriting.plans import Planner
from retrieval.roles import ANSWERER, has_role, in_role
from retrieval.selecting import select
from retrieval.shortening import shorten
from retrieval.steps import Step
from retrieval.supporting.checker import SupportChecker
from retrieval.unanswered import only_says_no_answer, says_no_answer

if TYPE_CHECKING:
    from llama_index.core.llms import LLM

    from retrieval.collection import SearchResult
    from retrieval.embedding.embedder import Embedder

AnswerMode = Literal["generate", "quote"]
Shortening = Literal["never", "to-fit", "always"]
LEAST_SHARE = 0.1
"""Of a passage: with less, hardly a sentence is left."""
PASSAGES = 8
"""Passages found for an answer where nobody says otherwise."""
TRAINED_PASSAGES = 2
"""Passages shown to the adapter that answers, where nobody says otherwise: it has learnt from few (docs/results.md)."""
MARGIN_TOKENS, MESSAGE_TOKENS = 32, 8
"""Left free in the window, and what a chat template adds around a message (ChatML: 5; Llama 3: 6)."""


class Searchable(Protocol):
    """A Collection, or whatever searches like one."""

    def search(
        self, query: str, *, mode: Mode, k: int, filters: Sequence[Filter], owners: frozenset[str] | None
    ) -> "SearchResult": ...

    def document(self, document_id: int) -> Document: ...

    @property
    def refusal_threshold(self) -> float | None:
        """Confidence below which questions to it are refused; None where nobody has set one."""
        ...

    @property
    def meaning_scale(self) -> MeaningScale | None:
        """What its cosines are worth; None where it has none."""
        ...


@dataclass(frozen=True, slots=True)
class AnswerSettings:
    """How much is shown to the model and when an answer is refused."""

    context_tokens: int = 1500
    """Tokens of passages in the prompt, counted by the answering model."""
    most_passages: int | None = None
    """Passages shown at most; None is as many as have room, and to an adapter that answers `TRAINED_PASSAGES`."""
    shown_relevance: float = 0.0
    """Probability of relevance, by a calibrated reranker, from which a passage is shown; the best always is."""
    shown_share: float = 0.0
    """Share of the best passage's score from which one is shown where no reranker has scored."""
    near_copy: float = 0.85
    """Likeness of passages of two documents from which the worse is not shown; 1 shows all."""
    shorten: Shortening = "never"
    """Whether passages are shown by their best sentences: "to-fit" where they have no room whole, or "always"."""
    shorten_to: float = 0.5
    """With "always": the share of their tokens that is shown."""
    history_messages: int = 6
    """Earlier messages shown at most, the newest ones …"""
    history_tokens: int = 300
    """… as long as they fit into this, counted by the answering model …"""
    history_characters: int = 600
    """… each cut to so many characters."""
    least_confidence: float | None = None
    """Estimated probability that the documents hold an answer, below which the question is refused. None is the
    collection's own threshold, or the general one where it has none (retrieval/answerability.py)."""
    quote_from: float = 1.0
    """The same estimate, from which quotations stand in where the model says that the passages hold no answer."""
    least_support: float = 0.5
    """Share of what the model claims that the passages must bear out; below it, quotations replace its text."""
    support: str = "lexical"
    """What tells whether they do: "lexical" (shared words), "encoder" (a trained one), "llm" (the engine), a folder."""
    mode: Literal["auto", "generate", "quote"] = "auto"
    """Whether a model writes where a question does not say: "auto" lets every model write but the one that comes with
    Fathom as it came, which quotes better than it writes (docs/results.md). `app.build.writes` decides."""
    answerer: bool = False
    """Whether the engine's adapter for answering writes, where it has one, rather than the model itself."""
    quotes: int = QUOTES
    """Sentences of an answer in quote mode."""
    quote_by: str = PACKAGED
    """What chooses them beside words and meaning: "packaged" (an encoder that reads question and sentence together;
    English), "words" (nothing), or the folder of another."""
    quote_seconds: float = READ_SECONDS
    """Time limit for that encoder; after it words and meaning choose alone."""

    def __post_init__(self) -> None:
        if self.most_passages is not None and self.most_passages < 1:
            raise UsageError(f"most_passages is a number from 1; {self.most_passages} was given")
        for name in ("shown_relevance", "shown_share", "near_copy", "shorten_to", "least_support", "quote_from"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise UsageError(f"{name} is a share from 0 to 1; {getattr(self, name)} was given")
        if self.quotes < 1:
            raise UsageError(f"quotes is a number from 1; {self.quotes} was given")
        if not 0.0 < self.quote_seconds < float("inf"):
            raise UsageError(f"quote_seconds is more than 0; {self.quote_seconds} was given")
        if self.shorten_to < LEAST_SHARE:
            raise UsageError(f"shorten_to is a share from {LEAST_SHARE} to 1; {self.shorten_to} was given")


@dataclass(frozen=True, slots=True)
class Searched:
    """The search is done. Hit i has number i + 1, and the answer is made from the first `given`; `timings` are
    milliseconds. Where `confidence` is below `threshold` a refusal follows. `standalone` is the question that stands
    alone, and `steps` are what each step of the search did. `texts` is what a model reads of each of these, empty where
    it reads them whole; `set_aside` says why a hit behind them is not shown, by its number."""

    queries: tuple[str, ...]
    hits: tuple[Hit, ...]
    timings: Mapping[str, float]
    given: int = 0
    confidence: float = 1.0
    threshold: float = 0.0
    standalone: str = ""
    steps: tuple[Step, ...] = ()
    texts: tuple[str, ...] = ()
    set_aside: Mapping[int, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Token:
    """A piece of text as the model writes it, citations unchecked."""

    text: str


@dataclass(frozen=True, slots=True)
class Finished:
    """The checked answer; its text replaces what was streamed."""

    answer: Answer


AnswerEvent = Searched | Token | Finished


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
    planner: Planner | None = None,
    reranker: Reranker | None = None,
    finding: FindSettings | None = None,
    checker: SupportChecker | None = None,
    reader: SentenceReader | None = None,
    stop: threading.Event | None = None,
) -> Iterator[AnswerEvent]:
    """Yield Searched, then Tokens, then Finished.

    `mode="quote"` (or no `llm`) answers with sentences of the sources. `history` are earlier messages, oldest first,
    as Message or {"role", "content"}. `embedder` lets quotes, and the sentences of a shortened passage, be chosen by
    meaning as well, and `reader` quotes by reading them. `planner`, `reranker` and `finding` are those of
    `retrieval.finding.find`. `checker` tells whether passages bear out what was written; without it, shared words do.
    Setting `stop`, or closing the iterator, ends generation at once; with `stop` what was written so far is checked
    and finished.
    Raises UsageError for an empty question, and what the search and the engine raise.
    """
    settings, clock = settings or AnswerSettings(), Clock()
    if not question.strip():
        raise UsageError("the question is empty; write what you want to know")
    language = language_of(question)
    documents = _Documents(collection)
    writer = _Writer(llm, settings, language) if mode == "generate" and llm is not None else None
    earlier = messages_of(history, settings)
    found = find(
        question,
        earlier,
        collection=collection,
        k=k,
        mode=search_mode,
        filters=filters,
        owners=owners,
        planner=planner,
        reranker=reranker,
        settings=finding,
        stop=stop,
    )
    clock.add(found.timings)
    clock.lap("search", without=("rewrite", "expand", "rerank"))
    if writer:
        calibrated = bool(getattr(reranker, "calibrated", False))
        packed = writer.packed(question, found.standalone, earlier, found.hits, documents, embedder, calibrated)
    else:
        packed = pack(found.hits, documents.get)
    clock.lap("pack")
    sure = max(
        confidence(query, pack(hits, documents.get).hits, collection.meaning_scale) for query, hits in found.evidence
    )
    least = threshold(collection, settings)
    clock.lap("confidence")
    yield Searched(
        found.queries,
        packed.hits,
        dict(clock.times),
        packed.given,
        sure,
        least,
        found.standalone,
        found.steps,
        packed.texts,
        packed.set_aside,
    )
    clock.lap("outside")  # what the reader of the stream took between two events is not ours
    finish = _Finish(question, language, found, packed.hits, sure, least, embedder, reader, documents, settings, clock)
    if sure < least:
        yield finish.refused("none")
    elif writer is None:
        yield from finish.quoted("quote")
    else:
        yield from _written(writer, packed, finish, checker, stop)


def threshold(collection: Searchable, settings: AnswerSettings) -> float:
    """The confidence below which a question to this collection is refused."""
    for least in (settings.least_confidence, collection.refusal_threshold):
        if least is not None:
            return least
    return THRESHOLD


def _written(
    writer: "_Writer",
    packed: Packed,
    finish: "_Finish",
    checker: SupportChecker | None,
    stop: threading.Event | None,
) -> Iterator[AnswerEvent]:
    """What the model writes, then the same checked; quotations or a refusal where nothing of it holds."""
    clock = finish.clock
    text, stopped = "", False
    raw: dict[str, Any] = {}
    stream = generate(writer.llm, writer.messages(packed), stop)
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
    model = writer.llm.metadata.model_name
    text = tidy(text, cut=raw.get("finish_reason") in ("length", "repetition"))
    # An adapter that has learnt to answer in the passages' own words may answer in the question's: "Islam [1]".
    checked = check_citations(
        text,
        packed.shown,
        finish.documents.get,
        question=writer.question,
        echoes=not writer.trained,
        checker=None if stopped else checker,  # whoever stopped waits for no model
    )
    clock.lap("check")
    if not stopped and only_says_no_answer(text):
        # Before its words are looked for: passages that speak of passages and answers would bear it out.
        yield from finish.declined(model, draft=text)
    elif stopped or (checked.citations and checked.support >= finish.settings.least_support):
        marked = flags(checked.text, packed.shown, " ".join([*finish.found.queries, *(m.text for m in writer.earlier)]))
        clock.lap("flag")
        yield finish.answered(checked.text, model, citations=checked.citations, flags=marked, checker=checked.checker)
    elif says_no_answer(text):
        yield from finish.declined(model, draft=text)
    else:
        # Nothing of what the model wrote stands in the passages: better the passages' own words.
        yield from finish.quoted(f"{model}+quote", draft=text)


class _Writer:
    """A language model and the prompt for it, within its window."""

    def __init__(self, llm: "LLM", settings: AnswerSettings, language: Language) -> None:
        self.trained = settings.answerer and has_role(llm, ANSWERER)
        self.llm: LLM = in_role(llm, ANSWERER) if self.trained else llm
        self.settings = settings
        self.language = language
        self.earlier: list[Message] = []
        self.question = ""

    def packed(
        self,
        question: str,
        standalone: str,
        earlier: Sequence[Message],
        found: Sequence[Hit],
        documents: "_Documents",
        embedder: "Embedder | None",
        calibrated: bool,
    ) -> Packed:
        """Passages for the prompt: what the window leaves beside the answer, the question and the conversation."""
        metadata = self.llm.metadata
        # An answer as long as the window would leave no room for a question; the engine cuts it in any case.
        window = (
            metadata.context_window - min(max(metadata.num_output, 64), metadata.context_window // 2) - MARGIN_TOKENS
        )
        # The adapter has learnt from questions that stand alone, with no conversation before them.
        self.question = self._cut(standalone if self.trained else question, window // 4)
        earlier = () if self.trained else earlier
        self.earlier = self._recent(earlier, min(self.settings.history_tokens, window // 4))
        bare = answer_messages(self.question, (), self.earlier, language=self.language)
        used = sum(self.count(message.text) + MESSAGE_TOKENS for message in bare)
        room = max(1, min(self.settings.context_tokens, window - used))
        ours = self.settings
        selected = select(
            found,
            most=ours.most_passages or (TRAINED_PASSAGES if self.trained else None),
            least_relevance=ours.shown_relevance,
            least_share=ours.shown_share,
            near_copy=ours.near_copy,
            calibrated=calibrated,
        )

        def shortened(hits: Sequence[Hit], tokens: int) -> list[str]:
            return shorten(self.question, hits, room=tokens, count=self.count, embedder=embedder)

        return pack(
            selected.hits,
            documents.get,
            room=room,
            count=self.count,
            shorten=shortened if ours.shorten != "never" else None,
            share=ours.shorten_to if ours.shorten == "always" else 1.0,
            aside=selected.set_aside,
        )

    def messages(self, packed: Packed) -> list[Message]:
        return answer_messages(self.question, packed.shown, self.earlier, language=self.language, texts=packed.texts)

    def count(self, text: str) -> int:
        """Tokens of a text, by the model where it can tell."""
        count = getattr(self.llm, "count_tokens", None)
        if count is not None:
            return int(count(text))
        plain = sum(character.isascii() for character in text)
        return plain // 4 + (len(text) - plain) + 1  # about right for English; on the safe side for Chinese

    def _cut(self, question: str, room: int) -> str:
        """A question longer than its share of the window, without its middle: what is asked stands at an end."""
        size = self.count(question)
        while size > room and len(question) > 40:
            kept = min(len(question) - 10, int(len(question) * room / size))
            question = f"{question[: kept // 2].rstrip()} … {question[len(question) - kept // 2 :].lstrip()}"
            size = self.count(question)
        return question

    def _recent(self, earlier: Sequence[Message], room: int) -> list[Message]:
        """The newest messages that fit."""
        kept: list[Message] = []
        for message in reversed(earlier):
            room -= self.count(message.text) + MESSAGE_TOKENS
            if room < 0:
                break
            kept.append(message)
        return kept[::-1]


@dataclass(frozen=True, slots=True)
class _Finish:
    """How an answer can end, with all that is the same whichever way it does."""

    question: str
    language: Language
    found: Found
    hits: tuple[Hit, ...]
    confidence: float
    threshold: float
    embedder: "Embedder | None"
    reader: SentenceReader | None
    documents: "_Documents"
    settings: AnswerSettings
    clock: "Clock"

    def refused(self, model: str, *, draft: str = "") -> Finished:
        return self.answered(REFUSALS[self.language], model, refused=True, draft=draft)

    def declined(self, model: str, *, draft: str) -> Iterator[AnswerEvent]:
        """A model says that there is no answer; where the search is surer, the sources speak for themselves."""
        if self.confidence >= self.settings.quote_from:
            yield from self.quoted(f"{model}+quote", draft=draft)
        else:
            yield self.refused(model, draft=draft)

    def quoted(self, model: str, *, draft: str = "") -> Iterator[AnswerEvent]:
        """The sources' own sentences; a refusal where none fits."""
        text, citations = quoted_answer(
            self.found.standalone,
            self.hits,
            embedder=self.embedder,
            reader=self.reader,
            seconds=self.settings.quote_seconds,
            document=self.documents.get,
            limit=self.settings.quotes,
            sure=True,  # whether to refuse has been decided
        )
        self.clock.lap("quote")
        if not citations:
            yield self.refused(model, draft=draft)
            return
        if model == "quote":
            yield Token(text)
        yield self.answered(text, model, citations=citations, draft=draft)

    def answered(self, text: str, model: str, *, refused: bool = False, **more: Any) -> Finished:
        asked = model not in ("none", "quote")
        answer = Answer(
            text,
            refused,
            more.pop("citations", ()),
            self.found.queries,
            self.hits,
            model,
            self.clock.done(),
            confidence=round(self.confidence, 4),
            threshold=self.threshold,
            prompt_version=PROMPT_VERSION if asked else "",
            standalone=self.found.standalone,
            steps=self.found.steps,
            **more,
        )
        return Finished(answer)


def messages_of(history: Sequence[Message | Mapping[str, str]], settings: AnswerSettings) -> list[Message]:
    """The last messages, each cut; anything that is not a user's or an assistant's is refused."""
    messages = []
    for item in history:
        message = item if isinstance(item, Message) else Message(item["role"], item["content"])  # type: ignore[arg-type]
        if message.role not in ("user", "assistant"):
            raise UsageError(f"the history has a message of role '{message.role}'; roles are user and assistant")
        messages.append(Message(message.role, message.text[: settings.history_characters]))
    return messages[-settings.history_messages :] if settings.history_messages else []


class _Documents:
    """Stored documents by id, a few kept, to check quotes against."""

    def __init__(self, collection: Searchable) -> None:
        self._read = lru_cache(maxsize=16)(collection.document)

    def get(self, document_id: int) -> Document | None:
        """None where the document is gone: it has no text any more, so no quote stands in it."""
        try:
            return self._read(document_id)
        except MissingError:
            return None
