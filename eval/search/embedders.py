"""Embedders for measuring: one that needs no model, one that cuts long texts as published figures do, one that counts.

All keep retrieval's `Embedder` interface, so a measurement runs through the same collection as a user's documents.
"""

import hashlib
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from retrieval.embedding.embedder import Embedder, EmbedderFingerprint

_WORD = re.compile(r"[a-z0-9_]+|[^\W\d_]|[^\w\s]", re.IGNORECASE)
UNLIMITED = 1_000_000
"""Tokens of a text that is never split."""


class HashingEmbedder:
    """Words hashed into signed buckets and counted (Weinberger et al. 2009): no model, no meaning, thousands a second.

    For measuring what does not depend on the embedding, for lexical search without a model, and for tests.
    """

    backend = "hashing"

    def __init__(self, dimension: int = 64, max_tokens: int = 256) -> None:
        self.dimension = dimension
        self.max_tokens = max_tokens
        self.fingerprint = EmbedderFingerprint(
            model="hashing",
            weights=hashlib.sha256(f"hashing-{dimension}".encode()).hexdigest(),
            dimension=dimension,
            max_tokens=max_tokens,
            pooling="sum",
            normalise=True,
            query_prefix="",
            passage_prefix="",
            precision="fp32",
        )
        self._buckets: dict[str, tuple[int, float]] = {}

    def count(self, texts: Sequence[str]) -> list[int]:
        """Words plus two, as if there were special tokens."""
        return [len(_WORD.findall(text)) + 2 for text in texts]

    def offsets(self, text: str) -> np.ndarray:
        """(words, 2) int64, half-open character offsets."""
        spans = [match.span() for match in _WORD.finditer(text)]
        return np.array(spans, dtype=np.int64).reshape(len(spans), 2)

    def embed_passages(self, texts: Sequence[str], *, progress: Callable[[int, int], None] | None = None) -> np.ndarray:
        """(n, dimension) float32, L2-normalised."""
        vectors = np.zeros((len(texts), self.dimension), dtype=np.float32)
        for row, text in enumerate(texts):
            for word in _WORD.findall(text.lower()) or [""]:
                bucket, sign = self._bucket(word)
                vectors[row, bucket] += sign
            if not vectors[row].any():  # signs may cancel out
                vectors[row, 0] = 1.0
        if progress is not None:
            progress(len(texts), len(texts))
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True) if len(texts) else vectors

    def embed_queries(self, texts: Sequence[str]) -> np.ndarray:
        return self.embed_passages(texts)

    def _bucket(self, word: str) -> tuple[int, float]:
        found = self._buckets.get(word)
        if found is None:
            number = int.from_bytes(hashlib.blake2b(word.encode(), digest_size=8).digest(), "little")
            found = (number // 2 % self.dimension, 1.0 if number % 2 else -1.0)
            self._buckets[word] = found
        return found


class WholeTexts:
    """An embedder that takes a text of any length and embeds its first `max_tokens`.

    Published BEIR figures of sentence-transformers models are made this way (one vector a document, the rest cut off),
    so only this compares with them. Fathom itself splits and drops nothing.
    """

    def __init__(self, inner: Embedder) -> None:
        self.inner = inner
        self.dimension = inner.dimension
        self.max_tokens = UNLIMITED
        self.backend = f"{inner.backend}-whole"
        self.fingerprint = replace(inner.fingerprint, max_tokens=UNLIMITED)

    def count(self, texts: Sequence[str]) -> list[int]:
        return self.inner.count(texts)

    def offsets(self, text: str) -> np.ndarray:
        return self.inner.offsets(text)

    def embed_passages(self, texts: Sequence[str], *, progress: Callable[[int, int], None] | None = None) -> np.ndarray:
        """(n, dimension) float32, L2-normalised, of the texts' beginnings."""
        return self.inner.embed_passages([self._beginning(text) for text in texts], progress=progress)

    def embed_queries(self, texts: Sequence[str]) -> np.ndarray:
        return self.inner.embed_queries(texts)

    def _beginning(self, text: str) -> str:
        total = self.inner.count([text])[0]
        if total <= self.inner.max_tokens:
            return text
        offsets = self.inner.offsets(text)
        kept = len(offsets) - (total - self.inner.max_tokens)
        # Cutting inside a word may tokenise its rest differently; step back until it fits.
        while self.inner.count([text[: int(offsets[kept - 1][1])]])[0] > self.inner.max_tokens:
            kept -= 1
        return text[: int(offsets[kept - 1][1])]


class Counting:
    """Passes everything on and keeps what was embedded and how long it took, so that it can be told from the rest."""

    def __init__(self, inner: Embedder) -> None:
        self.inner = inner
        self.fingerprint = inner.fingerprint
        self.backend = inner.backend
        self.dimension = inner.dimension
        self.max_tokens = inner.max_tokens
        self.passages = 0
        self.wall_s = 0.0
        self.cpu_s = 0.0

    def count(self, texts: Sequence[str]) -> list[int]:
        return self.inner.count(texts)

    def offsets(self, text: str) -> np.ndarray:
        return self.inner.offsets(text)

    def embed_passages(self, texts: Sequence[str], *, progress: Callable[[int, int], None] | None = None) -> np.ndarray:
        self.passages += len(texts)
        wall, cpu = time.perf_counter(), time.process_time()
        vectors = self.inner.embed_passages(texts, progress=progress)
        self._took(wall, cpu)
        return vectors

    def embed_queries(self, texts: Sequence[str]) -> np.ndarray:
        wall, cpu = time.perf_counter(), time.process_time()
        vectors = self.inner.embed_queries(texts)
        self._took(wall, cpu)
        return vectors

    def _took(self, wall: float, cpu: float) -> None:
        self.wall_s += time.perf_counter() - wall
        self.cpu_s += time.process_time() - cpu


class WordsOnly:
    """Counts tokens as another embedder does and makes no vectors: for collections that are only searched by words.

    Passages are then cut as that embedder would have them, and building the index costs no model time.
    """

    backend = "none"
    dimension = 8

    def __init__(self, counter: Embedder) -> None:
        self.counter = counter
        self.max_tokens = counter.max_tokens
        self.fingerprint = replace(
            counter.fingerprint,
            model=f"words of {counter.fingerprint.model}",
            dimension=self.dimension,
            pooling="none",
            precision="fp32",
        )

    def count(self, texts: Sequence[str]) -> list[int]:
        return self.counter.count(texts)

    def offsets(self, text: str) -> np.ndarray:
        return self.counter.offsets(text)

    def embed_passages(self, texts: Sequence[str], *, progress: Callable[[int, int], None] | None = None) -> np.ndarray:
        """(n, 8) float32: the same unit vector for every text."""
        vectors = np.zeros((len(texts), self.dimension), dtype=np.float32)
        vectors[:, 0] = 1.0
        return vectors

    def embed_queries(self, texts: Sequence[str]) -> np.ndarray:
        return self.embed_passages(texts)
