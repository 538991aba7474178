"""A LoRA adapter on an embedding model: its folder judged fit to load, and its update added to the model's weights.

Knows the form in which peft saves (safetensors and JSON); using an adapter needs no peft. Knows no texts.
"""

import hashlib
import json
import math
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from retrieval.embedding.stored import file_hash, is_whole, keep
from retrieval.errors import DamagedError, FathomError, MismatchError, MissingError, UsageError

if TYPE_CHECKING:
    import numpy as np

WEIGHTS, CONFIG, ABOUT, CARD = "adapter_model.safetensors", "adapter_config.json", "fathom.json", "README.md"
ROLE = "embedder"
IN_COLLECTION = "adapter"
"""The folder of a collection that holds the adapter its vectors were made with."""
MAX_BYTES = 256 << 20
MAX_JSON_BYTES = 1 << 20
MAX_RANK = 1024
_KEY = re.compile(r"base_model\.model\.([\w.]+)\.lora_([AB])\.weight")
# Everything else that peft's configuration may switch on changes what the two matrices mean.
_MUST_BE: Mapping[str, tuple[object, ...]] = {
    "peft_type": ("LORA",),
    "use_dora": (False, None),
    "use_rslora": (False, None),
    "bias": ("none", None),
    "fan_in_fan_out": (False, None),
    "modules_to_save": (None, []),
    "rank_pattern": ({}, None),
    "alpha_pattern": ({}, None),
    "layer_replication": (None,),
    "megatron_config": (None,),
    "auto_mapping": (None,),
}


@dataclass(frozen=True, slots=True)
class EmbeddingAdapter:
    """An adapter fit to load. `sha256` (hex) is over its weights and configuration; `base_sha256` is the `weights_hash`
    of the model it was trained on; an update is `scale` · B · A (Hu et al. 2021, arXiv:2106.09685)."""

    folder: Path
    sha256: str
    base: str
    base_sha256: str
    scale: float

    @property
    def label(self) -> str:
        """For people, as in "all-MiniLM-L6-v2 + adapter 3f2a90c1"."""
        return f"adapter {self.sha256[:8]}"


def read_adapter(folder: Path) -> EmbeddingAdapter:
    """Judge an adapter's folder; its tensors are read when it is merged.

    Raises MissingError, UsageError, DamagedError.
    """
    if not folder.is_dir():
        raise MissingError(
            f"there is no folder '{folder}' with an embedding adapter; 'fathom adapt run' makes one, and 'fathom model "
            "list' shows those that are registered"
        )
    for name, most in ((WEIGHTS, MAX_BYTES), (CONFIG, MAX_JSON_BYTES), (ABOUT, MAX_JSON_BYTES)):
        path = folder / name
        if not path.is_file():
            raise MissingError(
                f"'{folder}' is no embedding adapter, it has no {name}; name the folder that was trained"
            )
        if path.stat().st_size > most:
            raise DamagedError(f"{path} is over {most >> 20} MB, which no embedding adapter needs")
    config, about = _json(folder / CONFIG), _json(folder / ABOUT)
    if about.get("role") != ROLE:
        raise UsageError(
            f"'{folder}' is an adapter for another purpose ({str(about.get('role'))[:40]!r}); embedding takes one "
            f"whose {ABOUT} says {ROLE!r}"
        )
    for key, allowed in _MUST_BE.items():
        if config.get(key) not in allowed:
            raise UsageError(
                f"the adapter '{folder}' sets {key} to {str(config.get(key))[:60]!r}; plain LoRA is what can be added "
                "to an embedding model"
            )
    rank, alpha = config.get("r"), config.get("lora_alpha")
    numbers = all(isinstance(n, int | float) and not isinstance(n, bool) and math.isfinite(n) for n in (rank, alpha))
    if not numbers or not 1 <= rank <= MAX_RANK:  # type: ignore[operator]
        raise DamagedError(
            f"{folder / CONFIG} has no rank and scale that are numbers (r {rank!r}, lora_alpha {alpha!r})"
        )
    base, base_sha256 = about.get("base"), about.get("base_sha256")
    if not isinstance(base, str) or not isinstance(base_sha256, str):
        raise DamagedError(f"{folder / ABOUT} does not say which model the adapter belongs to; train it again")
    whole = hashlib.sha256("".join(f"{name}\0{file_hash(folder / name)}\n" for name in (CONFIG, WEIGHTS)).encode())
    return EmbeddingAdapter(folder, whole.hexdigest(), base, base_sha256, float(alpha) / float(rank))  # type: ignore[arg-type]


def require_base(adapter: EmbeddingAdapter, weights: str, model: str) -> None:
    """Raises MismatchError where the adapter was trained on other weights than the model's (SHA-256, hex): all sizes
    may fit, nothing would fail, and the vectors would mean nothing."""
    if adapter.base_sha256 != weights:
        raise MismatchError(
            f"the embedding adapter '{adapter.folder}' was trained on '{adapter.base}' (weights "
            f"{adapter.base_sha256[:12]}) and the embedding model is '{model}' ({weights[:12]}); set that model, or "
            "leave the adapter out ('fathom index reembed --adapter none' moves a collection to the bare model)"
        )


def hash_with(weights: str, adapter: EmbeddingAdapter) -> str:
    """SHA-256 (hex) of a model, given by its own hash, under an adapter."""
    return hashlib.sha256(f"{weights}\0{adapter.sha256}".encode()).hexdigest()


def merge(model: Any, adapter: EmbeddingAdapter) -> None:
    """Add the adapter's update to a torch model's weights, in fp32. Raises DamagedError where it does not fit."""
    import torch

    for name, (a, b) in _updates(adapter.folder).items():
        try:
            module = model.get_submodule(name)
            weight = module.weight
        except AttributeError as error:
            raise DamagedError(
                f"the embedding adapter '{adapter.folder}' changes '{name[:100]}', which the model does not have"
            ) from error
        if a.shape[0] != b.shape[1] or tuple(weight.shape) != (b.shape[0], a.shape[1]):
            raise DamagedError(
                f"the embedding adapter '{adapter.folder}' does not fit '{name[:100]}': {b.shape} · {a.shape} onto "
                f"{tuple(weight.shape)}"
            )
        with torch.no_grad():
            update = adapter.scale * (torch.from_numpy(b) @ torch.from_numpy(a))
            weight.copy_((weight.float() + update.to(weight.device)).to(weight.dtype))


def keep_copy(adapter: Path, collection: Path) -> None:
    """Copy an adapter into a collection's folder, whole or not at all. Raises what `read_adapter` raises, and
    FathomError where it cannot be written."""
    read_adapter(adapter)

    def fill(place: Path) -> None:
        for name in (WEIGHTS, CONFIG, ABOUT, CARD):
            if (adapter / name).is_file():
                shutil.copyfile(adapter / name, place / name)

    try:
        keep(collection / IN_COLLECTION, fill)
    except OSError as error:
        raise FathomError(
            f"the embedding adapter cannot be kept in '{collection}' ({error.strerror or error}); make room there"
        ) from error


def kept_in(collection: Path) -> Path | None:
    """The folder of the adapter that a collection has of its own, None where it has none. Raises DamagedError where its
    files are not those that were stored."""
    folder = collection / IN_COLLECTION
    if not folder.is_dir():
        return None
    if not is_whole(folder):
        raise DamagedError(
            f"the embedding adapter in '{folder}' is not what was stored; restore the collection with 'fathom index "
            f"import', or give the adapter again: fathom index reembed --collection {collection.name} --adapter DIR"
        )
    return folder


def _updates(folder: Path) -> "dict[str, tuple[np.ndarray, np.ndarray]]":
    """Module → A (rank, inputs) and B (outputs, rank), float32. Raises DamagedError."""
    import numpy as np
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        tensors = load_file(folder / WEIGHTS)
    except (OSError, SafetensorError, ValueError) as error:
        raise DamagedError(f"{folder / WEIGHTS} is no safetensors file ({error}); train the adapter again") from error
    sides: dict[str, dict[str, np.ndarray]] = {}
    for key, tensor in tensors.items():
        match = _KEY.fullmatch(key)
        if match is None or tensor.dim() != 2 or not tensor.is_floating_point():
            raise DamagedError(f"{folder / WEIGHTS} holds '{key[:100]}', which is no matrix of a LoRA update")
        matrix = tensor.float().numpy()
        if not np.isfinite(matrix).all():
            raise DamagedError(f"{folder / WEIGHTS} holds numbers that are not finite in '{key[:100]}'")
        sides.setdefault(match[1], {})[match[2]] = matrix
    incomplete = [name for name, side in sides.items() if len(side) != 2]
    if incomplete or not sides:
        raise DamagedError(f"{folder / WEIGHTS} holds half an update ({(incomplete or ['nothing'])[0][:100]})")
    return {name: (side["A"], side["B"]) for name, side in sides.items()}


def _json(path: Path) -> Mapping[str, Any]:
    try:
        found = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise DamagedError(f"{path} cannot be read as JSON ({error}); train the adapter again") from error
    if not isinstance(found, dict):
        raise DamagedError(f"{path} holds no object; train the adapter again")
    return found
