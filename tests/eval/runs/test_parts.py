"""records.jsonl: whole lines whatever happens, the last word on an item counts, nothing that JSON cannot hold."""

import json
import math
import os
import threading
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from eval.runs.parts import PartFolder, finite, read_records
from retrieval.errors import DamagedError


def record(name: str, **more: object) -> dict[str, object]:
    return {"id": name, "text": name, "cluster": None, "metrics": {}, "timings": {}, "error": None, **more}


def test_what_was_appended_is_read_back_in_order(tmp_path: Path) -> None:
    folder = PartFolder(tmp_path / "part")
    for name in ("b", "a", "c"):
        folder.append(record(name, metrics={"x": 1.5, "pair": (1, 2)}))
    assert list(folder.done()) == ["b", "a", "c"]
    assert folder.done()["a"]["metrics"] == {"x": 1.5, "pair": [1, 2]}
    assert PartFolder(tmp_path / "part").done() == folder.done() == read_records(tmp_path / "part")


def test_a_failed_item_is_not_done_and_its_later_success_replaces_it(tmp_path: Path) -> None:
    folder = PartFolder(tmp_path)
    folder.append(record("a", error="it died"))
    folder.append(record("b"))
    assert list(folder.done()) == ["b"]
    assert list(folder.all()) == ["a", "b"]
    folder.append(record("a"))
    assert list(folder.done()) == ["b", "a"]
    assert list(PartFolder(tmp_path).done()) == ["b", "a"]


@pytest.mark.parametrize("left", [b'{"id": "c', b"{", b'{"id": "c"}', b'{"id": "c", "text": "\xe4\xb8', b" " * 5000])
def test_half_a_line_is_no_record_and_the_next_append_replaces_it(tmp_path: Path, left: bytes) -> None:
    folder = PartFolder(tmp_path)
    folder.append(record("a"))
    folder.close()
    with (tmp_path / "records.jsonl").open("ab") as stream:
        stream.write(left)
    size = (tmp_path / "records.jsonl").stat().st_size
    assert list(read_records(tmp_path)) == ["a"]
    again = PartFolder(tmp_path)
    assert (tmp_path / "records.jsonl").stat().st_size == size, "reading changes nothing: another may be writing"
    again.append(record("b"))
    assert list(read_records(tmp_path)) == ["a", "b"]
    assert (tmp_path / "records.jsonl").read_bytes().count(b"\n") == 2


@pytest.mark.parametrize("line", ["nonsense", "[]", '{"text": "no id"}', "7", '{"id": []}', "[" * 100_000])
def test_a_whole_line_that_is_no_record_is_damage_with_its_number(tmp_path: Path, line: str) -> None:
    folder = PartFolder(tmp_path)
    folder.append(record("a"))
    with (tmp_path / "records.jsonl").open("a") as stream:
        stream.write(line + "\n")
    with pytest.raises(DamagedError, match="line 2"):
        read_records(tmp_path)


def test_a_write_that_fails_midway_leaves_no_torn_line_behind_a_later_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = PartFolder(tmp_path)
    folder.append(record("a"))
    real = os.pwrite
    # A disk that takes ten bytes more and is then full.
    room = [10]

    def full(descriptor: int, data: bytes, offset: int) -> int:
        if not room[0]:
            raise OSError(28, "No space left on device")
        taken, room[0] = min(room[0], len(data)), 0
        return real(descriptor, data[:taken], offset)

    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(OSError, match="No space"):
        folder.append(record("b"))
    assert list(folder.done()) == ["a"]
    monkeypatch.setattr(os, "pwrite", real)
    folder.append(record("c"))
    assert list(read_records(tmp_path)) == ["a", "c"] == list(folder.done())


def test_a_write_that_comes_in_pieces_is_written_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda descriptor, data, offset: real(descriptor, data[:7], offset))
    PartFolder(tmp_path).append(record("a", text="some text that is longer than seven bytes"))
    assert list(read_records(tmp_path)) == ["a"]


def test_numbers_json_cannot_hold_become_none_and_numpy_becomes_plain(tmp_path: Path) -> None:
    folder = PartFolder(tmp_path)
    folder.append(
        record(
            "a",
            metrics={
                "nan": math.nan,
                "inf": math.inf,
                "f32": np.float32(0.5),
                "f64": np.float64(0.25),
                "i": np.int64(3),
            },
            ranking=np.arange(3),
            pairs=[("d1", np.float32(math.inf))],
        )
    )
    found = folder.done()["a"]
    assert found["metrics"] == {"nan": None, "inf": None, "f32": 0.5, "f64": 0.25, "i": 3}
    assert found["ranking"] == [0, 1, 2] and found["pairs"] == [["d1", None]]
    assert found == read_records(tmp_path)["a"]
    assert finite({1: (math.nan,)}) == {"1": [None]}


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.text(st.characters(), max_size=20), min_size=1, max_size=5))
def test_any_text_comes_back_and_takes_one_line(tmp_path: Path, texts: list[str]) -> None:
    """Lone surrogates, line separators and controls included: file names and models write what they like."""
    (tmp_path / "records.jsonl").unlink(missing_ok=True)
    folder = PartFolder(tmp_path)
    for number, text in enumerate(texts):
        folder.append(record(str(number), text=text))
    assert [found["text"] for found in read_records(tmp_path).values()] == texts
    lines = (tmp_path / "records.jsonl").read_bytes().decode("utf-8").splitlines()
    assert len(lines) == len(texts)
    assert all(json.loads(line) for line in lines)


def test_threads_append_whole_lines(tmp_path: Path) -> None:
    folder = PartFolder(tmp_path)

    def write(thread: int) -> None:
        for number in range(50):
            folder.append(record(f"{thread}-{number}", text="x" * 500))

    threads = [threading.Thread(target=write, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(folder.done()) == len(read_records(tmp_path)) == 400


def test_a_closed_folder_can_be_used_again(tmp_path: Path) -> None:
    folder = PartFolder(tmp_path)
    folder.append(record("a"))
    folder.close()
    folder.close()
    folder.append(record("b"))
    assert list(read_records(tmp_path)) == ["a", "b"]


def test_reading_a_folder_that_is_not_there_makes_none(tmp_path: Path) -> None:
    assert read_records(tmp_path / "none") == {}
    assert not (tmp_path / "none").exists()
