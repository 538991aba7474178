"""A folder with a bottleneck adapter of ours and a model of transformers → the model that runs with it.

Small networks behind sublayers (Houlsby et al. 2019, arXiv:1902.00751), put on by forward hooks: x + up(f(down(x))).
peft has none, and the package `adapters` holds transformers at version 4. It trains nothing.
"""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from eval.runs.run_folder import write_json
from retrieval.errors import DamagedError, UsageError

if TYPE_CHECKING:
    import torch

KIND = "FATHOM_BOTTLENECK"
"""What adapter_config.json says where peft's own adapters have LORA: peft and vLLM refuse such a folder by name."""
CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
ACTIVATIONS = ("relu", "gelu", "silu")
ATTRIBUTE = "bottleneck"
"""Where the small networks hang on the model."""
_MOST_LAYERS, _MOST_WIDTH = 1_000, 1 << 17
_NAME = re.compile(r"\w{1,60}(\.\w{1,60}){0,12}")


@dataclass(frozen=True)
class Bottleneck:
    """`places` are names of modules whose output is changed, for each decoder layer from the bottom; `width` is that
    output's, `inner` the bottleneck's."""

    places: tuple[tuple[str, ...], ...]
    width: int
    inner: int
    activation: str = "relu"
    dropout: float = 0.0


def put_on(model: Any, shape: Bottleneck) -> Any:
    """Hang new networks on a model of transformers, which then runs with them; the model is handed back.

    What leads up is zero, so that the model says what it said before (Houlsby et al.: begin near the identity); what
    leads down is drawn by torch's random numbers. Raises UsageError where the model has no such module.
    """
    from torch import nn

    class Network(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.down, self.up = nn.Linear(shape.width, shape.inner), nn.Linear(shape.inner, shape.width)
            self.dropout = nn.Dropout(shape.dropout)
            nn.init.zeros_(self.up.weight)
            nn.init.zeros_(self.up.bias)

        def forward(self, hidden: "torch.Tensor") -> "torch.Tensor":
            inner = activation(self.down(hidden.to(self.down.weight.dtype)))
            return hidden + self.up(self.dropout(inner)).to(hidden.dtype)

    activation: Callable[[Any], Any] = getattr(nn.functional, shape.activation)
    device = next(model.parameters()).device
    networks = nn.ModuleList()
    for names in shape.places:
        networks.append(nn.ModuleList(Network() for _ in names))
    model.add_module(ATTRIBUTE, networks.to(device))
    for names, layer in zip(shape.places, networks, strict=True):
        for name, network in zip(names, layer, strict=True):  # type: ignore[arg-type]
            try:
                module = model.get_submodule(name)
            except AttributeError as error:
                raise UsageError(
                    f"the adapter changes '{name[:100]}', which this model has not; name the model it was trained on"
                ) from error
            module.register_forward_hook(partial(_through, network))
    return model


def _through(network: Any, module: Any, given: Any, output: Any) -> Any:
    """The output with the network's part; of several outputs the first is the hidden state."""
    return (network(output[0]), *output[1:]) if isinstance(output, tuple) else network(output)


def save(folder: Path, shape: Bottleneck, weights: Mapping[str, Any], *, base: str) -> None:
    """Write config and weights (by name below `bottleneck`). Raises OSError."""
    from safetensors.torch import save_file

    facts = {"peft_type": KIND, "task_type": "CAUSAL_LM", "base_model_name_or_path": base, **asdict(shape)}
    write_json(folder / CONFIG, facts)
    save_file({name: value.detach().cpu().contiguous() for name, value in weights.items()}, folder / WEIGHTS)


def is_bottleneck(folder: Path) -> bool:
    """Whether an adapter's folder is of this kind. Raises DamagedError."""
    return bool(_json(folder).get("peft_type") == KIND)


def shape_of(folder: Path) -> Bottleneck:
    """What adapter_config.json says. Raises DamagedError for what no adapter of ours has."""
    told = _json(folder)
    try:
        places = tuple(tuple(str(name) for name in names) for names in told["places"])
        shape = Bottleneck(
            places, int(told["width"]), int(told["inner"]), str(told["activation"]), float(told["dropout"])
        )
        sound = (
            len(places) <= _MOST_LAYERS
            and all(len(names) <= 4 and all(_NAME.fullmatch(name) for name in names) for names in places)
            and 0 < shape.width <= _MOST_WIDTH
            and 0 < shape.inner <= _MOST_WIDTH
            and shape.activation in ACTIVATIONS
            and 0 <= shape.dropout <= 1
        )
    except (KeyError, TypeError, ValueError) as error:
        raise DamagedError(
            f"{folder / CONFIG} is no bottleneck adapter's ({error!r}); save the adapter again"
        ) from error
    if not sound:
        raise DamagedError(f"{folder / CONFIG} says what no bottleneck adapter has; save the adapter again")
    return shape


def load_onto(model: Any, folder: Path) -> Any:
    """The model under the adapter in a folder, in evaluation. Raises UsageError where it is of another model,
    DamagedError where the files do not belong together."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    shape = shape_of(folder)
    width = int(model.config.get_text_config().hidden_size)
    if shape.width != width:
        raise UsageError(
            f"the adapter '{folder.name}' is {shape.width:,} wide and the model {width:,}; name the model it was "
            "trained on"
        )
    put_on(model, shape)
    try:
        weights = load_file(folder / WEIGHTS)
    except (OSError, SafetensorError) as error:
        raise DamagedError(f"{folder / WEIGHTS} is no safetensors file ({error}); save the adapter again") from error
    try:
        getattr(model, ATTRIBUTE).load_state_dict(weights)
    except RuntimeError as error:
        said = str(error).splitlines()[1:2] or [str(error)]
        raise DamagedError(
            f"the weights of the adapter '{folder}' are not what its config says: {said[0][:200]}"
        ) from (error)
    model.requires_grad_(False)
    return model.eval()


def drop_lower(folder: Path, layers: int, out: Path) -> Path:
    """Write the adapter without its networks on the lowest `layers` decoder layers (AdapterDrop, Rücklé et al. 2020,
    arXiv:2010.11918): those layers then run as fast as the base's, and tasks share what they compute.

    Everything else of the folder is copied. Raises UsageError, DamagedError, OSError.
    """
    import shutil

    from safetensors.torch import load_file

    shape = shape_of(folder)
    if not 0 <= layers <= len(shape.places):
        raise UsageError(f"{layers} layers cannot be dropped: the adapter has {len(shape.places)}")
    if out.exists() and any(out.iterdir()):
        raise UsageError(f"'{out}' is not empty; name a new folder")
    places: Sequence[tuple[str, ...]] = [() if place < layers else names for place, names in enumerate(shape.places)]
    kept = {name: value for name, value in load_file(folder / WEIGHTS).items() if int(name.partition(".")[0]) >= layers}
    out.mkdir(parents=True, exist_ok=True)
    for file in sorted(folder.iterdir()):
        if file.is_file() and file.name not in (CONFIG, WEIGHTS, "manifest.json"):
            shutil.copyfile(file, out / file.name)
    smaller = Bottleneck(tuple(places), shape.width, shape.inner, shape.activation, shape.dropout)
    save(out, smaller, kept, base=str(_json(folder).get("base_model_name_or_path") or ""))
    return out


def _json(folder: Path) -> Mapping[str, Any]:
    try:
        told = json.loads((folder / CONFIG).read_text("utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise DamagedError(f"{folder / CONFIG} cannot be read ({error}); save the adapter again") from error
    if not isinstance(told, dict):
        raise DamagedError(f"{folder / CONFIG} is no adapter's; save the adapter again")
    return told
