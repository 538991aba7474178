"""What the tests of reading share: bytes as loaded files, one warm reader, a worker in this process."""

import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from retrieval.errors import ReadingError
from retrieval.passages import Document
from retrieval.reading.folder import Loaded, SourceFile
from retrieval.reading.reader import Reader, ReadingLimits


def as_loaded(name: str, data: bytes) -> Loaded:
    """Bytes as if they had been read from a file of that name."""
    file = SourceFile(Path("/nowhere", name), name, len(data), 0, 0, 0)
    return Loaded(file, data, hashlib.blake2b(data, digest_size=16).hexdigest())


@pytest.fixture
def loaded() -> Callable[[str, bytes], Loaded]:
    """See `as_loaded`."""
    return as_loaded


@pytest.fixture(scope="session")
def reader() -> Iterator[Reader]:
    """A reader with the default limits, shared: starting a process costs more than most files."""
    with Reader() as shared:
        yield shared


@pytest.fixture(scope="session")
def strict_reader() -> Iterator[Reader]:
    """A reader that loses patience early, for files made to exhaust it."""
    limits = ReadingLimits(memory_mb=768, cpu_seconds=5, wall_seconds=20)
    with Reader(limits) as shared:
        yield shared


@pytest.fixture
def read(reader: Reader) -> Callable[[str, bytes], Document]:
    """Parse bytes under a name, in a child process, and check what holds for every document."""

    def parse(name: str, data: bytes) -> Document:
        document = reader.parse(as_loaded(name, data))
        check(document)
        return document

    return parse


@pytest.fixture
def refuse(strict_reader: Reader) -> Callable[[str, bytes], ReadingError]:
    """Parse bytes that must be refused; the error."""

    def parse(name: str, data: bytes) -> ReadingError:
        with pytest.raises(ReadingError) as caught:
            strict_reader.parse(as_loaded(name, data))
        assert caught.value.path == name
        assert caught.value.message.endswith(".")
        return caught.value

    return parse


def check(document: Document) -> None:
    """Offsets are exact: a heading's line holds its title, pages ascend within the text."""
    text = document.text
    assert "\r" not in text and "\f" not in text and "\x00" not in text and "\ufeff" not in text
    text.encode("utf-8")
    for heading in document.headings:
        assert heading.start == 0 or text[heading.start - 1] == "\n"
        line = text[heading.start :][: 2 * len(heading.title) + 40]
        words = [word.strip("*_`") for word in heading.title.rstrip("…").split()]
        assert words and all(word in line for word in words[:3]), (heading, line[:100])
    assert [h.start for h in document.headings] == sorted({h.start for h in document.headings})
    pages = document.page_starts
    assert list(pages) == sorted(pages)
    assert not pages or (pages[0] == 0 and pages[-1] <= len(text))
