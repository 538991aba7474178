"""A tiny model in a folder and an order of rows in memory, and trainings of them that take a second."""

import hashlib
import json
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from tiny_models import byte_tokenizer, llama, save

from adapt.corpus.mixing import mix
from adapt.corpus.packing import pack
from adapt.corpus.texts import TrainingText
from adapt.recipe import Mixture
from adapt.training.job import TrainingJob, TrainingResult
from adapt.training.train import train

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
    learned: np.ndarray | None = None


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


def quiet(stage: str, done: int, total: int) -> None:
    """No progress."""


def job_in(folder: Path, base: Path, settings: Any, **changes: Any) -> TrainingJob:
    return TrainingJob(
        model=base, base=base, order=folder / "order", settings=settings, folder=folder / "run", seed=3,
        cache=folder / "cache", **changes,
    )  # fmt: skip


def weights_of(folder: Path) -> dict[str, torch.Tensor]:
    found: dict[str, torch.Tensor] = {}
    for file in sorted(folder.glob("*.safetensors")):
        found |= load_file(file)
    return found


def steps_of(result: TrainingResult) -> list[dict[str, Any]]:
    """The figures of each step, without what a clock says."""
    found = [json.loads(line) for line in result.metrics.read_text().splitlines()]
    return [{k: v for k, v in line.items() if k not in ("seconds", "tokens_per_second")} for line in found]


def stopping_at(stop: threading.Event, tokens: int) -> Callable[[str, int, int], None]:
    def progress(stage: str, done: int, total: int) -> None:
        if stage == "training" and done >= tokens:
            stop.set()

    return progress


def in_pieces(job: TrainingJob, order: MadeOrder, every: int) -> tuple[TrainingResult, int]:
    """Trained with a stop after every so many tokens, each time by a new session."""
    for session in range(1, 100):
        stop = threading.Event()
        result = train(job, progress=stopping_at(stop, session * every), stop=stop, order=order)
        if not result.stopped:
            return result, session
    raise AssertionError("no end")


def ordered(folder: Path, base: Path) -> Path:
    """A real Order of two sources, of a few dozen rows."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(base)
    said = {"domain": "the dog sat on log number {}. ", "general": "绿茶第{}次不经过发酵。"}
    sources = {
        name: pack(
            [TrainingText(str(n), text.format(n) * (1 + n % 4)) for n in range(60)],
            tokenizer,
            block=32,
            folder=folder / name,
            seed=0,
            progress=quiet,
        )
        for name, text in said.items()
    }
    shares: Any = {"domain": Mixture(start=0.25, end=0.8), "general": "rest"}
    mix(sources, shares, tokens=1500, epochs=1.0, seed=0, folder=folder / "order")
    return folder / "order"
