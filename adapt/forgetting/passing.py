"""Packed rows → one forward pass in which documents do not see each other, and the places that predict something.

It knows rows and the inputs of transformers; it knows no loss and no teacher.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor


class PackedRow(Protocol):
    """What is needed of a row of `adapt.corpus.packing`: token ids and the lengths of its documents' parts."""

    @property
    def ids(self) -> "np.ndarray": ...
    @property
    def pieces(self) -> "np.ndarray": ...
    @property
    def source(self) -> int: ...
    @property
    def learned(self) -> "np.ndarray | None": ...


class RowOrder(Protocol):
    """What is needed of an order of `adapt.corpus.mixing`."""

    @property
    def sha256(self) -> str: ...
    @property
    def sources(self) -> tuple[str, ...]: ...
    def row(self, number: int) -> PackedRow: ...
    def __len__(self) -> int: ...


def packed_inputs(rows: Sequence[PackedRow], model: Any) -> "tuple[dict[str, Any], Tensor]":
    """(input_ids and position_ids [rows, longest] on the model's device, bool of the same shape: where a token stands).

    `model(**inputs).logits[inside]` is then of all rows' places behind one another. Positions begin anew with every
    document: transformers takes one that does not follow the one before for the edge of a document and lets nobody look
    over it, where no attention mask and no cache is given (its masking_utils.find_packed_sequence_indices). Rows lie
    beside one another, since attention over n rows of b tokens costs n b² so and (n b)² behind one another; flash
    attention is the other way round: it finds edges in a batch of one only, and costs nothing for the length.
    """
    import numpy as np
    import torch

    flat = "flash" in str(getattr(model.config, "_attn_implementation", ""))
    lengths = [len(row.ids) for row in rows]
    height, width = (1, sum(lengths)) if flat else (len(rows), max(lengths))
    ids = np.zeros((height, width), dtype=np.int64)
    positions = np.tile(np.arange(width, dtype=np.int64), (height, 1))
    inside = np.zeros((height, width), dtype=bool)
    start = 0
    for line, row in enumerate(rows):
        part = (0, slice(start, start + len(row.ids))) if flat else (line, slice(0, len(row.ids)))
        ids[part] = row.ids
        positions[part] = np.concatenate([np.arange(n, dtype=np.int64) for n in row.pieces])
        inside[part] = True
        if not flat:
            positions[line, len(row.ids) :] = np.arange(width - len(row.ids))  # filling: a document of its own
        start += len(row.ids)
    device = model.device
    inputs = {
        "input_ids": torch.from_numpy(ids).to(device),
        "position_ids": torch.from_numpy(positions).to(device),
        "use_cache": False,
    }
    return inputs, torch.from_numpy(inside).to(device)


def predicting(rows: Sequence[PackedRow], device: Any = None) -> "Tensor":
    """bool [n]: the places whose next token belongs to the same document and is learned: all that have a loss."""
    import numpy as np
    import torch

    inside = np.ones(sum(len(row.ids) for row in rows), dtype=bool)
    lengths = np.concatenate([np.asarray(row.pieces, dtype=np.int64) for row in rows])
    inside[np.cumsum(lengths) - 1] = False
    start = 0
    for row in rows:
        if row.learned is not None:
            inside[start : start + len(row.ids) - 1] &= row.learned[1:]
        start += len(row.ids)
    return torch.from_numpy(inside).to(device)


def grouped(rows: Iterable[PackedRow], tokens: int) -> Iterator[list[PackedRow]]:
    """Rows in their order, as many together as have at most `tokens` tokens; a longer row comes alone."""
    group: list[PackedRow] = []
    held = 0
    for row in rows:
        if group and held + len(row.ids) > tokens:
            yield group
            group, held = [], 0
        group.append(row)
        held += len(row.ids)
    if group:
        yield group
