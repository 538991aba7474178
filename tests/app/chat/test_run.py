"""A blocking stream on a pool's thread, read asynchronously: order, errors, and stopping from every side."""

import asyncio
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from app.chat.run import Run


class Endless:
    """Counts upward slowly until it is closed; remembers how it ended."""

    def __init__(self) -> None:
        self.closed = threading.Event()
        self.seen_flag = False

    def __call__(self, stop: threading.Event) -> Iterator[int]:
        n = 0
        try:
            while True:
                yield n
                n += 1
                time.sleep(0.005)
        finally:
            self.seen_flag = stop.is_set()
            self.closed.set()


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(1) as made:
        yield made


def test_items_come_in_order_and_end(pool: ThreadPoolExecutor) -> None:
    async def read() -> tuple[list[int], bool]:
        run = Run(lambda stop: iter(range(500)), pool)
        return [item async for item in run.events()], run.stopped

    assert asyncio.run(read()) == (list(range(500)), False)


def test_an_error_of_the_source_reaches_the_reader_after_its_items(pool: ThreadPoolExecutor) -> None:
    def source(stop: threading.Event) -> Iterator[int]:
        yield 1
        raise ValueError("the engine broke")

    async def read() -> list[int]:
        seen = []
        with pytest.raises(ValueError, match="the engine broke"):
            async for item in Run(source, pool).events():
                seen.append(item)
        return seen

    assert asyncio.run(read()) == [1]


def test_stop_ends_the_reader_and_closes_the_source(pool: ThreadPoolExecutor) -> None:
    source = Endless()

    async def read() -> int:
        run = Run(source, pool, grace=0.05)
        async for item in run.events():
            if item == 3:
                threading.Thread(target=run.stop).start()
        assert run.stopped and await asyncio.to_thread(run.wait, 5)
        return item

    assert asyncio.run(read()) >= 3
    assert source.closed.is_set() and source.seen_flag


def test_a_reader_that_goes_away_stops_the_source(pool: ThreadPoolExecutor) -> None:
    source = Endless()

    async def read() -> None:
        run = Run(source, pool)
        events = run.events()
        assert await anext(events) == 0
        await events.aclose()  # type: ignore[attr-defined]
        assert await asyncio.to_thread(run.wait, 5)

    asyncio.run(read())
    assert source.closed.is_set()


def test_stop_does_not_wait_for_a_blocked_source(pool: ThreadPoolExecutor) -> None:
    gate = threading.Event()

    def source(stop: threading.Event) -> Iterator[int]:
        gate.wait(10)  # a model reading its prompt
        yield 1

    async def read() -> bool:
        run = Run(source, pool, grace=0.05)
        asyncio.get_running_loop().call_later(0.05, run.stop)
        seen = [item async for item in run.events()]
        blocked = not run.wait(0)
        gate.set()
        return seen == [] and blocked and await asyncio.to_thread(run.wait, 5)

    assert asyncio.run(read())


def test_a_run_stopped_before_it_got_a_thread_never_starts(pool: ThreadPoolExecutor) -> None:
    gate, started = threading.Event(), threading.Event()
    pool.submit(gate.wait, 10)

    def source(stop: threading.Event) -> Iterator[int]:
        started.set()
        yield 1

    async def read() -> list[int]:
        run = Run(source, pool, grace=0.05)
        asyncio.get_running_loop().call_later(0.02, run.stop)
        seen = [item async for item in run.events()]
        gate.set()
        assert await asyncio.to_thread(run.wait, 5)
        return seen

    assert asyncio.run(read()) == [] and not started.is_set()


def test_a_source_that_watches_the_flag_may_finish_its_sentence(pool: ThreadPoolExecutor) -> None:
    def source(stop: threading.Event) -> Iterator[str]:
        while not stop.is_set():
            yield "word"
            time.sleep(0.005)
        yield "checked"

    async def read() -> list[str]:
        run = Run(source, pool, grace=10)
        asyncio.get_running_loop().call_later(0.05, run.stop)
        return [item async for item in run.events()]

    assert asyncio.run(read())[-1] == "checked"
