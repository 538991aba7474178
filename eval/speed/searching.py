"""Opening, searching and changing collections of 10,000 to a million passages; the stock pipeline up to 100,000."""

import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from eval.speed.bank import Bank, documents, load_bank
from eval.speed.measuring import BENCH, Figure, Measurement, median, percentile, run_peer, run_worker
from eval.speed.shelves import PER_DOCUMENT, shelf
from eval.speed.workers import embedder
from retrieval.embedding.load import EmbeddingSettings, model_folder

Progress = Callable[[str, int, int], None]
SEARCH_TARGETS = {10_000: (8.0, 25.0), 100_000: (20.0, 50.0), 1_000_000: (40.0, 100.0)}
"""Milliseconds at p50 and p99, query embedding included."""
MEMORY_TARGET_MB = 1_200.0
RECALL_TARGET = 0.98
STOCK_LIMIT = 100_000
"""Beyond, the stock pipeline's node lists alone take several gigabytes."""


def the_bank(passages: int = 20_000) -> Bank:
    return load_bank(BENCH / "bank", lambda: embedder("bf16"), passages=passages)


def built(size: int, progress: Progress | None = None) -> Path:
    """The shelf of `size` passages, made if it is not there."""
    return shelf(BENCH / f"shelf-{size}", size, the_bank(), lambda: embedder("bf16"), progress=progress)


def measure_search(
    sizes: Sequence[int],
    *,
    rounds: int = 3,
    queries: int = 300,
    peer: bool = True,
    mode: str = "hybrid",
    progress: Progress | None = None,
) -> Measurement:
    """Milliseconds a query at each size: medians over rounds of p50 and p99, wall and CPU; recall; memory."""
    bank = the_bank()
    asked = bank.queries[:queries]
    question_file = BENCH / "questions.json"
    question_file.write_text(json.dumps(asked), encoding="utf-8")
    figures: list[Figure] = []
    details: dict[str, Any] = {}
    for size in sizes:
        folder = built(size, progress)
        answer = run_worker(
            "search",
            {
                "folder": str(folder),
                "queries": str(question_file),
                "mode": mode,
                "precision": "bf16",
                "k": 10,
                "rounds": rounds,
            },
        )
        p50_target, p99_target = SEARCH_TARGETS.get(size, (None, None))
        label = f"search, {size:,} passages"
        for clock, name in (("wall_ms", "wall"), ("cpu_ms", "CPU")):
            p50 = median([percentile(values, 50) for values in answer[clock]])
            p99 = median([percentile(values, 99) for values in answer[clock]])
            figures.append(Figure(f"{label}, {name} p50", p50, "ms", p50_target if name == "wall" else None))
            figures.append(Figure(f"{label}, {name} p99", p99, "ms", p99_target if name == "wall" else None))
        figures.append(
            Figure(
                f"{label}, memory of the process, model included",
                answer["resident_mb"],
                "MB",
                MEMORY_TARGET_MB if size == 1_000_000 else None,
            )
        )
        recall = recall_at_10(bank, size, np.array(answer.pop("vectors"), dtype=np.float32), answer.pop("rows"))
        figures.append(Figure(f"{label}, recall@10 of exact", recall, "", RECALL_TARGET, "higher"))
        details[str(size)] = {
            **{key: answer[key] for key in ("stages_ms", "model_mb", "resident_mb", "dense", "threads")},
            "build": json.loads(folder.with_suffix(".json").read_text(encoding="utf-8")),
        }
        if peer and size <= STOCK_LIMIT:
            stock = stock_search(size, bank, asked)
            details[str(size)]["stock"] = stock
            figures.append(Figure(f"{label}, stock dense, wall p50", stock["wall_p50_ms"], "ms"))
            figures.append(Figure(f"{label}, stock dense, CPU p50", stock["cpu_p50_ms"], "ms"))
            figures.append(Figure(f"opening {size:,} passages, stock", stock["open_s"], "s"))
    return Measurement(
        name=f"search-{mode}-{'-'.join(map(str, sizes))}",
        command=f"python -m eval.speed search --sizes {' '.join(map(str, sizes))}",
        figures=tuple(figures),
        details=details,
    )


def recall_at_10(bank: Bank, size: int, queries: np.ndarray, rows: Sequence[Sequence[int]]) -> float:
    """Share of the exact ten nearest (float32, all vectors) that the dense leg returned."""
    best_scores = np.full((len(queries), 0), -np.inf, dtype=np.float32)
    best_rows = np.zeros((len(queries), 0), dtype=np.int64)
    start = 0
    block: list[np.ndarray] = []

    def merge() -> None:
        nonlocal best_scores, best_rows, start
        vectors = np.concatenate(block)
        scores = np.concatenate([best_scores, queries @ vectors.T], axis=1)
        numbers = np.broadcast_to(np.arange(start, start + len(vectors)), (len(queries), len(vectors)))
        candidates = np.concatenate([best_rows, numbers], axis=1)
        kept = np.argpartition(-scores, min(10, scores.shape[1] - 1), axis=1)[:, :10]
        best_scores, best_rows = np.take_along_axis(scores, kept, 1), np.take_along_axis(candidates, kept, 1)
        start += len(vectors)
        block.clear()

    for _, _, vectors in documents(bank, size, per_document=PER_DOCUMENT):
        block.append(vectors)
        if len(block) == 500:
            merge()
    if block:
        merge()
    found = [len(set(exact.tolist()) & set(got)) for exact, got in zip(best_rows, rows, strict=True)]
    return float(sum(found)) / best_rows.size


def stock_search(size: int, bank: Bank, asked: Sequence[str]) -> dict[str, Any]:
    """The stock index over the same passages and vectors: persisted once, then opened and asked in a fresh process."""
    folder = BENCH / f"stock-{size}"
    model = model_folder(EmbeddingSettings().model)
    store = folder / "store"
    if not (folder / "built.json").exists():
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        vectors, number = [], 0
        with (folder / "passages.jsonl").open("w", encoding="utf-8") as lines:
            for document, texts, block in documents(bank, size, per_document=PER_DOCUMENT):
                vectors.append(block)
                for text in texts:
                    lines.write(json.dumps({"id": number, "document": document, "text": text}) + "\n")
                    number += 1
        np.save(folder / "vectors.npy", np.concatenate(vectors))
        ready = ["--passages", str(folder / "passages.jsonl"), "--vectors", str(folder / "vectors.npy")]
        answer = run_peer(["index", "--model", str(model), "--store", str(store), *ready])
        (folder / "built.json").write_text(json.dumps(answer), encoding="utf-8")
    questions = folder / "questions.jsonl"
    rows = [json.dumps({"id": number, "text": text}) for number, text in enumerate(asked)]
    questions.write_text("\n".join(rows), encoding="utf-8")
    answer = run_peer(["search", "--model", model, "--store", store, "--queries", questions])
    return {
        "wall_p50_ms": percentile(answer["wall_ms"], 50),
        "wall_p99_ms": percentile(answer["wall_ms"], 99),
        "cpu_p50_ms": percentile(answer["cpu_ms"], 50),
        "open_s": answer["open_s"]["open"],
        "open_cpu_s": answer["open_cpu_s"]["open"],
        "grown_mb": answer["grown_mb"],
        "peak_mb": answer["peak_mb"],
        "build": json.loads((folder / "built.json").read_text(encoding="utf-8")),
    }


def measure_opening(
    size: int = 100_000, *, repeats: int = 5, target: float = 0.5, progress: Progress | None = None
) -> Measurement:
    """Seconds from a fresh process's `Collection.open` to the first dense and lexical answer, model not included."""
    folder = built(size, progress)
    answers = [run_worker("opening", {"folder": str(folder), "query": "save a tensor"}) for _ in range(repeats)]
    figures = (
        Figure(f"opening {size:,} passages", median([answer["open_s"] for answer in answers]), "s", target),
        Figure(
            f"opening {size:,} passages and ready in both legs",
            median([answer["ready_s"] for answer in answers]),
            "s",
            target,
        ),
        Figure(f"opening {size:,} passages, CPU", median([answer["ready_cpu_s"] for answer in answers]), "s"),
        Figure(f"opening {size:,} passages, memory grown", median([answer["grown_mb"] for answer in answers]), "MB"),
    )
    return Measurement("open", "python -m eval.speed open", figures, {"answers": answers})


def measure_update(
    size: int = 100_000,
    *,
    repeats: int = 10,
    peer: bool = True,
    target: float = 150.0,
    progress: Progress | None = None,
) -> Measurement:
    """One changed document of twenty passages in a collection of `size`, durable and found, without its embedding."""
    folder = built(size, progress)
    work = BENCH / "changed"
    shutil.rmtree(work, ignore_errors=True)
    shutil.copytree(folder, work)
    answer = run_worker("update", {"folder": str(work), "repeats": repeats, "precision": "bf16"})
    shutil.rmtree(work)
    milliseconds = [1e3 * seconds for seconds in answer["wall_s"]]
    figures = [
        Figure(f"one changed document among {size:,} passages", median(milliseconds), "ms", target),
        Figure(f"one changed document among {size:,}, CPU", 1e3 * median(answer["cpu_s"]), "ms"),
        Figure(f"one changed document among {size:,}, worst of {repeats}", max(milliseconds), "ms"),
    ]
    details: dict[str, Any] = {"ours": answer}
    if peer:
        bank = the_bank()
        stock_search(size, bank, bank.queries[:5])  # makes the stored index if it is not there
        store = BENCH / f"stock-{size}" / "store"
        changed = shutil.copytree(store, BENCH / "changed-stock", dirs_exist_ok=True)
        model = model_folder(EmbeddingSettings().model)
        stock = run_peer(["insert", "--model", model, "--store", changed, "--repeats", "3"])
        shutil.rmtree(changed)
        details["stock"] = stock
        figures.append(
            Figure(f"one node inserted among {size:,} and persisted, stock", 1e3 * sum(stock["wall_s"].values()), "ms")
        )
    return Measurement("update", "python -m eval.speed update", tuple(figures), details)
