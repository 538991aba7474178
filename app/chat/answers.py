"""Questions → answers that are written on the server, whoever watches: each turn is saved as it grows, and followed by
any number of tabs. It knows nothing of HTML.
"""

import asyncio
import contextlib
import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Protocol

from app.chat.conversations import Conversations
from app.chat.run import Run
from app.chat.turns import MAX_ANSWER_CHARACTERS, Asked, Mark, Note, State, Turn
from retrieval.answering import AnswerEvent, Finished, Searched, Token
from retrieval.errors import BusyError, FathomError
from retrieval.filters import Filter, parse_filter
from retrieval.passages import Answer
from retrieval.prompts import Message

_log = logging.getLogger(__name__)

HISTORY_TURNS = 6
"""Turns kept for follow-up questions; answering shows the model fewer still."""
MAX_ANSWERS = 64
"""Answers in the making at once; the next ones wait for a thread."""
SAVE_SECONDS = 1.0
"""Longest time that written text is in memory only."""
CLOSING_GRACE_SECONDS = 0.3
CLOSING_SECONDS = 2.0
"""How long answers under way may go on speaking, and take to end, when the server does."""


class Answering(Protocol):
    """Answers `question` over a collection from `k` passages; with `quote`, or while no model is ready, with quotes.

    `history` are the messages before it, `engine` the name of a choice (empty: the default); setting `stop` ends
    generation; `options` are the engine's own for this answer (app/api/decoding.py).
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
        filters: Sequence[Filter] = (),
        engine: str = "",
        options: Mapping[str, float] | None = None,
    ) -> Iterator[AnswerEvent]: ...


class Live:
    """An answer under way. `turn` is replaced by a longer one as it grows; whoever follows waits for that."""

    def __init__(self, turn: Turn) -> None:
        self.turn = turn
        self.waiting = "searching"
        self.run: Run[AnswerEvent] | None = None
        self._version = 0
        self._readers: set[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = set()
        self._guard = threading.Lock()

    @property
    def done(self) -> bool:
        """Whether the answer has ended and is saved."""
        return self.turn.state != "running"

    def grow(self, turn: Turn, waiting: str = "") -> None:
        """Show a longer turn to whoever follows."""
        with self._guard:
            self.turn, self.waiting = turn, waiting
            self._version += 1
        self.nudge()

    def nudge(self) -> None:
        """Wake whoever follows, though there may be nothing new."""
        with self._guard:
            readers = list(self._readers)
        for loop, event in readers:
            with contextlib.suppress(RuntimeError):  # the loop is closed: the server ends, nobody reads any more
                loop.call_soon_threadsafe(event.set)

    async def changed(self, version: int, timeout: float) -> int:
        """Wait for something newer than `version`, a nudge, or `timeout` seconds; the version there is then."""
        reader = (asyncio.get_running_loop(), asyncio.Event())
        with self._guard:
            if self._version != version:
                return self._version
            self._readers.add(reader)
        try:
            await asyncio.wait_for(reader[1].wait(), timeout)
        except TimeoutError:
            return self._version
        finally:
            with self._guard:
                self._readers.discard(reader)
        return self._version


class Answers:
    """All answers under way, at most one a conversation."""

    def __init__(self, answering: Answering, kept: Conversations, ready: Callable[[str], str]) -> None:
        """`ready(engine)` is the state of an engine: a question to one that is not ready is answered with quotes."""
        self._answering = answering
        self._kept = kept
        self._ready = ready
        self._live: dict[str, Live] = {}
        self._guard = threading.Lock()
        self.pool = ThreadPoolExecutor(MAX_ANSWERS, thread_name_prefix="answer")
        self._closing = False

    def live(self, chat: str) -> Live | None:
        """The answer under way in a conversation."""
        return self._live.get(chat)

    @property
    def running(self) -> frozenset[str]:
        """Conversations with an answer under way."""
        return frozenset(self._live)

    def start(self, chat: str, question: str, asked: Asked, replaces: int | None = None) -> Live:
        """Begin to answer; with `replaces` in the place of that turn and those after it. The question is saved then.

        Raises BusyError while another answer of the conversation is being written, UsageError for a bad filter.
        """
        filters = [parse_filter(text) for text in asked.filters]
        with self._guard:
            if self._closing or (chat and chat in self._live):
                raise BusyError("an answer of this conversation is being written; try again when it has ended")
            history = self._history(chat, replaces)
            turn = self._kept.begin(chat, question, asked, replaces)
            live = Live(turn)
            self._live[turn.chat] = live
        state = self._ready(asked.engine)
        quote = asked.quote or state != "ready"
        if quote and not asked.quote:
            word = "quoted_meanwhile" if state in ("loading", "idle") else "quoted_instead"
            live.turn = replace(turn, notes=(Note("note", word),))
        writer = _Writer(live, self._kept, self._finished, lambda: self._closing)
        live.run = Run[AnswerEvent](
            lambda stop: self._answering(
                question,
                collection=asked.collection,
                quote=quote,
                k=asked.k,
                filters=filters,
                engine=asked.engine,
                history=history,
                stop=stop,
            ),
            take=writer.take,
            end=writer.end,
        )
        live.run.begin(self.pool)
        return live

    def _history(self, chat: str, replaces: int | None) -> list[Message]:
        before = [turn for turn in self._kept.turns(chat) if replaces is None or turn.id < replaces] if chat else []
        history = []
        for turn in before[-HISTORY_TURNS:]:
            history += [Message("user", turn.question), Message("assistant", turn.text)]
        return history

    def _finished(self, live: Live) -> None:
        with self._guard:
            if self._live.get(live.turn.chat) is live:
                del self._live[live.turn.chat]

    def stop(self, chat: str) -> None:
        """End the answer under way in a conversation, if there is one."""
        live = self._live.get(chat)
        if live is not None and live.run is not None:
            live.run.stop()

    def close(self) -> None:
        """End every answer, what was written being kept; for the end of the process."""
        with self._guard:
            self._closing = True
            lives = list(self._live.values())
        for live in lives:
            if live.run is not None:
                live.run.stop(CLOSING_GRACE_SECONDS)
        deadline = time.monotonic() + CLOSING_SECONDS
        for live in lives:
            if live.run is not None:
                live.run.wait(max(0.0, deadline - time.monotonic()))
        self.pool.shutdown(wait=False, cancel_futures=True)


class _Writer:
    """Answering events → the growing turn of one Live. Its calls come one at a time (Run sees to that)."""

    def __init__(
        self, live: Live, kept: Conversations, finished: Callable[[Live], None], closing: Callable[[], bool]
    ) -> None:
        self._live = live
        self._kept = kept
        self._finished = finished
        self._closing = closing
        self._began = time.monotonic()
        self._saved = self._began
        self._too_long = False

    def take(self, event: AnswerEvent) -> None:
        now = time.monotonic()
        turn = self._live.turn
        if isinstance(event, Searched):
            turn = replace(
                turn, hits=tuple(event.hits), given=event.given, queries=tuple(event.queries),
                timings=dict(event.timings), steps=tuple(event.steps),
                clock={**turn.clock, "searched": now - self._began},
            )  # fmt: skip
            self._kept.replace(turn)  # only now: a question that cannot even be searched takes nothing away
            self._save(turn)
            self._live.grow(turn, "reading" if event.hits else "writing")
        elif isinstance(event, Token):
            if not turn.text:
                turn = replace(turn, clock={**turn.clock, "first": now - self._began})
            turn = replace(turn, text=(turn.text + event.text)[:MAX_ANSWER_CHARACTERS])
            if now - self._saved >= SAVE_SECONDS:
                self._save(turn)
            self._live.grow(turn)
            if len(turn.text) >= MAX_ANSWER_CHARACTERS and not self._too_long:
                self._too_long = True
                assert self._live.run is not None
                self._live.run.stop()
        elif isinstance(event, Finished):
            turn = _with_answer(turn, event.answer)
            self._live.grow(turn)

    def end(self, error: BaseException | None) -> None:
        turn = self._live.turn
        state, notes = self._how_it_ended(turn, error)
        clock = {**turn.clock, "total": time.monotonic() - self._began}
        turn = replace(turn, state=state, notes=(*turn.notes, *notes), clock=clock)
        try:
            self._save(turn)
        finally:
            self._finished(self._live)
            self._live.grow(turn)

    def _how_it_ended(self, turn: Turn, error: BaseException | None) -> tuple[State, tuple[Note, ...]]:
        if isinstance(error, FathomError):
            return "failed", (Note("error", text=str(error)),)
        if error is not None:
            _log.error("answering failed", exc_info=error)
            return "failed", (Note("error", "unexpected", {"kind": type(error).__name__}),)
        if self._too_long:
            return "stopped", (Note("cut", "too_long", {"n": MAX_ANSWER_CHARACTERS}),)
        assert self._live.run is not None
        if self._live.run.stopped and self._closing():
            return "cut", ()
        if self._live.run.stopped:
            return "stopped", (Note("cut", "stopped" if turn.text else "stopped_before"),)
        return "done", ()

    def _save(self, turn: Turn) -> None:
        self._kept.save(turn)
        self._saved = time.monotonic()


def _with_answer(turn: Turn, answer: Answer) -> Turn:
    """The checked answer: its own text and citations replace what was streamed."""
    supported = {citation.supported for citation in answer.citations}
    notes: tuple[Note, ...] = ()
    if answer.refused:
        notes = (Note("note", "refused"),)
    elif answer.model.endswith("+quote"):
        notes = (Note("note", "quoted_after"),)
    elif "no" in supported:
        notes = (Note("note", "unsupported"),)
    return replace(
        turn,
        # A refusal's own text is for programs; the page says it in the reader's language.
        text="" if answer.refused else answer.text,
        refused=answer.refused,
        checked=True,
        model=answer.model,
        hits=tuple(answer.hits) or turn.hits,
        citations=tuple(answer.citations),
        queries=tuple(answer.queries) or turn.queries,
        timings=dict(answer.timings),
        notes=(*turn.notes, *notes),
        marks=tuple(Mark(flag.start, flag.end, flag.kind) for flag in answer.flags),
        confidence=answer.confidence,
        threshold=answer.threshold,
        prompt_version=answer.prompt_version,
        steps=tuple(answer.steps) or turn.steps,
    )
