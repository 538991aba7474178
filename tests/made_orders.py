"""A tiny model in a folder and an order of rows in memory: real parts, a few thousand numbers."""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tiny_models import byte_tokenizer, llama, save

TEXTS = (
    "the cat sat on the mat and the dog sat on the log. ",
    "绿茶不经过发酵。水温应该在八十度左右。",
    "a kettle of tea, and the dog sat on the cat. ",
)


@dataclass(frozen=True)
class MadeRow:
    ids: np.ndarray
    pieces: np.ndarray
    source: int


class MadeOrder:
    """Rows in memory with what an Order has."""

    def __init__(self, rows: list[MadeRow], sources: tuple[str, ...]) -> None:
        self.rows, self.sources = rows, sources
        self.tokens = sum(len(row.ids) for row in rows)
        whole = hashlib.sha256()
        for row in rows:
            whole.update(row.ids.tobytes() + row.pieces.tobytes() + bytes([row.source]))
        self.sha256 = whole.hexdigest()

    def row(self, number: int) -> MadeRow:
        return self.rows[number]

    def __len__(self) -> int:
        return len(self.rows)


def made_order(tokenizer: Any, *, rows: int = 24, block: int = 32, seed: int = 0) -> MadeOrder:
    """Rows of one to four pieces of real text, some rows short, of two sources."""
    chance = np.random.default_rng(seed)
    streams = [np.array(tokenizer.encode(text * 40), dtype=np.int32) for text in TEXTS]
    made = []
    for number in range(rows):
        length = block if number % 5 else block - int(chance.integers(1, block // 2))
        cuts = np.sort(chance.choice(np.arange(1, length), size=int(chance.integers(0, 4)), replace=False))
        pieces = np.diff([0, *cuts, length]).astype(np.int32)
        parts = []
        for piece in pieces:
            stream = streams[int(chance.integers(0, len(streams)))]
            start = int(chance.integers(0, len(stream) - piece))
            parts.append(stream[start : start + piece])
        made.append(MadeRow(np.concatenate(parts), pieces, number % 2))
    return MadeOrder(made, ("domain", "general"))


def made_model(folder: Path, *, seed: int = 0, **options: Any) -> Path:
    """A Llama of two layers with tied embeddings and its tokenizer."""
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = "{% for m in messages %}{{ m['content'] }}{% endfor %}"
    return save(folder, llama(tokenizer, seed=seed, **{"tie_word_embeddings": True, **options}), tokenizer)
