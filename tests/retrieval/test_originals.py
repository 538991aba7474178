"""The file behind a document: given while it is what was read, otherwise a reason."""

from pathlib import Path

import pytest

from retrieval.collection import Collection
from retrieval.errors import ReadingError
from retrieval.originals import original
from retrieval.passages import Document
from retrieval.reading.reader import Reader
from retrieval.syncing import sync


@pytest.fixture
def folder(tmp_path: Path, collection: Collection) -> Path:
    """A synced folder with one file, "a.md"."""
    made = tmp_path / "docs"
    made.mkdir()
    (made / "a.md").write_text("# Tides\n\nThe moon.", encoding="utf-8")
    with Reader() as reader:
        sync(collection, made, reader)
    return made


def reason(collection: Collection) -> str:
    (row,) = collection.documents()
    with pytest.raises(ReadingError) as caught:
        original(row, 1_000)
    return caught.value.reason


def test_the_file_as_it_was_read(folder: Path, collection: Collection) -> None:
    (row,) = collection.documents()
    assert original(row, 1_000).data == b"# Tides\n\nThe moon."


def test_a_file_that_is_not_the_same_any_more_is_none(folder: Path, collection: Collection) -> None:
    file = folder / "a.md"
    file.write_text("# Tides\n\nThe sun!", encoding="utf-8")
    assert reason(collection) == "changed"
    file.write_text("x" * 1_001, encoding="utf-8")
    assert reason(collection) == "too-large"
    file.unlink()
    assert reason(collection) == "vanished"
    elsewhere = folder.parent / "same.md"
    elsewhere.write_text("# Tides\n\nThe moon.", encoding="utf-8")
    file.symlink_to(elsewhere)
    assert reason(collection) == "symlink"
    file.unlink()
    file.mkdir()
    assert reason(collection) == "not-a-file"


def test_a_document_without_a_file(collection: Collection) -> None:
    collection.add([Document("made.txt", "Made by a program.")])
    assert reason(collection) == "none"
