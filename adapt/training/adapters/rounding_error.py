"""A model in 4 bits under LoRA, and some rows → the same with adapters that begin as what the 4 bits lost, as far as
their rank reaches (QERA, Zhang et al. 2024, arXiv:2410.06040). It knows no loop.

The error of rounding a matrix has no large directions; what it does to the output has, since a few inputs are much
larger than the others. So the error is weighted with the size of each input before its largest singular vectors are
taken: of SmolLM2-135M rank 16 gives back 63 % of what NF4 costs in loss, before a step is trained and for no memory.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from adapt.training.adapters.low_rank import ADAPTER
from retrieval.errors import DamagedError

ROWS = 16
"""Rows of the training that are read to see how large inputs are."""
_LEAST = 1e-4


def begin_as_error(model: Any, rows: Iterable[Any], folder: Path) -> None:
    """Set the adapters of a model that `under_low_rank` made. `rows` are token ids, one array each; `folder` has the
    weights as they were before they were held in 4 bits. Raises DamagedError where it lacks one."""
    import torch
    from bitsandbytes.functional import dequantize_4bit
    from peft.tuners.lora import LoraLayer

    layers = {
        name.removeprefix("base_model.model."): layer
        for name, layer in model.named_modules()
        if isinstance(layer, LoraLayer)
        and ADAPTER in layer.lora_A
        and type(layer.get_base_layer()).__name__ == "Linear4bit"
    }
    sizes = _input_sizes(model, layers, rows)
    weights = _stored(folder)
    for name, layer in layers.items():
        if name not in weights:
            raise DamagedError(f"'{folder}' has no weights '{name}', of which 4 bits were made")
        held = layer.get_base_layer().weight
        error = weights[name]().to(held.device).float() - dequantize_4bit(held.data, held.quant_state).float()
        size, rank = sizes[name], layer.r[ADAPTER]
        left, values, right = torch.linalg.svd(error * size, full_matrices=False)
        root = (values[:rank] / layer.scaling[ADAPTER]).sqrt()
        with torch.no_grad():  # a rank above the matrix's own has zeros left over
            layer.lora_A[ADAPTER].weight.zero_()[: len(root)] = root[:, None] * right[:rank] / size
            layer.lora_B[ADAPTER].weight.zero_()[:, : len(root)] = left[:, :rank] * root


def _input_sizes(model: Any, layers: Any, rows: Iterable[Any]) -> dict[str, Any]:
    """Root of the mean square of each input of each layer."""
    import torch

    squares: dict[str, Any] = {}
    counts: dict[str, int] = {}

    def watching(name: str) -> Any:
        def watch(module: Any, given: Any) -> None:
            del module
            seen = given[0].detach().float().flatten(0, -2)
            squares[name] = squares.get(name, 0) + (seen**2).sum(0)
            counts[name] = counts.get(name, 0) + len(seen)

        return watch

    hooks = [layer.get_base_layer().register_forward_pre_hook(watching(name)) for name, layer in layers.items()]
    training = model.training
    inner = model.get_base_model()
    model.eval()
    for layer in layers.values():
        layer.get_base_layer().train()  # in evaluation bitsandbytes 0.50 packs weights otherwise on a CPU
    try:
        with torch.no_grad():
            for ids in rows:
                given = torch.as_tensor(ids.astype("int64"))[None].to(next(model.parameters()).device)
                inner.model(input_ids=given) if hasattr(inner, "model") else inner(input_ids=given)
    finally:
        model.train(training)
        for hook in hooks:
            hook.remove()
    return {name: (squares[name] / counts[name]).sqrt().clamp(min=_LEAST) for name in layers}


def _stored(folder: Path) -> dict[str, Any]:
    """How to read each weight of a model folder, by the name of its layer: one at a time is in memory."""
    from safetensors import safe_open

    def reading(file: Path, key: str) -> Any:
        def read() -> Any:
            with safe_open(file, framework="pt") as stored:
                return stored.get_tensor(key)

        return read

    found = {}
    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(file, framework="pt") as stored:
            for key in stored.keys():
                if key.endswith(".weight"):
                    found[key.removesuffix(".weight")] = reading(file, key)
    return found
