"""A thing that is made at its first use."""

import threading

import pytest

from retrieval.late import Late


def test_it_is_made_once_for_all_who_need_it_at_once() -> None:
    made: list[object] = []
    begun = threading.Barrier(8)

    def make() -> object:
        made.append(object())
        return made[-1]

    late = Late(make)
    assert late.loaded is None
    got: list[object] = []

    def ask() -> None:
        begun.wait(10)
        got.append(late.load())

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert len(made) == 1 and got == [made[0]] * 8 and late.loaded is made[0]


def test_what_failed_is_tried_again_by_the_next() -> None:
    tries: list[int] = []

    def make() -> str:
        tries.append(1)
        if len(tries) == 1:
            raise OSError("the disk was busy")
        return "made"

    late = Late(make)
    with pytest.raises(OSError, match="busy"):
        late.load()
    assert late.loaded is None and late.load() == "made" == late.load() and len(tries) == 2
