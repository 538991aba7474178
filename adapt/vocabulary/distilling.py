"""Token distillation: a model that reads a new token should be where it is after reading the old ones.

The teacher is the same frozen model on the old tokens, which need no text: a new token is exactly the old ones that it
is made of. Dobler, Elliott & de Melo 2025 (arXiv:2505.20133). It knows no optimizer.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from adapt.vocabulary.new_rows import NewRows
from adapt.vocabulary.warming import Loss, autocast, cross_entropy, padded

if TYPE_CHECKING:
    import torch


def distillation(
    model: Any, new: NewRows, splits: Sequence[Sequence[int]], device: Any, *, cross_entropy_weight: float
) -> Loss:
    """A loss for `warm`: the squared distance of the last hidden states, student on new tokens, teacher on old ones, at
    every place from a row's first new token on (before it they are the same), as a share of the teacher's mean square;
    and the cross entropy of all tokens times a weight.

    The gradient of the distance reaches the input rows alone. Costs a forward pass without gradients more.
    """
    import torch

    own = cross_entropy(model, device)

    def of(ids: "torch.Tensor", lengths: "torch.Tensor") -> "tuple[torch.Tensor, int]":
        rows = [row[:length].tolist() for row, length in zip(ids.cpu(), lengths.tolist(), strict=True)]
        old, ends = zip(*(expanded(row, new.first, splits) for row in rows), strict=True)
        with torch.no_grad(), autocast(device):
            teacher = model.base_model(input_ids=padded(old, device)[0], use_cache=False).last_hidden_state
        summed, places = own(ids, lengths)
        assert new.hidden is not None
        distance = summed.new_zeros(())
        for number, row in enumerate(rows):
            since = next((place for place, token in enumerate(row) if token >= new.first), None)
            if since is not None:
                wanted = teacher[number, torch.from_numpy(ends[number][since:]).to(device)].float()
                found = new.hidden[number, since : len(row)].float()
                distance = distance + ((found - wanted) ** 2).mean(-1).sum() / (wanted**2).mean()
        return cross_entropy_weight * summed + distance, places

    return of


def expanded(row: Sequence[int], first: int, splits: Sequence[Sequence[int]]) -> tuple[np.ndarray, np.ndarray]:
    """A row in old tokens, and for each of its own tokens the place of its last old one."""
    parts = [splits[token - first] if token >= first else (token,) for token in row]
    ends = np.cumsum([len(part) for part in parts], dtype=np.int64) - 1
    return np.array([token for part in parts for token in part], dtype=np.int64), ends
