"""A collection: documents in, hits out. Puts catalogue, splitter, embedder, accelerators and fusion together.

Knows nothing of files on a shelf (syncing.py), of answers (answering.py) or of where models come from.
"""

import os
import shutil
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from types import TracebackType

import numpy as np

from retrieval.answerability import MeaningScale
from retrieval.clock import Clock
from retrieval.embedding.adapter import IN_COLLECTION, keep_copy, kept_in
from retrieval.embedding.embedder import Embedder
from retrieval.embedding.loader import EmbedderLoader
from retrieval.errors import BusyError, DamagedError, FathomError, MissingError, UsageError
from retrieval.filters import Filter
from retrieval.fingerprint import Fingerprint
from retrieval.fusion import convex, dense_share, ranked, undecided
from retrieval.intake import AddReport, Incoming, Intake
from retrieval.passages import Document, Hit, Mode, Passage, Scores, Source, Span
from retrieval.splitting import SplitSettings
from retrieval.storage.accelerators import Accelerators
from retrieval.storage.catalogue import Catalogue, DocumentRow
from retrieval.storage.file_memory import roots
from retrieval.storage.locking import WriterLock
from retrieval.tuned import Tuned

CATALOGUE = "catalogue.sqlite"
REFUSAL_THRESHOLD = "refusal_threshold"
TUNED = "tuned"
# Candidates per leg before fusion.
DEPTH = 100

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True, slots=True)
class SearchSettings:
    """How hits are found and joined.

    `dense_weight` is the prior weight of the dense leg, 0 to 1; each query then weighs both legs by how well they tell
    their candidates apart (retrieval/fusion.py).
    """

    dense_weight: float = 0.75
    depth: int = DEPTH


@dataclass(frozen=True, slots=True)
class SearchResult:
    """Hits, best first, and milliseconds per stage.

    `ranking` is the same as (passage id, score). `legs["lexical"]` and `legs["dense"]` are what each leg itself found,
    before one leg scored what the other found; a leg that was not asked is absent.
    """

    hits: tuple[Hit, ...]
    timings: dict[str, float] = field(default_factory=dict)
    ranking: list[tuple[int, float]] = field(default_factory=list)
    legs: dict[str, list[tuple[int, float]]] = field(default_factory=dict)


class Collection:
    """Open with `Collection.open` or `Collection.create`; use as a context manager.

    Any number of threads and processes may search while one writes: a search sees every document whose `add` has
    returned.
    """

    def __init__(
        self,
        folder: Path,
        catalogue: Catalogue,
        lock: WriterLock | None,
        embedder: Callable[[], Embedder] | None,
        *,
        settings: SearchSettings | None = None,
        progress: Progress | None = None,
    ) -> None:
        """Use `open` or `create`."""
        self.folder = folder
        self.catalogue = catalogue
        self.settings = settings or SearchSettings()
        self._lock = lock
        self._load_embedder = embedder
        self._embedder: Embedder | None = None
        self._embedder_guard = threading.Lock()
        self._pool: ThreadPoolExecutor | None = None
        text = catalogue.setting("fingerprint")
        if text is None:
            raise MissingError(
                f"'{folder}' has no fingerprint: it was never finished; delete the folder and sync again"
            )
        self.fingerprint = Fingerprint.from_json(text)
        self.name = catalogue.setting("name") or folder.name
        self.owner = catalogue.setting("owner") or "local"
        dimension = self.fingerprint.embedder.dimension
        self._identity = (folder / CATALOGUE).stat().st_ino
        self.accelerators = Accelerators(catalogue, folder, dimension, write=lock is not None, progress=progress)

        self._intake = Intake(catalogue, self.embedder, self.fingerprint.splitter, dimension, self.accelerators.follow)

    # -- opening ---------------------------------------------------------------------------------------------------

    @classmethod
    def create(
        cls,
        folder: Path,
        *,
        name: str,
        embedder: Callable[[], Embedder],
        split: SplitSettings | None = None,
        owner: str = "local",
        settings: SearchSettings | None = None,
        doing: str = "creating",
        adapter: Path | None = None,
    ) -> "Collection":
        """Make a new collection and open it for writing. Raises UsageError where the folder already holds something.

        `adapter` is the folder of the one that `embedder` has on its model: the collection keeps a copy, so that it is
        found again wherever the collection goes. Made beside and renamed, so that a kill leaves no half collection.
        """
        if folder.exists() and any(folder.iterdir()):
            raise UsageError(f"'{folder}' already holds something; choose another name or remove it first")
        model = embedder()
        fingerprint = Fingerprint.of(model, split or SplitSettings())
        fresh = folder.with_name(f".{folder.name}.new-{os.getpid()}")
        shutil.rmtree(fresh, ignore_errors=True)
        fresh.mkdir(parents=True)
        try:
            catalogue = Catalogue(fresh / CATALOGUE, create=True)
            with catalogue.transaction():
                for key, value in (
                    ("name", name),
                    ("owner", owner),
                    ("fingerprint", fingerprint.to_json()),
                    ("created", time.strftime("%Y-%m-%dT%H:%M:%S")),
                ):
                    catalogue.set_setting(key, value)
            catalogue.close()
            if adapter is not None:
                keep_copy(adapter, fresh)
            try:
                if folder.exists():
                    folder.rmdir()
                fresh.rename(folder)
            except OSError as error:
                raise BusyError(f"'{folder}' was made by another process just now; run the command again") from error
        except BaseException:
            shutil.rmtree(fresh, ignore_errors=True)
            raise
        return cls.open(folder, embedder=lambda: model, write=True, settings=settings, doing=doing)

    @classmethod
    def open(
        cls,
        folder: Path,
        *,
        embedder: Callable[[], Embedder] | None = None,
        write: bool = False,
        wait: float = 0.0,
        doing: str = "writing",
        settings: SearchSettings | None = None,
        progress: Progress | None = None,
    ) -> "Collection":
        """Open an existing collection.

        `embedder` is called at the first need of a vector: lexical search, listing and status never load a model. Of an
        `EmbedderLoader` the collection takes the model under the adapter that it holds itself.
        Raises MissingError, DamagedError, and with `write` BusyError after `wait` seconds.
        """
        if not (folder / CATALOGUE).is_file():
            raise MissingError(f"there is no collection at '{folder}'; `fathom index collections` shows what there is")
        lock = WriterLock(folder / "writer.lock", doing=doing, wait=wait) if write else None
        catalogue = None
        try:
            catalogue = Catalogue(folder / CATALOGUE, write=write)
            return cls(folder, catalogue, lock, embedder, settings=settings, progress=progress)
        except BaseException:
            if catalogue is not None:
                catalogue.close()
            if lock is not None:
                lock.release()
            raise

    @property
    def replaced(self) -> bool:
        """Whether another collection stands at this name now (re-embedded, imported, deleted): open it anew."""
        try:
            return (self.folder / CATALOGUE).stat().st_ino != self._identity
        except OSError:
            return True

    def close(self) -> None:
        """Close; a writer first stores a snapshot if enough has changed."""
        if self._pool is not None:
            self._pool.shutdown()
            self._pool = None
        try:
            if self._lock is not None:
                self.accelerators.save()
        finally:
            self.accelerators.close()
            self.catalogue.close()
            if self._lock is not None:
                self._lock.release()
                self._lock = None

    def __enter__(self) -> "Collection":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def embedder(self) -> Embedder:
        """The embedder, under the adapter that the collection holds, checked once against the fingerprint.

        Raises MismatchError, MissingError, and DamagedError where that adapter is not what was stored.
        """
        with self._embedder_guard:
            if self._embedder is None:
                if self._load_embedder is None:
                    raise MissingError(f"the collection '{self.name}' was opened without an embedding model")
                own = kept_in(self.folder)
                load = self._load_embedder
                embedder = load.under(own)() if own is not None and isinstance(load, EmbedderLoader) else load()
                self.fingerprint.refuse_other(embedder, self.name)
                self._embedder = embedder
            return self._embedder

    @cached_property
    def meaning_scale(self) -> MeaningScale:
        """What cosines of its embedding model are worth."""
        return MeaningScale.of(self.fingerprint.probes)

    @property
    def refusal_threshold(self) -> float | None:
        """Confidence below which an answer is refused (retrieval/answerability.py); None where none was set here."""
        text = self.catalogue.setting(REFUSAL_THRESHOLD)
        return None if text is None else float(text)

    def set_refusal_threshold(self, value: float | None) -> None:
        """Kept with the collection, and exported with it; None takes it back. Raises UsageError outside 0 to 1."""
        if value is not None and not 0.0 <= value <= 1.0:
            raise UsageError(f"a threshold of refusal is a probability from 0 to 1; {value} was given")
        with self.catalogue.transaction():
            if value is None:
                self.catalogue.forget_setting(REFUSAL_THRESHOLD)
            else:
                self.catalogue.set_setting(REFUSAL_THRESHOLD, repr(float(value)))

    @property
    def tuned(self) -> Tuned | None:
        """How it is best reranked (retrieval/tuned.py); None where nobody has found out. Raises DamagedError."""
        text = self.catalogue.setting(TUNED)
        return None if text is None else Tuned.from_json(text, self.name)

    def set_tuned(self, value: Tuned | None) -> None:
        """Kept with the collection, and exported with it; None takes it back."""
        with self.catalogue.transaction():
            if value is None:
                self.catalogue.forget_setting(TUNED)
            else:
                self.catalogue.set_setting(TUNED, value.to_json())

    # -- writing ---------------------------------------------------------------------------------------------------

    def add(
        self,
        documents: Iterable[Document | Incoming],
        *,
        owner: str | None = None,
        total: int = 0,
        progress: Progress | None = None,
        saved: Callable[[Sequence[str]], None] | None = None,
    ) -> AddReport:
        """Add new documents and replace changed ones; see Intake.add."""
        return self._intake.add(documents, owner=owner or self.owner, total=total, progress=progress, saved=saved)

    def add_passages(
        self, items: Iterable[tuple[Document, Sequence[Span], np.ndarray]], *, owner: str | None = None
    ) -> AddReport:
        """Add documents whose passages and vectors were made elsewhere; see Intake.add_passages."""
        return self._intake.add_passages(items, owner=owner or self.owner)

    def remove(self, uris: Iterable[str], *, owner: str | None = None) -> list[str]:
        """Remove documents; effective for every reader at once. Returns the uris that were there."""
        removed = []
        with self.catalogue.transaction():
            for uri in uris:
                document_id = self.catalogue.document_id(uri, owner or self.owner)
                if document_id is not None:
                    self.catalogue.delete(document_id)
                    removed.append(uri)
        self.accelerators.follow()
        return removed

    def optimise(self) -> None:
        """Give back the room of deleted documents and tune the dense index to its size."""
        self.accelerators.optimise()

    # -- searching -------------------------------------------------------------------------------------------------

    def search(
        self,
        query: str,
        *,
        mode: Mode = "hybrid",
        k: int = 10,
        filters: Sequence[Filter] = (),
        owners: frozenset[str] | None = None,
        fetch: bool = True,
    ) -> SearchResult:
        """The k best passages. Filters and owners act inside the search, so k hits come back whenever k exist.

        Without `fetch` there are no hits, only their `ranking`: reading 1,000 texts costs more than finding them.
        Raises UsageError for an empty question or an unknown mode, DamagedError where a hit's stored text is not what
        was written.
        """
        if not query.strip():
            raise UsageError("the question is empty; write what you want to know")
        if mode not in ("lexical", "dense", "hybrid") or k < 1:
            raise UsageError(f"mode '{mode}', k {k}: the mode is lexical, dense or hybrid, and k at least 1")
        clock = Clock()
        documents = self.catalogue.document_ids(filters, owners) if filters or owners is not None else None
        clock.lap("filter")
        depth = max(self.settings.depth, k)
        dense: dict[int, float] = {}
        lexical: dict[int, float] = {}
        legs: dict[str, list[tuple[int, float]]] = {}
        vector = None
        # Words need no vector: that leg runs while the query is embedded (both leave Python's lock alone).
        words = None if mode == "dense" else self._legs().submit(self._search_words, query, depth, documents)
        if mode != "lexical":
            vector = self.embedder().embed_queries([query])[0]
            if not np.isfinite(vector).all():  # the index would find nothing near it, and say so of the documents
                raise FathomError('the embedding model gave a vector that is not finite; set precision = "fp32"')
            clock.lap("embed")
            legs["dense"] = self.accelerators.search_dense(vector, depth, documents)
            dense = dict(legs["dense"])
            clock.lap("dense")
        if words is not None:
            legs["lexical"], clock.times["lexical"] = words.result()
            lexical = dict(legs["lexical"])
            clock.lap("waiting")
        fused: dict[int, float] = {}
        if mode == "hybrid":
            share = dense_share(dense, lexical, self.settings.dense_weight)
            # What one leg found, the other scores too: "not among its first 100" is not "score 0" (SciFact +.01).
            dense.update(self.accelerators.score_dense(vector, [i for i in lexical if i not in dense]))
            unseen = min(lexical.values()) if len(lexical) >= depth else 0.0
            open_ones = undecided(dense, lexical, share, k, unseen)
            lexical.update(self.accelerators.score_lexical(query, open_ones))
            fused = convex(dense, lexical, share)
        clock.lap("fuse")
        best = ranked(fused or dense or lexical, k)
        hits = self._hits(best, dense, lexical, fused) if fetch else ()
        clock.lap("fetch")
        return SearchResult(hits, clock.times, best, legs)

    def _search_words(
        self, query: str, depth: int, documents: set[int] | None
    ) -> tuple[list[tuple[int, float]], float]:
        """(passages with their BM25, milliseconds)."""
        clock = Clock()
        found = self.accelerators.search_lexical(query, depth, documents)
        clock.lap("lexical")
        return found, clock.times["lexical"]

    def _legs(self) -> ThreadPoolExecutor:
        with self._embedder_guard:
            if self._pool is None:
                self._pool = ThreadPoolExecutor(max_workers=os.cpu_count(), thread_name_prefix="words")
            return self._pool

    def _hits(
        self,
        best: list[tuple[int, float]],
        dense: dict[int, float],
        lexical: dict[int, float],
        fused: dict[int, float],
    ) -> tuple[Hit, ...]:
        passages = self.catalogue.passages([key for key, _ in best])
        sources = self.catalogue.sources(passage.document_id for passage in passages.values())
        hits: list[Hit] = []
        lost = [key for key, _ in best if key not in passages or passages[key].document_id not in sources]
        # Removed between the search and now: never show it. But a row that no one removed must not just be missing.
        if lost and (missing := self.accelerators.expected(lost)):
            raise DamagedError(
                f"passage {missing[0]} of '{self.name}' cannot be found in its catalogue any more; run "
                "`fathom index verify --repair`, then sync again, or restore the collection with `fathom index import`"
            )
        for key, score in best:
            if key in lost:
                continue
            passage = passages[key]
            scores = Scores(dense.get(key), lexical.get(key), fused.get(key))
            hits.append(Hit(len(hits) + 1, score, passage, sources[passage.document_id], scores))
        return tuple(hits)

    # -- reading ---------------------------------------------------------------------------------------------------

    def document(self, document_id: int) -> Document:
        """A document with its whole text. Raises MissingError."""
        return self.catalogue.document(document_id)

    def document_by_uri(self, uri: str, *, owner: str | None = None) -> Document:
        """A document by name. Raises MissingError."""
        document_id = self.catalogue.document_id(uri, owner or self.owner)
        if document_id is None:
            raise MissingError(
                f"there is no document '{uri}' in '{self.name}'; `fathom index list` shows what there is"
            )
        return self.catalogue.document(document_id)

    def source(self, document_id: int) -> Source:
        """Title, uri and metadata of a document. Raises MissingError."""
        found = self.catalogue.sources([document_id])
        if document_id not in found:
            raise MissingError(f"document {document_id} is not in '{self.name}' any more")
        return found[document_id]

    def documents(self, filters: Sequence[Filter] = (), owners: frozenset[str] | None = None) -> list[DocumentRow]:
        """Documents by uri."""
        return self.catalogue.rows(filters, owners)

    def passages_of(self, document_id: int) -> list[Passage]:
        """A document's passages in order."""
        return self.catalogue.passages_of(document_id)

    def status(self) -> dict[str, object]:
        """Counts, sizes, watermarks, fingerprint and synced folders."""
        documents, passages = self.catalogue.counts()
        size = sum(path.stat().st_size for path in self.folder.rglob("*") if path.is_file())
        return {
            "name": self.name,
            "folder": str(self.folder),
            "owner": self.owner,
            "created": self.catalogue.setting("created"),
            "documents": documents,
            "passages": passages,
            "bytes": size,
            "changes": self.catalogue.sequence(),
            **self.accelerators.describe(),
            "fingerprint": dict(self.fingerprint.describe()),
            "adapter": (self.folder / IN_COLLECTION).is_dir(),
            "set_here": self.set_here(),
            "folders": dict(roots(self.catalogue)),
        }

    def set_here(self) -> dict[str, object]:
        """What was set for this collection alone, by name; empty where nothing was. Raises DamagedError."""
        found: dict[str, object] = {REFUSAL_THRESHOLD: self.refusal_threshold}
        if (tuned := self.tuned) is not None:
            found |= {"reranker": tuned.reranker, "rerank": tuned.rerank, "least_relevance": tuned.least_relevance}
        return {name: value for name, value in found.items() if value is not None}
