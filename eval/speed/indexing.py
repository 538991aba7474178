"""First indexing beside the stock pipeline: the same model and the same passages, CPU time in one run, in turns.

The stock side gets ready passages and only embeds, stores and persists them; Fathom's side also splits the documents,
builds its lexical index and makes everything durable. The ratio is therefore a lower bound.
"""

import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from eval.search.one_search import evaluate_folder
from eval.speed.measuring import BENCH, Figure, Measurement, median, run_peer, run_worker
from eval.speed.workers import embedder
from retrieval import library_docs
from retrieval.embedding.embedder import Embedder
from retrieval.embedding.load import EmbeddingSettings, model_folder
from retrieval.passages import Document
from retrieval.splitting import SplitSettings, embedding_text, split

Progress = Callable[[str, int, int], None]
TARGETS = {"bf16": 2.5, "int8": 4.0}
QUALITY_TARGETS = {"bf16": 0.002, "int8": 0.005}
EVERY = 37
"""Every 37th documented module of the installed packages: all of them are there, none fills the sample."""


def prepare(folder: Path, passages: int, model: Embedder) -> tuple[Path, Path, int]:
    """Writes `documents.jsonl` and `passages.jsonl` (the very texts Fathom will embed); returns both and the count."""
    folder.mkdir(parents=True, exist_ok=True)
    documents, pieces = folder / "documents.jsonl", folder / "passages.jsonl"
    count = 0
    with documents.open("w", encoding="utf-8") as whole, pieces.open("w", encoding="utf-8") as parts:
        for document in _spread(library_docs.documents(on_error=lambda error: None)):
            row = {"uri": document.uri, "text": document.text, "title": document.title}
            whole.write(json.dumps(row) + "\n")
            plain = Document(uri=document.uri, text=document.text, title=document.title)
            for span in split(plain, model, SplitSettings()):
                text = embedding_text(span.context, document.text[span.start : span.end])
                parts.write(json.dumps({"id": count, "document": document.uri, "text": text}) + "\n")
                count += 1
            if count >= passages:
                break
    return documents, pieces, count


def _spread(documents: Iterator[Document]) -> Iterator[Document]:
    everything = list(documents)
    for start in range(EVERY):
        yield from everything[start::EVERY]


def measure(*, passages: int = 500, repeats: int = 3, progress: Progress | None = None) -> Measurement:
    """Medians over `repeats` turns of stock, bf16, int8; ratios of CPU seconds a passage."""
    folder = BENCH / "indexing"
    documents, pieces, count = prepare(folder, passages, embedder("fp32"))
    model = model_folder(EmbeddingSettings().model)
    for precision in TARGETS:  # compiled and calibrated models are kept; making them is not indexing
        embedder(precision)
    stock: list[dict] = []
    ours: dict[str, list[dict]] = {precision: [] for precision in TARGETS}
    for turn in range(repeats):
        stock.append(run_peer(["index", "--model", model, "--store", _empty(folder / "stock"), "--passages", pieces]))
        for precision in TARGETS:
            arguments = {"documents": str(documents), "folder": str(_empty(folder / precision)), "precision": precision}
            ours[precision].append(run_worker("index", arguments))
        if progress is not None:
            progress("turns", turn + 1, repeats)
    stock_ms = [1e3 * sum(answer["cpu_s"].values()) / answer["passages"] for answer in stock]
    figures = [Figure("stock pipeline, CPU a passage", median(stock_ms), "ms")]
    for precision, target in TARGETS.items():
        ours_ms = [1e3 * answer["cpu_s"] / answer["passages"] for answer in ours[precision]]
        ratios = [a / b for a, b in zip(stock_ms, ours_ms, strict=True)]
        figures.append(Figure(f"first indexing {precision}, CPU a passage", median(ours_ms), "ms"))
        figures.append(Figure(f"first indexing {precision} against stock", median(ratios), "×", target, "higher"))
    return Measurement(
        name="indexing",
        command="python -m eval.speed indexing",
        figures=tuple(figures),
        details={"passages": count, "stock": stock, "ours": ours},
    )


def measure_quality(
    dataset: Path, *, precisions: Sequence[str] = ("fp32", "bf16", "int8"), progress: Progress | None = None
) -> Measurement:
    """nDCG@10 of dense search on `dataset` at each precision, and how far each is from fp32."""
    reached: dict[str, float] = {}
    details = {}
    for precision in precisions:
        report = evaluate_folder(
            dataset,
            pipeline="dense",
            cache=BENCH / "sets",
            embedder=lambda precision=precision: embedder(precision),  # type: ignore[misc]
            progress=progress,
        )
        reached[precision] = report.metrics["nDCG@10"]
        details[precision] = report.to_json()
    figures = []
    for precision, value in reached.items():
        figures.append(Figure(f"{dataset.name} nDCG@10, dense, {precision}", value, ""))
        if precision in QUALITY_TARGETS:
            lost = reached["fp32"] - value
            figures.append(Figure(f"{dataset.name} nDCG@10 lost by {precision}", lost, "", QUALITY_TARGETS[precision]))
    return Measurement(
        name="precision",
        command="python -m eval.speed precision",
        figures=tuple(figures),
        details=details,
    )


def _empty(folder: Path) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    return folder
