"""A folder exported for OpenVINO and a LoRA adapter of peft → the strength to apply it with, if it would work there.

OpenVINO GenAI finds the place of an adapter's matrix by name and, where there is none, goes on without it and without a
word. Of peft's adapter_config.json it reads nothing, so the strength has to be said. It knows no weights.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from xml.etree.ElementTree import ParseError, iterparse

from adapt.export.openvino_folder import made_of
from eval.models.adapter_base import require_base
from eval.models.adapter_fit import base_name, lora_parts, other_parts
from retrieval.errors import DamagedError, MissingError, UsageError

_INSTEAD = 'run model and adapter with the local engine ([engine] name = "local")'


def strengths(folder: Path, adapters: Sequence[Path]) -> list[float]:
    """What the product of each adapter's matrices is multiplied by: lora_alpha over the rank.

    Raises UsageError where one would not do in this model what it was trained to do, MissingError and DamagedError for
    what is no adapter.
    """
    found = [require_lora(adapter) for adapter in adapters]
    base = made_of(folder)
    names = _layer_names(folder / "openvino_model.xml") if adapters else set()
    for adapter in adapters:
        if base is not None:
            require_base(adapter, base, folder.name)
        _require_places(adapter, folder, names)
    return found


def require_lora(adapter: Path) -> float:
    """The strength of an adapter that OpenVINO could take. Raises UsageError, MissingError or DamagedError."""
    from eval.models.language_models import judge_adapter

    judge_adapter(adapter)
    others = sorted(other_parts(adapter))
    if others or not any(True for _ in lora_parts(adapter)):
        found = f"'{others[0][:100]}'" if others else "no LoRA matrix"
        raise UsageError(
            f"the adapter {adapter} holds {found}, and OpenVINO takes LoRA matrices and nothing else; {_INSTEAD}"
        )
    return _scale(adapter)


def _require_places(adapter: Path, folder: Path, names: set[str]) -> None:
    parts = sorted({module for module, _, _ in lora_parts(adapter)})
    lost = [part for part in parts if not any(_is_at(part, name) for name in names)]
    if lost:
        base = base_name(adapter)
        hint = f" (it was trained on '{base}')" if base else ""
        raise UsageError(
            f"the adapter {adapter}{hint} would change nothing in {folder}: {len(lost)} of its {len(parts)} parts have "
            f"no place there, '{lost[0][:100]}' first; export the model it was trained on, or {_INSTEAD}"
        )


def _scale(adapter: Path) -> float:
    config: dict[str, Any] = json.loads((adapter / "adapter_config.json").read_text("utf-8"))
    if config.get("alpha_pattern") or config.get("rank_pattern") or config.get("use_dora"):
        raise UsageError(f"the adapter {adapter} has a strength of its own for each part, or is a DoRA; {_INSTEAD}")
    try:
        rank, alpha = float(config["r"]), float(config["lora_alpha"])
        return alpha / (rank**0.5 if config.get("use_rslora") else rank)
    except (KeyError, TypeError, ValueError, ZeroDivisionError) as error:
        raise DamagedError(f"{adapter}/adapter_config.json does not say r and lora_alpha; save it again") from error


def _is_at(part: str, layer: str) -> bool:
    """Whether a layer of the graph is the multiplication of a module: `__module.model.layers.0.self_attn.q_proj/aten::
    linear/MatMul` is that of `model.layers.0.self_attn.q_proj`."""
    module = layer.partition("/")[0]
    return module == part or module.endswith("." + part)


def _layer_names(file: Path) -> set[str]:
    """Names of the multiplications in a graph. Expat (2.4.1 and newer) itself refuses entities that grow endlessly."""
    found = set()
    try:
        for _, element in iterparse(file, events=("end",)):
            if element.tag == "layer":
                if element.get("type") == "MatMul":
                    found.add(element.get("name") or "")
                element.clear()
    except OSError as error:
        raise MissingError(f"{file} cannot be read ({error.strerror}); export the model again") from error
    except ParseError as error:
        raise DamagedError(f"{file} is not the graph of a model ({error}); export the model again") from error
    return found
