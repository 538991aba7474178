"""A blocking stream on a pool's thread, handed over by calls: order, errors, one end, and stopping from every side."""

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

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


class Heard:
    """Collects what a run hands over."""

    def __init__(self, at: int | None = None, then: Callable[[], None] | None = None) -> None:
        self.items: list[Any] = []
        self.ends: list[BaseException | None] = []
        self.over = threading.Event()
        self.at, self.then = at, then

    def take(self, item: Any) -> None:
        self.items.append(item)
        if item == self.at and self.then is not None:
            self.then()

    def end(self, error: BaseException | None) -> None:
        self.ends.append(error)
        self.over.set()


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(1) as made:
        yield made


def begin(source: Any, pool: ThreadPoolExecutor, grace: float = 0.05) -> tuple[Run[Any], Heard]:
    heard = Heard()
    run = Run[Any](source, take=heard.take, end=heard.end, grace=grace)
    run.begin(pool)
    return run, heard


def test_items_come_in_order_and_end_once(pool: ThreadPoolExecutor) -> None:
    run, heard = begin(lambda stop: iter(range(500)), pool)
    assert run.wait(5) and heard.items == list(range(500)) and heard.ends == [None] and not run.stopped


def test_an_error_of_the_source_comes_after_its_items(pool: ThreadPoolExecutor) -> None:
    def source(stop: threading.Event) -> Iterator[int]:
        yield 1
        raise ValueError("the engine broke")

    run, heard = begin(source, pool)
    assert run.wait(5) and heard.items == [1] and str(heard.ends[0]) == "the engine broke" and len(heard.ends) == 1


def test_an_error_of_the_taker_ends_the_run_and_closes_the_source(pool: ThreadPoolExecutor) -> None:
    source, ends = Endless(), []

    def take(item: int) -> None:
        if item == 2:
            raise OSError("cannot be saved")

    run = Run[int](source, take=take, end=ends.append)
    run.begin(pool)
    assert run.wait(5) and source.closed.is_set() and str(ends[0]) == "cannot be saved"


def test_stop_closes_the_source_and_nothing_comes_after_the_end(pool: ThreadPoolExecutor) -> None:
    source = Endless()
    run, heard = begin(source, pool)
    while len(heard.items) < 3:
        time.sleep(0.005)
    run.stop()
    assert heard.over.wait(5)
    count = len(heard.items)
    assert run.wait(5) and source.closed.is_set() and source.seen_flag
    run.stop()
    time.sleep(0.05)
    assert len(heard.items) == count and heard.ends == [None] and run.stopped


def test_stop_does_not_wait_for_a_blocked_source(pool: ThreadPoolExecutor) -> None:
    gate = threading.Event()

    def source(stop: threading.Event) -> Iterator[int]:
        gate.wait(10)  # a model reading its prompt
        yield 1

    run, heard = begin(source, pool)
    time.sleep(0.05)
    run.stop()
    assert heard.over.wait(5) and not run.wait(0)
    gate.set()
    assert run.wait(5) and heard.items == [] and heard.ends == [None]


def test_a_run_stopped_before_it_got_a_thread_never_starts(pool: ThreadPoolExecutor) -> None:
    gate, started = threading.Event(), threading.Event()
    pool.submit(gate.wait, 10)

    def source(stop: threading.Event) -> Iterator[int]:
        started.set()
        yield 1

    run, heard = begin(source, pool, grace=60)
    run.stop()
    assert heard.over.wait(5), "nothing speaks that a grace is for"
    gate.set()
    assert run.wait(5) and not started.is_set() and heard.ends == [None]


def test_a_source_that_watches_the_flag_may_finish_its_sentence(pool: ThreadPoolExecutor) -> None:
    def source(stop: threading.Event) -> Iterator[str]:
        while not stop.is_set():
            yield "word"
            time.sleep(0.005)
        yield "checked"

    run, heard = begin(source, pool, grace=10)
    time.sleep(0.05)
    run.stop()
    assert run.wait(5) and heard.items[-1] == "checked"
