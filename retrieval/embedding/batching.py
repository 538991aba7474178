"""Texts → vectors with any encoder: equal texts once, sorted by length, batched by tokens, nothing cut off.

Knows no back end: an encoder takes padded token ids and gives pooled vectors.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

import numpy as np

from retrieval.embedding.counting import TextTokenizer
from retrieval.embedding.embedder import EmbedderFingerprint
from retrieval.errors import DamagedError, UsageError

# OpenVINO prepares anew whenever the shape changes: queries of changing lengths took 7 ms each, padded to 16 tokens,
# which holds most of them, 3.5 ms.
QUERY_PAD_TO = 16
WINDOW = 8192
"""Texts sorted by length at a time; bounds the memory that token ids take."""

Progress = Callable[[int, int], None]


class Encoder(Protocol):
    """A compiled model with its pooling. May be called from several threads at once."""

    tokens_per_batch: int
    """Padded tokens a batch may have; a single longer text is a batch of its own."""

    def __call__(self, ids: np.ndarray, mask: np.ndarray) -> np.ndarray:
        """(batch, tokens) int64 ids and mask (1 text, 0 padding on the right) → (batch, dimension) float32."""


class BatchingEmbedder:
    """An `Embedder` made of a tokenizer and an encoder."""

    def __init__(
        self,
        encoder: Encoder,
        tokenizer: TextTokenizer,
        *,
        fingerprint: EmbedderFingerprint,
        backend: str,
        pad_id: int,
        pad_to: int = 8,
    ) -> None:
        self.fingerprint = fingerprint
        self.backend = backend
        self.dimension = fingerprint.dimension
        self.max_tokens = fingerprint.max_tokens
        self._encoder = encoder
        self._tokenizer = tokenizer
        self._pad_id = pad_id
        self._pad_to = pad_to

    def count(self, texts: Sequence[str]) -> list[int]:
        """Tokens of each text as a passage, special tokens and passage prefix included."""
        return self._tokenizer.count(_several(texts))

    def offsets(self, text: str) -> np.ndarray:
        """(n, 2) int64 of character offsets, without special tokens and prefix."""
        return self._tokenizer.offsets(text)

    def embed_passages(self, texts: Sequence[str], *, progress: Progress | None = None) -> np.ndarray:
        """(len(texts), dimension) float32, L2-normalised; raises UsageError for a text over `max_tokens`."""
        rows: dict[str, list[int]] = {}
        for row, text in enumerate(_several(texts)):
            rows.setdefault(text, []).append(row)
        distinct = list(rows)
        vectors = np.empty((len(texts), self.dimension), dtype=np.float32)
        done = 0
        for start in range(0, len(distinct), WINDOW):
            window = distinct[start : start + WINDOW]
            ids = self._tokenizer.ids(window, self._tokenizer.passage_prefix)
            for text, its in zip(window, ids, strict=True):
                self._refuse_too_long(text, len(its))
            for batch, found in self._batches(ids):
                for index, vector in zip(batch, found, strict=True):
                    vectors[rows[window[index]]] = vector
                    done += len(rows[window[index]])
                if progress is not None:
                    progress(done, len(texts))
        return vectors

    def embed_queries(self, texts: Sequence[str]) -> np.ndarray:
        """(len(texts), dimension) float32, L2-normalised; long queries as the mean of their windows."""
        windows: list[list[int]] = []
        starts: list[int] = []
        for text in _several(texts):
            starts.append(len(windows))
            windows += self._tokenizer.query_windows(text)
        encoded = np.empty((len(windows), self.dimension), dtype=np.float32)
        for batch, found in self._batches(windows, QUERY_PAD_TO):
            encoded[batch] = found
        vectors = encoded[starts]
        ends = [*starts[1:], len(windows)][: len(starts)]
        for row, (start, end) in enumerate(zip(starts, ends, strict=True)):
            if end - start > 1:
                lengths = np.array([[len(window)] for window in windows[start:end]], dtype=np.float32)
                vectors[row] = _normalised((lengths * encoded[start:end]).sum(axis=0, keepdims=True))[0]
        return vectors

    def _batches(self, ids: Sequence[list[int]], pad_to: int | None = None) -> Iterator[tuple[list[int], np.ndarray]]:
        """Positions in `ids` and their vectors, batch by batch. The longest first: memory shows at once if it fails."""
        order = sorted(range(len(ids)), key=lambda index: -len(ids[index]))
        step = pad_to or self._pad_to
        start = 0
        while start < len(order):
            # A multiple of a few tokens, so that the shapes a run meets (and the kernels kept for them) stay few.
            width = min(-(-len(ids[order[start]]) // step) * step, self.max_tokens)
            batch = order[start : start + max(1, self._encoder.tokens_per_batch // width)]
            start += len(batch)
            yield batch, _normalised(self._encoder(*padded([ids[index] for index in batch], self._pad_id, width)))

    def _refuse_too_long(self, text: str, tokens: int) -> None:
        if tokens > self.max_tokens:
            raise UsageError(
                f"a passage has {tokens} tokens but {self.fingerprint.model} reads {self.max_tokens}, and nothing may "
                f"be cut off silently; split it first (it begins {text[:60]!r})"
            )


def padded(texts: Sequence[Sequence[int]], pad_id: int, width: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Token ids → (batch, width) int64 ids padded on the right and their mask; width is the longest's or more."""
    shape = (len(texts), max(width, *map(len, texts)))
    ids, mask = np.full(shape, pad_id, dtype=np.int64), np.zeros(shape, dtype=np.int64)
    for row, text in enumerate(texts):
        ids[row, : len(text)] = text
        mask[row, : len(text)] = 1
    return ids, mask


def _several(texts: Sequence[str]) -> Sequence[str]:
    if isinstance(texts, str):
        raise UsageError("a list of texts is needed, and a single text was given")
    return texts


def _normalised(vectors: np.ndarray) -> np.ndarray:
    """Rows of length 1. Raises DamagedError for a row that has no direction."""
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    if not (np.isfinite(lengths).all() and lengths.all()):
        raise DamagedError(
            "the embedding model gave a vector that is zero or not a number; its weights are damaged or overflow in "
            'this precision: fetch the model again, or set precision = "fp32"'
        )
    return vectors / lengths
