"""The documents that lie beside a question file → texts by name, and where an answer stands in one of them."""

import hashlib
import json
import re
from collections.abc import Mapping, MutableMapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from eval.data.corpora import CorpusDocument, find_jsonl, has_corpus, identifier, numbered_jsonl, read_corpus, words
from eval.data.hashes import hashes_of
from retrieval.errors import ReadingError

if TYPE_CHECKING:
    from retrieval.collection import Collection

MOST_PLACES = 10
"""An answer without offsets that stands in more places than this ("Company" in a contract) has no place of its own."""


@dataclass(frozen=True, slots=True)
class Beside:
    """Documents by name, `data` (file → SHA-256), and in what form they were ("" for none)."""

    documents: MutableMapping[str, CorpusDocument]
    data: Mapping[str, str]
    form: str

    @classmethod
    def of(cls, collection: "Collection") -> "Beside":
        """The documents of an index."""
        return cls(_Stored(collection), {f"collection {collection.name}": hash_of(collection)}, "collection")


class _Stored(dict[str, CorpusDocument]):
    """Documents of a collection, each read when it is first asked for: all of them need not fit into memory."""

    def __init__(self, collection: "Collection") -> None:
        super().__init__()
        self._collection = collection
        self._uris = {row.source.uri for row in collection.documents()}

    def __contains__(self, uri: object) -> bool:
        return uri in self._uris or super().__contains__(uri)

    def __missing__(self, uri: str) -> CorpusDocument:
        document = self._collection.document_by_uri(uri)
        self[uri] = CorpusDocument(uri, document.title, document.text, document)
        return self[uri]

    def __len__(self) -> int:
        return len(self._uris)


def hash_of(collection: "Collection") -> str:
    """SHA-256 over the names and contents of all documents."""
    rows = sorted((row.source.uri, row.content_hash) for row in collection.documents())
    return hashlib.sha256(json.dumps(rows).encode()).hexdigest()


def read_documents(folder: Path) -> Beside:
    """A corpus (eval.data.corpora), else contexts.jsonl (paragraphs and a table each) or contracts.jsonl; none is none.

    Raises ReadingError for a document that cannot be read: its questions could not be answered.
    """
    if has_corpus(folder):
        corpus = read_corpus(folder)
        for unread, message in corpus.unread.items():
            raise ReadingError(unread, "unreadable", message)
        return Beside({document.id: document for document in corpus.documents}, corpus.data, "corpus")
    for stem in ("contexts", "contracts"):
        file = find_jsonl(folder, stem)
        if file is None:
            continue
        documents: dict[str, CorpusDocument] = {}
        for number, row in numbered_jsonl(file):
            key = identifier(row, "id", file, number)
            if key in documents:
                raise ReadingError(str(file), "duplicate-id", f"line {number}: the document id {key!r} occurs twice.")
            text = _with_table(row, file, number) if stem == "contexts" else words(row, "text", file, number)
            documents[key] = CorpusDocument(key, "", text)
        return Beside(documents, hashes_of(file), stem)
    return Beside({}, {}, "")


def _with_table(row: Mapping[str, Any], file: Path, number: int) -> str:
    """Paragraphs, then the table with a line for each row, as a reader of the format would have it."""
    paragraphs, table = row.get("paragraphs", []), row.get("table", [])
    if not isinstance(paragraphs, list) or not isinstance(table, list) or not all(isinstance(r, list) for r in table):
        raise ReadingError(
            str(file), "field", f"line {number}: paragraphs are a list of texts, a table a list of rows."
        )
    lines = ["| " + " | ".join(" ".join(str(cell).split()) for cell in cells) + " |" for cells in table]
    if lines:
        lines.insert(1, "|" + " --- |" * len(table[0]))
    return "\n\n".join([*(str(paragraph) for paragraph in paragraphs), *(["\n".join(lines)] if lines else [])])


def located(answer: str, text: str) -> list[tuple[int, int]]:
    """Where an answer stands in a text, letters and digits alone compared (white space, hyphens and quotation marks
    differ between a set's text and its answers), at word boundaries; nowhere if in more than MOST_PLACES."""
    wanted = "".join(filter(str.isalnum, answer.lower()))
    folded, places = _folded(text)
    found: list[tuple[int, int]] = []
    at = folded.find(wanted) if wanted else -1
    while at >= 0:
        start, end = places[at], places[at + len(wanted) - 1] + 1
        if not _joined(text, start) and not _joined(text, end):
            found.append((start, end))
            if len(found) > MOST_PLACES:
                return []
        at = folded.find(wanted, at + 1)
    return found


def _joined(text: str, at: int) -> bool:
    """Whether a Latin word or a number goes on across this offset."""
    return 0 < at < len(text) and bool(re.match(r"[A-Za-z0-9]{2}", text[at - 1 : at + 1]))


@lru_cache(maxsize=8)
def _folded(text: str) -> tuple[str, list[int]]:
    """The letters and digits of a text in lower case, and where each stands."""
    places = [place for place, character in enumerate(text) if character.isalnum()]
    lower = text.lower()
    if len(lower) != len(text):  # the lower case of some letters has two characters, which would move what follows
        lower = "".join(small if len(small := character.lower()) == 1 else character for character in text)
    return "".join([lower[place] for place in places]), places
