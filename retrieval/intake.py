"""Documents in, saved and searchable passages out: splits, embeds what is new, and stores batch by batch.

Knows the catalogue and an embedder; knows nothing of searching.
"""

import dataclasses
import hashlib
import json
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from retrieval.embedding.embedder import Embedder
from retrieval.passages import Document, Span
from retrieval.splitting import SplitSettings, embedding_text, split
from retrieval.storage.catalogue import Catalogue, NewDocument
from retrieval.storage.file_memory import FileState, put_file_state

# Passages embedded and saved together: enough to sort by length well, little enough to lose few seconds of work.
BATCH_PASSAGES = 1024
BATCH_DOCUMENTS = 256
# A slow source (large PDFs) is saved at least this often, in seconds.
BATCH_SECONDS = 10.0

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True, slots=True)
class Incoming:
    """A document on its way in, with where it came from. `root` and `path` are empty for documents without a file."""

    document: Document
    root: str = ""
    path: str = ""
    state: FileState | None = None


@dataclass(slots=True)
class AddReport:
    """What an addition did; `passages` counts those written, `embedded` those that needed the model."""

    added: int = 0
    updated: int = 0
    unchanged: int = 0
    passages: int = 0
    embedded: int = 0


class Intake:
    """Adds documents to one catalogue. `follow` is called after each commit, so that searches see it."""

    def __init__(
        self,
        catalogue: Catalogue,
        embedder: Callable[[], Embedder],
        splitter: SplitSettings,
        dimension: int,
        follow: Callable[[], None],
    ) -> None:
        self._catalogue = catalogue
        self._embedder = embedder
        self._splitter = splitter
        self._dimension = dimension
        self._follow = follow

    def add(
        self,
        documents: Iterable[Document | Incoming],
        *,
        owner: str,
        total: int = 0,
        progress: Progress | None = None,
        saved: Callable[[Sequence[str]], None] | None = None,
    ) -> AddReport:
        """Add new documents and replace changed ones, by owner and uri.

        Documents are embedded in batches and saved one batch per transaction: each is in the index whole or not at
        all, and `saved` gets the uris of a batch only after it is on disk and searchable. `total` is the number of
        documents, for progress only.
        """
        report = AddReport()
        batch: dict[str, Incoming] = {}
        spans: dict[str, list[Span]] = {}
        passages, since = 0, time.monotonic()
        done = 0

        def flush() -> None:
            nonlocal passages, since, done
            if batch:
                self._save(batch, spans, owner, report, progress)
                done += len(batch)
                if saved is not None:
                    saved(list(batch))
            batch.clear()
            spans.clear()
            passages, since = 0, time.monotonic()
            if progress is not None:
                progress("documents", done + report.unchanged, total)

        for item in documents:
            incoming = item if isinstance(item, Incoming) else Incoming(item)
            incoming = Incoming(_hashed(incoming.document), incoming.root, incoming.path, incoming.state)
            uri = incoming.document.uri
            if uri in batch:
                flush()
            if self._unchanged(incoming, owner):
                report.unchanged += 1
                if saved is not None:
                    saved([uri])
                continue
            batch[uri] = incoming
            spans[uri] = split(incoming.document, self._embedder(), self._splitter)
            passages += len(spans[uri])
            late = time.monotonic() - since > BATCH_SECONDS
            if passages >= BATCH_PASSAGES or len(batch) >= BATCH_DOCUMENTS or late:
                flush()
        flush()
        return report

    def add_passages(self, items: Iterable[tuple[Document, Sequence[Span], np.ndarray]], *, owner: str) -> AddReport:
        """Add documents whose passages and vectors (n, dimension) were made elsewhere, one batch per transaction."""
        report = AddReport()
        pending: list[NewDocument] = []
        passages = 0
        for document, spans, vectors in items:
            texts = [embedding_text(span.context, document.text[span.start : span.end]) for span in spans]
            # Marked as foreign: `add` must never take one of these for its own embedder's vector of the same text.
            hashes = [_input_hash(text, foreign=True) for text in texts]
            pending.append(NewDocument(_hashed(document), owner, "", "", list(spans), vectors, hashes))
            passages += len(spans)
            if passages >= BATCH_PASSAGES:
                self._commit(pending, {}, report)
                pending, passages = [], 0
        self._commit(pending, {}, report)
        return report

    def _unchanged(self, incoming: Incoming, owner: str) -> bool:
        document_id = self._catalogue.document_id(incoming.document.uri, owner)
        if document_id is None:
            return False
        (row,) = self._catalogue.rows(id_=document_id)
        document = incoming.document
        same = (
            row.content_hash == document.content_hash
            and row.source.title == document.title
            and row.source.format == document.format
            and dict(row.source.metadata) == dict(document.metadata)
            and (row.root, row.path) == (incoming.root, incoming.path)
        )
        if same and incoming.state is not None:
            with self._catalogue.transaction():
                put_file_state(self._catalogue, incoming.state)
        return same

    def _save(
        self,
        batch: dict[str, Incoming],
        spans: dict[str, list[Span]],
        owner: str,
        report: AddReport,
        progress: Progress | None,
    ) -> None:
        texts: dict[bytes, str] = {}
        hashes: dict[str, list[bytes]] = {}
        for uri, incoming in batch.items():
            text = incoming.document.text
            inputs = [embedding_text(span.context, text[span.start : span.end]) for span in spans[uri]]
            hashes[uri] = [_input_hash(value) for value in inputs]
            texts.update(zip(hashes[uri], inputs, strict=True))
        vectors = self._catalogue.known_vectors(texts)
        missing = [digest for digest in texts if digest not in vectors]
        if missing:
            step = None if progress is None else (lambda done, total: progress("embedding", done, total))
            made = self._embedder().embed_passages([texts[digest] for digest in missing], progress=step)
            vectors.update(zip(missing, made.astype(np.float16), strict=True))
            report.embedded += len(missing)
        dimension = self._dimension
        new = [
            NewDocument(
                document=incoming.document,
                owner=owner,
                root=incoming.root,
                path=incoming.path,
                spans=spans[uri],
                vectors=np.array([vectors[digest] for digest in hashes[uri]], dtype=np.float16).reshape(-1, dimension),
                input_hashes=hashes[uri],
            )
            for uri, incoming in batch.items()
        ]
        self._commit(new, {uri: item.state for uri, item in batch.items() if item.state}, report)

    def _commit(self, new: list[NewDocument], states: dict[str, FileState], report: AddReport) -> None:
        if not new:
            return
        added = updated = 0
        with self._catalogue.transaction():
            for item in new:
                _, replaced = self._catalogue.put(item)
                added, updated = (added + 1, updated) if replaced is None else (added, updated + 1)
                state = states.get(item.document.uri)
                if state is not None:
                    put_file_state(self._catalogue, state)
        self._follow()
        report.added += added
        report.updated += updated
        report.passages += sum(len(item.spans) for item in new)


def _input_hash(text: str, *, foreign: bool = False) -> bytes:
    person = b"made elsewhere" if foreign else b""
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16, person=person).digest()


def _hashed(document: Document) -> Document:
    """Documents made by a program have no source bytes; their text stands for them."""
    if document.content_hash:
        return document
    parts = json.dumps([document.text, document.page_starts, [[h.start, h.title] for h in document.headings]])
    return dataclasses.replace(document, content_hash=hashlib.blake2b(parts.encode(), digest_size=16).hexdigest())
