"""Rows of made-up text and models that learn it in seconds, for tests of what keeps a model from forgetting."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch.nn import functional

from adapt.forgetting.passing import PackedRow, packed_inputs, predicting

VOCABULARY = 61


@dataclass(frozen=True)
class TinyRow:
    """A row with its documents' lengths."""

    ids: np.ndarray
    pieces: np.ndarray
    source: int = 0
    learned: np.ndarray | None = None


def row(*documents: Sequence[int], source: int = 0) -> TinyRow:
    """row([3, 4, 5], [3, 9]) is one row of two documents."""
    ids = np.array([token for document in documents for token in document], dtype=np.int32)
    return TinyRow(ids, np.array([len(document) for document in documents], dtype=np.int32), source)


@dataclass
class TinyOrder:
    """Rows in a list; `sha256` is a word that the test chooses. `seen` counts what was read."""

    rows: list[TinyRow]
    sha256: str = "order"
    sources: tuple[str, ...] = ("domain", "general")
    seen: list[int] = field(default_factory=list)

    def row(self, number: int) -> TinyRow:
        self.seen.append(number)
        return self.rows[number]

    def __len__(self) -> int:
        return len(self.rows)


def counting(
    step: int,
    *,
    rows: int = 8,
    length: int = 16,
    seed: int = 0,
    source: int = 0,
    among: tuple[int, int] = (0, VOCABULARY),
) -> list[TinyRow]:
    """Two documents a row, each going up by `step` from a random token, around a circle of the tokens `among`: a rule
    to be learnt."""
    random = np.random.default_rng(seed)
    low, size = among[0], among[1] - among[0]
    starts = random.integers(0, size, (rows, 2))
    return [
        row(*(low + (start + step * np.arange(length // 2)) % size for start in pair), source=source) for pair in starts
    ]


def tiny_llama(seed: int = 0, *, layers: int = 2, vocabulary: int = VOCABULARY, tied: bool = True) -> Any:
    """Width 32, in fp32."""
    import transformers

    torch.manual_seed(seed)
    config = transformers.LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=128,
        tie_word_embeddings=tied,
        bos_token_id=0,
        eos_token_id=0,
    )
    return transformers.LlamaForCausalLM(config)


def loss_of(model: Any, rows: Sequence[PackedRow]) -> torch.Tensor:
    """Mean cross entropy over the places of these rows, with a gradient."""
    inputs, inside = packed_inputs(rows, model)
    places = predicting(rows)
    following = torch.from_numpy(np.concatenate([row.ids for row in rows])).long().roll(-1)
    return functional.cross_entropy(model(**inputs).logits[inside][places].float(), following[places])


def learn(
    model: Any,
    rows: Sequence[PackedRow],
    *,
    steps: int,
    rate: float = 3e-3,
    also: Callable[[], torch.Tensor] | None = None,
    before_step: Iterable[Callable[[int], object]] = (),
    optimizer: Callable[..., torch.optim.Optimizer] = torch.optim.AdamW,
) -> None:
    """Plain full-batch training; `also` is added to the loss, `before_step` is called with the step after backward."""
    trained = optimizer([p for p in model.parameters() if p.requires_grad], lr=rate, weight_decay=0.0)
    for step in range(steps):
        trained.zero_grad(set_to_none=True)
        loss = loss_of(model, rows)
        if also is not None:
            loss = loss + also()
        loss.backward()
        for call in before_step:
            call(step)
        trained.step()
