"""A folder with an adapter of peft → what vLLM would refuse of it, before a server is started on it.

From the source of vLLM 0.32 and 0.33 (vllm/lora/peft_helper.py, lora_model.py, utils.py). It loads no weights.
"""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from eval.models.adapter_fit import other_parts
from eval.models.language_models import judge_adapter
from retrieval.errors import UsageError

RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
"""What --max-lora-rank may be; an adapter's own rank is anything up to it."""
_HARMLESS_STARTS = ("gaussian", "eva", "orthogonal", "mica", "lora_ga")
_REMEDY = "merge it into its base and serve that"


def refused_config(config: Mapping[str, Any]) -> tuple[str, ...]:
    """Why vLLM would not take an adapter with this adapter_config.json, one reason each; empty where it would."""
    kind = str(config.get("peft_type") or "").upper()
    if kind != "LORA":
        return (f"vLLM serves LoRA adapters and no {kind or 'others'}",)
    found = []
    saved = [name for name in config.get("modules_to_save") or () if name not in ("classifier", "score")]
    if saved:
        found.append(
            f"it brings whole modules ({', '.join(map(str, saved))[:80]}), and vLLM takes low-rank changes alone"
        )
    if config.get("trainable_token_indices"):
        found.append("it trains rows of the embedding (trainable_token_indices), which vLLM does not take")
    if config.get("use_dora"):
        found.append("vLLM does not take DoRA")
    if config.get("lora_bias") or config.get("bias", "none") != "none":
        found.append("vLLM does not take biases in an adapter")
    start = config.get("init_lora_weights", True)
    if isinstance(start, str) and start.lower() not in _HARMLESS_STARTS:
        found.append(f"its start ({start[:20]}) changed the base's weights, which vLLM does not do")
    for key, what in (
        ("alora_invocation_tokens", "activated LoRA"),
        ("layer_replication", "layers that are used twice"),
        ("use_bdlora", "block-diagonal LoRA"),
        ("use_qalora", "QALoRA"),
        ("target_parameters", "LoRA on bare parameters"),
        ("megatron_config", "Megatron's layers"),
    ):
        if config.get(key):
            found.append(f"vLLM does not take {what}")
    ranks = _ranks(config)
    if not ranks:
        found.append("it does not say its rank (r)")
    elif min(ranks) < 1 or max(ranks) > RANKS[-1]:
        found.append(f"its rank is {max(ranks)}, and vLLM takes 1 to {RANKS[-1]}")
    return tuple(found)


def refused_folder(folder: Path) -> tuple[str, ...]:
    """The same of an adapter's folder, by its settings and by the names of its weights.

    Raises MissingError, UsageError or DamagedError for what is no adapter.
    """
    judge_adapter(folder)
    found = list(refused_config(_config(folder)))
    others = sorted(other_parts(folder))
    if others and not found:
        found.append(f"it holds '{others[0][:80]}', which is no LoRA matrix of a linear layer")
    return tuple(found)


def require_servable(folder: Path, name: str) -> None:
    """Raises UsageError with every reason why vLLM would refuse the adapter."""
    reasons = refused_folder(folder)
    if reasons:
        raise UsageError(f"vLLM would refuse the adapter '{name}': {'; '.join(reasons)}; {_REMEDY}")


def max_rank(folders: Iterable[Path]) -> int:
    """The smallest --max-lora-rank under which all of these adapters run. Raises UsageError beyond what there is."""
    largest = max(max(_ranks(_config(folder)), default=1) for folder in folders)
    fitting = [rank for rank in RANKS if rank >= largest]
    if not fitting:
        raise UsageError(f"an adapter has rank {largest}, and vLLM takes 1 to {RANKS[-1]}; {_REMEDY}")
    return fitting[0]


def _ranks(config: Mapping[str, Any]) -> list[int]:
    patterns = config.get("rank_pattern")
    said = [config.get("r"), *(patterns.values() if isinstance(patterns, Mapping) else ())]
    return [rank for rank in said if isinstance(rank, int) and not isinstance(rank, bool)]


def _config(folder: Path) -> dict[str, Any]:
    config: dict[str, Any] = json.loads((folder / "adapter_config.json").read_text("utf-8"))
    return config
