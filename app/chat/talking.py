"""What the chat page does: a question in, answering events out as messages and sources. It knows nothing of layout.

Every string that reaches the browser goes through render.py; an error becomes a sentence in the chat.
"""

import logging
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import gradio as gr

from app.chat.engine import BackgroundEngine, EngineStatus
from app.chat.render import (
    MAX_ANSWER_CHARACTERS,
    Reply,
    TurnSources,
    checked_numbers,
    numbers_of,
    plain,
    question_html,
    reply_html,
    sources_html,
    status_html,
    teaching_html,
)
from app.chat.run import Run
from app.chat.words import CHINESE, ENGLISH, Words, duration, words_for
from retrieval.answering import AnswerEvent, Finished, Searched, Token
from retrieval.errors import FathomError
from retrieval.passages import Answer
from retrieval.prompts import Message

_log = logging.getLogger(__name__)

MAX_QUESTION_CHARACTERS = 4000
MAX_PASSAGES = 20
HISTORY_MESSAGES = 12
"""Messages kept for follow-up questions; answering shows the model fewer still."""
MAX_ANSWERS = 64
"""Answers in the making at once; the next ones wait for a thread, each in its own tab."""
FRAME_SECONDS = 0.08
"""Shortest time between two updates of a streamed answer: rendering shares the cores with an embedded model."""
TURNS_WITH_SOURCES = 8
"""Questions whose sources stay in the panel."""


class Answering(Protocol):
    """Answers `question` over a collection from `k` passages; with `quote`, or while no model is ready, with quotes.

    `history` are the messages before it; setting `stop` ends generation; `options` are the engine's own for this answer
    (see app.api.decoding).
    """

    def __call__(
        self,
        question: str,
        *,
        collection: str,
        quote: bool,
        k: int,
        history: Sequence[Message],
        stop: threading.Event,
        options: Mapping[str, float] | None = None,
    ) -> Iterator[AnswerEvent]: ...


@dataclass(frozen=True)
class Parts:
    """What the page needs from the rest, as plain calls.

    `answer` yields answering events and may block; `titles(collection)` names a few documents for the examples.
    """

    collections: Callable[[], Sequence[str]]
    titles: Callable[[str], Sequence[str]]
    answer: "Answering"
    engine: BackgroundEngine
    default_k: int


@dataclass
class Conversation:
    """What one browser tab has asked so far: shown messages (HTML), their texts, and the sources of each question."""

    messages: list[dict[str, str]] = field(default_factory=list)
    history: list[Message] = field(default_factory=list)
    turns: list[TurnSources] = field(default_factory=list)
    count: int = 0


class Chat:
    """The page's behaviour, apart from its layout. One instance serves all tabs; `runs` maps a tab to its answer."""

    def __init__(self, parts: Parts) -> None:
        self.parts = parts
        self.runs: dict[str, Run[AnswerEvent]] = {}
        self.pool = ThreadPoolExecutor(MAX_ANSWERS, thread_name_prefix="answer")

    def close(self) -> None:
        """End every answer; for the end of the process."""
        for run in list(self.runs.values()):
            run.stop()
        self.pool.shutdown(wait=False, cancel_futures=True)

    async def ask(
        self, question: str, collection: str | None, mode: str, k: int, talk: Conversation, request: gr.Request
    ) -> AsyncIterator[tuple[Any, Any, Any, Any]]:
        """Answer one question; yields (messages, sources, question box, conversation)."""
        words = _words(request)
        question = plain(question).strip()
        if not question:
            yield gr.skip(), gr.skip(), gr.skip(), gr.skip()
            return
        talk = Conversation(list(talk.messages), list(talk.history), list(talk.turns), talk.count + 1)
        talk.messages.append({"role": "user", "content": question_html(question[:MAX_QUESTION_CHARACTERS])})
        reply = Reply(turn=talk.count, waiting=words.searching)
        idle = gr.update(value="", submit_btn=words.send, stop_btn=False)
        problem = ""
        if len(question) > MAX_QUESTION_CHARACTERS:
            problem = words.question_too_long.format(n=len(question), limit=MAX_QUESTION_CHARACTERS)
        elif not collection:
            problem = words.no_collections
        if problem:
            reply = replace(reply, waiting="", notes=(("error", problem),))
            talk.messages.append(_message(reply, words))
            yield talk.messages, gr.skip(), idle, talk
            return
        assert collection is not None
        busy = gr.update(value="", submit_btn=False, stop_btn=words.stop)
        yield [*talk.messages, _message(reply, words)], gr.skip(), busy, talk

        status = self.parts.engine.status
        quote = mode == "quote" or status.state != "ready"
        if mode != "quote" and quote:
            note = words.quoted_meanwhile if status.state == "loading" else words.quoted_instead
            reply = replace(reply, notes=(("note", note),))
        run = Run[AnswerEvent](
            lambda stop: self.parts.answer(
                question,
                collection=collection,
                quote=quote,
                k=min(max(int(k), 1), MAX_PASSAGES),
                history=talk.history,
                stop=stop,
            ),
            self.pool,
        )
        session = request.session_hash or ""
        self.runs[session] = run
        try:
            async for shown, found in self._follow(run, reply, question, words):
                reply = shown
                sources: Any = gr.skip()
                if found is not None:
                    talk.turns = [turn for turn in talk.turns if turn.turn != found.turn] + [found]
                    talk.turns = talk.turns[-TURNS_WITH_SOURCES:]
                    sources = sources_html(talk.turns, words)
                yield [*talk.messages, _message(reply, words)], sources, gr.skip(), gr.skip()
        finally:
            if self.runs.get(session) is run:
                del self.runs[session]
        talk.messages.append(_message(reply, words))
        talk.history = [*talk.history, Message("user", question), Message("assistant", reply.text)][-HISTORY_MESSAGES:]
        yield talk.messages, gr.skip(), gr.update(submit_btn=words.send, stop_btn=False), talk

    async def _follow(
        self, run: Run[AnswerEvent], reply: Reply, question: str, words: Words
    ) -> AsyncIterator[tuple[Reply, TurnSources | None]]:
        """The reply as it grows, with the sources whenever they change; ends with a reply that is done."""
        began = time.monotonic()
        times: list[str] = []
        found: TurnSources | None = None
        shown = 0.0
        notes = reply.notes
        too_long = False
        try:
            async for event in run.events():
                now = time.monotonic()
                if isinstance(event, Searched):
                    times.append(words.searched.format(time=duration(now - began, words)))
                    found = TurnSources(reply.turn, question, tuple(event.hits))
                    waiting = words.reading if event.hits else words.writing
                    reply = replace(reply, waiting=waiting, cited=numbers_of(event.hits))
                    yield reply, found
                elif isinstance(event, Token):
                    if not reply.text:
                        times.append(words.first_token.format(time=duration(now - began, words)))
                    reply = replace(reply, text=reply.text + event.text, waiting="")
                    if len(reply.text) > MAX_ANSWER_CHARACTERS:
                        too_long = True
                        run.stop()
                        notes += (("cut", words.too_long.format(n=MAX_ANSWER_CHARACTERS)),)
                        break
                    if now - shown >= FRAME_SECONDS:
                        shown = now
                        yield reply, None
                elif isinstance(event, Finished):
                    reply, found, more = _finish(reply, found, event.answer, question, words)
                    notes += more
                    if speed := event.answer.timings.get("tokens_per_second"):
                        times.append(words.speed.format(n=round(speed)))
            if run.stopped and not too_long:
                notes += (("cut", words.stopped if reply.text else words.stopped_before),)
        except FathomError as error:
            notes += (("error", str(error)),)
        except Exception as error:
            _log.exception("answering failed")
            notes += (("error", words.unexpected.format(kind=type(error).__name__)),)
        times.append(words.total.format(time=duration(time.monotonic() - began, words)))
        yield replace(reply, waiting="", notes=notes, timings=tuple(times), done=True), found

    def stop(self, request: gr.Request) -> None:
        """End this tab's answer, if one is being written."""
        run = self.runs.get(request.session_hash or "")
        if run is not None:
            run.stop()

    def clear(self, request: gr.Request) -> tuple[Any, str, Any, Conversation]:
        """A new conversation; an answer under way ends."""
        self.stop(request)
        words = _words(request)
        box = gr.update(value="", submit_btn=words.send, stop_btn=False)
        return [], sources_html([], words), box, Conversation()

    def opened(self, request: gr.Request) -> tuple[Any, Any, str, str, Any]:
        """First words of a page: collections, empty state, sources, status."""
        words = _words(request)
        names = list(self.parts.collections())
        chosen = names[0] if names else None
        status, timer = self.status(request)
        picker = gr.update(choices=names, value=chosen, visible=bool(names))
        return picker, self._empty_state(chosen, words), sources_html([], words), status, timer

    def chosen(self, collection: str | None, request: gr.Request) -> Any:
        """Another collection was picked: its own examples."""
        return self._empty_state(collection, _words(request))

    def _empty_state(self, collection: str | None, words: Words) -> Any:
        if collection is None:
            return gr.update(placeholder=teaching_html((words.no_collections,), words), examples=[])
        try:
            titles = self.parts.titles(collection)
        except FathomError as error:
            return gr.update(placeholder=teaching_html((str(error),), words), examples=[])
        asked = [_example(title) for title in titles]
        examples = [{"text": text, "display_text": text} for text in asked if text]
        return gr.update(placeholder=teaching_html(words.teach, words), examples=examples)

    def status(self, request: gr.Request) -> tuple[str, Any]:
        """The status line, and whether to ask again."""
        status = self.parts.engine.status
        return _status_html(status, _words(request)), gr.update(active=status.state == "loading")


def _finish(
    reply: Reply, found: TurnSources | None, answer: Answer, question: str, words: Words
) -> tuple[Reply, TurnSources, tuple[tuple[str, str], ...]]:
    """The checked answer: its own text and citations replace what was streamed."""
    hits = tuple(answer.hits) or (found.hits if found else ())
    cited = checked_numbers(answer.citations, numbers_of(hits).keys())
    notes: tuple[tuple[str, str], ...] = ()
    if answer.refused:
        notes = (("note", words.refused),)
    elif answer.model.endswith("+quote"):
        notes = (("note", words.quoted_after),)
    elif any(support == "no" for support in cited.values()):
        notes = (("note", words.unsupported),)
    # A refusal's own text is for programs; the page says it in the reader's language.
    text = "" if answer.refused else answer.text
    checked = TurnSources(reply.turn, question, hits, tuple(answer.citations), checked=True)
    return replace(reply, text=text, cited=cited), checked, notes


def _message(reply: Reply, words: Words) -> dict[str, str]:
    return {"role": "assistant", "content": reply_html(reply, words)}


def _words(request: gr.Request) -> Words:
    return words_for(request.headers.get("accept-language", ""))


def _status_html(status: EngineStatus, words: Words) -> str:
    text = {
        "loading": words.engine_loading,
        "ready": words.engine_ready.format(model=status.detail),
        "failed": words.engine_failed.format(reason=status.detail),
    }[status.state]
    return status_html(status.state, text)


def _example(title: str) -> str:
    """A question about one document, in the language of its title."""
    title = " ".join(plain(title, 60).split())
    chinese = any("\u4e00" <= letter <= "\u9fff" for letter in title)
    return (CHINESE if chinese else ENGLISH).about.format(title=title) if title else ""
