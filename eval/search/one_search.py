"""One search on a test collection, all in memory: rankings, figures and intervals, without a run's folder.

For the tables of `python -m eval.speed`; what a person measures goes through eval/retrieval.py and is kept.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, get_args

from eval.data.datasets import RetrievalDataset, load_dataset
from eval.figures.metrics import MEASURES, PerQuery, intervals, per_query
from eval.figures.statistics import Interval
from eval.search.embedders import HashingEmbedder, WholeTexts
from eval.search.indexed import described, indexed
from eval.search.pipelines import Pipeline, Searcher, without_itself
from retrieval.collection import SearchSettings
from retrieval.embedding.embedder import Embedder
from retrieval.errors import UsageError
from retrieval.passages import Mode

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True, slots=True)
class RetrievalReport:
    """What a search reached on a collection. `figures[measure][query]` are the values the intervals come from.

    `rankings[query]` holds document ids, best first. `run` says what was run; `timings` are milliseconds a query.
    """

    intervals: Mapping[str, Interval]
    figures: PerQuery
    rankings: Mapping[str, list[str]]
    run: Mapping[str, Any]
    timings: Mapping[str, float] = field(default_factory=dict)

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


def evaluate_folder(dataset: Path, *, split: str | None = None, **options: Any) -> RetrievalReport:
    """As `evaluate`, for the test collection in folder `dataset`; `eval.data.datasets` says what forms it may have."""
    return evaluate(load_dataset(dataset, split=split), **options)


def evaluate(
    dataset: RetrievalDataset,
    *,
    pipeline: Mode = "hybrid",
    whole_documents: bool = False,
    k: int = 100,
    cache: Path,
    embedder: Callable[[], Embedder] | None = None,
    settings: SearchSettings | None = None,
    progress: Progress | None = None,
) -> RetrievalReport:
    """Measures one search on a collection already read, all in memory and without a run's folder.

    The index is kept under `cache` and used again while corpus, model and splitter stay the same. `embedder` may be
    None for the lexical pipeline. `whole_documents` makes each document one passage, of which the embedding model sees
    the beginning: worse, and comparable with published figures. Raises UsageError for what cannot be run.
    """
    if pipeline not in get_args(Mode):
        raise UsageError(f"There is no pipeline {pipeline!r}; choose from {', '.join(get_args(Mode))}.")
    if embedder is None and pipeline != "lexical":
        raise UsageError(f"The {pipeline} pipeline needs an embedding model.")
    started = time.perf_counter()
    model: Embedder = embedder() if embedder is not None else HashingEmbedder()
    model = WholeTexts(model) if whole_documents else model
    by_id = {document.id: document for document in dataset.documents}
    with indexed(dataset, model, cache, whole_documents=whole_documents, settings=settings, progress=progress) as found:
        built = time.perf_counter() - started
        searcher = Searcher(found, Pipeline(pipeline), k=k, rerank_depth=1)
        searcher.warm_up()
        rankings: dict[str, list[str]] = {}
        milliseconds: list[float] = []
        for number, (query, text) in enumerate(dataset.queries.items(), 1):
            searched = searcher(text)
            milliseconds.append(searched.timings["total"])
            documents = searched.documents[searcher.pipeline.stages[-1]]
            rankings[query] = [document for document, _ in without_itself(documents, query, text, by_id)]
            if progress is not None:
                progress("searching", number, len(dataset.queries))
        index, shape = described(found), found.settings
    per = per_query(rankings, dataset.qrels, MEASURES)
    ordered = sorted(milliseconds)
    return RetrievalReport(
        intervals=intervals(per),
        figures=per,
        rankings=rankings,
        run={
            "dataset": dataset.name,
            "form": dataset.form,
            "split": dataset.split,
            "queries_without_relevant": dataset.queries_without_relevant,
            "pipeline": pipeline,
            "whole_documents": whole_documents,
            "k": k,
            "search": asdict(shape),
            "backend": model.backend if embedder is not None else "none",
            **index,
        },
        timings={
            "index_s": round(built, 3),
            "query_p50_ms": round(ordered[len(ordered) // 2], 3),
            "query_p99_ms": round(ordered[int(len(ordered) * 0.99)], 3),
        },
    )
