"""One answer in the making: a blocking stream on a pool's thread → an asynchronous stream that can be stopped.

It knows neither Gradio nor what the events mean.
"""

import asyncio
import contextlib
import logging
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Generic, TypeVar

T = TypeVar("T")
_log = logging.getLogger(__name__)

GRACE_SECONDS = 1.0
"""How long a stopped source may still speak: an engine that watches the flag ends well and its text gets checked."""


class _Wake:
    """Put into the queue to wake a reader that waits, when the run is stopped."""


@dataclass(frozen=True)
class _End:
    """The source is done; `error` is what it raised."""

    error: BaseException | None = None


class Run(Generic[T]):
    """Runs `start(stop)` on a thread of `pool` and hands its items over as they come.

    Stopping is cooperative: `stop()` sets the flag that `start` was given, so that an engine may watch it between
    tokens. A source that does not end by itself within the grace is left by the reader and closed at its next item, on
    the thread that runs it (closing a running generator from elsewhere raises ValueError).

    The pool's threads live on between answers because a collection keeps one database connection per thread.
    """

    def __init__(
        self, start: Callable[[threading.Event], Iterator[T]], pool: Executor, *, grace: float = GRACE_SECONDS
    ) -> None:
        self._start = start
        self._pool = pool
        self._grace = grace
        self._stop = threading.Event()
        self._abandoned = threading.Event()
        self._finished = threading.Event()
        self._stopped_at: float | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._queue: asyncio.Queue[T | _Wake | _End] = asyncio.Queue()

    @property
    def stopped(self) -> bool:
        """Whether `stop` was called (the flag that the source sees is also set when the reader is done)."""
        return self._stopped_at is not None

    def wait(self, timeout: float) -> bool:
        """Wait until the source is closed and the thread free; True if that happened within `timeout` seconds."""
        return self._finished.wait(timeout)

    def stop(self) -> None:
        """End the run. May be called from any thread, any number of times."""
        if self._stopped_at is None:
            self._stopped_at = time.monotonic()
        self._stop.set()
        self._hand_over(_Wake())

    def _left(self) -> float | None:
        """Seconds until a stopped run is given up; None while it is not stopped."""
        return None if self._stopped_at is None else max(0.0, self._stopped_at + self._grace - time.monotonic())

    def _hand_over(self, item: T | _Wake | _End) -> None:
        if self._loop is not None:
            # A closed loop means that the server is going down: nobody reads any more.
            with contextlib.suppress(RuntimeError):
                self._loop.call_soon_threadsafe(self._queue.put_nowait, item)

    def _work(self) -> None:
        try:
            if self._stop.is_set():  # stopped while waiting for a thread
                return
            items = self._start(self._stop)
            try:
                for item in items:
                    if self._abandoned.is_set() or self._left() == 0.0:
                        break
                    self._hand_over(item)
            finally:
                close = getattr(items, "close", None)
                if close is not None:
                    close()
            self._hand_over(_End())
        except BaseException as error:  # handed to the reader, who speaks to the person
            if self._abandoned.is_set():
                _log.warning("an answer that nobody waits for ended with an error", exc_info=error)
            self._hand_over(_End(error))
        finally:
            self._finished.set()

    async def events(self) -> AsyncIterator[T]:
        """The items, until the source ends, or until the grace after `stop` is over. Raises what the source raised."""
        self._loop = asyncio.get_running_loop()
        self._pool.submit(self._work)
        try:
            while True:
                try:
                    item = await asyncio.wait_for(self._queue.get(), self._left())
                except TimeoutError:
                    return
                if isinstance(item, _Wake):
                    continue
                if isinstance(item, _End):
                    if item.error is not None:
                        raise item.error
                    return
                yield item
        finally:
            # Also when the reader went away (the browser closed, Gradio cancelled): the engine must not go on.
            self._abandoned.set()
            self._stop.set()
