"""Fixed texts whose vectors tell one embedder from another by measurement, and how near equal ones must come.

A collection stores them; another back end, other weights or a lost prefix show as a low cosine.
"""

import numpy as np

from retrieval.embedding.embedder import Embedder, Precision

PROBE_VERSION = "1"
"""Changes with `PROBES`: vectors of different versions cannot be compared."""

PROBES = (
    "The harbour master logs every tide, and the oldest entries are in pencil.",
    "Tenants must give sixty days' notice in writing before the lease ends.",
    "Mitochondrial DNA is inherited from the mother in most animals.",
    "def load(path): return json.loads(path.read_text('utf-8'))  # raises ValueError",
    "Revenue rose 4.2 % to €1,318 million; costs fell by a tenth.",
    "港口管理员每天记录潮汐，最早的几页是用铅笔写的。",
    "合同终止前，承租人应提前六十天书面通知出租人。",
    "如何在不丢失数据的情况下恢复损坏的索引？",
)
"""Short enough for every model (under 64 tokens each with common tokenizers); written for this purpose."""

MIN_COSINE: dict[Precision, float] = {"fp32": 0.999, "bf16": 0.999, "fp16": 0.999, "int8": 0.98}
"""Least cosine on every probe between two embedders of one space, by precision; int8 only among int8.

Measured with all-MiniLM-L6-v2: bf16 against fp32 .99998; int8 fitted to other samples .997, the int8 vectors against
fp32 .987, fitted by another scheme (SmoothQuant .5) .973.
"""


def probe_vectors(embedder: Embedder) -> np.ndarray:
    """(2 × len(PROBES), dimension) float32: the probes embedded as passages, then as queries."""
    return np.concatenate([embedder.embed_passages(PROBES), embedder.embed_queries(PROBES)])


def least_cosine(vectors: np.ndarray, others: np.ndarray) -> float:
    """The lowest cosine of row with row; both (n, dimension), L2-normalised."""
    return float(np.sum(vectors * others, axis=1).min())
