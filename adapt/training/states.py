"""The state of an optimizer, a schedule and the random numbers → safetensors and JSON, and back to the bit.

torch.save would pickle them, and a pickle can run code (CWE-502). It knows no trainer and no checkpoint.
"""

import json
import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from adapt.training.sharding import shard_like
from eval.runs.run_folder import write_json
from retrieval.errors import DamagedError

TRAINED = "trained.safetensors"
"""In a checkpoint: weights that are trained, where not all of the model is."""


def save_optimizer(state: Mapping[str, Any], stem: Path) -> None:
    """`state` is an optimizer's state_dict. Raises OSError."""
    tensors: dict[str, torch.Tensor] = {}
    rest: dict[str, dict[str, Any]] = {}
    for parameter, values in state["state"].items():
        for name, value in values.items():
            if isinstance(value, torch.Tensor):
                tensors[f"{parameter}/{name}"] = value.detach().cpu().contiguous()
            else:
                rest.setdefault(str(parameter), {})[name] = value
    save_file(tensors, stem.with_suffix(".safetensors"))
    write_json(stem.with_suffix(".json"), {"groups": state["param_groups"], "rest": rest})


def load_optimizer(stem: Path) -> dict[str, Any]:
    """The state_dict again. Raises DamagedError."""
    try:
        told = json.loads(stem.with_suffix(".json").read_bytes())
        state: dict[int, dict[str, Any]] = {int(key): dict(values) for key, values in told["rest"].items()}
        with safe_open(stem.with_suffix(".safetensors"), framework="pt") as file:
            for key in file.keys():
                parameter, name = key.split("/", 1)
                state.setdefault(int(parameter), {})[name] = file.get_tensor(key)
        for group in told["groups"]:
            if "betas" in group:
                group["betas"] = tuple(group["betas"])
        return {"state": state, "param_groups": told["groups"]}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DamagedError(f"{stem} is no optimizer's state ({error}); remove this checkpoint") from error


def random_state() -> dict[str, Any]:
    """Of Python, NumPy and torch on every device, ready for `save_random`."""
    kind, keys, place, has_gauss, gauss = np.random.get_state()
    state: dict[str, Any] = {
        "python": random.getstate(),
        "numpy": [kind, np.asarray(keys).tolist(), place, has_gauss, gauss],
        "cpu": torch.random.get_rng_state(),
    }
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.random.get_rng_state()
    return state


def save_random(states: Sequence[Mapping[str, Any]], file: Path) -> None:
    """One state for each process. Raises OSError."""
    told = [
        {key: value.tolist() if isinstance(value, torch.Tensor) else value for key, value in state.items()}
        for state in states
    ]
    write_json(file, {"processes": told})


def load_random(file: Path, rank: int) -> None:
    """Set the random numbers of this process. A process there was none of keeps its own. Raises DamagedError."""
    try:
        told = json.loads(file.read_bytes())["processes"]
        if rank >= len(told):
            return
        state = told[rank]
        version, inner, gauss = state["python"]
        random.setstate((version, tuple(inner), gauss))
        kind, keys, place, has_gauss, cached = state["numpy"]
        np.random.set_state((kind, np.asarray(keys, dtype=np.uint32), place, has_gauss, cached))
        torch.random.set_rng_state(torch.tensor(state["cpu"], dtype=torch.uint8))
        if "cuda" in state and torch.cuda.is_available():
            torch.cuda.random.set_rng_state(torch.tensor(state["cuda"], dtype=torch.uint8))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DamagedError(f"{file} holds no state of random numbers ({error}); remove this checkpoint") from error


def save_trained(model: Any, folder: Path, whole: Mapping[str, Any] | None = None) -> None:
    """The weights that are trained, under the names they have in memory: of an adapter exactly what there is of it,
    where peft would leave out what is pruned now and may come back (AdaLoRA), or write what a network makes and not the
    network (P-tuning). `whole` are whole weights where the model's are sharded. Raises OSError."""
    found = {name: weight for name, weight in model.named_parameters() if weight.requires_grad}
    if whole is not None:
        found = {name: whole[name] for name in found}
    save_file({name: weight.detach().cpu().contiguous() for name, weight in found.items()}, folder / TRAINED)


def load_trained(model: Any, folder: Path) -> None:
    """That back into the model, bit for bit. Raises DamagedError where names or shapes are not the model's."""
    from safetensors.torch import load_file

    stored = load_file(folder / TRAINED)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if not weight.requires_grad:
                continue
            if name not in stored or stored[name].shape != weight.shape:
                raise DamagedError(f"{folder} has no '{name}' of the model's shape; remove this checkpoint")
            weight.copy_(shard_like(stored[name], weight))


def load_weights(model: Any, folder: Path) -> None:
    """Copy what `save_pretrained` wrote of a model back into it, bit for bit.

    By transformers' own loading, since some models are written under other names than they have in memory. Raises
    DamagedError where names or shapes are not the model's.
    """
    from transformers import AutoModelForCausalLM

    stored = AutoModelForCausalLM.from_pretrained(
        str(folder), dtype=next(model.parameters()).dtype, local_files_only=True, use_safetensors=True
    )
    found = dict(stored.named_parameters())
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name not in found or found[name].shape != parameter.shape:
                raise DamagedError(f"{folder} has no '{name}' of the model's shape; remove this checkpoint")
            parameter.copy_(shard_like(found[name], parameter))
