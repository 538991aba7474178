"""One answer in the making: a blocking stream on a pool's thread → calls that take its items, until it ends or is
stopped. It knows nothing of what the items mean, and no event loop.
"""

import logging
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Executor
from typing import Generic, TypeVar

T = TypeVar("T")
_log = logging.getLogger(__name__)

GRACE_SECONDS = 1.0
"""How long a stopped source may still speak: an engine that watches the flag ends well and its text gets checked."""


class Run(Generic[T]):
    """Runs `start(stop)` on a thread of `pool`; `take` gets each item, then `end` comes once, with an error or None.

    Stopping is cooperative: `stop()` sets the flag that `start` was given, so that an engine may watch it between
    tokens. Where the source does not end within the grace, `end` comes all the same, later items are dropped, and the
    source is closed at its next item, on the thread that runs it (closing a running generator from elsewhere raises
    ValueError). An error raised by `take` ends the run like one of the source.

    The pool's threads live on between answers because a collection keeps one database connection per thread.
    """

    def __init__(
        self,
        start: Callable[[threading.Event], Iterator[T]],
        *,
        take: Callable[[T], None],
        end: Callable[[BaseException | None], None],
        grace: float = GRACE_SECONDS,
    ) -> None:
        self._start = start
        self._take = take
        self._end = end
        self._grace = grace
        self._stop = threading.Event()
        self._guard = threading.Lock()
        self._running = False
        self._ended = False
        self._free = threading.Event()
        self._timer: threading.Timer | None = None

    @property
    def stopped(self) -> bool:
        """Whether `stop` was called."""
        return self._stop.is_set()

    def begin(self, pool: Executor) -> None:
        """Wait for a thread of `pool` and run on it."""
        pool.submit(self._work)

    def wait(self, timeout: float) -> bool:
        """Wait until the source is closed and the thread free; True if that happened within `timeout` seconds."""
        return self._free.wait(timeout)

    def stop(self, grace: float | None = None) -> None:
        """End the run, with another grace than its own where one is given. May be called from any thread, again too."""
        if self._stop.is_set():
            return
        self._stop.set()
        grace = self._grace if grace is None else grace
        timer = threading.Timer(grace if self._running else 0.0, self._finish)
        timer.daemon = True
        self._timer = timer
        timer.start()

    def _give(self, item: T) -> bool:
        with self._guard:
            if not self._ended:
                self._take(item)
            return not self._ended

    def _finish(self, error: BaseException | None = None) -> None:
        with self._guard:
            if self._ended:
                if error is not None:
                    _log.warning("an answer that was given up ended with an error", exc_info=error)
                return
            self._ended = True
            self._end(error)
        if self._timer is not None:
            self._timer.cancel()

    def _work(self) -> None:
        self._running = True
        try:
            if not self._stop.is_set():  # else stopped while waiting for a thread
                items = self._start(self._stop)
                try:
                    for item in items:
                        if not self._give(item):
                            break
                finally:
                    close = getattr(items, "close", None)
                    if close is not None:
                        close()
            self._finish()
        except BaseException as error:  # handed to `end`, which speaks to the person
            self._finish(error)
        finally:
            self._free.set()
