"""A collection in, everything that is wrong with it out, in words: every row against its seal, every span against its
document, every cache against the catalogue. Repairs what can be made again.
"""

import json
import sqlite3
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np

from retrieval.collection import Collection
from retrieval.embedding.adapter import kept_in, read_adapter
from retrieval.errors import DamagedError, FathomError
from retrieval.storage.catalogue import Catalogue
from retrieval.storage.file_memory import forget_file_states_of
from retrieval.storage.schema import schema_problems
from retrieval.storage.sealing import seal

Progress = Callable[[str, int, int], None]
STEP = 2_000


@dataclass(slots=True)
class VerifyReport:
    """`problems` found, in words; `checked` counts per kind of thing; `repaired` and `lost` say what repair did.

    `lost` lists uris whose stored rows were damaged and removed: sync again and they come back from their files.
    """

    problems: list[str] = field(default_factory=list)
    checked: dict[str, int] = field(default_factory=dict)
    repaired: list[str] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)


class _Audit:
    """Walks the catalogue; collects problems and the ids of documents that cannot be trusted."""

    def __init__(self, catalogue: Catalogue, dimension: int, progress: Progress | None) -> None:
        self.catalogue = catalogue
        self.dimension = dimension
        self.progress = progress
        self.problems: list[str] = []
        self.bad_documents: set[int] = set()
        self.checked: dict[str, int] = {}

    def run(self) -> None:
        db = self.catalogue.reader
        self.problems += [f"catalogue: {problem}" for problem in schema_problems(db)]
        for check in (self._pages, self._settings, self._counters, self._log, self._states, self._documents):
            try:
                check(db)
            except (sqlite3.Error, ValueError, zlib.error, TypeError, OverflowError) as error:
                self.problems.append(f"catalogue: cannot be read ({type(error).__name__}: {str(error)[:120]})")

    def _pages(self, db: sqlite3.Connection) -> None:
        for (line,) in db.execute("PRAGMA integrity_check(20)"):
            if line != "ok":
                self.problems.append(f"catalogue: {str(line)[:200]}")
        for row in db.execute("PRAGMA foreign_key_check"):
            self.problems.append(f"catalogue: a row of {row[0]} belongs to nothing")

    def _settings(self, db: sqlite3.Connection) -> None:
        for table, columns in (("settings", "key, value, seal"), ("roots", "path, prefix, seal")):
            count = 0
            for row in db.execute(f"SELECT {columns} FROM {table}"):
                count += 1
                if row[2] != seal(*row[:2]):
                    self.problems.append(f"catalogue: {table} entry '{str(row[0])[:60]}' is not what was written")
            self.checked[table] = count

    def _counters(self, db: sqlite3.Connection) -> None:
        noted = json.loads(self.catalogue.setting("high_water") or "{}")
        found = dict(db.execute("SELECT name, seq FROM sqlite_sequence"))
        live = self.catalogue.live()
        if live is not None and live != self.catalogue.counts():
            found_counts = self.catalogue.counts()
            self.problems.append(f"catalogue: {found_counts} documents and passages can be reached of {live} written")
        if noted != found:
            self.problems.append("catalogue: the id counters are not what was written; ids might be given twice")

    def _log(self, db: sqlite3.Connection) -> None:
        columns = "sequence, kind, document_id, first_passage, last_passage, seal"
        rows = db.execute(f"SELECT {columns} FROM changes").fetchall()
        for row in rows:
            if row[5] != seal(*row[:5]):
                self.problems.append(f"catalogue: entry {row[0]} of the change log is not what was written")
        expected = self.catalogue.sequence() - self.catalogue.changes_floor()
        if len(rows) != expected:
            self.problems.append(f"catalogue: the change log has {len(rows)} entries, expected {expected}")
        self.checked["changes"] = len(rows)

    def _states(self, db: sqlite3.Connection) -> None:
        rows = db.execute("SELECT * FROM stats").fetchall()
        for row in rows:
            if row[11] != seal(*row[:11]):
                self.problems.append(f"catalogue: what is remembered of '{str(row[0])[-60:]}' is not what was written")
        self.checked["files"] = len(rows)

    def _documents(self, db: sqlite3.Connection) -> None:
        ids = [row[0] for row in db.execute("SELECT id FROM documents ORDER BY id")]
        self.checked["documents"] = len(ids)
        self.checked["passages"] = 0
        for done, document_id in enumerate(ids, start=1):
            for problem in self._document(db, document_id):
                self.problems.append(problem)
                self.bad_documents.add(document_id)
            if self.progress is not None and (done % 100 == 0 or done == len(ids)):
                self.progress("documents", done, len(ids))

    def _document(self, db: sqlite3.Connection, document_id: int) -> Iterator[str]:
        try:
            document = self.catalogue.document(document_id)
            passages = self.catalogue.passages_of(document_id)
        except DamagedError as error:
            yield str(error).split("; run")[0]
            return
        except (ValueError, zlib.error) as error:
            yield f"document {document_id} cannot be read ({error})"
            return
        name = f"document '{document.uri}'"
        facts = set(db.execute("SELECT key, value FROM facts WHERE document_id = ?", (document_id,)))
        if facts != {(key, value) for key, value in document.metadata.items()}:
            yield f"{name}: its filter values are not its metadata"
        vectors = {
            row[0]: row[1:]
            for row in db.execute(
                "SELECT v.passage_id, v.vector, v.seal FROM vectors v JOIN passages p ON p.id = v.passage_id "
                "WHERE p.document_id = ?",
                (document_id,),
            )
        }
        for ordinal, passage in enumerate(passages):
            self.checked["passages"] += 1
            if passage.ordinal != ordinal or document.text[passage.start : passage.end] != passage.text:
                yield f"{name}: passage {passage.id} is not the text it points to"
            data, check = vectors.get(passage.id, (b"", b""))
            if check != seal(passage.id, data):
                yield f"{name}: the vector of passage {passage.id} is missing or not what was written"
                continue
            vector = np.frombuffer(data, dtype=np.float16).astype(np.float32)
            if vector.shape != (self.dimension,) or not abs(float(np.linalg.norm(vector)) - 1.0) < 0.02:
                yield f"{name}: the vector of passage {passage.id} is not of length 1 in {self.dimension} dimensions"
        log = self.catalogue.reader.execute(
            "SELECT first_passage, last_passage FROM changes WHERE kind = 'add' AND document_id = ?", (document_id,)
        ).fetchone()
        if log is not None and log[1] - log[0] + 1 != len(passages):
            yield f"{name}: {len(passages)} passages, {log[1] - log[0] + 1} were written"


def verify(collection: Collection, *, repair: bool = False, progress: Progress | None = None) -> VerifyReport:
    """Check everything; with `repair` (collection open for writing) also make good what can be made again.

    Caches are rebuilt from the catalogue. Documents with damaged rows are removed and listed in `lost`. Damage to the
    catalogue's own structure is reported only: restore an export, or sync into a new collection.
    """
    audit = _Audit(collection.catalogue, collection.fingerprint.embedder.dimension, progress)
    audit.run()
    report = VerifyReport(problems=list(audit.problems), checked=audit.checked)
    try:
        caches = collection.accelerators.problems()
    except DamagedError as error:
        caches = [] if audit.problems else [str(error)]
    report.problems += caches
    try:
        own = kept_in(collection.folder)
        if own is not None:
            read_adapter(own)
            report.checked["adapters"] = 1
    except FathomError as error:
        report.problems.append(str(error))
    if repair and report.problems:
        _repair(collection, audit, report)
    return report


def _repair(collection: Collection, audit: _Audit, report: VerifyReport) -> None:
    catalogue = collection.catalogue
    if audit.bad_documents:
        with catalogue.transaction():
            for document_id in sorted(audit.bad_documents):
                (uri,) = catalogue.reader.execute("SELECT uri FROM documents WHERE id = ?", (document_id,)).fetchone()
                catalogue.delete(document_id)
                forget_file_states_of(catalogue, str(uri))
                report.lost.append(str(uri))
            catalogue.recount()
        report.repaired.append(f"{len(audit.bad_documents)} damaged documents removed; sync again to restore them")
    collection.accelerators.rebuild()
    report.repaired.append("dense and lexical index made again from the catalogue")
