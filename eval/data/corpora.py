"""A folder → the documents of a test collection: JSON lines, TREC's `<DOC>` files, or ordinary documents.

It knows no queries and no judgements.
"""

import gzip
import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from eval.data.hashes import hashes_of
from eval.data.trec import holds_documents, read_documents
from retrieval.errors import ReadingError, UsageError
from retrieval.passages import Document, Heading
from retrieval.reading.folder import Loaded, SourceFile, load, walk
from retrieval.reading.reader import Reader

FOLDERS = ("documents", "corpus")
"""Sub-folders in which a corpus may lie."""
_SURROGATES = re.compile("[\ud800-\udfff]")


@dataclass(frozen=True, slots=True)
class CorpusDocument:
    """One document as the test collection gives it. `read` is what Fathom's reader made of a file, else None."""

    id: str
    title: str
    text: str
    read: Document | None = None


@dataclass(frozen=True, slots=True)
class Corpus:
    """The documents, `data` (file → SHA-256; a folder of documents counts as one) and what could not be read."""

    documents: tuple[CorpusDocument, ...]
    data: Mapping[str, str]
    unread: Mapping[str, str] = field(default_factory=dict)


def as_document(document: CorpusDocument) -> Document:
    """As a reader would make it of a file that opens with its title; an empty document keeps its place by its id."""
    if document.read is not None:
        return document.read
    if not document.title.strip():
        return Document(uri=document.id, text=document.text if document.text.strip() else document.id)
    heading = Heading(start=0, level=1, title=document.title)
    text = f"{document.title}\n\n{document.text}"
    return Document(uri=document.id, text=text, title=document.title, headings=(heading,))


def text_start(document: CorpusDocument) -> int:
    """Where `document.text` begins in the text of `as_document`: offsets of gold spans count from there."""
    return 0 if document.read is not None or not document.title.strip() else len(document.title) + 2


def find_jsonl(folder: Path, stem: str) -> Path | None:
    """`folder/stem.jsonl` or its gzipped form, whichever is there."""
    for name in (f"{stem}.jsonl", f"{stem}.jsonl.gz"):
        if (folder / name).is_file():
            return folder / name
    return None


def read_jsonl(path: Path) -> Iterator[dict[str, Any]]:
    """The objects of a JSON-lines file. Raises ReadingError naming the line that is not one."""
    return (row for _, row in numbered_jsonl(path))


def numbered_jsonl(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """As `read_jsonl`, with line numbers from 1."""
    number = 0
    try:
        opened = gzip.open(path, "rt", encoding="utf-8") if path.suffix == ".gz" else path.open(encoding="utf-8")
        with opened as lines:
            for number, line in enumerate(lines, 1):
                if not line.strip():
                    continue
                try:
                    value = json.loads(line.removeprefix("\ufeff") if number == 1 else line)
                except json.JSONDecodeError as error:
                    raise ReadingError(str(path), "json", f"line {number} is not JSON ({error.msg}).") from error
                except RecursionError as error:
                    raise ReadingError(str(path), "json", f"line {number} is nested too deeply.") from error
                if not isinstance(value, dict):
                    found = type(value).__name__
                    raise ReadingError(str(path), "json", f"line {number} holds a {found}, not an object.")
                yield number, value
    except UnicodeDecodeError as error:
        raise ReadingError(str(path), "encoding", f"after line {number}: not UTF-8 ({error.reason}).") from error
    except (EOFError, gzip.BadGzipFile) as error:
        raise ReadingError(str(path), "gzip", f"after line {number}: the gzip stream is damaged ({error}).") from error
    except OSError as error:
        raise ReadingError(str(path), "unreadable", f"cannot be read: {error.strerror or error}.") from error


def identifier(row: Mapping[str, Any], name: str, path: Path, line: int) -> str:
    """The id `row[name]`: a string or a whole number. Raises ReadingError with the line."""
    value = _present(row, name, path, line)
    if isinstance(value, bool) or not isinstance(value, str | int) or not str(value).strip():
        raise ReadingError(str(path), "field", f"line {line}: {name!r} is {str(value)[:40]!r}, not an id.")
    if _SURROGATES.search(str(value)):
        raise ReadingError(str(path), "field", f"line {line}: {name!r} holds half a character (a lone surrogate).")
    return str(value)


def words(row: Mapping[str, Any], name: str, path: Path, line: int) -> str:
    """The text `row[name]`; half characters, which no file can hold, become U+FFFD. Raises ReadingError."""
    value = _present(row, name, path, line)
    if not isinstance(value, str):
        raise ReadingError(str(path), "field", f"line {line}: {name!r} is a {type(value).__name__}, not a text.")
    return _SURROGATES.sub("\ufffd", value)


def _present(row: Mapping[str, Any], name: str, path: Path, line: int) -> Any:
    if name not in row:
        has = ", ".join(sorted(row))[:200] or "nothing"
        raise ReadingError(str(path), "field", f"line {line} lacks {name!r}; it has {has}.")
    return row[name]


def has_corpus(folder: Path) -> bool:
    """Whether the folder holds `corpus.jsonl` or a sub-folder of documents."""
    return find_jsonl(folder, "corpus") is not None or any((folder / name).is_dir() for name in FOLDERS)


def read_corpus(folder: Path, *, documents: Path | None = None) -> Corpus:
    """The corpus of a test collection: `corpus.jsonl`, else the sub-folder `documents/` or `corpus/`.

    `documents` names the folder of documents (or its corpus.jsonl) where it lies elsewhere. A folder whose first file
    begins with `<DOC>` is TREC's; any other goes through Fathom's reader and a file's uri (its path in the folder) is
    its id. Raises UsageError where there is no corpus, ReadingError for a malformed or empty one, or an id used twice.
    """
    lines = documents if documents is not None and documents.is_file() else find_jsonl(documents or folder, "corpus")
    if lines is not None:
        corpus = _from_lines(lines)
    else:
        place = documents or next((folder / name for name in FOLDERS if (folder / name).is_dir()), None)
        if place is None or not place.is_dir():
            raise UsageError(
                f"{documents or folder} lacks a corpus: expected corpus.jsonl (or corpus.jsonl.gz), or a folder "
                f"{' or '.join(FOLDERS)} with TREC <DOC> files or ordinary documents."
            )
        corpus = _from_files(place)
    if not corpus.documents:
        unread = f"; {len(corpus.unread)} files could not be read" if corpus.unread else ""
        raise ReadingError(str(lines or place), "empty", f"the corpus holds no document{unread}.")
    return corpus


def _from_lines(path: Path) -> Corpus:
    documents: dict[str, CorpusDocument] = {}
    lines: dict[str, int] = {}
    for line, row in numbered_jsonl(path):
        key = identifier(row, "_id" if "_id" in row or "id" not in row else "id", path, line)
        _once(key, line, lines, path)
        title = words(row, "title", path, line) if row.get("title") is not None else ""
        documents[key] = CorpusDocument(key, title, words(row, "text", path, line))
    return Corpus(tuple(documents.values()), hashes_of(path))


def _once(key: str, line: int, lines: dict[str, int], path: Path) -> None:
    if key in lines:
        message = f"line {line}: the document id {key!r} occurs twice (first in line {lines[key]})."
        raise ReadingError(str(path), "duplicate-id", message)
    lines[key] = line


def _from_files(folder: Path) -> Corpus:
    listed = sorted(path for path in folder.rglob("*") if path.is_file() and not path.name.startswith("."))
    if listed and holds_documents(listed[0]):
        return _from_trec(folder, listed)
    return _from_reader(folder)


def _from_trec(folder: Path, files: list[Path]) -> Corpus:
    documents: dict[str, CorpusDocument] = {}
    first: dict[str, Path] = {}
    for path in files:
        for name, title, text, line in read_documents(path):
            if name in documents:
                message = f"line {line}: the document id {name!r} occurs twice (first in {first[name].name})."
                raise ReadingError(str(path), "duplicate-id", message)
            first[name] = path
            documents[name] = CorpusDocument(name, title, text)
    return Corpus(
        tuple(documents.values()),
        _folder_hash(folder, [(path.relative_to(folder).as_posix(), *hashes_of(path).values()) for path in files]),
    )


def _from_reader(folder: Path) -> Corpus:
    unread: dict[str, str] = {}
    documents: list[CorpusDocument] = []
    hashes: list[tuple[str, ...]] = []

    def loaded() -> Iterator[Loaded]:
        for found in walk(folder):
            try:
                yield load(_readable(found))
            except ReadingError as error:
                unread[error.path] = error.message

    with Reader() as reader:
        for file, outcome in reader.parse_many(loaded()):
            hashes.append((file.file.uri, file.content_hash))
            if isinstance(outcome, ReadingError):
                unread[outcome.path] = outcome.message
            else:
                documents.append(CorpusDocument(file.file.uri, outcome.title, outcome.text, outcome))
    return Corpus(tuple(documents), _folder_hash(folder, hashes), unread)


def _readable(found: SourceFile | ReadingError) -> SourceFile:
    if isinstance(found, ReadingError):
        raise found
    return found


def _folder_hash(folder: Path, files: Iterable[tuple[str, ...]]) -> dict[str, str]:
    """One hash for a folder, so that a run of a million files stays readable."""
    return {str(folder): hashlib.sha256(json.dumps(sorted(files)).encode()).hexdigest()}
