"""Noise on the embeddings while training (NEFTune, Jain et al. 2023, arXiv:2310.05914), drawn anew for each micro-batch
from numbers that a resumed training draws again. It knows no row and no loss."""

import hashlib
from typing import Any

import torch


class EmbeddingNoise:
    """A hook on a model's input embeddings: uniform in ±alpha / √(length · width), the length being that of the
    document a token stands in, as in the paper, where each sequence holds one."""

    def __init__(self, model: Any, *, alpha: float, seed: int) -> None:
        self.alpha, self.seed = alpha, seed
        self._lengths: torch.Tensor | None = None
        self._drawn = 0
        model.get_input_embeddings().register_forward_hook(self._add)

    def begin(self, position_ids: torch.Tensor, *, step: int, micro_batch: int, rank: int) -> None:
        """Before a forward pass in training. `position_ids` (rows × length) begin at 0 with every document."""
        flat = position_ids.reshape(-1)
        starts = torch.nonzero(flat == 0).squeeze(-1)
        ends = torch.cat([starts[1:], starts.new_tensor([len(flat)])])
        self._lengths = (ends - starts).repeat_interleave(ends - starts).reshape(position_ids.shape)
        said = f"{self.seed} {step} {micro_batch} {rank}".encode()
        self._drawn = int.from_bytes(hashlib.blake2b(said, digest_size=7).digest(), "little")

    def end(self) -> None:
        """After a forward pass: whatever else runs the model gets no noise."""
        self._lengths = None

    def _add(self, module: Any, inputs: Any, output: torch.Tensor) -> torch.Tensor:
        del inputs
        lengths = self._lengths
        if lengths is None or not module.training:
            return output
        generator = torch.Generator(device=output.device).manual_seed(self._drawn)
        noise = torch.empty(output.shape, device=output.device, dtype=torch.float32)
        noise.uniform_(-1.0, 1.0, generator=generator)
        reach = self.alpha / (lengths.to(output.device) * output.shape[-1]).float().sqrt()
        return output + (noise * reach[..., None]).to(output.dtype)
