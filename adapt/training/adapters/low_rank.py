"""A model → the model under low-rank adapters (LoRA, and its forms rsLoRA, DoRA, PiSSA, on 4 bits QLoRA); and a PiSSA
adapter as the plain one that fits the untouched base. It knows no loop.
"""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from adapt.recipe import Method

ADAPTER = "default"
"""peft's name of the one adapter."""


def under_low_rank(model: Any, method: Method) -> Any:
    """Raises ValueError for names of layers that are not there."""
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(
        task_type="CAUSAL_LM",
        r=method.r,
        lora_alpha=alpha_of(method),  # type: ignore[arg-type]  # peft takes any number
        use_rslora=method.rslora,
        use_dora=method.dora,
        lora_dropout=method.dropout,
        target_modules=targets_of(method),
        rank_pattern=dict(method.ranks),
        alpha_pattern=alphas_of(method),
        init_lora_weights="pissa" if method.init == "pissa" else True,
    )
    return get_peft_model(model, config)


def targets_of(method: Method) -> list[str] | str:
    """As peft wants them."""
    return method.targets if isinstance(method.targets, str) else list(method.targets)


def alpha_of(method: Method, r: int | None = None) -> float:
    """The recipe's, or so that an adapter counts twice (once with rsLoRA's own scale). A whole number stays one."""
    alpha = method.alpha if method.alpha is not None else (1 if method.rslora else 2) * (r or method.r)
    return int(alpha) if float(alpha).is_integer() else alpha


def alphas_of(method: Method) -> dict[str, float]:
    """Alphas by the end of a layer's name: the recipe's, and for layers with a rank of their own what `alpha_of` would
    be there, or another rank would count otherwise too."""
    own = {} if method.alpha is not None else {name: alpha_of(method, r) for name, r in method.ranks.items()}
    return {**own, **method.alphas}


def prepare_four_bits(model: Any, *, activation_checkpointing: bool) -> Any:
    """A model in 4 bits, frozen, as it will be loaded again. peft's prepare_model_for_kbit_training turns all that is
    not in 4 bits into fp32: of SmolLM2-135M the embedding is 113 MB then, twice what all 4-bit weights take, and the
    model that is trained is not quite the one that is loaded later."""
    model.requires_grad_(False)
    if activation_checkpointing:
        model.enable_input_require_grads()
    return model


# --- PiSSA -----------------------------------------------------------------------------------------------------------


def beginning(model: Any) -> dict[str, Any]:
    """Copies of an adapter's weights in main memory, by the names they are saved under."""
    from peft import get_peft_model_state_dict

    return {
        name: value.detach().cpu().clone()
        for name, value in get_peft_model_state_dict(model, save_embedding_layers=False).items()
    }


def save_plain(model: Any, folder: Path, began: Mapping[str, Any], *, state: Mapping[str, Any] | None) -> None:
    """Write a PiSSA adapter as a plain one of twice the rank on the base as it was: B A − B₀ A₀ is [B, −B₀] [A; A₀].

    PiSSA takes its beginning out of the base's weights, so as it is trained it fits no base but that in memory, and
    vLLM refuses it. (peft does the same with `path_initial_model_for_weight_conversion`, by a second adapter on disk.)
    Raises OSError.
    """
    import copy

    import torch
    from peft import get_peft_model_state_dict
    from safetensors.torch import save_file

    told = get_peft_model_state_dict(
        model, state_dict=None if state is None else dict(state), save_embedding_layers=False
    )
    plain = {}
    for name, value in told.items():
        first, now = began[name].float(), value.detach().cpu().float()
        above = ".lora_A." in name
        plain[name] = torch.cat([now, first if above else -first], dim=0 if above else 1).contiguous()
    config = copy.deepcopy(model.peft_config[ADAPTER])
    grown = math.sqrt(2) if config.use_rslora else 2
    config.r *= 2
    config.lora_alpha *= grown
    config.rank_pattern = {name: 2 * rank for name, rank in config.rank_pattern.items()}
    config.alpha_pattern = {name: grown * alpha for name, alpha in config.alpha_pattern.items()}
    config.init_lora_weights = True
    config.inference_mode = True
    config.save_pretrained(str(folder))
    save_file(plain, folder / "adapter_model.safetensors", metadata={"format": "pt"})
