"""A test collection in, retrieval figures with intervals out: its corpus goes through the same Collection as a shelf.

Passages are found, documents are judged: a document ranks where its best passage does (max-passage aggregation).
"""

import hashlib
import json
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, get_args

from eval.datasets import CorpusDocument, RetrievalDataset, load_dataset
from eval.embedders import HashingEmbedder, WholeTexts
from eval.metrics import PerQuery, intervals, per_query
from eval.statistics import Interval
from retrieval.collection import Collection, SearchSettings
from retrieval.embedding.embedder import Embedder
from retrieval.errors import DamagedError, MismatchError, UsageError
from retrieval.passages import Document, Heading, Mode
from retrieval.splitting import SplitSettings

Progress = Callable[[str, int, int], None]
WHOLE = SplitSettings(passage_tokens=1_000_000, overlap_tokens=0, context_tokens=0)
"""A document as one passage, as published figures have it."""
DEEPER = 8
"""How much deeper a second search goes where the first found fewer documents than asked (several passages of one)."""


@dataclass(frozen=True, slots=True)
class RetrievalReport:
    """What a pipeline reached on a collection. `figures[measure][query]` are the values the intervals come from.

    `rankings[query]` holds document ids, best first. `run` says what was run; `timings` are milliseconds a query.
    """

    intervals: Mapping[str, Interval]
    figures: PerQuery
    rankings: Mapping[str, list[str]]
    run: Mapping[str, Any]
    timings: Mapping[str, float]

    @property
    def metrics(self) -> dict[str, float]:
        return {name: interval.mean for name, interval in self.intervals.items()}

    def to_json(self, *, per_query_figures: bool = False) -> dict[str, Any]:
        """`{"metrics": {"nDCG@10": …}, "intervals": {"nDCG@10": [low, high]}, "queries": n, "run": …}` and timings."""
        whole: dict[str, Any] = {
            "metrics": {name: round(value, 4) for name, value in self.metrics.items()},
            "intervals": {
                name: [round(interval.low, 4), round(interval.high, 4)] for name, interval in self.intervals.items()
            },
            "queries": len(self.rankings),
            "run": dict(self.run),
            "timings": dict(self.timings),
        }
        if per_query_figures:
            whole["per_query"] = self.figures
        return whole


def evaluate_folder(
    dataset: Path,
    *,
    pipeline: Mode = "hybrid",
    split: str | None = None,
    whole_documents: bool = False,
    k: int = 100,
    cache: Path,
    embedder: Callable[[], Embedder] | None = None,
    settings: SearchSettings | None = None,
    progress: Progress | None = None,
) -> RetrievalReport:
    """Measures one pipeline on the test collection in folder `dataset`; see `eval.datasets` for the forms it may have.

    The index is kept under `cache` and used again while corpus, model and splitter stay the same. `embedder` may be
    None for the lexical pipeline. `whole_documents` makes each document one passage, of which the embedding model sees
    the beginning: worse, and comparable with published figures. Raises UsageError and ReadingError as the reader does.
    """
    return evaluate(
        load_dataset(dataset, split=split),
        pipeline=pipeline,
        whole_documents=whole_documents,
        k=k,
        cache=cache,
        embedder=embedder,
        settings=settings,
        progress=progress,
    )


def evaluate(
    dataset: RetrievalDataset,
    *,
    pipeline: Mode,
    whole_documents: bool = False,
    k: int = 100,
    cache: Path,
    embedder: Callable[[], Embedder] | None = None,
    settings: SearchSettings | None = None,
    progress: Progress | None = None,
) -> RetrievalReport:
    """As `evaluate_folder`, for a collection already read."""
    if pipeline not in get_args(Mode):
        raise UsageError(f"There is no pipeline {pipeline!r}; choose from {', '.join(get_args(Mode))}.")
    if embedder is None and pipeline != "lexical":
        raise UsageError(f"The {pipeline} pipeline needs an embedding model.")
    started = time.perf_counter()
    model = embedder() if embedder is not None else HashingEmbedder()
    if whole_documents:
        model = WholeTexts(model)
    with indexed(dataset, model, cache, whole_documents=whole_documents, settings=settings, progress=progress) as found:
        built = time.perf_counter() - started
        # Models and accelerators are opened by the first search; it must not count as a query.
        found.search("ready", mode=pipeline, k=k)
        rankings: dict[str, list[str]] = {}
        milliseconds: list[float] = []
        for number, (query, text) in enumerate(dataset.queries.items(), 1):
            began = time.perf_counter()
            ranking = _distinct(found, text, pipeline, k)
            milliseconds.append((time.perf_counter() - began) * 1e3)
            if len(ranking) < min(k, len(dataset.documents)):
                # The first ranks stay those of the search a user gets; a deeper one only fills up the rest.
                ranking = list(dict.fromkeys(ranking + _distinct(found, text, pipeline, k * DEEPER)))
            rankings[query] = _without_itself(ranking, query, text, found)[:k]
            if progress is not None:
                progress("searching", number, len(dataset.queries))
        status = found.status()
        shape = found.settings
    figures = per_query(rankings, dataset.qrels)
    ordered = sorted(milliseconds)
    return RetrievalReport(
        intervals=intervals(figures),
        figures=figures,
        rankings=rankings,
        run={
            "dataset": dataset.name,
            "form": dataset.form,
            "split": dataset.split,
            "documents": len(dataset.documents),
            "passages": status["passages"],
            "queries_without_relevant": dataset.queries_without_relevant,
            "pipeline": pipeline,
            "whole_documents": whole_documents,
            "k": k,
            "search": asdict(shape),
            "fingerprint": status["fingerprint"],
            "backend": model.backend if embedder is not None else "none",
        },
        timings={
            "index_s": round(built, 3),
            "query_p50_ms": round(ordered[len(ordered) // 2], 3),
            "query_p99_ms": round(ordered[int(len(ordered) * 0.99)], 3),
        },
    )


def indexed(
    dataset: RetrievalDataset,
    model: Embedder,
    cache: Path,
    *,
    whole_documents: bool = False,
    settings: SearchSettings | None = None,
    progress: Progress | None = None,
) -> Collection:
    """The collection of this corpus under `cache`, open for writing: kept, caught up, or made."""
    shape = WHOLE if whole_documents else SplitSettings()
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


def as_document(document: CorpusDocument) -> Document:
    """As a reader would make it of a file that opens with its title; an empty document keeps its place by its id."""
    if not document.title.strip():
        return Document(uri=document.id, text=document.text if document.text.strip() else document.id)
    heading = Heading(start=0, level=1, title=document.title)
    text = f"{document.title}\n\n{document.text}"
    return Document(uri=document.id, text=text, title=document.title, headings=(heading,))


def _distinct(collection: Collection, query: str, pipeline: Mode, k: int) -> list[str]:
    """Document ids by their best passage among the `k` best."""
    return list(dict.fromkeys(hit.source.uri for hit in collection.search(query, mode=pipeline, k=k).hits))


def _without_itself(ranking: list[str], query: str, text: str, collection: Collection) -> list[str]:
    """Drops the document that is the query (ArguAna's arguments are in its corpus).

    BEIR drops any document whose id equals the query's; in Cranfield query 1 and document 1 have nothing in common,
    so here the texts must agree too.
    """
    if query not in ranking or text.strip() not in collection.document_by_uri(query).text:
        return ranking
    return [identifier for identifier in ranking if identifier != query]
