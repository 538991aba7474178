"""A run whose items come on a pool's thread → the same items for an event loop, one reader. It knows no answers."""

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Generic, TypeVar

from app.chat.run import Run

T = TypeVar("T")


@dataclass(frozen=True)
class _End:
    error: BaseException | None


class Followed(Generic[T]):
    """`start(stop)` on a thread of `pool` once `events` is read; it is stopped when the reader goes away."""

    def __init__(self, start: Callable[[threading.Event], Iterator[T]], pool: Executor) -> None:
        self._pool = pool
        self._items: asyncio.Queue[T | _End] = asyncio.Queue()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._run = Run[T](start, take=self._put, end=lambda error: self._put(_End(error)))

    def wait(self, timeout: float) -> bool:
        """Whether the thread is free again within `timeout` seconds."""
        return self._run.wait(timeout)

    def _put(self, item: T | _End) -> None:
        # A closed loop means that the server is going down: nobody reads any more.
        with contextlib.suppress(RuntimeError):
            if self._loop is not None:
                self._loop.call_soon_threadsafe(self._items.put_nowait, item)

    async def events(self) -> AsyncIterator[T]:
        """The items until the source ends or is stopped. Raises what the source raised."""
        self._loop = asyncio.get_running_loop()
        self._run.begin(self._pool)
        try:
            while not isinstance(item := await self._items.get(), _End):
                yield item
            if item.error is not None:
                raise item.error
        finally:
            self._run.stop()
