"""A folder that `fathom adapt run` wrote of an encoder recipe → what it is, judged fit to load, and its network.

Either LoRA matrices of peft on another model, merged here without peft, or a whole encoder; both with a head of their
own. Everything in it is hostile until judged: safetensors and JSON only, sizes compared before a weight is touched.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from retrieval.errors import DamagedError, MismatchError, MissingError, UsageError

if TYPE_CHECKING:
    import torch

    from retrieval.embedding.model_files import ModelFiles

FACTS, HEAD, LORA, LORA_CONFIG = "fathom.json", "head.safetensors", "adapter_model.safetensors", "adapter_config.json"
FORMAT = 1
PACKAGED_BASE = "all-MiniLM-L6-v2"
RERANKER, SUPPORT = "encoder-reranker", "support"
MAX_FACTS_BYTES = 1 << 20
_MATRIX = re.compile(r"base_model\.model\.([\w.]+)\.lora_([AB])\.weight")


@dataclass(frozen=True, slots=True)
class PairFacts:
    """What fathom.json says. `labels` are the head's outputs in order; a reranker has one."""

    role: str
    base: str
    base_sha256: str
    labels: tuple[str, ...]
    max_tokens: int
    token_types: bool
    calibration: Mapping[str, Any] | None

    def to_json(self) -> dict[str, Any]:
        """As it stands in fathom.json. There is no prompt: an encoder reads question and passage as they are."""
        return {
            "format": FORMAT,
            "role": self.role,
            "base": self.base,
            "base_sha256": self.base_sha256,
            "prompt_version": "",
            "labels": list(self.labels),
            "max_tokens": self.max_tokens,
            "token_types": self.token_types,
            **({"calibration": dict(self.calibration)} if self.calibration is not None else {}),
        }


@dataclass(frozen=True, slots=True)
class PairFolder:
    """A judged folder: the trunk's files, the folder with the head, whether LoRA matrices lie beside it, and a SHA-256
    (hex) over everything that decides the scores but the calibration."""

    name: str
    folder: Path
    facts: PairFacts
    trunk: "ModelFiles"
    is_adapter: bool
    weights: str


def is_pair_folder(folder: Path) -> bool:
    """Whether `fathom adapt run` may have written it of an encoder recipe."""
    return (folder / FACTS).is_file() and (folder / HEAD).is_file()


def judge_pair_folder(folder: Path, *, role: str, cache: Path) -> PairFolder:
    """Read and check a folder. Raises MissingError, DamagedError, UsageError (another role), MismatchError (made for
    another base than the one here)."""
    import hashlib

    from retrieval.embedding.model_files import find_model, weights_hash
    from retrieval.embedding.stored import file_hash

    facts = read_facts(folder)
    if facts.role != role:
        raise UsageError(f"'{folder.name}' is trained to be '{facts.role}' and not '{role}'; name another folder")
    for file in folder.iterdir():
        if file.is_symlink():
            raise UsageError(f"'{folder.name}' has a link ({file.name}); copy the file in")
    is_adapter = (folder / LORA).is_file()
    if is_adapter:
        trunk = find_model(facts.base, download=False)
        found = weights_hash(trunk, cache)
        if found != facts.base_sha256:
            raise MismatchError(
                f"the adapter '{folder.name}' was trained on '{facts.base}' with SHA-256 {facts.base_sha256[:12]}… "
                f"and the one here has {found[:12]}…; train it again on this one (fathom adapt run)"
            )
    else:
        trunk = find_model(str(folder))
        found = weights_hash(trunk, cache)
    whole = hashlib.sha256(f"{found}\0{facts.max_tokens}\0{facts.token_types}\0{','.join(facts.labels)}\n".encode())
    for name in (HEAD, *((LORA, LORA_CONFIG) if is_adapter else ())):
        if not (folder / name).is_file():
            raise MissingError(f"'{folder.name}' has no {name}; its files are incomplete, copy or train it again")
        whole.update(f"{name}\0{file_hash(folder / name)}\n".encode())
    return PairFolder(folder.name, folder, facts, trunk, is_adapter, whole.hexdigest())


def read_facts(folder: Path) -> PairFacts:
    """fathom.json of a folder. Raises DamagedError."""
    path = folder / FACTS
    try:
        if path.stat().st_size > MAX_FACTS_BYTES:
            raise ValueError("over 1 MB")
        said = json.loads(path.read_text("utf-8"))
        labels, most, calibration = said["labels"], said["max_tokens"], said.get("calibration")
        sound = (
            said["format"] == FORMAT
            and all(isinstance(said[key], str) and len(said[key]) < 300 for key in ("role", "base", "base_sha256"))
            and isinstance(labels, list)
            and 1 <= len(labels) <= 100
            and all(isinstance(label, str) and len(label) < 100 for label in labels)
            and type(most) is int
            and 16 <= most <= 65536
            and type(said["token_types"]) is bool
            and (calibration is None or isinstance(calibration, dict))
        )
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise DamagedError(f"{path} cannot be read ({error!r}); copy or train '{folder.name}' again") from error
    if not sound:
        raise DamagedError(f"{path} does not say what an encoder's file says; copy or train '{folder.name}' again")
    return PairFacts(
        said["role"], said["base"], said["base_sha256"], tuple(labels), most, said["token_types"], calibration
    )


def load_trunk(files: "ModelFiles") -> Any:
    """The transformers encoder of a judged folder in fp32. Raises DamagedError."""
    import torch
    from transformers import AutoModel

    from retrieval.embedding.torch_backend import quiet

    try:
        with quiet():
            return AutoModel.from_pretrained(
                str(files.folder),
                local_files_only=True,
                trust_remote_code=False,
                use_safetensors=True,
                dtype=torch.float32,
            )
    # The files are a stranger's, and transformers and safetensors each raise errors of their own.
    except Exception as error:
        raise DamagedError(f"the encoder '{files.name}' cannot be loaded ({error}); fetch it again") from error


def load_network(found: PairFolder) -> "torch.nn.Module":
    """The network of a judged folder in fp32, LoRA matrices merged: W + alpha/r · BA (Hu et al. 2021,
    arXiv:2106.09685). Raises DamagedError."""
    from retrieval.reranking.pair_encoder import pair_encoder

    trunk = load_trunk(found.trunk)
    network = pair_encoder(trunk, len(found.facts.labels), token_types=found.facts.token_types)
    if found.is_adapter:
        _merge(trunk, found)
    head = _tensors(found.folder / HEAD)
    wanted = {name: tuple(value.shape) for name, value in network.head.state_dict().items()}  # type: ignore[union-attr]
    if {name: tuple(value.shape) for name, value in head.items()} != wanted:
        raise DamagedError(f"the head of '{found.name}' does not fit its encoder; copy or train it again")
    network.head.load_state_dict({name: value.float() for name, value in head.items()})  # type: ignore[union-attr]
    return network.eval()


def _merge(trunk: Any, found: PairFolder) -> None:
    import torch

    scale = _scale(found)
    matrices: dict[str, dict[str, torch.Tensor]] = {}
    for key, value in _tensors(found.folder / LORA).items():
        match = _MATRIX.fullmatch(key)
        if match is None:
            raise DamagedError(f"the adapter '{found.name}' holds '{key[:100]}', which is no LoRA matrix of an encoder")
        matrices.setdefault(match[1], {})[match[2]] = value.float()
    modules = dict(trunk.named_modules())
    with torch.no_grad():
        for name, pair in matrices.items():
            module = modules.get(name)
            fits = (
                isinstance(module, torch.nn.Linear)
                and set(pair) == {"A", "B"}
                and pair["A"].shape == (pair["B"].shape[-1], module.in_features)
                and pair["B"].shape == (module.out_features, pair["A"].shape[0])
            )
            if not fits:
                raise DamagedError(f"the adapter '{found.name}' does not fit '{found.facts.base}' (at '{name[:100]}')")
            module.weight += scale * (pair["B"] @ pair["A"])  # type: ignore[union-attr]


def _scale(found: PairFolder) -> float:
    """alpha/r of a plain LoRA. Raises DamagedError, UsageError for kinds that are more than that."""
    path = found.folder / LORA_CONFIG
    try:
        config = json.loads(path.read_text("utf-8"))
        rank, alpha = config["r"], config["lora_alpha"]
        plain = config["peft_type"] == "LORA" and not (config.get("use_dora") or config.get("use_rslora"))
        plain = plain and not (config.get("rank_pattern") or config.get("alpha_pattern")) and rank > 0
        scale = float(alpha) / float(rank)
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise DamagedError(f"{path} is no adapter's ({error!r}); copy or train '{found.name}' again") from error
    if not plain:
        raise UsageError(f"the adapter '{found.name}' is no plain LoRA with one rank; only those are merged here")
    return scale


def _tensors(path: Path) -> "dict[str, torch.Tensor]":
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise DamagedError(f"{path} is no whole safetensors file ({error}); copy or train it again") from error
