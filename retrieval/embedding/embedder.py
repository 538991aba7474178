"""What an embedding model offers to the rest of the house, and the facts that say which vectors belong together."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, Protocol, get_args

import numpy as np

Precision = Literal["fp32", "bf16", "fp16", "int8"]


@dataclass(frozen=True, slots=True)
class EmbedderFingerprint:
    """What decides an embedder's vectors, apart from rounding.

    `weights` is the SHA-256 (hex) over every file of the model that decides them: weights, configuration, tokenizer.
    `max_tokens` counts special tokens and prefix. `model` is a name for people; `weights` says what it is.
    """

    model: str
    weights: str
    dimension: int
    max_tokens: int
    pooling: str
    normalise: bool
    query_prefix: str
    passage_prefix: str
    precision: Precision

    def to_json(self) -> dict[str, Any]:
        """A dict that `json` takes."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "EmbedderFingerprint":
        """Inverse of `to_json`. Raises ValueError for missing or unknown fields or an unknown precision."""
        names = {field.name for field in fields(cls)}
        if set(data) != names or data["precision"] not in get_args(Precision):
            raise ValueError(f"not an embedder fingerprint: {sorted(set(data) ^ names) or data['precision']!r}")
        return cls(**data)


class Embedder(Protocol):
    """A loaded embedding model. Every method may be called from several threads at once."""

    fingerprint: EmbedderFingerprint
    backend: str
    """What computes, and in which precision: "openvino-bf16", "torch-cuda-fp16"."""
    dimension: int
    max_tokens: int
    """Longest text in tokens, special tokens and prefix included."""

    def count(self, texts: Sequence[str]) -> list[int]:
        """Tokens of each text as a passage, special tokens and passage prefix included: what the model will read."""

    def offsets(self, text: str) -> np.ndarray:
        """(n, 2) int64: `text[start:end]` of each of its n tokens, without special tokens and prefix."""

    def embed_passages(self, texts: Sequence[str], *, progress: Callable[[int, int], None] | None = None) -> np.ndarray:
        """(len(texts), dimension) float32, L2-normalised. `progress` gets done, total (texts).

        Raises UsageError if a text has more than `max_tokens` tokens: nothing is ever cut off silently.
        """

    def embed_queries(self, texts: Sequence[str]) -> np.ndarray:
        """(len(texts), dimension) float32, L2-normalised.

        A query longer than `max_tokens` is embedded in windows, whose vectors are averaged by their lengths.
        """
