"""A model → the model under low-rank adapters (LoRA, its forms rsLoRA and DoRA, on 4 bits QLoRA). It knows no loop."""

from typing import Any

from adapt.recipe import Method

ADAPTER = "default"
"""peft's name of the one adapter."""


def under_low_rank(model: Any, method: Method) -> Any:
    """Raises ValueError for names of layers that are not there."""
    from peft import get_peft_model

    return get_peft_model(model, low_rank_config(method))


def low_rank_config(method: Method) -> Any:
    """What peft wants to know, of an adapter that begins as nothing."""
    from peft import LoraConfig

    return LoraConfig(
        task_type="CAUSAL_LM",
        r=method.r,
        lora_alpha=alpha_of(method),  # type: ignore[arg-type]  # peft takes any number
        use_rslora=method.rslora,
        use_dora=method.dora,
        lora_dropout=method.dropout,
        target_modules=targets_of(method),
        rank_pattern=dict(method.ranks),
        alpha_pattern=alphas_of(method),
    )


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
