"""What runs inside a fresh one-thread process: a name and JSON arguments in, one line of JSON out.

Started by `eval.speed.measuring.run_worker`; knows nothing of targets or peers.
"""

import hashlib
import json
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from eval.search.embedders import Counting, HashingEmbedder
from eval.speed.measuring import resident_mb
from eval.speed.shelves import uri_row
from retrieval.collection import Collection
from retrieval.embedding.embedder import Embedder
from retrieval.embedding.load import EmbeddingSettings, load_embedder
from retrieval.passages import Document


def embedder(precision: str) -> Embedder:
    return load_embedder(EmbeddingSettings(precision=precision, device="cpu", threads=1))  # type: ignore[arg-type]


def read_documents(path: Path) -> Iterator[Document]:
    with path.open(encoding="utf-8") as lines:
        for line in lines:
            row = json.loads(line)
            yield Document(uri=row["uri"], text=row["text"], title=row["title"])


def index(documents: str, folder: str, precision: str) -> dict[str, Any]:
    """Documents → a new collection: split, embedded, stored, searchable. Loading the model is not counted."""
    began = time.process_time()
    model = Counting(embedder(precision))
    model.embed_passages(["one passage, so that the back end is ready"])
    loading = time.process_time() - began
    model.wall_s = model.cpu_s = 0.0
    read = list(read_documents(Path(documents)))
    cpu, wall = time.process_time(), time.perf_counter()
    with Collection.create(Path(folder), name="measured", embedder=lambda: model) as made:
        probing = model.cpu_s
        report = made.add(read)
    return {
        "passages": report.passages,
        "embedded": report.embedded,
        "cpu_s": time.process_time() - cpu,
        "wall_s": time.perf_counter() - wall,
        "embed_cpu_s": model.cpu_s - probing,
        "load_cpu_s": loading,
        "backend": model.backend,
        "precision": model.fingerprint.precision,
    }


def opening(folder: str, query: str) -> dict[str, Any]:
    """Opens a collection and asks a first question in each mode, with a vector made before: no model is loaded."""
    import faiss  # noqa: F401  # importing is the program's start, not the collection's opening
    import tantivy  # noqa: F401

    before, cpu, wall = resident_mb(), time.process_time(), time.perf_counter()
    opened = Collection.open(Path(folder))
    open_wall, open_cpu = time.perf_counter() - wall, time.process_time() - cpu
    opened.search(query, mode="lexical")
    lexical_wall = time.perf_counter() - wall
    opened.accelerators.search_dense(_unit(opened.fingerprint.embedder.dimension), 10, None)
    ready_wall, ready_cpu = time.perf_counter() - wall, time.process_time() - cpu
    after = resident_mb()
    opened.close()
    return {
        "open_s": open_wall,
        "open_cpu_s": open_cpu,
        "lexical_s": lexical_wall,
        "ready_s": ready_wall,
        "ready_cpu_s": ready_cpu,
        "grown_mb": after - before,
    }


def _unit(dimension: int) -> np.ndarray:
    vector = np.zeros(dimension, dtype=np.float32)
    vector[0] = 1.0
    return vector


def search(folder: str, queries: str, mode: str, precision: str, k: int, rounds: int) -> dict[str, Any]:
    """Asks every query `rounds` times; milliseconds of each, memory after, and the dense leg's rows for recall."""
    import threading

    asked: list[str] = json.loads(Path(queries).read_text(encoding="utf-8"))
    model = embedder(precision)
    model.embed_queries(["ready"])
    before = resident_mb()
    with Collection.open(Path(folder), embedder=lambda: model) as opened:
        for text in asked[:20]:
            opened.search(text, mode=mode, k=k)  # type: ignore[arg-type]
        wall_ms: list[list[float]] = []
        cpu_ms: list[list[float]] = []
        stages: dict[str, list[float]] = {}
        for _ in range(rounds):
            wall_ms.append([])
            cpu_ms.append([])
            for text in asked:
                wall, cpu = time.perf_counter(), time.process_time()
                result = opened.search(text, mode=mode, k=k)  # type: ignore[arg-type]
                wall_ms[-1].append((time.perf_counter() - wall) * 1e3)
                cpu_ms[-1].append((time.process_time() - cpu) * 1e3)
                for stage, milliseconds in result.timings.items():
                    stages.setdefault(stage, []).append(milliseconds)
        after = resident_mb()
        rows = [
            [uri_row(hit.source.uri, hit.passage.ordinal) for hit in opened.search(text, mode="dense", k=10).hits]
            for text in asked
        ]
        status = opened.status()
    vectors = [model.embed_queries([text])[0].tolist() for text in asked]
    return {
        "wall_ms": wall_ms,
        "cpu_ms": cpu_ms,
        "stages_ms": {stage: float(np.median(values)) for stage, values in stages.items()},
        "model_mb": before,
        "resident_mb": after,
        "rows": rows,
        "vectors": vectors,
        "dense": status["dense"],
        "threads": threading.active_count(),
    }


def update(folder: str, repeats: int, precision: str) -> dict[str, Any]:
    """Changes one document `repeats` times; time until it is durable and found, without its embedding."""
    model = Counting(embedder(precision))
    model.embed_passages(["ready"])
    walls, cpus, embedding = [], [], []
    with Collection.open(Path(folder), embedder=lambda: model, write=True) as opened:
        original = opened.document_by_uri("bank/7")
        opened.search("ready")
        for number in range(repeats):
            marker = f"zebrafish{number}quagga"
            changed = replace(original, text=f"{marker} {original.text}", content_hash=_digest(marker))
            model.wall_s = model.cpu_s = 0.0
            wall, cpu = time.perf_counter(), time.process_time()
            report = opened.add([changed])
            walls.append(time.perf_counter() - wall - model.wall_s)
            cpus.append(time.process_time() - cpu - model.cpu_s)
            embedding.append(model.wall_s)
            found = opened.search(marker, mode="lexical", k=1).hits
            if report.updated != 1 or not found or found[0].source.uri != original.uri:
                raise AssertionError(f"the changed document was not found: {report}")
    return {"wall_s": walls, "cpu_s": cpus, "embed_wall_s": embedding}


def _digest(text: str) -> str:
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def syncing(folder: str, files: str) -> dict[str, Any]:
    """Syncs a folder of files with a collection whose embedder needs no model; says how much was embedded."""
    from retrieval.reading.reader import Reader
    from retrieval.syncing import sync

    model = HashingEmbedder()
    path = Path(folder)
    if path.exists():
        collection = Collection.open(path, embedder=lambda: model, write=True)
    else:
        collection = Collection.create(path, name="files", embedder=lambda: model)
    with collection, Reader() as reader:
        cpu, wall = time.process_time(), time.perf_counter()
        report = sync(collection, Path(files), reader)
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    return {
        "wall_s": wall,
        "cpu_s": cpu,
        "embedded": report.embedded,
        "added": len(report.added),
        "updated": len(report.updated),
        "removed": len(report.removed),
        "failed": len(report.failed),
        "unchanged": report.unchanged,
    }


WORKERS: dict[str, Callable[..., dict[str, Any]]] = {
    "index": index,
    "opening": opening,
    "search": search,
    "update": update,
    "syncing": syncing,
}


def main() -> None:
    answer = WORKERS[sys.argv[1]](**json.loads(sys.argv[2]))
    sys.stdout.write(json.dumps(answer) + "\n")


if __name__ == "__main__":
    main()
