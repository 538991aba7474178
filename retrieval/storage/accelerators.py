"""Keeps the dense and the lexical index in step with the catalogue: both are caches with a watermark, caught up from
the change log or made again when anything about them is in doubt.
"""

import json
import logging
import shutil
import threading
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from retrieval.errors import BusyError, DamagedError
from retrieval.storage.catalogue import Catalogue, Change
from retrieval.storage.durable import exchange, sync_to_disk
from retrieval.storage.locking import WriterLock
from retrieval.tokenising import TOKENISER_VERSION

# faiss and tantivy take a third of a second to import: listing and status must not pay for them.
if TYPE_CHECKING:
    from retrieval.storage.dense import DenseIndex
    from retrieval.storage.lexical import LexicalEntry, LexicalIndex
    from retrieval.storage.snapshots import Manifest

log = logging.getLogger(__name__)

# Rows that may wait in the change log before a new snapshot is written: replaying them takes some 10 ms, while a
# snapshot of 100,000 passages writes 77 MB, too much for one changed document.
REPLAY_LIMIT = 5_000
# Share of deleted rows at which the dense index is compacted and the lexical index made again.
DEAD_SHARE = 0.1
# Passages per commit while a cache is made anew.
REBUILD_STEP = 20_000

Progress = Callable[[str, int, int], None]


class Accelerators:
    """Dense and lexical search over one catalogue. Thread-safe.

    A writer (who holds the collection's lock) brings both up to the catalogue's last change; a reader follows the
    dense index from the log by itself and sees lexical changes once the writer has committed them.
    """

    def __init__(
        self,
        catalogue: Catalogue,
        folder: Path,
        dimension: int,
        *,
        write: bool,
        gpu: bool = False,
        progress: Progress | None = None,
    ) -> None:
        self._catalogue = catalogue
        self._folder = folder
        self._dimension = dimension
        self._write = write
        self._gpu = gpu
        self._progress = progress
        self._guard = threading.RLock()
        self._dense: DenseIndex | None = None
        self._lexical: LexicalIndex | None = None

    # -- searching -------------------------------------------------------------------------------------------------

    def search_dense(self, query, k: int, documents: set[int] | None) -> list[tuple[int, float]]:  # type: ignore[no-untyped-def]
        """See DenseIndex.search; over every change committed before the call."""
        with self._guard:
            return self._current_dense().search(query, k, documents)

    def score_dense(self, query, ids: list[int]) -> dict[int, float]:  # type: ignore[no-untyped-def]
        """See DenseIndex.score."""
        with self._guard:
            return self._current_dense().score(query, ids)

    def expected(self, ids: list[int]) -> list[int]:
        """Those of `ids` that the change log says are there."""
        with self._guard:
            index = self._current_dense()
            return [i for i in ids if i in index]

    def search_lexical(self, query: str, k: int, documents: set[int] | None) -> list[tuple[int, float]]:
        """See LexicalIndex.search."""
        return self._current_lexical().search(query, k, documents=documents)

    def score_lexical(self, query: str, ids: list[int]) -> dict[int, float]:
        """See LexicalIndex.score."""
        return self._current_lexical().score(query, ids)

    # -- keeping in step -------------------------------------------------------------------------------------------

    def follow(self) -> None:
        """A writer calls this after each commit; a reader may call it to be ready before the first question."""
        with self._guard:
            if self._dense is not None:
                self._current_dense()
            self._current_lexical()

    def _current_dense(self) -> "DenseIndex":
        if self._dense is None:
            self._dense = self._open_dense()
            if self._gpu:
                self._dense.use_gpu()
        sequence = self._catalogue.sequence()
        if self._dense.sequence < sequence:
            if self._dense.sequence < self._catalogue.changes_floor():
                self._dense = self._open_dense()
            self._replay(self._dense)
        return self._dense

    def _manifest(self) -> "Manifest | None":
        from retrieval.storage.snapshots import Manifest

        text = self._catalogue.setting("dense")
        return Manifest(**json.loads(text)) if text else None

    def _open_dense(self) -> "DenseIndex":
        """From the newest snapshot; from the catalogue where there is none or it is damaged."""
        from retrieval.storage.snapshots import load

        for _ in range(3):
            manifest = self._manifest()
            if manifest is None or manifest.sequence < self._catalogue.changes_floor():
                break
            try:
                return load(self._folder / "dense", manifest)
            except DamagedError as error:
                # A writer may have replaced the snapshot between reading the manifest and opening its files.
                if self._manifest() == manifest:
                    log.warning("%s; it is made again from the catalogue", error)
                    break
        return self._rebuild_dense()

    def _rebuild_dense(self) -> "DenseIndex":
        from retrieval.storage.dense import DenseIndex

        index = DenseIndex(self._dimension)
        sequence = self._catalogue.sequence()
        last = self._catalogue.last_passage()
        for low in range(1, last + 1, REBUILD_STEP):
            index.add(*self._catalogue.vectors(low, min(last, low + REBUILD_STEP - 1)))
            self._report("vectors", min(last, low + REBUILD_STEP - 1), last)
        live = self._catalogue.live()
        if live is not None and len(index) != live[1] and self._catalogue.sequence() == sequence:
            raise DamagedError(
                f"the catalogue of '{self._folder.name}' shows {len(index)} passages of {live[1]}: some rows cannot be "
                "reached; run `fathom index verify` and restore the collection"
            )
        index.sequence = sequence
        return index.compact() if index.needs_training() else index

    def _replay(self, index: "DenseIndex") -> None:
        for change in self._catalogue.changes_since(index.sequence):
            if change.kind == "add":
                ids, documents, vectors = self._catalogue.vectors(change.first, change.last)
                # None at all is a document that was removed since; some of them is rows that a damaged page hides.
                whole = len(ids) == change.last - change.first + 1
                if not whole and (len(ids) or self._catalogue.sources([change.document_id])):
                    raise DamagedError(
                        f"passages of document {change.document_id} in '{self._folder.name}' cannot be reached; run "
                        "`fathom index verify --repair`, then sync again"
                    )
                index.add(ids, documents, vectors)
            else:
                index.remove(change.first, change.last)
            index.sequence = change.sequence

    def _current_lexical(self) -> "LexicalIndex":
        with self._guard:
            if self._lexical is None:
                self._lexical = self._open_lexical()
            elif self._write:
                try:
                    self._catch_up(self._lexical)
                except DamagedError as error:
                    log.warning("%s; it is made again from the catalogue", error)
                    self._lexical.close()
                    self._lexical = self._rebuild_lexical()
            else:
                try:
                    self._lexical.refresh()
                except DamagedError:
                    self._lexical.close()
                    self._lexical = self._open_lexical()
            return self._lexical

    def _open_lexical(self) -> "LexicalIndex":
        if self._write:
            return self._writable_lexical()
        try:
            index = self._load_lexical(write=False)
            if index.watermark >= self._catalogue.sequence():
                return index
            index.close()
            reason = "is behind the catalogue"
        except DamagedError as error:
            reason = str(error)
        # A reader repairs what it finds if nobody is writing; a live writer will do it itself.
        try:
            with WriterLock(self._folder / "writer.lock", doing="repairing the lexical index"):
                log.info("the lexical index %s; it is brought up to date", reason)
                self._writable_lexical().close()
        except (BusyError, PermissionError):
            log.info("the lexical index %s; another process is changing the collection", reason)
        try:
            return self._load_lexical(write=False)
        except DamagedError as error:
            raise BusyError(
                f"the lexical index of '{self._folder.name}' is being made again by another process; try again "
                "shortly, or search with --mode dense"
            ) from error

    def _load_lexical(self, *, write: bool) -> "LexicalIndex":
        from retrieval.storage.lexical import LexicalIndex

        folder = self._folder / "lexical"
        version = folder / "tokeniser"
        if not version.is_file() or version.read_bytes() != TOKENISER_VERSION.encode():
            raise DamagedError("the lexical index is missing or of another tokeniser")
        index = LexicalIndex(folder / "index", write=write)
        if index.watermark < self._catalogue.changes_floor():
            index.close()
            raise DamagedError("the lexical index is older than the change log")
        return index

    def _writable_lexical(self) -> "LexicalIndex":
        try:
            index = self._load_lexical(write=True)
        except DamagedError as error:
            log.info("%s; it is made again from the catalogue", error)
            return self._rebuild_lexical()
        try:
            self._catch_up(index)
        except DamagedError as error:
            log.warning("%s; it is made again from the catalogue", error)
            index.close()
            return self._rebuild_lexical()
        return index

    def _rebuild_lexical(self) -> "LexicalIndex":
        """Built beside and renamed: half an index must never look like a whole one."""
        from retrieval.storage.lexical import LexicalIndex

        fresh, folder = self._folder / "lexical.new", self._folder / "lexical"
        shutil.rmtree(fresh, ignore_errors=True)
        fresh.mkdir()
        sequence, last = self._catalogue.sequence(), self._catalogue.last_passage()
        index = LexicalIndex(fresh / "index", write=True)
        for low in range(1, last + 1, REBUILD_STEP):
            high = min(last, low + REBUILD_STEP - 1)
            index.apply(self._entries(low, high), (), sequence)
            self._report("words", high, last)
        if last == 0 or index.watermark != sequence:
            index.apply((), (), sequence)
        index.close()
        (fresh / "tokeniser").write_text(TOKENISER_VERSION)
        for path in (fresh / "tokeniser", fresh / "index", fresh):
            sync_to_disk(path)
        if folder.exists():
            # Readers must find an index under this name at every moment.
            exchange(fresh, folder)
            shutil.rmtree(fresh, ignore_errors=True)
        else:
            fresh.rename(folder)
            sync_to_disk(self._folder)
        return LexicalIndex(folder / "index", write=True)

    def _catch_up(self, index: "LexicalIndex") -> None:
        if index.watermark >= self._catalogue.sequence():
            return
        changes = self._catalogue.changes_since(index.watermark)
        for group in _grouped(changes, REBUILD_STEP):
            removed = {change.document_id for change in group if change.kind == "remove"}
            added = (
                entry
                for change in group
                if change.kind == "add" and change.document_id not in removed
                for entry in self._entries(change.first, change.last)
            )
            index.apply(added, removed, group[-1].sequence)

    def _entries(self, first: int, last: int) -> Iterator["LexicalEntry"]:
        from retrieval.storage.lexical import LexicalEntry

        for passage_id, document_id, context, text in self._catalogue.lexical_entries(first, last):
            yield LexicalEntry(passage_id, document_id, f"{context}\n{text}" if context else text)

    # -- storing ---------------------------------------------------------------------------------------------------

    def save(self) -> None:
        """Write a snapshot if the log has grown long or many rows are dead. Only a writer may call this."""
        with self._guard:
            manifest = self._manifest()
            waiting = self._catalogue.changes_since(manifest.sequence if manifest else 0)
            rows = sum(change.last - change.first + 1 for change in waiting)
            if rows < REPLAY_LIMIT:
                return
            index = self._current_dense()
            if index.dead > DEAD_SHARE * max(1, len(index)) or index.needs_training():
                self._dense = index = index.compact()
            self._snapshot(index)

    def optimise(self) -> None:
        """Free deleted rows, merge segments, train inverted lists where large, shorten the change log."""
        with self._guard:
            self._dense = self._current_dense().compact()
            self._snapshot(self._dense)
            lexical = self._current_lexical()
            if lexical.dead_fraction > DEAD_SHARE:
                lexical.close()
                lexical = self._lexical = self._rebuild_lexical()
            else:
                lexical.optimise()
            floor = min(self._dense.sequence, lexical.watermark)
            with self._catalogue.transaction():
                self._catalogue.forget_changes(floor)

    def rebuild(self) -> None:
        """Throw both caches away and make them again from the catalogue."""
        with self._guard:
            self.close()
            self._dense = self._rebuild_dense()
            self._snapshot(self._dense)
            self._lexical = self._rebuild_lexical()

    def _snapshot(self, index: "DenseIndex") -> None:
        from retrieval.storage.snapshots import save, sweep

        manifest = save(index, self._folder / "dense")
        with self._catalogue.transaction():
            self._catalogue.set_setting("dense", json.dumps(asdict(manifest)))
        sweep(self._folder / "dense", manifest)

    def problems(self) -> list[str]:
        """What is wrong with the caches, in words, without repairing: for `verify`."""
        from retrieval.storage.snapshots import load

        found: list[str] = []
        with self._guard:
            self.close()
            manifest = self._manifest()
            if manifest is not None:
                try:
                    load(self._folder / "dense", manifest)
                except DamagedError as error:
                    found.append(f"dense index: {error}")
            expected = self._catalogue.passage_ids()
            if not found and list(self._current_dense().ids) != expected:
                found.append("dense index: its passages are not those of the catalogue")
            if not (self._folder / "lexical").exists():
                # Never made or deleted: the next search makes it.
                return found
            try:
                index = self._load_lexical(write=False)
            except DamagedError as error:
                return [*found, f"lexical index: {error}"]
            try:
                found.extend(f"lexical index: {problem}" for problem in index.check())
                behind = index.watermark < self._catalogue.sequence()
                if not behind and sorted(index.passage_ids()) != expected:
                    found.append("lexical index: its passages are not those of the catalogue")
            finally:
                index.close()
        return found

    def describe(self) -> dict[str, object]:
        """Figures for `fathom index status`."""
        with self._guard:
            dense, lexical = self._current_dense(), self._current_lexical()
            return {
                "dense": {**asdict(dense.shape), "passages": len(dense), "deleted": dense.dead},
                "lexical": {"watermark": lexical.watermark},
            }

    def close(self) -> None:
        """Release files; the next call opens them again."""
        with self._guard:
            if self._lexical is not None:
                self._lexical.close()
            self._dense = self._lexical = None

    def _report(self, stage: str, done: int, total: int) -> None:
        if self._progress is not None:
            self._progress(stage, done, total)


def _grouped(changes: list[Change], size: int) -> Iterator[list[Change]]:
    """Runs of changes of about `size` passages; a run never spans a document's removal and a later return of its id,
    because ids never return."""
    group: list[Change] = []
    rows = 0
    for change in changes:
        group.append(change)
        rows += change.last - change.first + 1
        if rows >= size:
            yield group
            group, rows = [], 0
    if group:
        yield group
