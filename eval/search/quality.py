"""Test collections in, one table of retrieval quality out: each leg, the hybrid, averages, the stock pipeline beside.

Run as `python -m eval.speed quality` and `python -m eval.speed second-half`.
"""

import json
import random
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from eval.data.corpora import CorpusDocument, read_jsonl
from eval.data.datasets import RetrievalDataset, load_dataset, sample
from eval.figures.metrics import intervals, per_query
from eval.figures.statistics import paired_test
from eval.search.one_search import RetrievalReport, evaluate
from eval.search.second_half import docstring_documents, second_half_questions
from eval.speed.measuring import BENCH, Figure, Measurement, run_peer
from retrieval import library_docs
from retrieval.collection import SearchSettings
from retrieval.embedding.embedder import Embedder
from retrieval.embedding.load import EmbeddingSettings, model_folder
from retrieval.passages import Mode

Progress = Callable[[str, int, int], None]
PIPELINES: tuple[Mode, ...] = ("lexical", "dense", "hybrid")
SETS = ("scifact", "cranfield", "cosqa", "xquad_en", "xquad_zh", "drcd", "medquad_qa")
CHINESE = ("xquad_zh", "drcd")
MAX_QUERIES = 500
"""Queries of a set; more would take the machine longer and narrow the interval little."""
SAMPLED = {"medquad_qa": 2_000}
"""Sets whose corpus is cut to the judged documents and this many others: all of MedQuAD takes 20 minutes to embed."""


def load_set(folder: Path) -> RetrievalDataset:
    """A set as measured here: at most MAX_QUERIES queries, and the corpus sampled where SAMPLED says so."""
    dataset = load_dataset(folder)
    others = SAMPLED.get(dataset.name, len(dataset.documents))
    return sample(dataset, queries=MAX_QUERIES, distractors=others)


def measure_sets(
    data: Path,
    names: Sequence[str],
    embedder: Callable[[], Embedder],
    *,
    settings: SearchSettings | None = None,
    progress: Progress | None = None,
) -> Measurement:
    """nDCG@10 of each pipeline on each set, the average gain of the hybrid over the better leg, Chinese hit@10."""
    model = embedder()
    reports: dict[str, dict[str, RetrievalReport]] = {}
    for name in names:
        dataset = load_set(data / name)
        reports[name] = {
            pipeline: evaluate(
                dataset,
                pipeline=pipeline,
                cache=BENCH / "sets",
                embedder=lambda: model,
                settings=settings,
                progress=progress,
            )
            for pipeline in PIPELINES
        }
    figures: list[Figure] = []
    gains: list[float] = []
    tests: dict[str, Any] = {}
    for name, by_pipeline in reports.items():
        values = {pipeline: by_pipeline[pipeline].metrics["nDCG@10"] for pipeline in PIPELINES}
        for pipeline in PIPELINES:
            target = 0.70 if (name, pipeline) == ("scifact", "hybrid") else None
            figures.append(Figure(f"{name} nDCG@10, {pipeline}", values[pipeline], "", target, "higher"))
        best: Mode = "lexical" if values["lexical"] > values["dense"] else "dense"
        gains.append(values["hybrid"] - values[best])
        test = paired_test(by_pipeline[best].figures["nDCG@10"], by_pipeline["hybrid"].figures["nDCG@10"])
        tests[name] = {
            "best_leg": best,
            "gain": test.difference.mean,
            "interval": [test.difference.low, test.difference.high],
            "p": test.p,
        }
        if name in CHINESE:
            hit = by_pipeline["hybrid"].metrics["Success@10"]
            figures.append(Figure(f"{name} hit@10, hybrid", hit, "", 0.95, "higher"))
    average = {
        pipeline: sum(by[pipeline].metrics["nDCG@10"] for by in reports.values()) / len(reports)
        for pipeline in PIPELINES
    }
    over_single = average["hybrid"] - max(average["lexical"], average["dense"])
    for pipeline in PIPELINES:
        figures.append(Figure(f"average of {len(reports)} sets nDCG@10, {pipeline}", average[pipeline], ""))
    figures.append(Figure("hybrid over the best single leg, on average", over_single, "nDCG@10", 0.03, "higher"))
    figures.append(Figure("hybrid over each set's better leg, on average", sum(gains) / len(gains), "nDCG@10"))
    return Measurement(
        name="quality",
        command="python -m eval.speed quality",
        figures=tuple(figures),
        details={
            "reports": {name: {p: report.to_json() for p, report in by.items()} for name, by in reports.items()},
            "hybrid_against_best_leg": tests,
        },
    )


def long_documents(source: str, data: Path) -> list[CorpusDocument]:
    """Long texts of one source: "docstrings" of installed packages, "peps" or "cuad" of the data folder."""
    if source == "docstrings":
        return list(docstring_documents(library_docs.documents(on_error=lambda error: None)))
    path = {"peps": data / "corpus_peps" / "peps.jsonl.gz", "cuad": data / "cuad" / "contracts.jsonl.gz"}[source]
    return [CorpusDocument(str(row["id"]), "", str(row["text"])) for row in read_jsonl(path)]


def measure_second_half(
    data: Path,
    source: str,
    embedder: Callable[[], Embedder],
    *,
    documents: int,
    peer: bool = True,
    progress: Progress | None = None,
) -> Measurement:
    """MRR@10 of finding a long document by a sentence of its second half: Fathom's legs and the stock default."""
    everything = long_documents(source, data)
    if len(everything) > 2 * documents:
        everything = random.Random(0).sample(everything, 2 * documents)
    dataset = second_half_questions(everything, name=f"second-half-{source}", limit=documents)
    model = embedder()
    figures: list[Figure] = []
    details: dict[str, Any] = {"documents": len(dataset.documents)}
    for pipeline in PIPELINES:
        report = evaluate(dataset, pipeline=pipeline, cache=BENCH / "sets", embedder=lambda: model, progress=progress)
        target = 0.78 if pipeline == "dense" else None
        label = f"second-half questions, {source}, MRR@10, {pipeline}"
        figures.append(Figure(label, report.metrics["RR@10"], "", target, "higher"))
        details[pipeline] = report.to_json()
    if peer:
        stock = stock_second_half(dataset)
        details["stock"] = {name: interval.mean for name, interval in stock.items()}
        figures.append(Figure(f"second-half questions, {source}, MRR@10, stock default", stock["RR@10"].mean, ""))
    return Measurement(
        name=f"second-half-{source}",
        command=f"python -m eval.speed second-half --sources {source}",
        figures=tuple(figures),
        details=details,
    )


def stock_second_half(dataset: RetrievalDataset) -> Mapping[str, Any]:
    """The stock pipeline with its default splitter (1024 tokens, 200 overlap) and the same embedding model."""
    folder = BENCH / f"stock-{dataset.name}"
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "files").mkdir(parents=True)
    names = {f"{number:06}.txt": document for number, document in enumerate(dataset.documents)}
    for name, document in names.items():
        (folder / "files" / name).write_text(document.text, encoding="utf-8")
    questions = folder / "questions.jsonl"
    rows = [json.dumps({"id": query, "text": text}, ensure_ascii=False) for query, text in dataset.queries.items()]
    questions.write_text("\n".join(rows), encoding="utf-8")
    shared = ["--model", str(model_folder(EmbeddingSettings().model)), "--store", str(folder / "store")]
    run_peer(["index", *shared, "--folder", str(folder / "files")])
    answer = run_peer(["search", *shared, "--queries", str(questions), "--k", "100", "--rankings"])
    rankings = {
        query: list(_distinct(names[Path(document).name].id for _, document in hits))
        for query, hits in answer["rankings"].items()
    }
    return intervals(per_query(rankings, dataset.qrels))


def _distinct(values: Iterator[str]) -> Iterator[str]:
    return iter(dict.fromkeys(values))
