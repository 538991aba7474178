"""The truth of a collection: one SQLite file with documents, texts, passages, vectors and a log of changes.

Knows rows and transactions; knows nothing of FAISS, tantivy, models or files on a shelf.
"""

import contextlib
import json
import sqlite3
import threading
import time
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from retrieval.errors import DamagedError, MissingError
from retrieval.filters import Filter, where_clause
from retrieval.passages import Document, Heading, Passage, Scalar, Source, Span
from retrieval.storage.schema import connect, create_tables, in_words, schema_problems
from retrieval.storage.sealing import Field, seal

DOCUMENT_COLUMNS = ", ".join(
    "id owner uri title format content_hash root source added_at page_starts headings metadata warnings seal".split()
)
PASSAGE_COLUMNS = 'id, document_id, ordinal, start, "end", page, headings, context, tokens, input_hash, text, seal'


@dataclass(frozen=True, slots=True)
class Change:
    """One entry of the log the accelerators follow: the passages [first, last] of a document came or went."""

    sequence: int
    kind: str  # "add" or "remove"
    document_id: int
    first: int
    last: int


@dataclass(frozen=True, slots=True)
class DocumentRow:
    """What the catalogue says of a document besides its text."""

    source: Source
    content_hash: str
    root: str
    path: str
    added_at: float
    warnings: tuple[str, ...]
    passages: int


@dataclass(frozen=True, slots=True)
class NewDocument:
    """A document ready to be stored: its passages and their vectors, one row of float16 each."""

    document: Document
    owner: str
    root: str
    path: str
    spans: Sequence[Span]
    vectors: np.ndarray
    input_hashes: Sequence[bytes]


class Catalogue:
    """Open one with `write=True` only while holding the collection's WriterLock.

    Any thread may read: each gets its own read-only connection. Writing goes through one connection and one thread
    at a time. Raises MissingError where there is no catalogue, DamagedError where it is not ours.
    """

    def __init__(self, path: Path, *, write: bool = False, create: bool = False) -> None:
        self.path = path
        self._local = threading.local()
        self._readers: list[sqlite3.Connection] = []
        self._guard = threading.Lock()
        self._live = [0, 0]
        self._writer = connect(path, write=True, create=create) if write or create else None
        try:
            if create:
                assert self._writer is not None
                with in_words(path):
                    create_tables(self._writer)
            with in_words(path):
                problems = schema_problems(self.reader)
            if problems:
                raise DamagedError(
                    f"the catalogue '{path}' is not one of this version of Fathom ({'; '.join(problems[:3])}); restore "
                    "it with `fathom index import`, or delete the collection's folder and sync again"
                )
        except BaseException:
            self.close()
            raise

    # -- connections and transactions ------------------------------------------------------------------------------

    @property
    def reader(self) -> sqlite3.Connection:
        """This thread's connection for reading; inside a transaction of this thread it sees the unsaved rows."""
        if self._writer is not None and getattr(self._local, "writing", False):
            return self._writer
        db = getattr(self._local, "db", None)
        if db is None:
            db = connect(self.path, write=False)
            self._local.db = db
            with self._guard:
                self._readers.append(db)
        return db

    @contextlib.contextmanager
    def transaction(self) -> Iterator[None]:
        """All or nothing; returns only after the bytes are on disk."""
        db = self._writer
        if db is None:
            raise RuntimeError("the catalogue is open for reading only")
        with in_words(self.path):
            db.execute("BEGIN IMMEDIATE")
            self._local.writing = True
            try:
                self._live = list(self.live() or self.counts())
                yield
                self._note_high_water(db)
                db.execute("COMMIT")
            except BaseException:
                # After a full disk SQLite has already rolled back, and a second ROLLBACK would hide the real error.
                if db.in_transaction:
                    db.execute("ROLLBACK")
                raise
            finally:
                self._local.writing = False

    def close(self) -> None:
        """Close every connection; the last writer folds the write-ahead log into the file."""
        with self._guard:
            for db in self._readers:
                db.close()
            self._readers.clear()
        self._local = threading.local()
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    # -- settings --------------------------------------------------------------------------------------------------

    def setting(self, key: str) -> str | None:
        """A stored setting. Raises DamagedError where its seal does not hold."""
        with in_words(self.path):
            row = self.reader.execute("SELECT value, seal FROM settings WHERE key = ?", (key,)).fetchone()
        if row is None:
            return None
        if row[1] != seal(key, row[0]):
            raise DamagedError(
                f"the setting '{key}' of '{self.path}' is damaged; run `fathom index verify` and restore the collection"
            )
        return str(row[0])

    def set_setting(self, key: str, value: str) -> None:
        """Inside a transaction."""
        self.execute("INSERT OR REPLACE INTO settings VALUES (?, ?, ?)", (key, value, seal(key, value)))

    def forget_setting(self, key: str) -> None:
        """Inside a transaction."""
        self.execute("DELETE FROM settings WHERE key = ?", (key,))

    def _note_high_water(self, db: sqlite3.Connection) -> None:
        # sqlite_sequence has no seal; this copy shows a counter that was turned back, which would reuse ids.
        rows = dict(db.execute("SELECT name, seq FROM sqlite_sequence").fetchall())
        self.set_setting("high_water", json.dumps(rows, sort_keys=True))
        self.set_setting("live", json.dumps(self._live))

    def recount(self) -> None:
        """Inside a transaction of a repair: what can be reached now is what there is."""
        self._live = list(self.counts())

    def live(self) -> tuple[int, int] | None:
        """(documents, passages) there should be, as the writer counted them.

        A flipped bit in a page that only links other pages hides rows whose own seals are in order; only a count made
        elsewhere shows it.
        """
        text = self.setting("live")
        return tuple(json.loads(text)) if text else None

    # -- writing (inside a transaction) ----------------------------------------------------------------------------

    def execute(self, sql: str, values: Sequence[object] = ()) -> sqlite3.Cursor:
        """Run a writing statement on the one writing connection."""
        if self._writer is None:
            raise RuntimeError("the catalogue is open for reading only")
        return self._writer.execute(sql, values)

    def put(self, new: NewDocument) -> tuple[int, int | None]:
        """Store a document, replacing the one of the same owner and uri. Returns (new id, replaced id or None)."""
        replaced = self.document_id(new.document.uri, new.owner)
        if replaced is not None:
            self.delete(replaced)
        document = new.document
        metadata = {str(key): value for key, value in document.metadata.items()}
        fields: tuple[Field, ...] = (
            new.owner,
            document.uri,
            document.title,
            document.format,
            document.content_hash,
            new.root,
            new.path,
            time.time(),
            json.dumps(document.page_starts),
            json.dumps([[h.start, h.level, h.title] for h in document.headings], ensure_ascii=False),
            json.dumps(metadata, ensure_ascii=False, sort_keys=True),
            json.dumps(document.warnings, ensure_ascii=False),
        )
        cursor = self.execute(f"INSERT INTO documents ({DOCUMENT_COLUMNS}) VALUES (NULL,{'?,' * 12}x'')", fields)
        document_id = int(cursor.lastrowid or 0)
        self.execute("UPDATE documents SET seal = ? WHERE id = ?", (seal(document_id, *fields), document_id))
        packed = zlib.compress(document.text.encode("utf-8"), 1)
        self.execute("INSERT INTO texts VALUES (?,?,?)", (document_id, packed, seal(document_id, packed)))
        for key, value in metadata.items():
            self.execute("INSERT OR IGNORE INTO facts VALUES (?,?,?)", (key, value, document_id))
        first, last = self._put_passages(document_id, new)
        self._live[0] += 1
        self._live[1] += len(new.spans)
        self._log("add", document_id, first, last)
        return document_id, replaced

    def _put_passages(self, document_id: int, new: NewDocument) -> tuple[int, int]:
        if len(new.spans) != len(new.vectors) or len(new.spans) != len(new.input_hashes):
            raise ValueError(f"{len(new.spans)} spans but {len(new.vectors)} vectors")
        text = new.document.text
        row = self.execute("SELECT seq FROM sqlite_sequence WHERE name = 'passages'").fetchone()
        first = (int(row[0]) if row else 0) + 1
        vectors = np.ascontiguousarray(new.vectors, dtype=np.float16)
        for index, span in enumerate(new.spans):
            passage_id = first + index
            fields: tuple[Field, ...] = (
                passage_id,
                document_id,
                index,
                span.start,
                span.end,
                span.page,
                json.dumps(span.headings, ensure_ascii=False),
                span.context,
                span.tokens,
                new.input_hashes[index],
                text[span.start : span.end],
            )
            self.execute(f"INSERT INTO passages VALUES ({'?,' * 11}?)", (*fields, seal(*fields)))
            data = vectors[index].tobytes()
            self.execute("INSERT INTO vectors VALUES (?,?,?)", (passage_id, data, seal(passage_id, data)))
        return first, first + len(new.spans) - 1

    def delete(self, document_id: int) -> None:
        """Remove a document with everything of it, and log the removal."""
        first, last, count = self.reader.execute(
            "SELECT coalesce(min(id), 0), coalesce(max(id), -1), count(*) FROM passages WHERE document_id = ?",
            (document_id,),
        ).fetchone()
        self.execute("DELETE FROM documents WHERE id = ?", (document_id,))
        self._live[0] -= 1
        self._live[1] -= int(count)
        self._log("remove", document_id, int(first), int(last))

    def _log(self, kind: str, document_id: int, first: int, last: int) -> None:
        cursor = self.execute("INSERT INTO changes VALUES (NULL,?,?,?,?,x'')", (kind, document_id, first, last))
        sequence = int(cursor.lastrowid or 0)
        self.execute(
            "UPDATE changes SET seal = ? WHERE sequence = ?",
            (seal(sequence, kind, document_id, first, last), sequence),
        )

    def forget_changes(self, up_to: int) -> None:
        """Drop log entries that every accelerator has; a reader that is older than this reloads instead."""
        self.execute("DELETE FROM changes WHERE sequence <= ?", (up_to,))
        self.set_setting("changes_floor", str(up_to))

    # -- reading ---------------------------------------------------------------------------------------------------

    def sequence(self) -> int:
        """Number of the last change; 0 for a new collection."""
        row = self.select("SELECT seq FROM sqlite_sequence WHERE name = 'changes'")
        return int(row[0][0]) if row else 0

    def changes_floor(self) -> int:
        """Changes up to this number are no longer in the log."""
        return int(self.setting("changes_floor") or 0)

    def changes_since(self, sequence: int) -> list[Change]:
        """The log after `sequence`, oldest first. Raises DamagedError where an entry's seal does not hold."""
        rows = self.select(
            "SELECT sequence, kind, document_id, first_passage, last_passage, seal FROM changes WHERE sequence > ? "
            "ORDER BY sequence",
            (sequence,),
        )
        for row in rows:
            self._check(seal(*row[:5]), row[5], f"entry {row[0]} of the change log")
        return [Change(*row[:5]) for row in rows]

    def counts(self) -> tuple[int, int]:
        """(documents, passages)."""
        (row,) = self.select("SELECT (SELECT count(*) FROM documents), (SELECT count(*) FROM passages)")
        return int(row[0]), int(row[1])

    def document_id(self, uri: str, owner: str) -> int | None:
        """Id of the document of this owner and uri."""
        row = self.select("SELECT id FROM documents WHERE owner = ? AND uri = ?", (owner, uri))
        return int(row[0][0]) if row else None

    def document_ids(self, filters: Sequence[Filter], owners: Iterable[str] | None) -> set[int]:
        """Ids of the documents that meet every filter and belong to one of the owners (None: anyone)."""
        condition, values = where_clause(filters, owners)
        return {int(row[0]) for row in self.select(f"SELECT d.id FROM documents d WHERE {condition}", values)}

    def rows(
        self, filters: Sequence[Filter] = (), owners: Iterable[str] | None = None, *, id_: int | None = None
    ) -> list[DocumentRow]:
        """Documents by uri, with their number of passages."""
        condition, values = where_clause(filters, owners)
        if id_ is not None:
            condition, values = f"({condition}) AND d.id = ?", [*values, id_]
        columns = ", ".join(f"d.{name}" for name in DOCUMENT_COLUMNS.split(", "))
        rows = self.select(
            f"SELECT {columns}, (SELECT count(*) FROM passages p WHERE p.document_id = d.id) FROM documents d "
            f"WHERE {condition} ORDER BY d.uri, d.owner",
            values,
        )
        return [self._row(row) for row in rows]

    def _row(self, row: Sequence) -> DocumentRow:
        self._check(seal(*row[:13]), row[13], f"document {row[0]} ('{row[2]}')")
        return DocumentRow(
            source=Source(row[0], row[2], row[3], row[4], row[1], json.loads(row[11])),
            content_hash=row[5],
            root=row[6],
            path=row[7],
            added_at=row[8],
            warnings=tuple(json.loads(row[12])),
            passages=row[14] if len(row) > 14 else 0,
        )

    def sources(self, ids: Iterable[int]) -> dict[int, Source]:
        """Documents by id, without their text; missing ids are left out."""
        found = {}
        for group in _groups(sorted(set(ids))):
            marks = ",".join("?" * len(group))
            for row in self.select(f"SELECT {DOCUMENT_COLUMNS} FROM documents WHERE id IN ({marks})", group):
                found[row[0]] = self._row(row).source
        return found

    def document(self, document_id: int) -> Document:
        """A document with its text. Raises MissingError, DamagedError."""
        rows = self.select(f"SELECT {DOCUMENT_COLUMNS} FROM documents WHERE id = ?", (document_id,))
        texts = self.select("SELECT text, seal FROM texts WHERE document_id = ?", (document_id,))
        if not rows:
            raise MissingError(f"document {document_id} is not in the collection any more")
        row = self._row(rows[0])
        if not texts:
            raise DamagedError(f"the text of document {document_id} ('{row.source.uri}') is missing; sync again")
        self._check(seal(document_id, texts[0][0]), texts[0][1], f"the text of document '{row.source.uri}'")
        return Document(
            uri=row.source.uri,
            text=zlib.decompress(texts[0][0]).decode("utf-8"),
            title=row.source.title,
            format=row.source.format,
            page_starts=tuple(json.loads(rows[0][9])),
            headings=tuple(Heading(*item) for item in json.loads(rows[0][10])),
            metadata=row.source.metadata,
            content_hash=row.content_hash,
            warnings=row.warnings,
        )

    def passages(self, ids: Sequence[int]) -> dict[int, Passage]:
        """Passages by id, seals checked; ids that are gone are left out, so that a stale id can never be cited."""
        found = {}
        for group in _groups(ids):
            marks = ",".join("?" * len(group))
            for row in self.select(f"SELECT {PASSAGE_COLUMNS} FROM passages WHERE id IN ({marks})", group):
                found[row[0]] = self._passage(row)
        return found

    def places(self) -> dict[int, tuple[str, int, int]]:
        """Passage id → (uri, start, end) of all passages, without texts and unsealed: for measuring, not for citing."""
        sql = 'SELECT p.id, d.uri, p.start, p."end" FROM passages p JOIN documents d ON d.id = p.document_id'
        return {row[0]: (row[1], row[2], row[3]) for row in self.select(sql)}

    def passages_of(self, document_id: int) -> list[Passage]:
        """A document's passages in order."""
        sql = f"SELECT {PASSAGE_COLUMNS} FROM passages WHERE document_id = ? ORDER BY ordinal"
        return [self._passage(row) for row in self.select(sql, (document_id,))]

    def _passage(self, row: Sequence) -> Passage:
        self._check(seal(*row[:11]), row[11], f"passage {row[0]} of document {row[1]}")
        return Passage(row[0], row[1], row[2], row[3], row[4], row[5], tuple(json.loads(row[6])), row[10], row[8])

    def lexical_entries(self, first: int, last: int) -> Iterator[tuple[int, int, str, str]]:
        """(passage id, document id, context, text) of the passages [first, last]."""
        for low in range(first, last + 1, 1000):
            yield from (
                (row[0], row[1], row[7], row[10])
                for row in self.select(
                    f"SELECT {PASSAGE_COLUMNS} FROM passages WHERE id BETWEEN ? AND ? ORDER BY id",
                    (low, min(last, low + 999)),
                )
                if self._passage(row)
            )

    def vectors(self, first: int, last: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(passage ids, document ids, float16 matrix) of the live passages [first, last], by ascending id."""
        rows = self.select(
            "SELECT v.passage_id, p.document_id, v.vector, v.seal "
            "FROM vectors v JOIN passages p ON p.id = v.passage_id "
            "WHERE v.passage_id BETWEEN ? AND ? ORDER BY v.passage_id",
            (first, last),
        )
        for row in rows:
            self._check(seal(row[0], row[2]), row[3], f"the vector of passage {row[0]} (document {row[1]})")
        ids = np.array([row[0] for row in rows], dtype=np.int64)
        documents = np.array([row[1] for row in rows], dtype=np.int64)
        data = np.frombuffer(b"".join(row[2] for row in rows), dtype=np.float16)
        return ids, documents, data.reshape(len(rows), -1) if rows else data.reshape(0, 0)

    def known_vectors(self, hashes: Iterable[bytes]) -> dict[bytes, np.ndarray]:
        """Vectors already stored for equal embedding inputs, so that moved or partly changed files cost nothing."""
        found: dict[bytes, np.ndarray] = {}
        for group in _groups(sorted(set(hashes))):
            marks = ",".join("?" * len(group))
            rows = self.select(
                "SELECT p.input_hash, v.passage_id, v.vector, v.seal "
                f"FROM passages p JOIN vectors v ON v.passage_id = p.id WHERE p.input_hash IN ({marks})",
                group,
            )
            for digest, passage_id, data, check in rows:
                if digest not in found and check == seal(passage_id, data):
                    found[digest] = np.frombuffer(data, dtype=np.float16)
        return found

    def passage_ids(self) -> list[int]:
        """Every live passage, ascending."""
        return [int(row[0]) for row in self.select("SELECT id FROM passages ORDER BY id")]

    def last_passage(self) -> int:
        """Highest passage id ever given."""
        row = self.select("SELECT seq FROM sqlite_sequence WHERE name = 'passages'")
        return int(row[0][0]) if row else 0

    def select(self, sql: str, values: Sequence[Scalar | bytes] = ()) -> list:
        """Rows of a query on this thread's connection."""
        with in_words(self.path):
            return self.reader.execute(sql, values).fetchall()

    def _check(self, expected: bytes, found: bytes, what: str) -> None:
        if expected != found:
            raise DamagedError(
                f"{what} in '{self.path}' is not what was written; run `fathom index verify --repair`, then sync again"
            )


def _groups(items: Sequence, size: int = 500) -> Iterator[Sequence]:
    # SQLite takes 32,766 parameters; 500 keeps the statement cache useful.
    for start in range(0, len(items), size):
        yield items[start : start + size]
