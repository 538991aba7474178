"""Passages → their vectors, kept by content, so that a run which was killed goes on and the next one need not embed.

Vectors lie in sealed files of a few hundred passages; what is damaged or missing is made again.
"""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from eval.runs.parts import Progress
from retrieval.embedding.stored import read_sealed, write_sealed
from retrieval.errors import DamagedError

if TYPE_CHECKING:
    from retrieval.embedding.embedder import Embedder

TOGETHER = 256
"""Passages in one file: what a kill can cost, a few seconds of embedding."""


def passage_vectors(
    texts: Sequence[str], embedder: "Embedder", cache: Path, progress: Progress, stage: str
) -> np.ndarray:
    """(len(texts), dimension) float32, L2-normalised. Raises DamagedError for an embedder that answers nonsense."""
    facts = json.dumps(embedder.fingerprint.to_json(), sort_keys=True).encode()
    folder = cache / hashlib.sha256(facts).hexdigest()[:16]
    vectors = np.empty((len(texts), embedder.dimension), dtype=np.float32)
    for at in range(0, len(texts), TOGETHER):
        batch = texts[at : at + TOGETHER]
        digest = hashlib.sha256(facts)
        for text in batch:
            digest.update(hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest())
        file = folder / digest.hexdigest()
        data = read_sealed(file)
        if data is None or len(data) != 4 * len(batch) * embedder.dimension:
            made = np.ascontiguousarray(embedder.embed_passages(batch), dtype="<f4")
            if made.shape != (len(batch), embedder.dimension) or not np.isfinite(made).all():
                raise DamagedError("the embedding model gives no usable vectors; choose another precision or model")
            data = made.tobytes()
            write_sealed(file, data)
        vectors[at : at + len(batch)] = np.frombuffer(data, dtype="<f4").reshape(len(batch), embedder.dimension)
        progress(stage, at + len(batch), len(texts))
    return vectors
