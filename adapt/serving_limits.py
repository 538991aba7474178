"""A method of a recipe, or an adapter's folder → what vLLM would refuse of it, before anything is trained or started.

Read from vLLM 0.32: vllm/lora/peft_helper.py, vllm/lora/utils.py and vllm/config/lora.py. It starts no server.
"""

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from adapt.recipe import METHOD_FIELDS, Method
from eval.models.adapter_fit import other_parts
from retrieval.errors import DamagedError, UsageError

RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
"""What --max-lora-rank may be; its default is 16."""
_HARMLESS_STARTS = ("gaussian", "eva", "orthogonal", "mica", "lora_ga")
"""Beginnings of an adapter that leave the base's weights as they are."""
_WHOLE_MODULES = ("classifier", "score")
_REMEDY = "merge it into its base and serve that"


def refused_by_vllm(adapter: Method | Mapping[str, Any], *, most_rank: int = RANKS[-1]) -> list[str]:
    """Reasons for which vLLM would not serve an adapter by name, each a clause; none where it would.

    `adapter` is a recipe's method or what stands in adapter_config.json; `most_rank` is the server's --max-lora-rank.
    A merged model is served whatever method it came from.
    """
    if isinstance(adapter, Method):
        return [] if adapter.kind == "full" else list(_of_config(_as_config(adapter), most_rank))
    return list(_of_config(adapter, most_rank))


def refused_folder(folder: Path, *, most_rank: int = RANKS[-1]) -> list[str]:
    """The same for an adapter's folder, with what its weights hold. Raises DamagedError."""
    found = refused_by_vllm(_config(folder), most_rank=most_rank)
    if not found:
        odd = sorted(name for name in other_parts(folder) if not name.endswith(".base_layer.weight"))
        if odd:
            found.append(f"its weights hold '{odd[0][:80]}', and vLLM reads matrices lora_A and lora_B alone")
    return found


def require_servable(folder: Path, name: str) -> None:
    """Raises UsageError with every reason why vLLM would refuse the adapter, MissingError or DamagedError for what is
    none."""
    from eval.models.language_models import judge_adapter

    judge_adapter(folder)
    reasons = refused_folder(folder)
    if reasons:
        raise UsageError(f"vLLM would refuse the adapter '{name}': {'; '.join(reasons)}; {_REMEDY}")


def max_rank(folders: Iterable[Path]) -> int:
    """The least --max-lora-rank under which all of these adapters run. Raises UsageError beyond what there is."""
    largest = max(max(_ranks(_config(folder)), default=1) for folder in folders)
    found = next((rank for rank in RANKS if rank >= largest), None)
    if found is None:
        raise UsageError(f"an adapter has rank {largest}, and vLLM takes 1 to {RANKS[-1]}; {_REMEDY}")
    return found


def remarks_on(method: Method, serve: str | None) -> list[str]:
    """What is worth knowing of where a method's result will run, beside what `serve` of the recipe wants."""
    if not method.merges:
        where = "it runs with the local engine, and neither vLLM nor a GGUF file has it"
        return [f"{method.kind} leaves an adapter that cannot be merged: {where}"]
    if serve is not None or not method.leaves_adapter:
        return []
    return [
        f"vLLM would refuse the adapter by itself ({reason}), and serves the merged model"
        for reason in refused_by_vllm(method)
    ]


def _as_config(method: Method) -> dict[str, Any]:
    """What `method` will leave in adapter_config.json, as far as it counts here."""
    kinds = {"lora": "LORA", "qlora": "LORA", "bitfit": "BITFIT", "prefix": "PREFIX_TUNING", "prompt": "PROMPT_TUNING"}
    config: dict[str, Any] = {"peft_type": kinds.get(method.kind, method.kind.upper())}
    if method.kind in METHOD_FIELDS["ranks"]:
        twice = 2 if method.init == "pissa" else 1  # written as a plain adapter of twice the rank
        config |= {
            "r": twice * method.r,
            "rank_pattern": {name: twice * rank for name, rank in method.ranks.items()},
            "use_dora": method.dora,
        }
    return config


def _of_config(config: Mapping[str, Any], most_rank: int) -> Iterator[str]:
    kind = str(config.get("peft_type") or "LORA").rpartition(".")[2]
    if kind != "LORA":
        yield f"vLLM serves LoRA adapters alone, and this is {kind[:40]}"
        return
    ranks = _ranks(config)
    if not ranks or min(ranks) < 1:
        yield "it does not say a rank"
    elif max(ranks) > most_rank:
        yield f"its rank {max(ranks)} is more than the {most_rank} that the server takes"
    for name in config.get("modules_to_save") or ():
        if name not in _WHOLE_MODULES:
            yield f"it holds the whole module '{str(name)[:60]}' (modules_to_save)"
    if config.get("use_dora"):
        yield "it is a DoRA adapter"
    if config.get("lora_bias") or config.get("bias", "none") != "none":
        yield "it has biases"
    begin = config.get("init_lora_weights", True)
    if isinstance(begin, str) and begin.lower() not in _HARMLESS_STARTS:
        yield f"it began as {begin[:40]}, which changes the base's weights; it must be converted to a plain adapter"
    for key, what in (
        ("alora_invocation_tokens", "it is an activated LoRA (aLoRA)"),
        ("layer_replication", "it repeats layers (layer_replication)"),
        ("use_bdlora", "it is block-diagonal (BD-LoRA)"),
        ("use_qalora", "it is a QALoRA adapter"),
        ("target_parameters", "it changes bare parameters (target_parameters)"),
        ("trainable_token_indices", "it holds rows of the embedding (trainable_token_indices)"),
    ):
        if config.get(key):
            yield what


def _config(folder: Path) -> dict[str, Any]:
    try:
        config = json.loads((folder / "adapter_config.json").read_text("utf-8"))
        if not isinstance(config, dict):
            raise ValueError("no mapping")
        return config
    except (OSError, ValueError, RecursionError) as error:
        raise DamagedError(f"{folder}/adapter_config.json cannot be read ({error}); save the adapter again") from error


def _ranks(config: Mapping[str, Any]) -> list[int]:
    patterns = config.get("rank_pattern")
    found = [config.get("r"), *(patterns.values() if isinstance(patterns, Mapping) else ())]
    return [rank for rank in found if isinstance(rank, int) and not isinstance(rank, bool)]
