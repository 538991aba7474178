"""A model → the same under low-rank adapters that begin as the largest singular vectors of its weights (PiSSA, Meng et
al. 2024, arXiv:2404.02948), and such an adapter as a plain one on disk. It knows no loop.

PiSSA takes its beginning B₀A₀ out of the weights, and so fits no base but the one in memory; vLLM refuses it. Here the
base stays and the adapter has twice the rank: W + BA − B₀A₀ is W + [B, −B₀] [A; A₀], of which A and B are trained. So
what is trained is what is served, to the bit, on the base as it came and in its precision. (peft changes weights and
converts afterwards; in bf16 logits came back as far apart as 1.7.)
"""

import copy
import math
from pathlib import Path
from typing import Any

from adapt.recipe import Method
from adapt.training.adapters.low_rank import ADAPTER, low_rank_config


def under_pissa(model: Any, method: Method) -> Any:
    """Raises ValueError for names of layers that are not there, and for layers that are smaller than the rank."""
    import torch
    from peft import get_peft_model
    from peft.tuners.lora import LoraLayer
    from torch.nn.utils import parametrize

    class Halves(torch.nn.Module):
        """The trained half of a matrix with the one that stays."""

        def __init__(self, stays: Any, axis: int) -> None:
            super().__init__()
            self.stays = torch.nn.Parameter(stays, requires_grad=False)
            self.axis = axis

        def forward(self, trained: Any) -> Any:
            return torch.cat([trained, self.stays], dim=self.axis)

        def right_inverse(self, whole: Any) -> Any:
            return whole.tensor_split(2, dim=self.axis)[0].contiguous()

    made = get_peft_model(model, doubled(low_rank_config(method)))
    for name, layer in made.named_modules():
        if not isinstance(layer, LoraLayer) or ADAPTER not in layer.lora_A:
            continue
        down, up, rank = layer.lora_A[ADAPTER], layer.lora_B[ADAPTER], layer.r[ADAPTER] // 2
        weight = layer.get_base_layer().weight.detach().float()
        if rank > min(weight.shape):
            raise ValueError(f"a rank of {rank} is more than the {min(weight.shape)} singular values of {name}")
        left, values, right = torch.linalg.svd(weight.T if layer.fan_in_fan_out else weight, full_matrices=False)
        root = (values[:rank] / layer.scaling[ADAPTER]).sqrt()
        first_down, first_up = root[:, None] * right[:rank], left[:, :rank] * root
        with torch.no_grad():
            down.weight.copy_(torch.cat([first_down, first_down], dim=0))
            up.weight.copy_(torch.cat([first_up, -first_up], dim=1))
        parametrize.register_parametrization(down, "weight", Halves(first_down.contiguous(), 0))
        parametrize.register_parametrization(up, "weight", Halves(-first_up.contiguous(), 1))
    return made


def doubled(config: Any) -> Any:
    """A LoRA's config with twice the ranks, which count as before."""
    made = copy.deepcopy(config)
    grown = math.sqrt(2) if made.use_rslora else 2
    made.r *= 2
    made.lora_alpha *= grown
    made.rank_pattern = {name: 2 * rank for name, rank in made.rank_pattern.items()}
    made.alpha_pattern = {name: grown * alpha for name, alpha in made.alpha_pattern.items()}
    return made


def save_pissa(model: Any, folder: Path) -> None:
    """Write it as peft writes a LoRA. Raises OSError."""
    from peft.tuners.lora import LoraLayer
    from safetensors.torch import save_file

    plain = {}
    for name, layer in model.named_modules():
        if isinstance(layer, LoraLayer) and ADAPTER in layer.lora_A:
            for part in ("lora_A", "lora_B"):
                weight = getattr(layer, part)[ADAPTER].weight
                plain[f"{name}.{part}.weight"] = weight.detach().cpu().contiguous()
    config = copy.deepcopy(model.peft_config[ADAPTER])
    config.inference_mode = True
    config.save_pretrained(str(folder))
    save_file(plain, folder / "adapter_model.safetensors", metadata={"format": "pt"})
