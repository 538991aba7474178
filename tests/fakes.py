"""Fakes shared by tests: an embedder without a model, and a handful of documents."""

import hashlib
import re
from collections.abc import Callable, Sequence

import numpy as np

from retrieval.embedding.embedder import EmbedderFingerprint
from retrieval.passages import Document


class HashingEmbedder:
    """Words hashed into a vector: equal words give near vectors, no model needed. One word or CJK letter, one token."""

    def __init__(self, dimension: int = 64, max_tokens: int = 128, salt: str = "") -> None:
        self.dimension, self.max_tokens, self.backend = dimension, max_tokens, "hashing"
        self.salt = salt
        self.embedded = 0
        self.fingerprint = EmbedderFingerprint(
            model="hashing",
            weights=hashlib.sha256(salt.encode()).hexdigest(),
            dimension=dimension,
            max_tokens=max_tokens,
            pooling="sum",
            normalise=True,
            query_prefix="",
            passage_prefix="",
            precision="fp32",
        )

    def offsets(self, text: str) -> np.ndarray:
        spans = [m.span() for m in re.finditer(r"[一-鿿]|[^\W一-鿿]{1,20}|[^\w\s]", text)]
        return np.array(spans, dtype=np.int64).reshape(-1, 2)

    def count(self, texts: Sequence[str]) -> list[int]:
        return [len(self.offsets(text)) + 2 for text in texts]

    def _vector(self, text: str) -> np.ndarray:
        vector = np.full(self.dimension, 1e-3, dtype=np.float32)
        for start, end in self.offsets(text.lower()):
            digest = hashlib.blake2b((self.salt + text.lower()[start:end]).encode(), digest_size=8).digest()
            vector[int.from_bytes(digest[:4], "little") % self.dimension] += 1 if digest[4] % 2 else -1
        return vector / np.linalg.norm(vector)

    def embed_passages(self, texts: Sequence[str], *, progress: Callable[[int, int], None] | None = None) -> np.ndarray:
        self.embedded += len(texts)
        if progress is not None:
            progress(len(texts), len(texts))
        return np.array([self._vector(t) for t in texts], dtype=np.float32).reshape(-1, self.dimension)

    def embed_queries(self, texts: Sequence[str]) -> np.ndarray:
        return np.array([self._vector(t) for t in texts], dtype=np.float32).reshape(-1, self.dimension)


def five_documents() -> list[Document]:
    """Small documents whose words hardly overlap, two of them Chinese."""
    return [
        Document("tides.txt", "Tides are caused by the moon. Spring tides come at full moon.", title="Tides"),
        Document("bread.txt", "Bread needs flour, water, salt and yeast. Knead the dough well.", title="Bread"),
        Document("engine.txt", "A diesel engine ignites fuel by compression. Torque is high.", title="Engines"),
        Document("茶.txt", "绿茶不经过发酵。水温应该在八十度左右。", title="茶"),
        Document("长城.txt", "长城位于中国北方。明朝修建了大部分城墙。", title="长城"),
    ]
