"""A test collection → the Collection of its corpus, kept under a cache: the same index as a user's documents have."""

import hashlib
import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path

from eval.data.corpora import as_document
from eval.data.datasets import RetrievalDataset
from retrieval.collection import Collection, SearchSettings
from retrieval.embedding.embedder import Embedder
from retrieval.errors import DamagedError, MismatchError
from retrieval.splitting import SplitSettings

Progress = Callable[[str, int, int], None]
WHOLE = SplitSettings(passage_tokens=1_000_000, overlap_tokens=0, context_tokens=0)
"""A document as one passage, as published figures have it."""


def indexed(
    dataset: RetrievalDataset,
    model: Embedder,
    cache: Path,
    *,
    whole_documents: bool = False,
    splitting: SplitSettings | None = None,
    settings: SearchSettings | None = None,
    progress: Progress | None = None,
) -> Collection:
    """The collection of this corpus under `cache`, open for writing: kept, caught up, or made.

    Kept as long as model and splitter stay the same; documents that came, changed or went are followed. Raises
    BusyError while another measurement writes it.
    """
    shape = WHOLE if whole_documents else splitting or SplitSettings()
    key = json.dumps([model.fingerprint.to_json(), asdict(shape)], sort_keys=True)
    folder = cache / f"{dataset.name}-{hashlib.blake2b(key.encode(), digest_size=6).hexdigest()}"
    if folder.exists():
        try:
            kept = Collection.open(folder, embedder=lambda: model, write=True, settings=settings, doing="evaluating")
        except (DamagedError, MismatchError):
            shutil.rmtree(folder)  # a cache of ours: the corpus makes it again
        else:
            return _caught_up(kept, dataset, progress)
    folder.parent.mkdir(parents=True, exist_ok=True)
    fresh = Collection.create(
        folder, name=dataset.name, embedder=lambda: model, split=shape, settings=settings, doing="evaluating"
    )
    return _caught_up(fresh, dataset, progress)


def _caught_up(collection: Collection, dataset: RetrievalDataset, progress: Progress | None) -> Collection:
    try:
        wanted = {document.id for document in dataset.documents}
        gone = [row.source.uri for row in collection.documents() if row.source.uri not in wanted]
        if gone:
            collection.remove(gone)
        collection.add(map(as_document, dataset.documents), total=len(dataset.documents), progress=progress)
    except BaseException:
        collection.close()
        raise
    return collection


def described(collection: Collection) -> Mapping[str, object]:
    """What a result says of the index it came from."""
    status = collection.status()
    return {name: status[name] for name in ("documents", "passages", "fingerprint")}
