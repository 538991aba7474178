"""Docstrings of installed packages: what is read and left out, exact headings, hashes that follow the source."""

import os
import sys
from pathlib import Path

import pytest

from retrieval.errors import MissingError, ReadingError
from retrieval.library_docs import DEMO_PACKAGES, MAX_FILE_BYTES, documents, extract, installed

SHELF = '''"""Shelves hold books.

Second paragraph.
"""
raise RuntimeError("a documented module must never be run")


class Shelf(Base, metaclass=Meta):
    """A shelf."""

    def add(self, book: "Book", *, at: int = 0) -> None:
        """Put a book on the shelf.

        Indented line.
        """

        def inner():
            """not an interface"""

    def _hidden(self):
        """private"""

    class Rail:
        """Keeps books from falling."""

    def bare(self):
        return 1


try:
    import fast
except ImportError:

    async def read(path):
        """Read slowly. 中文说明。"""
'''


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package `shopdocs` on the import path, as pip would leave it, that raises when it is run."""
    root = tmp_path / "site" / "shopdocs"
    for folder in ("", "tests", "_vendor", "parts"):
        (root / folder).mkdir(parents=True, exist_ok=True)
        (root / folder / "__init__.py").write_text('"""Package."""\nraise RuntimeError("imported")\n')
    (root / "shelf.py").write_text(SHELF, encoding="utf-8")
    (root / "parts" / "undocumented.py").write_text("x = 1\n")
    (root / "test_shelf.py").write_text('"""A test."""\n')
    (root / "native.py").write_text("from ._native import *\n")
    (root / "native.pyi").write_text('def dig(depth: int) -> int:\n    """Dig to `depth` metres."""\n')
    (root / "both.py").write_text('"""The source."""\n')
    (root / "both.pyi").write_text('"""The stub."""\n')
    information = tmp_path / "site" / "shopdocs-1.2.3.dist-info"
    information.mkdir()
    (information / "METADATA").write_text("Metadata-Version: 2.1\nName: shopdocs\nVersion: 1.2.3\n")
    (information / "RECORD").write_text("shopdocs/__init__.py,,\nshopdocs/shelf.py,,\n")
    (information / "top_level.txt").write_text("shopdocs\n")
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    return root


def test_one_document_per_documented_module_sorted_without_tests_and_vendored_code(shop: Path) -> None:
    found = list(documents(["shopdocs"]))
    assert [document.title for document in found] == [
        "shopdocs",
        "shopdocs.both",
        "shopdocs.native",
        "shopdocs.shelf",
        "shopdocs.parts",
    ]
    assert "shopdocs" not in sys.modules
    shelf = found[3]
    assert shelf.uri == "library/shopdocs/shopdocs.shelf"
    assert shelf.metadata == {
        "package": "shopdocs",
        "version": "1.2.3",
        "module": "shopdocs.shelf",
        "kind": "module",
    }
    assert [document.metadata["kind"] for document in found] == [
        "package",
        "module",
        "stub",
        "module",
        "package",
    ]
    assert found[1].text == "The source."
    assert found[2].text == "dig(depth: int) -> int\nDig to `depth` metres."


def test_headings_are_names_at_their_signature_lines() -> None:
    text, headings = extract(SHELF.encode(), "shelf")
    assert text.startswith("Shelves hold books.\n\nSecond paragraph.\n\nclass Shelf(Base)\nA shelf.\n\n")
    assert [(heading.title, heading.level) for heading in headings] == [
        ("Shelf", 1),
        ("Shelf.add", 2),
        ("Shelf.Rail", 2),
        ("read", 1),
    ]
    lines = [text[heading.start :].split("\n", 1)[0] for heading in headings]
    assert lines == [
        "class Shelf(Base)",
        "Shelf.add(self, book: 'Book', *, at: int=0) -> None",
        "class Shelf.Rail",
        "read(path)",
    ]
    assert "Indented line." in text.splitlines()  # dedented
    assert "中文说明" in text
    assert "private" not in text and "not an interface" not in text


def test_a_repeated_overload_is_written_once_and_a_long_signature_is_cut() -> None:
    many = ", ".join(f"option_{i}=None" for i in range(200))
    source = f'def f(a):\n    """Same."""\ndef f(a, b):\n    """Same."""\ndef g({many}):\n    """Long."""\n'
    text, headings = extract(source.encode(), "m")
    assert [heading.title for heading in headings] == ["f", "g"]
    assert text.count("Same.") == 1
    assert len(text.splitlines()[-2]) == 300 and text.splitlines()[-2].endswith("…")


def test_the_hash_follows_the_source_and_the_version_and_nothing_else(shop: Path) -> None:
    def hashes() -> dict[str, str]:
        return {document.uri: document.content_hash for document in documents(["shopdocs"])}

    before = hashes()
    os.utime(shop / "shelf.py", (1, 1))
    assert hashes() == before
    (shop / "shelf.py").write_text(SHELF.replace("A shelf.", "A long shelf."), encoding="utf-8")
    after = hashes()
    assert {uri for uri in before if before[uri] != after[uri]} == {"library/shopdocs/shopdocs.shelf"}
    metadata = shop.parent / "shopdocs-1.2.3.dist-info" / "METADATA"
    metadata.write_text(metadata.read_text().replace("1.2.3", "1.3.0"))
    assert not set(hashes().values()) & set(after.values())


def test_files_that_cannot_be_read_are_reported_and_the_rest_goes_on(shop: Path) -> None:
    (shop / "broken.py").write_text("def (:\n")
    (shop / "deep.py").write_text("x = " + "(" * 5000 + ")" * 5000 + "\n")
    (shop / "huge.py").write_bytes(b"#" * (MAX_FILE_BYTES + 1))
    os.mkfifo(shop / "pipe.py")
    (shop / "outside.py").symlink_to("/etc/passwd")
    errors: list[ReadingError] = []
    found = list(documents(["shopdocs"], on_error=errors.append))
    assert len(found) == 5
    reasons = {Path(error.path).stem: error.reason for error in errors}
    assert set(reasons) == {"broken", "deep", "huge", "pipe"}
    assert reasons["broken"] == "syntax" and reasons["huge"] == "too large" and reasons["pipe"] == "not a file"
    assert reasons["deep"] in ("syntax", "nesting")
    with pytest.raises(ReadingError, match="broken.py"):
        list(documents(["shopdocs"]))


def test_limit_counts_over_all_packages(shop: Path) -> None:
    assert len(list(documents(["shopdocs", "tokenizers"], limit=6))) == 6
    assert list(documents(["shopdocs"], limit=0)) == []


def test_a_named_package_that_is_not_installed_is_an_error_with_the_choice() -> None:
    with pytest.raises(MissingError, match="'nowhere.to.be.found' is not installed.*tokenizers"):
        list(documents(["nowhere.to.be.found"]))
    assert installed(["nowhere", "tokenizers", "llama_index.core"]) == ("tokenizers", "llama_index.core")


def test_the_demo_corpus_is_real_and_every_heading_stands_where_it_says() -> None:
    found = list(documents(DEMO_PACKAGES))
    assert len(found) > 100
    assert len({document.uri for document in found}) == len(found)
    assert sum(len(document.text) for document in found) > 500_000
    headings = 0
    for document in found:
        assert document.metadata["version"], document.uri
        starts = [heading.start for heading in document.headings]
        assert starts == sorted(starts)
        for heading in document.headings:
            assert heading.start == 0 or document.text[heading.start - 2 : heading.start] == "\n\n"
            assert document.text[heading.start :].removeprefix("class ").startswith(heading.title)
            headings += 1
    assert headings > 500
    assert any("loss" in document.title for document in found)
