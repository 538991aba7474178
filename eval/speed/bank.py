"""Real docstring passages with their vectors in, any number of passages with vectors out, for measuring large indexes.

Embedding a million passages would take eight hours on two cores. A search index does not care where vectors come from,
only how they are spread, so beyond the real ones each vector is a normalised mixture of two real ones and noise, its
text the start of one passage with the end of the other. Figures of exact search do not depend on this; recall of an
approximate index does, and is stated for this distribution.
"""

import json
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from retrieval import library_docs

if TYPE_CHECKING:
    from retrieval.embedding.embedder import Embedder

PASSAGE_CHARACTERS = 800
"""About 190 WordPieces of docstring, the mean of the passages Fathom's splitter makes."""
HELD_OUT = 10
"""Every tenth module gives queries and no passages."""
SPARE = 50
"""One passage more in so many, for those that are left out."""


@dataclass(frozen=True, slots=True)
class Bank:
    """`vectors` is (n, dimension) float32, L2-normalised, row i for `texts[i]`; `queries` come from other modules."""

    texts: list[str]
    vectors: np.ndarray
    queries: list[str]


def docstring_texts(passages: int, queries: int, *, seed: int = 0) -> tuple[list[str], list[str]]:
    """Passages of at most PASSAGE_CHARACTERS and queries (first sentences of docstrings elsewhere), a seeded sample."""
    texts: list[str] = []
    asked: list[str] = []
    for number, document in enumerate(library_docs.documents(on_error=lambda error: None)):
        if number % HELD_OUT:
            texts.extend(cut(document.text))
        else:
            asked.extend(_first_sentences(document.text))
    chooser = random.Random(seed)
    chooser.shuffle(texts)
    asked = sorted(set(asked))
    chooser.shuffle(asked)
    return texts[:passages], asked[:queries]


def cut(text: str) -> Iterator[str]:
    """Paragraphs packed into passages; crumbs under an eighth of the size are left out."""
    packed = ""
    for paragraph in text.split("\n\n"):
        while len(paragraph) > PASSAGE_CHARACTERS:
            end = paragraph.rfind(" ", PASSAGE_CHARACTERS // 2, PASSAGE_CHARACTERS)
            end = PASSAGE_CHARACTERS if end < 0 else end
            yield paragraph[:end]
            paragraph = paragraph[end:]
        if packed and len(packed) + 2 + len(paragraph) > PASSAGE_CHARACTERS:
            if len(packed) >= PASSAGE_CHARACTERS // 8:
                yield packed
            packed = ""
        packed = f"{packed}\n\n{paragraph}" if packed else paragraph
    if len(packed) >= PASSAGE_CHARACTERS // 8:
        yield packed


def _first_sentences(text: str) -> Iterator[str]:
    for paragraph in text.split("\n\n"):
        lines = paragraph.split("\n", 1)
        if len(lines) == 2 and "(" in lines[0]:  # a signature line, then the summary
            sentence = " ".join(lines[1].split()).split(". ")[0].rstrip(".")
            if 5 <= len(sentence.split()) <= 20:
                yield sentence


def load_bank(folder: Path, load: "Callable[[], Embedder]", *, passages: int = 20_000, queries: int = 500) -> Bank:
    """The bank kept in `folder`, made there first when missing (about ten minutes of CPU for 20,000 passages).

    Passages that are longer than the model reads (tables of signs) are left out.
    """
    words, matrix = folder / "bank.json", folder / "bank.npy"
    if not words.exists() or not matrix.exists():
        model = load()
        found, asked = docstring_texts(passages + passages // SPARE, queries)
        counts = model.count(found)
        texts = [text for text, count in zip(found, counts, strict=True) if count <= model.max_tokens][:passages]
        vectors = model.embed_passages(texts)
        folder.mkdir(parents=True, exist_ok=True)
        np.save(matrix, vectors.astype(np.float32))
        words.write_text(json.dumps({"texts": texts, "queries": asked}), encoding="utf-8")
    stored = json.loads(words.read_text(encoding="utf-8"))
    return Bank(stored["texts"], np.load(matrix, allow_pickle=False), stored["queries"])


def documents(
    bank: Bank, count: int, *, per_document: int = 20, seed: int = 0
) -> Iterator[tuple[int, list[str], np.ndarray]]:
    """`count` passages as documents of `per_document`: (number, texts, vectors (m, dimension) float32 normalised).

    The bank's own passages come first; the rest are 0.8·a + 0.4·b + 0.3·noise, normalised, with a and b random.
    """
    generator = np.random.default_rng(seed)
    real = len(bank.texts)
    for number, start in enumerate(range(0, count, per_document)):
        rows = range(start, min(start + per_document, count))
        own = [row for row in rows if row < real]
        texts = [bank.texts[row] for row in own]
        vectors = bank.vectors[own]
        if mixed := len(rows) - len(own):
            more_texts, more_vectors = _mixtures(bank, mixed, generator)
            texts += more_texts
            vectors = np.concatenate([vectors, more_vectors])
        yield number, texts, vectors


def _mixtures(bank: Bank, count: int, generator: np.random.Generator) -> tuple[list[str], np.ndarray]:
    first, second = generator.integers(0, len(bank.texts), size=(2, count))
    noise = generator.standard_normal((count, bank.vectors.shape[1])).astype(np.float32)
    noise /= np.linalg.norm(noise, axis=1, keepdims=True)
    vectors = 0.8 * bank.vectors[first] + 0.4 * bank.vectors[second] + 0.3 * noise
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    texts = []
    for a, b in zip(first.tolist(), second.tolist(), strict=True):
        start, end = bank.texts[a], bank.texts[b]
        texts.append(start[: len(start) * 2 // 3] + " " + end[len(end) * 2 // 3 :])
    return texts, vectors.astype(np.float32)
