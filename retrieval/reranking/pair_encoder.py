"""Question and passage read together by an encoder → one score or a class: the network that Fathom trains.

The head sees three things of the pair, all of the last layer: the first token, the product of both sides' mean vectors
and how well each word of the question is met by its nearest in the passage (ColBERT's MaxSim, Khattab & Zaharia 2020,
arXiv:2004.12832). On a trunk that was trained for cosines the last two rank pairs before the first step, so that a few
thousand pairs of training are enough.

Imports torch and transformers when a network is made.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

SCALE = 10.0
"""Cosine and MaxSim come to the head so many times as large: logits of a few units with weights near 1."""


def pair_encoder(trunk: Any, labels: int, *, token_types: bool) -> "torch.nn.Module":
    """The network over a transformers encoder: (ids, mask, sides), each (batch, tokens) int64 → (batch, labels).

    `token_types`: whether the trunk is told the sides by its own embeddings for them.
    """
    import torch
    from torch.nn.functional import normalize

    width = trunk.config.hidden_size

    class PairEncoder(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.trunk = trunk
            self.head = torch.nn.Linear(2 * width + 1, labels)
            with torch.no_grad():
                self.head.weight.zero_()
                self.head.bias.zero_()
                if labels == 1:
                    self.head.weight[:, width:] = 1.0
                    self.head.bias[:] = -SCALE

        def forward(self, ids: Any, mask: Any, sides: Any) -> Any:
            types = {"token_type_ids": sides} if token_types else {}
            states = self.trunk(input_ids=ids, attention_mask=mask, **types).last_hidden_state.float()
            ours = (mask * (1 - sides)).unsqueeze(-1).float()
            theirs = (mask * sides).unsqueeze(-1).float()
            question = normalize((states * ours).sum(1), dim=-1)
            passage = normalize((states * theirs).sum(1), dim=-1)
            units = normalize(states, dim=-1)
            near = units @ units.transpose(1, 2) - 2.0 * (1.0 - theirs.transpose(1, 2))
            met = (near.max(-1).values.unsqueeze(-1) * ours).sum(1) / ours.sum(1).clamp(min=1.0)
            return self.head(torch.cat([states[:, 0], SCALE * question * passage, SCALE * met], dim=-1))

    return PairEncoder()
