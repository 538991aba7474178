"""A model → the model with virtual tokens before every text: prefix tuning (keys and values of every layer), prompt
tuning (embeddings), P-tuning (embeddings that a small network makes). It knows no loop.
"""

from typing import Any

from adapt.recipe import Method
from retrieval.errors import UsageError


def under_prompt(model: Any, method: Method, tokenizer: Any) -> Any:
    """Raises UsageError for a text without a token and a prompt that leaves no room for a text."""
    import torch
    from peft import PrefixTuningConfig, PromptEncoderConfig, PromptTuningConfig, get_peft_model

    count = method.virtual_tokens
    window = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    if window is not None and count >= window:
        raise UsageError(f"{count} virtual tokens leave no room in the {window} positions of the model; set fewer")
    told: dict[str, Any] = {"task_type": "CAUSAL_LM", "num_virtual_tokens": count}
    if method.kind == "p_tuning":
        return get_peft_model(model, PromptEncoderConfig(**told, encoder_hidden_size=method.hidden))
    ids = _first_tokens(model, method, tokenizer)
    if method.kind == "prompt":
        first = model.get_input_embeddings()(ids).detach().float()
        made = get_peft_model(model, PromptTuningConfig(**told))
    else:
        first = _keys_and_values(model, ids)
        made = get_peft_model(model, PrefixTuningConfig(**told))
    with torch.no_grad():
        made.prompt_encoder["default"].embedding.weight.copy_(first)
    return made


def _first_tokens(model: Any, method: Method, tokenizer: Any) -> Any:
    """Tokens that the virtual ones begin as: those of a text (Lester et al. 2021 found it best), or any words."""
    import torch

    device = model.get_input_embeddings().weight.device
    if method.text is None:
        return torch.randint(0, len(tokenizer), (method.virtual_tokens,)).to(device)
    ids = tokenizer(method.text, add_special_tokens=False)["input_ids"]
    if not ids:
        raise UsageError(f"method.text {method.text[:40]!r} has no token to begin with; write some words")
    times = -(-method.virtual_tokens // len(ids))
    return torch.tensor((ids * times)[: method.virtual_tokens], device=device)


def _keys_and_values(model: Any, ids: Any) -> Any:
    """What every layer keeps of real tokens, in the order in which peft lays a prefix out: tokens × (layer, key or
    value, head, width). A prefix of random numbers instead hurts at first and learns late (Li & Liang 2021, 4.3)."""
    import torch

    training = model.training
    with torch.no_grad():
        cache = model.eval()(input_ids=ids[None], use_cache=True).past_key_values
    model.train(training)
    parts = [part[0] for layer in cache.layers for part in (layer.keys, layer.values)]  # each heads × tokens × width
    return torch.stack(parts).permute(2, 0, 1, 3).reshape(len(ids), -1).float()
