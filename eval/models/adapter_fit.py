"""An adapter of peft and the modules of a model → whether the one was made for the other. It loads no weights.

peft itself goes on with a warning where it finds no place for a part of an adapter, and a server answers without an
error under an adapter of another model (vllm#12106): what is asked then speaks as if it had not been adapted.
"""

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from retrieval.errors import DamagedError, UsageError

BASE_FACTS = "fathom.json"
"""In the folder of an adapter that Fathom trained: its base's hash."""
_KEY = re.compile(r"(?:base_model\.model\.)?(.+?)(?:\.base_layer)?\.lora_([AB])(?:\.\w+)?\.weight")
_HUB_NAME = re.compile(r"[\w.-]+/([\w.-]+)")
_SAME_WEIGHTS = re.compile(r"(-unsloth)?(-bnb-4bit|-4bit|-gguf)$")


def lora_parts(folder: Path) -> Iterator[tuple[str, str, tuple[int, ...]]]:
    """(module, "A" or "B", shape) of each LoRA matrix in an adapter's safetensors. Raises DamagedError."""
    for key, shape in _shapes(folder):
        if match := _KEY.fullmatch(key):
            yield match[1], match[2], shape


def other_parts(folder: Path) -> set[str]:
    """Names of what else is in there: whole modules, the magnitudes of a DoRA, virtual tokens."""
    return {key for key, _ in _shapes(folder) if not _KEY.fullmatch(key)}


def _shapes(folder: Path) -> Iterator[tuple[str, tuple[int, ...]]]:
    from safetensors import SafetensorError, safe_open

    file = folder / "adapter_model.safetensors"
    try:
        with safe_open(file, framework="numpy") as tensors:
            for key in tensors.keys():  # noqa: SIM118 - it is no mapping
                yield key, tuple(tensors.get_slice(key).get_shape())
    except (OSError, SafetensorError) as error:
        raise DamagedError(f"{file} is no safetensors file ({error}); save the adapter again") from error


def require_fit(folder: Path, sizes: Mapping[str, tuple[int, int]], model: str) -> None:
    """Raises UsageError where the adapter changes a module that the model lacks or has in another size, or names
    another model of the hub as its base. `sizes` are (inputs, outputs) of the model's modules by name."""
    base = base_name(folder)
    hint = f"; it belongs to '{base}', name that as the model" if base else "; name the model it was trained on"
    for module, side, shape in lora_parts(folder):
        if module not in sizes:
            raise UsageError(
                f"the adapter '{folder.name}' was made for another model than '{model}', which has no part "
                f"'{module[:100]}'{hint}"
            )
        found, wanted = (shape[-1], sizes[module][0]) if side == "A" else (shape[0], sizes[module][1])
        if len(shape) == 2 and found != wanted:
            raise UsageError(
                f"the adapter '{folder.name}' was made for another model than '{model}': its '{module[:100]}' is "
                f"{found:,} wide and the model's {wanted:,}{hint}"
            )
    ours, theirs = _HUB_NAME.fullmatch(model), _HUB_NAME.fullmatch(base)
    if ours and theirs and _plain(ours[1]) != _plain(theirs[1]):
        raise UsageError(f"the adapter '{folder.name}' was trained on '{base}' and the model is '{model}'{hint}")


def base_hash(folder: Path) -> str | None:
    """The hash (see `weights_hash`) of the base that an adapter was trained on; None where nobody wrote it down.

    Raises DamagedError.
    """
    file = folder / BASE_FACTS
    if not file.is_file():
        return None
    try:
        said = json.loads(file.read_text("utf-8"))["base_sha256"]
        if not isinstance(said, str):
            raise TypeError(said)
        return said
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise DamagedError(
            f"{file} does not say which base the adapter belongs to ({error!r}); train it again"
        ) from error


def require_base(folder: Path, weights: str, model: str) -> None:
    """Raises UsageError where an adapter says that it was trained on other weights than those with the hash `weights`:
    every size may fit and each word be wrong."""
    known = base_hash(folder)
    if known is not None and known != weights:
        raise UsageError(
            f"the adapter '{folder.name}' was trained on a model with the hash {known[:12]}, and '{model}' has "
            f"{weights[:12]}; run it on its own base"
        )


def base_name(folder: Path) -> str:
    """The model that an adapter says it belongs to, "" where it does not say."""
    try:
        config = json.loads((folder / "adapter_config.json").read_text("utf-8"))
        return str(config.get("base_model_name_or_path") or "")
    except (OSError, ValueError, AttributeError, RecursionError):
        return ""


def _plain(name: str) -> str:
    return _SAME_WEIGHTS.sub("", name.lower())
