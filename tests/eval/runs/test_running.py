"""Items → records: nothing twice, nothing lost, errors kept and tried again, stopping at once."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from eval.runs import parts
from eval.runs.parts import PartFolder, Record, read_records
from eval.runs.running import LOOK_AHEAD, run_items
from retrieval.errors import FathomError, UsageError

ROOT = Path(__file__).resolve().parents[3]
Called = tuple[str, int, int]


def quiet(stage: str, done: int, total: int) -> None:
    """A progress that nobody watches."""


def square(number: int) -> Record:
    return {"text": str(number), "cluster": None, "metrics": {"x": number**2}, "timings": {}, "error": None}


def run(folder: PartFolder, items: Any, do: Any, total: int = 0, **more: Any) -> None:
    run_items(folder, items, do, identify=str, total=total, what="counting", **{"progress": quiet, **more})


BOTH = pytest.mark.parametrize("concurrency", [1, 4])


@BOTH
def test_every_item_becomes_one_record(tmp_path: Path, concurrency: int) -> None:
    folder = PartFolder(tmp_path)
    run(folder, range(30), square, concurrency=concurrency)
    assert {key: found["metrics"]["x"] for key, found in folder.done().items()} == {str(n): n**2 for n in range(30)}
    assert (tmp_path / "records.jsonl").read_bytes().count(b"\n") == 30


def test_one_at_a_time_records_come_in_the_order_of_the_items(tmp_path: Path) -> None:
    folder = PartFolder(tmp_path)
    run(folder, [3, 1, 2], square)
    assert list(folder.done()) == ["3", "1", "2"]


@BOTH
def test_what_is_done_is_not_done_again(tmp_path: Path, concurrency: int) -> None:
    run(PartFolder(tmp_path), range(7), square)
    did = []

    def do(number: int) -> Record:
        did.append(number)
        return square(number)

    run(PartFolder(tmp_path), range(12), do, concurrency=concurrency)
    assert sorted(did) == [7, 8, 9, 10, 11]
    assert len(read_records(tmp_path)) == 12


@BOTH
def test_an_error_is_a_record_and_the_next_run_tries_it_again(tmp_path: Path, concurrency: int) -> None:
    def do(number: int) -> Record:
        if number == 3:
            raise FathomError("the engine said no")
        if number == 5:
            raise TimeoutError("no answer in 30 s")
        return square(number)

    folder = PartFolder(tmp_path)
    run(folder, range(8), do, concurrency=concurrency, describe=lambda number: f"What is {number}?")
    failed = {key: found for key, found in folder.all().items() if found["error"]}
    assert {key: found["error"] for key, found in failed.items()} == {
        "3": "the engine said no",
        "5": "TimeoutError: no answer in 30 s",
    }
    assert failed["3"]["text"] == "What is 3?" and failed["3"]["metrics"] == {}
    assert len(folder.done()) == 6
    run(PartFolder(tmp_path), range(8), square, concurrency=concurrency)
    found = read_records(tmp_path)
    assert len(found) == 8 and not any(item["error"] for item in found.values())


def test_an_error_nobody_foresaw_says_where_it_happened(tmp_path: Path) -> None:
    def do(number: int) -> Record:
        return square(1 // number)

    folder = PartFolder(tmp_path)
    run(folder, [0, 1], do)
    assert folder.all()["0"]["error"].startswith("ZeroDivisionError: ")
    assert "in do" in "".join(folder.all()["0"]["trace"])


@BOTH
def test_items_that_fail_in_a_row_end_the_run_and_what_was_finished_stays(tmp_path: Path, concurrency: int) -> None:
    did = []

    def do(number: int) -> Record:
        did.append(number)
        if number >= 4:
            raise FathomError("the server is gone")
        return square(number)

    with pytest.raises(FathomError, match="5 items in a row failed, the last with 'the server is gone'"):
        run(PartFolder(tmp_path), range(1000), do, concurrency=concurrency)
    assert len([found for found in read_records(tmp_path).values() if not found["error"]]) == 4
    assert len(did) <= 4 + 5 + concurrency + LOOK_AHEAD


def test_errors_with_successes_between_do_not_end_the_run(tmp_path: Path) -> None:
    def do(number: int) -> Record:
        if number % 3:
            raise FathomError("odd")
        return square(number)

    run(PartFolder(tmp_path), range(60), do, give_up_after=3)
    assert len(read_records(tmp_path)) == 60


@BOTH
def test_a_full_disk_ends_the_run_at_once(tmp_path: Path, concurrency: int) -> None:
    did = []

    def do(number: int) -> Record:
        did.append(number)
        if number == 2:
            raise OSError(28, "No space left on device")
        return square(number)

    with pytest.raises(OSError, match="No space"):
        run(PartFolder(tmp_path), range(1000), do, concurrency=concurrency)
    assert len(did) <= 3 + concurrency + LOOK_AHEAD
    assert set(read_records(tmp_path)) <= {str(number) for number in did}


@BOTH
def test_an_id_that_occurs_twice_is_refused(tmp_path: Path, concurrency: int) -> None:
    with pytest.raises(UsageError, match="two items are called '2'"):
        run(PartFolder(tmp_path), [1, 2, 3, 2], square, concurrency=concurrency)


def test_a_record_of_another_item_is_an_error_of_this_one(tmp_path: Path) -> None:
    folder = PartFolder(tmp_path)
    run(folder, [1, 2], lambda number: {**square(number), "id": "1"})
    assert not folder.all()["1"]["error"] and "record of item '2'" in folder.all()["2"]["error"]


def test_at_most_as_many_as_asked_are_worked_on_and_the_source_is_read_as_needed(tmp_path: Path) -> None:
    lock = threading.Lock()
    state = {"now": 0, "most": 0, "taken": 0, "ahead": 0, "finished": 0}

    def source() -> Iterator[int]:
        for number in range(60):
            with lock:
                state["taken"] += 1
                state["ahead"] = max(state["ahead"], state["taken"] - state["finished"])
            yield number

    def do(number: int) -> Record:
        with lock:
            state["now"] += 1
            state["most"] = max(state["most"], state["now"])
        time.sleep(0.002)
        with lock:
            state["now"] -= 1
            state["finished"] += 1
        return square(number)

    run(PartFolder(tmp_path), source(), do, concurrency=4)
    assert 2 <= state["most"] <= 4
    assert state["ahead"] <= 4 + LOOK_AHEAD + 1
    assert len(read_records(tmp_path)) == 60


def test_progress_counts_what_was_done_before(tmp_path: Path) -> None:
    run(PartFolder(tmp_path), range(3), square)
    called: list[Called] = []
    run(PartFolder(tmp_path), range(5), square, total=5, progress=lambda *said: called.append(said))
    assert called == [("counting", 3, 5), ("counting", 4, 5), ("counting", 5, 5)]


def test_an_item_costs_one_write_and_one_encoding(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the runner adds to an item, in calls: a figure of time would depend on the machine."""
    calls = dict.fromkeys(("pwrite", "open", "fsync", "dumps", "loads"), 0)

    def counted(module: Any, name: str) -> None:
        real = getattr(module, name)

        def call(*arguments: Any, **more: Any) -> Any:
            calls[name] += 1
            return real(*arguments, **more)

        monkeypatch.setattr(module, name, call)

    folder = PartFolder(tmp_path)
    for name in ("pwrite", "open", "fsync"):
        counted(os, name)
    for name in ("dumps", "loads"):
        counted(parts.orjson, name)
    run(folder, range(500), square)
    assert calls == {"pwrite": 500, "open": 1, "fsync": 0, "dumps": 500, "loads": 0}


CHILD = """
import os, sys, time
from pathlib import Path
from eval.runs.parts import PartFolder
from eval.runs.running import run_items

def do(number):
    if number >= 3:
        os.write(1, b"slow\\n")  # in one piece, beside other threads
        time.sleep(300)
    return {"text": "", "cluster": None, "metrics": {"x": 1}, "timings": {}, "error": None}

try:
    run_items(PartFolder(Path(sys.argv[1])), range(100), do, identify=str, total=100, what="x",
              progress=lambda *said: None, concurrency=int(sys.argv[2]))
except KeyboardInterrupt:
    sys.exit(130)
"""


@BOTH
def test_ctrl_c_does_not_wait_for_items_in_the_making(tmp_path: Path, concurrency: int) -> None:
    child = subprocess.Popen(
        [sys.executable, "-c", CHILD, str(tmp_path), str(concurrency)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    try:
        assert child.stdout is not None
        for _ in range(concurrency):
            assert child.stdout.readline() == b"slow\n"
        # The quick ones are written down by the main thread, which may come to it after the slow ones have begun.
        deadline = time.monotonic() + 60
        while len(read_records(tmp_path)) < 3 and time.monotonic() < deadline:
            time.sleep(0.05)
        child.send_signal(signal.SIGINT)
        assert child.wait(timeout=60) == 130, "an item takes 300 s"
    finally:
        child.kill()
        child.communicate()
    assert set(read_records(tmp_path)) == {"0", "1", "2"}
