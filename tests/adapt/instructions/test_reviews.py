"""Decisions about examples are on the disk before they count, survive crashes, and two reviewers lose nothing."""

import json
import multiprocessing
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from adapt.instructions.example import (
    Example,
    ExampleFault,
    Message,
    Review,
    messages_id,
    read_examples,
    reviews_beside,
    write_examples,
)
from adapt.instructions.reviews import Overtaken, Reviews
from retrieval.errors import DamagedError, FathomError, ReadingError


def example(number: int, **more: Any) -> Example:
    return Example.of([Message("user", f"q{number}"), Message("assistant", f"a{number}")], **more)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    write_examples(tmp_path / "e.jsonl", [example(n) for n in range(4)])
    return tmp_path / "e.jsonl"


BETTER = (Message("user", "q1"), Message("assistant", "better"))


def test_decisions_are_there_after_a_restart_and_go_into_the_examples(path: Path) -> None:
    reviews = Reviews(path)
    names = reviews.order
    assert reviews.counts() == {"open": 4, "accepted": 0, "edited": 0, "rejected": 0}
    reviews.decide(names[0], "accepted", seen=0)
    reviews.decide(names[1], "edited", seen=0, messages=BETTER, note="  shorter\nnow ")
    reviews.decide(names[2], "rejected", seen=0)
    reviews.decide(names[2], "open", seen=1)
    again = Reviews(path)
    assert again.counts() == {"open": 2, "accepted": 1, "edited": 1, "rejected": 0}
    assert again.messages(names[1]) == BETTER and again.note(names[1]) == "shorter now" and again.version(names[2]) == 2
    found = list(again.reviewed())
    assert [one.review.decision if one.review else None for one in found] == ["accepted", "edited", None, None]
    assert found[1].messages == BETTER and found[1].id == messages_id(BETTER)
    assert found[1].labels == {"edited_from": names[1]} and found[1].review and found[1].review.note == "shorter now"
    assert [one.id for one in again.reviewed(only=("accepted",))] == [names[0]]


def test_a_decision_in_the_file_counts_until_another_is_made(path: Path) -> None:
    write_examples(path, [example(0, review=Review("rejected", "bad"))])
    reviews = Reviews(path)
    (name,) = reviews.order
    assert reviews.state(name) == "rejected" and reviews.note(name) == "bad"
    reviews.decide(name, "open", seen=0)
    assert reviews.state(name) == "open" and [one.review for one in reviews.reviewed()] == [None]


def test_two_reviewers_do_not_lose_each_others_decisions(path: Path) -> None:
    one, two = Reviews(path), Reviews(path)
    names = one.order
    one.decide(names[0], "accepted", seen=0)
    two.decide(names[1], "rejected", seen=0)
    with pytest.raises(Overtaken):
        two.decide(names[0], "rejected", seen=0)
    assert two.state(names[0]) == "accepted"
    two.decide(names[0], "rejected", seen=1)  # having seen it, one may
    one.refresh()
    assert one.counts() == Reviews(path).counts() == {"open": 2, "accepted": 0, "edited": 0, "rejected": 2}


def test_half_a_line_that_a_crash_left_is_cut_off_and_a_damaged_one_is_named(path: Path) -> None:
    reviews = Reviews(path)
    place = reviews_beside(path)
    reviews.decide(reviews.order[0], "accepted", seen=0)
    whole = place.read_bytes()
    for cut in range(1, len(whole)):
        place.write_bytes(whole + whole[:cut])
        again = Reviews(path)
        assert again.counts()["accepted"] == 1 and place.read_bytes() == whole
    place.write_bytes(whole + b'{"id": 3}\n' + whole)
    with pytest.raises(DamagedError, match="before byte"):
        Reviews(path)
    with pytest.raises(DamagedError):
        Reviews.decisions_beside(path)


def _decide_forever(path: Path, told: Any) -> None:
    reviews = Reviews(path)
    while True:
        for name in reviews.order:
            done = reviews.decide(name, "accepted", seen=reviews.version(name))
            told.send((name, done.version))


def test_what_was_told_as_kept_is_there_after_a_kill(path: Path) -> None:
    context = multiprocessing.get_context("fork")
    for _ in range(5):
        mine, theirs = context.Pipe(duplex=False)
        child = context.Process(target=_decide_forever, args=(path, theirs))
        child.start()
        theirs.close()
        told: dict[str, int] = {}
        for _ in range(25):
            name, version = mine.recv()
            told[name] = version
        os.kill(child.pid or 0, signal.SIGKILL)
        child.join()
        again = Reviews(path)
        assert all(again.version(name) >= version for name, version in told.items())


def test_what_cannot_be_decided_changes_nothing(path: Path) -> None:
    reviews = Reviews(path)
    name = reviews.order[0]
    for decision, messages in (
        ("maybe", None), ("edited", None), ("accepted", BETTER), ("edited", BETTER[:1]), ("edited", BETTER[::-1]),
    ):  # fmt: skip
        with pytest.raises(ExampleFault):
            reviews.decide(name, decision, seen=0, messages=messages)
    with pytest.raises(ExampleFault, match="no example"):
        reviews.decide("gone", "accepted", seen=0)
    assert not reviews_beside(path).exists()


def test_a_disk_that_takes_nothing_is_told_and_leaves_no_half_line(path: Path, monkeypatch: Any) -> None:
    reviews = Reviews(path)
    reviews.decide(reviews.order[0], "accepted", seen=0)
    whole = reviews_beside(path).read_bytes()
    real = os.write
    monkeypatch.setattr(os, "write", lambda handle, data: real(handle, data[:7]))
    with pytest.raises(FathomError, match="the disk is full"):
        reviews.decide(reviews.order[1], "accepted", seen=0)
    monkeypatch.undo()
    assert reviews_beside(path).read_bytes() == whole and reviews.state(reviews.order[1]) == "open"
    reviews.decide(reviews.order[1], "accepted", seen=0)
    assert Reviews(path).counts()["accepted"] == 2


def test_who_reads_past_the_decisions_is_told(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    list(read_examples(path))
    assert not caplog.records
    reviews = Reviews(path)
    reviews.decide(reviews.order[0], "rejected", seen=0)
    list(read_examples(path))
    assert "fathom data reviewed" in caplog.text


def test_two_examples_with_one_id_cannot_be_reviewed(tmp_path: Path) -> None:
    rows = [{**example(n).as_json(), "id": "same"} for n in range(2)]
    (tmp_path / "e.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(ReadingError, match="two different examples"):
        Reviews(tmp_path / "e.jsonl")
