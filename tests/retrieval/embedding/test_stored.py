"""What is kept in the cache is whole or counts as absent."""

import os
from pathlib import Path

import pytest

from retrieval.embedding.stored import is_whole, keep, read_sealed, write_sealed


def fill(place: Path) -> None:
    (place / "model").write_bytes(bytes(range(200)))
    (place / "facts").write_text("潮汐", "utf-8")


def test_what_is_kept_is_whole(tmp_path: Path) -> None:
    assert not is_whole(tmp_path / "a")
    keep(tmp_path / "a", fill)
    assert is_whole(tmp_path / "a")
    keep(tmp_path / "a", fill)
    assert [entry.name for entry in tmp_path.iterdir()] == ["a"]


@pytest.mark.parametrize("file", ["model", "facts", "hashes.json"])
def test_every_flipped_byte_and_every_cut_is_seen(file: str, tmp_path: Path) -> None:
    keep(tmp_path / "a", fill)
    path = tmp_path / "a" / file
    content = path.read_bytes()
    for position in range(len(content)):
        path.write_bytes(content[:position] + bytes([content[position] ^ 1]) + content[position + 1 :])
        assert not is_whole(tmp_path / "a"), position
        path.write_bytes(content[:position])
        assert not is_whole(tmp_path / "a"), position
    path.write_bytes(content)
    assert is_whole(tmp_path / "a")
    path.unlink()
    assert not is_whole(tmp_path / "a")
    keep(tmp_path / "a", fill)
    assert is_whole(tmp_path / "a"), "a damaged folder is replaced"
    assert [entry.name for entry in tmp_path.iterdir()] == ["a"]


def test_a_file_too_many_is_doubtful(tmp_path: Path) -> None:
    keep(tmp_path / "a", fill)
    (tmp_path / "a" / "more").write_text("")
    assert not is_whole(tmp_path / "a")


def test_a_failure_leaves_what_was_there(tmp_path: Path) -> None:
    keep(tmp_path / "a", fill)

    def fail(place: Path) -> None:
        (place / "model").write_text("half")
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space"):
        keep(tmp_path / "a", fail)
    assert is_whole(tmp_path / "a")
    assert [entry.name for entry in tmp_path.iterdir()] == ["a"]


def test_what_a_killed_process_left_is_cleared_after_a_day(tmp_path: Path) -> None:
    old, new = tmp_path / ".making-old", tmp_path / ".making-new"
    for folder in (old, new):
        folder.mkdir()
        (folder / "model").write_text("half")
    os.utime(old, (0, 0))
    keep(tmp_path / "a", fill)
    assert not old.exists() and new.exists()


def test_a_small_file_is_what_was_written_or_none(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "file"
    assert read_sealed(path) is None
    write_sealed(path, b"ready\n1")
    assert read_sealed(path) == b"ready\n1"
    path.write_bytes(path.read_bytes()[:-1])
    assert read_sealed(path) is None
    assert read_sealed(path / "below a file") is None


def test_a_cache_that_cannot_be_written_costs_only_time(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").write_text("")
    write_sealed(tmp_path / "file" / "below", b"x")
    assert "made again next time" in caplog.text
