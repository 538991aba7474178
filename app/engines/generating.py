"""Token ids in → text pieces out, one generation at a time, with stop and time limits. It knows nothing of chats, and
of the runtime that computes the tokens only that it is a `Writer`.

A writer blocks (and should release the interpreter lock while it computes), so it runs on a thread of its own and hands
its tokens over in a queue.
"""

import atexit
import queue
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol

from retrieval.errors import BusyError, FathomError

if TYPE_CHECKING:
    import numpy as np


class Stoppable(Protocol):
    """A threading.Event, or whatever else can say that enough is enough."""

    def is_set(self) -> bool: ...


POLL_SECONDS = 0.05
"""How often a waiting consumer looks at its stop flag and its limits."""

FinishReason = Literal["stop", "length", "stopped", "repetition"]


@dataclass(frozen=True, slots=True)
class TimeLimits:
    """Seconds. `queue`: waiting for one's turn; `first_token`: reading the prompt; `total`: from the turn on."""

    queue: float = 120.0
    first_token: float = 60.0
    total: float = 300.0


@dataclass(frozen=True, slots=True)
class Piece:
    """A piece of text, never half a character. The last one has `finish` and `stats`.

    `finish`: "stop" (the model ended), "length" (its token budget did), "stopped" (somebody stopped it), "repetition"
    (it ran in circles). `stats`: prompt_tokens, completion_tokens, total_tokens, seconds and tokens_per_second.
    """

    text: str
    finish: FinishReason | None = None
    stats: dict[str, float] | None = None


@dataclass(frozen=True, slots=True)
class Sampling:
    """How tokens are chosen. `temperature` 0 is greedy, and `top_p` and `seed` then have no say; `stop` are texts that
    end the answer."""

    temperature: float = 0.0
    top_p: float = 0.95
    seed: int = 0
    repetition_penalty: float = 1.05
    """1 is none."""
    stop: tuple[str, ...] = ()


class TextStream(Protocol):
    """Token ids in, the text that is complete so far out."""

    def feed(self, ids: list[int]) -> str: ...

    def end(self) -> str: ...


class Writer(Protocol):
    """A runtime with a model in it."""

    def write(
        self,
        ids: "np.ndarray",
        *,
        max_new_tokens: int,
        sampling: Sampling,
        role: str | None,
        emit: Callable[[list[int]], None],
        cancelled: Callable[[], bool],
    ) -> None:
        """Call `emit` with each token, until the model ends, the budget is spent, or `cancelled` says so. `ids` is
        int64 of shape (1, tokens); `role` is the adapter to write under, None the model as it comes."""
        ...

    def stream(self) -> TextStream:
        """A fresh decoder for one answer."""
        ...


class Turnstile:
    """Lets one through at a time, in the order of arrival. `threading.Lock` promises no order."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._line: deque[object] = deque()

    def enter(self, seconds: float, stop: Stoppable | None = None) -> bool:
        """Wait for the turn; False if stopped meanwhile. Raises BusyError after `seconds`. Pair with `leave`."""
        ticket = object()
        deadline = time.monotonic() + seconds
        with self._changed:
            self._line.append(ticket)
            try:
                while self._line[0] is not ticket:
                    if stop is not None and stop.is_set():
                        self._line.remove(ticket)
                        self._changed.notify_all()
                        return False
                    if time.monotonic() >= deadline:
                        raise BusyError(
                            f"the language model is busy: after {seconds:.0f} s there are still {len(self._line) - 1} "
                            "requests in line; try again in a moment"
                        )
                    self._changed.wait(POLL_SECONDS)
            except BaseException:
                self._line.remove(ticket)
                self._changed.notify_all()
                raise
        return True

    def leave(self) -> None:
        """Let the next one through."""
        with self._changed:
            self._line.popleft()
            self._changed.notify_all()


class _Job:
    """One running generation: its thread writes, its consumer reads. `cancelled` may be set from either side."""

    def __init__(self) -> None:
        self.cancelled = threading.Event()
        self.items: queue.SimpleQueue[list[int] | BaseException | None] = queue.SimpleQueue()
        self.thread: threading.Thread | None = None


class Generator:
    """Runs one writer for many callers."""

    def __init__(self, writer: Writer) -> None:
        self._writer = writer
        self._turnstile = Turnstile()
        self._running: _Job | None = None
        # A thread still inside OpenVINO when the interpreter goes down aborts the process.
        atexit.register(_at_exit, weakref.ref(self))

    @contextmanager
    def turn(self, limits: TimeLimits) -> Iterator[None]:
        """The model for something else than writing, when one's turn has come. Raises BusyError."""
        self._turnstile.enter(limits.queue)
        try:
            yield
        finally:
            self._turnstile.leave()

    def generate(
        self,
        ids: "np.ndarray",
        *,
        max_new_tokens: int,
        sampling: Sampling,
        limits: TimeLimits,
        role: str | None = None,
        stop: Stoppable | None = None,
    ) -> Iterator[Piece]:
        """Yield pieces; the last carries `finish` and `stats`. `ids` is an int64 array of shape (1, tokens).

        Closing the iterator or setting `stop` ends it within POLL_SECONDS; the model itself stops at its next token
        (OpenVINO at the first one, if it is still reading the prompt). Raises BusyError, and FathomError on a time
        limit.
        """
        if not self._turnstile.enter(limits.queue, stop):
            yield Piece("", "stopped", _stats(ids.shape[1], 0, None, 0.0))
            return
        job = _Job()
        try:
            job.thread = threading.Thread(
                target=self._work, args=(job, ids, max_new_tokens, sampling, role), name="generation", daemon=True
            )
            self._running = job
            job.thread.start()
        except BaseException:
            self._turnstile.leave()
            raise
        try:
            yield from self._follow(job, ids.shape[1], max_new_tokens, limits, stop)
        finally:
            job.cancelled.set()

    def _work(self, job: _Job, ids: "np.ndarray", max_new_tokens: int, sampling: Sampling, role: str | None) -> None:
        """Runs on the job's thread; always leaves the turnstile."""
        try:
            if not job.cancelled.is_set():
                self._writer.write(
                    ids,
                    max_new_tokens=max_new_tokens,
                    sampling=sampling,
                    role=role,
                    emit=job.items.put,
                    cancelled=job.cancelled.is_set,
                )
            job.items.put(None)
        except BaseException as error:
            job.items.put(error)
        finally:
            self._running = None
            self._turnstile.leave()

    def _follow(
        self, job: _Job, prompt: int, budget: int, limits: TimeLimits, stop: Stoppable | None
    ) -> Iterator[Piece]:
        began = time.monotonic()
        first: float | None = None
        count = 0
        text = self._writer.stream()
        written: list[int] = []
        while True:
            if stop is not None and stop.is_set():
                job.cancelled.set()
                yield Piece(text.end(), "stopped", _stats(prompt, count, first, time.monotonic() - began))
                return
            try:
                item = job.items.get(timeout=POLL_SECONDS)
            except queue.Empty:
                _check(limits, time.monotonic() - began, first is None)
                continue
            if isinstance(item, BaseException):
                raise FathomError(
                    f"the language model failed while writing: {str(item).strip().splitlines()[-1][:300]}"
                    if str(item).strip()
                    else f"the language model failed while writing ({type(item).__name__})"
                ) from item
            if item is None:
                finish: FinishReason = "length" if count >= budget else "stop"
                yield Piece(text.end(), finish, _stats(prompt, count, first, time.monotonic() - began))
                return
            first = first if first is not None else time.monotonic() - began
            count += len(item)
            written += item
            if piece := text.feed(item):
                yield Piece(piece)
            if _in_circles(written):
                job.cancelled.set()
                yield Piece(text.end(), "repetition", _stats(prompt, count, first, time.monotonic() - began))
                return
            _check(limits, time.monotonic() - began, False)

    def close(self, seconds: float = 10.0) -> None:
        """Stop what runs and wait for its thread."""
        job = self._running
        if job is not None and job.thread is not None:
            job.cancelled.set()
            job.thread.join(seconds)


def _in_circles(ids: list[int]) -> bool:
    """Whether the text ends in the same 1 to 30 tokens over and over: at least 4 times and 24 tokens in all. Small
    models under greedy decoding do this until their budget is spent."""
    for period in range(1, 31):
        length = period * max(4, -(-24 // period))
        if length > len(ids):
            continue
        tail = ids[-length:]
        if tail[period:] == tail[:-period]:
            return True
    return False


def _at_exit(generator: "weakref.ref[Generator]") -> None:
    if (alive := generator()) is not None:
        alive.close()


def _check(limits: TimeLimits, seconds: float, waiting: bool) -> None:
    if waiting and seconds > limits.first_token:
        raise FathomError(
            f"the language model wrote nothing for {seconds:.0f} s (limit {limits.first_token:.0f} s); "
            "ask with fewer passages, or raise the limit"
        )
    if seconds > limits.total:
        raise FathomError(
            f"the language model was still writing after {seconds:.0f} s (limit {limits.total:.0f} s); "
            "ask for a shorter answer, or raise the limit"
        )


def _stats(prompt: int, count: int, first: float | None, seconds: float) -> dict[str, float]:
    """Seconds to the first token and in all; `tokens_per_second` counts writing only, without reading the prompt."""
    stats: dict[str, float] = {
        "prompt_tokens": prompt,
        "completion_tokens": count,
        "total_tokens": prompt + count,
        "total_seconds": round(seconds, 4),
    }
    if first is not None:
        stats["first_token_seconds"] = round(first, 4)
        if count > 1 and seconds > first:
            stats["tokens_per_second"] = round((count - 1) / (seconds - first), 2)
    return stats
