"""Bank passages in, a collection of any size on disk out, built through the real storage; kept for later runs."""

import json
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from eval.speed.bank import Bank, documents
from eval.speed.measuring import folder_mb
from retrieval.collection import Collection
from retrieval.embedding.embedder import Embedder
from retrieval.passages import Document, Span

PER_DOCUMENT = 20
"""Passages a document: a million passages are then 50,000 documents."""
SEPARATOR = "\n\n"


def shelf(
    folder: Path,
    count: int,
    bank: Bank,
    embedder: Callable[[], Embedder],
    *,
    progress: Callable[[str, int, int], None] | None = None,
) -> Path:
    """The collection of `count` passages at `folder`; `folder.json` beside it holds what building it cost.

    A build that was interrupted is thrown away and made again.
    """
    note = folder.with_suffix(".json")
    if folder.exists() and note.exists():
        return folder
    shutil.rmtree(folder, ignore_errors=True)
    folder.parent.mkdir(parents=True, exist_ok=True)
    cpu, wall = time.process_time(), time.perf_counter()
    with Collection.create(folder, name=folder.name, embedder=embedder, doing="building for measurement") as made:
        made.add_passages(_items(bank, count, progress))
        added = time.process_time() - cpu
        made.optimise()
    note.write_text(
        json.dumps(
            {
                "passages": count,
                "add_cpu_s": round(added, 2),
                "cpu_s": round(time.process_time() - cpu, 2),
                "wall_s": round(time.perf_counter() - wall, 2),
                "disk_mb": round(folder_mb(folder), 1),
            }
        )
    )
    return folder


def _items(
    bank: Bank, count: int, progress: Callable[[str, int, int], None] | None
) -> Iterator[tuple[Document, list[Span], np.ndarray]]:
    done = 0
    for number, texts, vectors in documents(bank, count, per_document=PER_DOCUMENT):
        document, spans = as_document(number, texts)
        yield document, spans, vectors
        done += len(texts)
        if progress is not None:
            progress("passages", done, count)


def as_document(number: int, texts: list[str]) -> tuple[Document, list[Span]]:
    """One document of ready passages, and their spans. `uri_row` finds the passages again."""
    spans, start = [], 0
    for text in texts:
        spans.append(Span(start, start + len(text), None, (), "", len(text) // 4))
        start += len(text) + len(SEPARATOR)
    return Document(uri=f"bank/{number}", text=SEPARATOR.join(texts), format="docstrings"), spans


def uri_row(uri: str, ordinal: int) -> int:
    """The bank row of a passage."""
    return int(uri.removeprefix("bank/")) * PER_DOCUMENT + ordinal
