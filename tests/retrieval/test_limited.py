"""Calls that hang cost their limit and one thread, and what they raise is told."""

import threading
import time

import pytest

from retrieval.limited import NotDone, Stop, limited


def test_a_result_in_time_is_the_result() -> None:
    assert limited("part", lambda stop: 7, 5.0) == 7


def test_what_a_call_raises_is_the_cause() -> None:
    def fails(stop: Stop) -> None:
        raise ValueError("broken")

    with pytest.raises(NotDone) as caught:
        limited("part", fails, 5.0)
    assert caught.value.why == "failed" and isinstance(caught.value.error, ValueError)


def test_a_call_that_runs_over_is_left_told_to_stop_and_asked_again_only_when_it_has_ended() -> None:
    part, ended = object(), threading.Event()

    def until_told(stop: Stop) -> None:
        while not stop.is_set():
            time.sleep(0.005)
        ended.wait(10)

    with pytest.raises(NotDone, match="too_slow"):
        limited(part, until_told, 0.02)
    with pytest.raises(NotDone, match="busy"):
        limited(part, lambda stop: 1, 5.0)
    assert limited(object(), lambda stop: 1, 5.0) == 1  # another part is free
    ended.set()
    deadline = time.monotonic() + 10
    while True:
        try:
            assert limited(part, lambda stop: 1, 5.0) == 1
            return
        except NotDone:
            assert time.monotonic() < deadline
            time.sleep(0.01)


def test_whoever_stops_waits_no_longer() -> None:
    stop, free = threading.Event(), threading.Event()
    threading.Timer(0.02, stop.set).start()
    with pytest.raises(NotDone, match="stopped"):
        limited(object(), lambda flag: free.wait(30), 30.0, stop=stop)
    free.set()
