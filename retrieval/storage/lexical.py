"""Passages → a BM25 index on disk (tantivy), searched with filters inside the search.

A cache of the catalogue: it holds no text, says through its watermark how much of the catalogue it contains, and is
deleted and rebuilt on any doubt. It does not know what a document says or who owns it.
"""

import threading
import time
from collections.abc import Iterable, Iterator, Sequence, Set
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tantivy

from retrieval.errors import BusyError, DamagedError, FathomError
from retrieval.storage.lexical_files import META, count_problem, file_problem, is_segment_file, read_meta, segment_files
from retrieval.tokenising import query_tokens, tokens

MAX_TERMS = 256
"""Distinct words of a query that are searched; of a longer query the rarest ones."""

_HEAP = 50_000_000  # bytes the writer fills before it starts a new segment
_ATTEMPTS = 6  # to open an index that another process is just changing
_PATIENCE = 10.0  # seconds for tantivy's threads to end
_TANTIVY = ("merge_thread", "segment_updater")
_Clause = tuple[tantivy.Occur, tantivy.Query]


@dataclass(frozen=True, slots=True)
class LexicalEntry:
    """A passage to be found. `text` is its context and its own text."""

    passage_id: int
    document_id: int
    text: str


@dataclass(frozen=True, slots=True)
class _State:
    """What the marker says. It is a document of the index itself, replaced with every commit, so that content and
    watermark change in one step: tantivy's own commit payload is not reachable from Python."""

    watermark: int
    passages: int
    floor: int


def _schema() -> tantivy.Schema:
    builder = tantivy.SchemaBuilder()
    builder.add_unsigned_field("passage_id", indexed=True, fast=True)
    builder.add_unsigned_field("document_id", indexed=True, fast=True)
    builder.add_text_field("body", tokenizer_name="whitespace", index_option="freq")
    builder.add_unsigned_field("marker", indexed=True)
    builder.add_unsigned_field("watermark", fast=True)
    builder.add_unsigned_field("passages", fast=True)
    builder.add_unsigned_field("floor", fast=True)
    return builder.build()


@contextmanager
def _damage(folder: Path, doing: str) -> Iterator[None]:
    """Whatever tantivy raises while reading, a Rust panic (no Exception) included, is damage."""
    try:
        yield
    except (FathomError, KeyboardInterrupt, SystemExit, GeneratorExit, MemoryError):
        raise
    except BaseException as error:
        raise _damaged(folder, f"{doing} failed: {error}") from error


def _living(segment: dict[str, Any]) -> int:
    return int(segment["max_doc"]) - int((segment["deletes"] or {"num_deleted_docs": 0})["num_deleted_docs"])


def _threads(names: tuple[str, ...] = ("",)) -> frozenset[int]:
    """Ids of this process's threads whose names begin with one of `names`; none where there is no /proc."""
    found = []
    for task in Path("/proc/self/task").glob("*/comm"):
        try:
            if task.read_text(errors="replace").startswith(names):
                found.append(int(task.parent.name))
        except OSError:
            continue  # it ended while we looked
    return frozenset(found)


def _damaged(folder: Path, found: str) -> DamagedError:
    return DamagedError(
        f"The lexical index in {folder} is damaged: {found}. It is rebuilt from the catalogue by "
        "'fathom index verify --repair'; no document is lost."
    )


class LexicalIndex:
    """BM25 (k1 = 1.2, b = 0.75; Robertson and Zaragoza 2009) over the passages of one collection.

    One writer at a time (BusyError for a second), any number of readers in other processes. Opening reads every byte
    once and compares checksums: about 10 ms for 100,000 passages. Raises DamagedError on anything doubtful.
    """

    def __init__(self, folder: Path, *, write: bool) -> None:
        self._folder = folder
        self._lock = threading.RLock()
        self._writes = write
        self._writer: Any = None
        self._workers: Set[int] = frozenset()
        self._sound: set[str] = set()
        self._schema = _schema()
        if write and not (folder.is_dir() and any(folder.iterdir())):
            folder.mkdir(parents=True, exist_ok=True)
            try:
                tantivy.Index(self._schema, path=str(folder))
            except (ValueError, OSError) as error:
                raise FathomError(f"No lexical index could be made in {folder}: {error}.") from error
        if not (folder / META).is_file():
            raise _damaged(folder, f"{META} is missing")
        self._settle(self._open)
        if write:
            self._start_writer()

    # Opening and following another process

    def _stamp(self) -> tuple[int, int, int]:
        stat = (self._folder / META).stat()
        return stat.st_mtime_ns, stat.st_size, stat.st_ino

    def _settle(self, load: Any) -> None:
        """Run `load` until it sees one commit whole. A writer that commits or merges in between may take files away
        that we were about to read; only a failure while nothing changed is damage."""
        for attempt in range(_ATTEMPTS):
            before = None
            try:
                before = self._stamp()
                self._check_new_files()
                load()
            except (DamagedError, OSError) as error:
                if attempt + 1 < _ATTEMPTS and self._moved_since(before):
                    time.sleep(0.01 * 2**attempt)
                    continue
                if isinstance(error, DamagedError):
                    raise
                raise _damaged(self._folder, f"{META} cannot be read ({error.strerror})") from error
            self._seen = before
            return

    def _moved_since(self, before: tuple[int, int, int] | None) -> bool:
        try:
            return self._stamp() != before
        except OSError:
            return False

    def _check_new_files(self) -> None:
        """Compare the checksums of files not read before; a segment's file never changes once it is written."""
        found = self._problems(skip=self._sound)
        if found:
            raise _damaged(self._folder, "; ".join(found[:3]))

    def _problems(self, skip: Set[str]) -> list[str]:
        try:
            meta = read_meta(self._folder)
            names = list(segment_files(meta))
        except (OSError, ValueError, RecursionError) as error:
            return [f"{META} cannot be read ({error})"]
        found = []
        for name in names:
            if name not in skip:
                problem = file_problem(self._folder / name)
                if problem is None:
                    self._sound.add(name)
                else:
                    self._sound.discard(name)
                    found.append(problem)
        self._sound.intersection_update(names)
        if not found and (problem := count_problem(self._folder, meta)):
            found.append(problem)
        return found

    def _open(self) -> None:
        with _damage(self._folder, "opening it"):
            self._index = tantivy.Index.open(str(self._folder))
            self._index.config_reader("manual")  # the default polls the folder from a thread of its own
            if self._index.schema != self._schema:
                raise _damaged(self._folder, "its fields are not the ones this version writes")
        self._load()

    def _load(self) -> None:
        with _damage(self._folder, "reading its last commit"):
            self._index.reload()
            searcher = self._index.searcher()
            marker = tantivy.Query.term_query(self._schema, "marker", 1)
            hits = [address for _, address in searcher.search(marker, 2, count=False).hits]
            meta = read_meta(self._folder)
            opstamp = int(meta["opstamp"])
            if hits:
                values = [searcher.fast_field_values(name, hits) for name in ("watermark", "passages", "floor")]
                state = _State(*(int(value[0]) for value in values))
            else:
                state = _State(0, 0, 0)
            # Two counts that must agree with the marker: the bitmaps of the deleted, and what meta.json says of them.
            counts = {searcher.num_docs, sum(map(_living, meta["segments"]))}
            if len(hits) > 1 or counts != {state.passages + len(hits)}:
                raise _damaged(
                    self._folder,
                    f"it should hold {state.passages} passages, {min(counts) - len(hits)} are there",
                )
            # Operation stamps order deletions; a changed one could make tantivy skip some later.
            if not state.floor <= opstamp <= state.floor + 8:
                raise _damaged(self._folder, f"{META} carries operation stamp {opstamp}, not {state.floor}")
        self._searcher, self._state = searcher, state

    def refresh(self) -> None:
        """See what another process has committed since. One stat() when nothing has changed."""
        with self._lock:
            try:
                if self._stamp() == self._seen:
                    return
            except OSError as error:
                raise _damaged(self._folder, f"{META} is missing") from error
            self._settle(self._load)

    @property
    def watermark(self) -> int:
        """Last change of the catalogue that is contained; 0 in a new index."""
        return self._state.watermark

    @property
    def dead_fraction(self) -> float:
        """Share of entries that are deleted but still take room and still count in the word statistics."""
        entries = sum(int(segment["max_doc"]) for segment in read_meta(self._folder)["segments"])
        return 1 - self._searcher.num_docs / entries if entries else 0.0

    # Writing

    def _start_writer(self) -> None:
        before = _threads()
        try:
            try:
                self._writer = self._index.writer(_HEAP, 1)
            except (ValueError, OSError) as error:
                if "lock" in str(error).lower():
                    raise BusyError(
                        f"The lexical index in {self._folder} is being written by another process; try again later."
                    ) from error
                self._sweep()  # a killed writer may have filled the disk
                self._writer = self._index.writer(_HEAP, 1)
        except (ValueError, OSError) as error:
            raise FathomError(f"The lexical index in {self._folder} cannot be written: {error}.") from error
        self._workers = _threads() - before
        # What a killed writer left: tantivy would want the same names again and refuse. Only now that the lock is
        # ours: before, these could be the files of a writer at work.
        self._sweep()

    def _need_writer(self) -> None:
        if not self._writes:
            raise FathomError(f"The lexical index in {self._folder} was opened for reading only.")
        if self._writer is None:
            self._start_writer()

    def apply(self, add: Iterable[LexicalEntry], remove_documents: Iterable[int], watermark: int) -> None:
        """Remove all passages of `remove_documents`, add `add`, and note `watermark`: one commit, all or nothing.

        What is added stays even where its document is among the removed. A kill at any moment leaves the old or the
        new state, each with its own watermark.
        """
        with self._lock:
            self._need_writer()
            try:
                self._write(add, sorted(set(remove_documents)), watermark)
            except FathomError:
                raise
            except (ValueError, OSError) as error:  # tantivy reports a full disk as ValueError
                # Dropped, not rolled back: after a full disk rollback() succeeds and every later commit fails. The
                # next call makes a new writer, which always starts from the last commit.
                self._abandon()
                if "StorageFull" in str(error) or "No space left" in str(error):
                    raise FathomError(
                        f"the disk is full: the lexical index in '{self._folder}' could not grow; everything saved "
                        "before is intact; free some space and run the same command again"
                    ) from error
                raise FathomError(f"The lexical index in {self._folder} could not be written: {error}.") from error
            except BaseException:  # `add` may raise anything; nothing of this call may reach the next commit
                self._abandon()
                raise
            self._settle(self._load)

    def _write(self, add: Iterable[LexicalEntry], remove: Sequence[int], watermark: int) -> None:
        gone, added = 0, 0  # no local name for the writer: a traceback would keep it, and with it its lock
        if remove:
            # Not delete_documents_by_term: given an int it looks for a signed term and deletes nothing.
            doomed = tantivy.Query.term_set_query(self._schema, "document_id", remove)
            gone = int(self._searcher.search(doomed, 1, count=True).count)
            self._writer.delete_documents_by_query(doomed)
        for entry in add:
            document = tantivy.Document()
            document.add_unsigned("passage_id", entry.passage_id)
            document.add_unsigned("document_id", entry.document_id)
            document.add_text("body", " ".join(tokens(entry.text)))
            self._writer.add_document(document)
            added += 1
        floor = self._writer.delete_documents_by_query(tantivy.Query.term_query(self._schema, "marker", 1))
        marker = tantivy.Document()
        marker.add_unsigned("marker", 1)
        marker.add_unsigned("watermark", watermark)
        marker.add_unsigned("passages", self._state.passages - gone + added)
        marker.add_unsigned("floor", floor)
        self._writer.add_document(marker)
        self._writer.commit()

    def _abandon(self) -> None:
        """Let the writer go and remove what it left behind: on a full disk tantivy's own clean-up finds no room."""
        self._writer = None
        self._await_workers()
        self._sweep()

    def _sweep(self) -> None:
        """Delete the segment files that the last commit does not name. Only a writer may."""
        try:
            named = set(segment_files(read_meta(self._folder)))
        except (OSError, ValueError):
            return  # the next read says so
        for path in self._folder.iterdir():
            if is_segment_file(path.name) and path.name not in named:
                path.unlink(missing_ok=True)

    def optimise(self) -> None:
        """Let the merges that are under way finish and remove files nothing refers to.

        tantivy merges eight segments of like size into one by itself and offers Python no merge by hand: where
        `dead_fraction` stays high, delete the folder and build it again.
        """
        with self._lock:
            self._need_writer()
            self._finish()
            self._start_writer()
            self._writer.garbage_collect_files()
            self._settle(self._load)

    # Reading

    def _words(self, query: str) -> tantivy.Query | None:
        words = query_tokens(query)
        if len(words) > MAX_TERMS:
            counts = {word: self._searcher.doc_freq("body", word) for word in words}
            words = sorted((word for word in words if counts[word]), key=lambda word: counts[word])[:MAX_TERMS]
        if not words:
            return None
        return tantivy.Query.boolean_query(
            [(tantivy.Occur.Should, tantivy.Query.term_query(self._schema, "body", word, "freq")) for word in words]
        )

    def _one_of(self, field: str, ids: Iterable[int]) -> tantivy.Query:
        """Matches entries with one of `ids`, adds 0 to their score."""
        chosen = tantivy.Query.term_set_query(self._schema, field, list(ids))
        return tantivy.Query.const_score_query(chosen, 0.0)

    def _top(self, clauses: list[_Clause], k: int) -> list[tuple[int, float]]:
        searcher = self._searcher
        k = min(k, searcher.num_docs)
        if k < 1:
            return []
        query = tantivy.Query.boolean_query(clauses) if len(clauses) > 1 else clauses[0][1]
        with _damage(self._folder, "a search"):
            hits = searcher.search(query, k, count=False).hits
            ids = searcher.fast_field_values("passage_id", [address for _, address in hits])
        found = [(int(i), float(score)) for i, (score, _) in zip(ids, hits, strict=True)]
        return sorted(found, key=lambda hit: (-hit[1], hit[0]))

    def search(
        self, query: str, k: int, *, documents: Set[int] | None = None, exclude: bool = False
    ) -> list[tuple[int, float]]:
        """The `k` best (passage id, BM25 score) for any of the query's words, best first.

        `documents` restricts the search to passages of these documents, with `exclude` to all others. The score of a
        passage is the same with and without. Any string is a query; one without a word finds nothing.
        """
        words = self._words(query)
        if words is None or (documents is not None and not documents and not exclude):
            return []
        clauses = [(tantivy.Occur.Must, words)]
        if documents:
            occur = tantivy.Occur.MustNot if exclude else tantivy.Occur.Must
            clauses.append((occur, self._one_of("document_id", documents)))
        return self._top(clauses, k)

    def score(self, query: str, passage_ids: Sequence[int]) -> dict[int, float]:
        """BM25 of the given passages, as `search` would give it; passages without a word of the query are absent."""
        words = self._words(query)
        if words is None or not passage_ids:
            return {}
        wanted = self._one_of("passage_id", set(passage_ids))
        return dict(self._top([(tantivy.Occur.Must, words), (tantivy.Occur.Must, wanted)], len(passage_ids)))

    def passage_ids(self) -> np.ndarray:
        """All passages contained, ascending, int64 (n,)."""
        searcher = self._searcher
        with _damage(self._folder, "listing its passages"):
            everything = searcher.search(tantivy.Query.all_query(), max(1, searcher.num_docs), count=False).hits
            ids = searcher.fast_field_values("passage_id", [address for _, address in everything])
        return np.sort(np.array([i for i in ids if i is not None], dtype=np.int64))

    def check(self) -> list[str]:
        """Read every byte again. What is wrong, in words; empty where all is well."""
        with self._lock:
            found: list[str] = []
            for _ in range(_ATTEMPTS):
                before = self._stamp() if (self._folder / META).is_file() else None
                found = self._problems(skip=frozenset())
                if not found or not self._moved_since(before):
                    break
            if not found:
                try:
                    LexicalIndex(self._folder, write=False).close()
                except DamagedError as error:
                    found = [str(error)]
            return found

    def close(self) -> None:
        """Wait until nothing writes to the folder any more and let the lock go. Twice is no error."""
        with self._lock:
            self._finish()
            self._writes = False

    def _finish(self) -> None:
        writer, self._writer = self._writer, None
        if writer is None:
            return
        try:
            writer.wait_merging_threads()
        except (ValueError, OSError):  # a merge failed; the commits stand, and nothing is waited for any more
            pass
        self._await_workers()

    def _await_workers(self) -> None:
        # The threads clear up after the last merge for some milliseconds more: a folder deleted now would get a file
        # back (seen in 1 of 3,000 tests).
        deadline = time.monotonic() + _PATIENCE
        while self._workers & _threads(_TANTIVY) and time.monotonic() < deadline:
            time.sleep(0.002)

    def __enter__(self) -> "LexicalIndex":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
