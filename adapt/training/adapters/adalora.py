"""AdaLoRA: adapters as singular values with their vectors, whose number is pruned while they are trained, so that ranks
go where they matter (Zhang et al. 2023, arXiv:2303.10512).

peft has the adapters and the pruning, and a trainer that calls neither: after 20 steps of transformers' own Trainer 32
of 32 singular values were left, 8 of 32 where `update_and_allocate` was called. It knows no rows.
"""

import json
import math
from pathlib import Path
from typing import Any

from adapt.recipe import Method
from adapt.training.adapters.low_rank import ADAPTER, alpha_of, targets_of
from eval.models.language_models import put_values
from eval.runs.run_folder import write_json
from retrieval.errors import DamagedError, UsageError

STATE = "ranks"
_SUMS = ("ipt", "exp_avg_ipt", "exp_avg_unc")


def under_adalora(model: Any, method: Method, *, steps: int) -> Any:
    """The model under adapters of the first rank. `steps` are those of the optimizer in the whole training. Raises
    UsageError where there are too few to prune in, ValueError for names of layers that are not there."""
    from peft import AdaLoraConfig, get_peft_model

    first, last = math.ceil(method.begin * steps), math.ceil(method.settle * steps)
    if first >= steps - last:
        raise UsageError(
            f"adalora prunes between the first {first} and the last {last} of {steps} steps, which leaves none; set a "
            "smaller begin or settle, or train on more tokens"
        )
    begin_r = method.rank_of("")
    if begin_r < method.r:
        raise UsageError(f"adalora begins with rank {begin_r} and should end with {method.r}; set a larger start_r")
    config = AdaLoraConfig(
        task_type="CAUSAL_LM",
        target_r=method.r,
        init_r=begin_r,
        lora_alpha=alpha_of(method),  # type: ignore[arg-type]
        lora_dropout=method.dropout,
        target_modules=targets_of(method),
        tinit=first,
        tfinal=last,
        deltaT=method.every,
        orth_reg_weight=method.orthogonal,
        total_step=steps,
    )
    made = get_peft_model(model, config)
    _hold_counts(made)
    return made


def _hold_counts(model: Any) -> None:
    """Ranks that adapters are divided by, in fp32 and never trained: on a base in bf16 peft 0.21 makes new parameters
    of them, which the optimizer then moves (6 became 5.97 in 6 steps) and nobody saves."""
    for name, count in model.named_parameters():
        if ".ranknum." in name:
            count.data = count.data.float()
            count.requires_grad_(False)


class RankAllocation:
    """What AdaLoRA does in a loop, beside the gradients of the loss. Every process does the same."""

    def __init__(self, model: Any) -> None:
        """`model` is one that `under_adalora` made."""
        self._model, self._tuner = model, model.base_model
        self._config = self._tuner.peft_config[ADAPTER]
        self._allocator = self._tuner.rankallocator

    def pull(self) -> None:
        """Add to the gradients what pulls singular vectors to be orthogonal, once for each step. peft adds it to a loss
        that comes as an attribute, which ours does not."""
        import torch

        if not self._config.orth_reg_weight:
            return
        distances = []
        for name, weight in self._tuner.model.named_parameters():
            if f"lora_A.{ADAPTER}" in name or f"lora_B.{ADAPTER}" in name:
                wide = weight.float()
                product = wide @ wide.T if "lora_A" in name else wide.T @ wide
                distances.append(torch.linalg.matrix_norm(product - torch.eye(len(product), device=product.device)))
        (self._config.orth_reg_weight * torch.stack(distances).mean()).backward()  # type: ignore[no-untyped-call]

    def after_step(self, step: int) -> None:
        """Count what each singular value matters and prune. Call when the optimizer has stepped and gradients are still
        there; `step` counts from 1."""
        self._tuner.update_and_allocate(step)

    def ranks(self) -> dict[str, int]:
        """Singular values that are not zero, by the name of the layer."""
        return {
            name.partition(".lora_E.")[0]: int((weight != 0).sum())
            for name, weight in self._tuner.model.named_parameters()
            if f"lora_E.{ADAPTER}" in name
        }

    def finish(self) -> None:
        """Take the pruned ranks out of the model in memory, as they are out of what is saved."""
        from peft import get_peft_model_state_dict

        if self._config.rank_pattern:
            values = get_peft_model_state_dict(self._model, save_embedding_layers=False)
            self._tuner.resize_modules_by_rank_pattern(self._config.rank_pattern, ADAPTER)
            put_values(self._model, values)
            _hold_counts(self._model)

    def save(self, folder: Path) -> None:
        """What the next pruning needs. Raises OSError."""
        from safetensors.torch import save_file

        sums = {
            f"{kind}/{name}": value.detach().cpu().contiguous()
            for kind in _SUMS
            for name, value in getattr(self._allocator, kind).items()
        }
        save_file(sums, folder / f"{STATE}.safetensors")
        write_json(folder / f"{STATE}.json", {"rank_pattern": self._config.rank_pattern})

    def load(self, folder: Path) -> None:
        """That again, to the bit. Raises DamagedError."""
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        file = folder / f"{STATE}.safetensors"
        try:
            weights = dict(self._tuner.model.named_parameters())
            for key, value in load_file(file).items():
                kind, name = key.split("/", 1)
                if kind not in _SUMS:
                    raise KeyError(kind)
                getattr(self._allocator, kind)[name] = value.to(weights[name].device)
            self._config.rank_pattern = json.loads((folder / f"{STATE}.json").read_bytes())["rank_pattern"]
        except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
            raise DamagedError(f"{file} is no state of AdaLoRA ({error}); remove this checkpoint") from error
