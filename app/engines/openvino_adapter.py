"""A folder exported for OpenVINO and a LoRA adapter of peft → whether the adapter would change anything there.

OpenVINO GenAI finds the place of an adapter's matrix by name and, where there is none, goes on without it and without a
word. It knows no weights.
"""

from pathlib import Path
from xml.etree.ElementTree import ParseError, iterparse

from eval.models.adapter_fit import base_name, lora_parts
from retrieval.errors import DamagedError, MissingError, UsageError


def require_names(folder: Path, adapter: Path) -> None:
    """Raises UsageError where a part of the adapter has no place in the model, MissingError and DamagedError for what
    is no adapter."""
    from eval.models.language_models import judge_adapter

    judge_adapter(adapter)
    parts = sorted({module for module, _, _ in lora_parts(adapter)})
    if not parts:
        raise UsageError(
            f"the adapter {adapter} holds no LoRA matrices, which are all that OpenVINO takes; run it with the local "
            'engine ([engine] name = "local")'
        )
    names = _layer_names(folder / "openvino_model.xml")
    lost = [part for part in parts if not any(_is_at(part, name) for name in names)]
    if lost:
        base = base_name(adapter)
        hint = f" (it was trained on '{base}')" if base else ""
        raise UsageError(
            f"the adapter {adapter}{hint} would change nothing in {folder}: {len(lost)} of its {len(parts)} parts have "
            f"no place there, '{lost[0][:100]}' first; export the model it was trained on, or run both with the local "
            'engine ([engine] name = "local")'
        )


def _is_at(part: str, layer: str) -> bool:
    """Whether a layer of the graph is the multiplication of a module: `__module.model.layers.0.self_attn.q_proj/aten::
    linear/MatMul` is that of `model.layers.0.self_attn.q_proj`."""
    module = layer.partition("/")[0].removeprefix("__module.")
    return module == part or module.endswith("." + part) or part.endswith("." + module)


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
