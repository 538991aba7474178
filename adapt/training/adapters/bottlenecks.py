"""A model → the model with untrained bottleneck adapters: which sublayers get one. How they run and how they are read
is in eval/models/bottleneck.py.
"""

from typing import Any

from adapt.forgetting.layers import bare, stack
from adapt.recipe import Method
from eval.models.bottleneck import ATTRIBUTE, Bottleneck, put_on
from retrieval.errors import UsageError

_ATTENTION = ("self_attn", "attention", "attn", "self_attention")
_MLP = ("mlp", "feed_forward", "ffn", "block_sparse_moe")


def under_bottleneck(model: Any, method: Method) -> Any:
    """houlsby: behind attention and behind the MLP of every layer, before what went in is added again; pfeiffer: behind
    the MLP alone, half the weights. Raises UsageError where a layer has no such parts."""
    model.requires_grad_(False)
    made = put_on(model, shape_for(model, method))
    getattr(model, ATTRIBUTE).requires_grad_(True)
    return made


def shape_for(model: Any, method: Method) -> Bottleneck:
    """Where the adapters of a method go in a model. Raises UsageError."""
    _, layers, _ = stack(model)
    inner = bare(model)
    at = next(name for name, module in inner.named_modules() if module is layers)
    kinds = (_ATTENTION, _MLP) if method.kind == "houlsby" else (_MLP,)
    places = []
    for number, layer in enumerate(layers):
        children = dict(layer.named_children())
        found = [next((name for name in names if name in children), None) for names in kinds]
        if None in found:
            raise UsageError(
                f"a layer of {type(inner).__name__} has no part that is known as attention or MLP (it has "
                f"{', '.join(children)}), so {method.kind} has no place in it; use lora"
            )
        places.append(tuple(f"{at}.{number}.{name}" for name in found))
    width = int(inner.config.get_text_config().hidden_size)
    return Bottleneck(tuple(places), width, max(1, width // method.reduction), method.activation, float(method.dropout))
