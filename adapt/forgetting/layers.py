"""A causal language model → its decoder layers, its embedding matrices and the names of its weights, whatever wraps it.

It knows how peft, DDP, compile and activation checkpointing rename things; it changes nothing.
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from retrieval.errors import UsageError

if TYPE_CHECKING:
    from torch import Tensor, nn

_WRAPPINGS = frozenset({"module", "_fsdp_wrapped_module", "_checkpoint_wrapped_module", "_orig_mod"})
_STACKS = ("layers", "h", "blocks")


def plain_name(name: str) -> str:
    """A weight's name as it stands in the model's safetensors, without what peft, DDP or compile put around it."""
    return ".".join(part for part in name.split(".") if part not in _WRAPPINGS).removeprefix("base_model.model.")


def trainable(model: "nn.Module") -> "Iterator[tuple[str, Tensor]]":
    """(plain name, parameter) of all that is trained; a tied matrix once, under the embedding's name."""
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            yield plain_name(name), parameter


def unwrapped(model: Any) -> Any:
    """The model inside DDP and compile: of transformers, or of peft around one."""
    while type(model).__name__ in ("DistributedDataParallel", "OptimizedModule"):
        model = model.module if hasattr(model, "module") else model._orig_mod
    return model


def bare(model: Any) -> Any:
    """The model of transformers inside DDP, compile and peft."""
    model = unwrapped(model)
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def text_config(model: Any) -> Any:
    """The part of the configuration that counts decoder layers (of a model of text and images: the text's)."""
    return bare(model).config.get_text_config(decoder=True)


def decoder_layers(model: Any) -> "nn.ModuleList":
    """The list of decoder layers, bottom first. Raises UsageError where none of the usual places holds it."""
    return stack(model)[1]


def stack(model: Any) -> "tuple[nn.Module, nn.ModuleList, str]":
    """(module that holds the decoder layers, the layers, the attribute they have there). Raises UsageError."""
    from torch import nn

    inner = bare(model)
    count = text_config(model).num_hidden_layers
    decoder = inner.get_decoder() if hasattr(inner, "get_decoder") else inner
    for module in (decoder, *inner.modules()):
        for name in _STACKS:
            found = getattr(module, name, None)
            if isinstance(found, nn.ModuleList) and len(found) == count:
                return module, found, name
    raise UsageError(
        f"the decoder layers of a {type(inner).__name__} were not found, so that none can be frozen or added; "
        "leave `freeze` and `expand` out of the recipe for this model"
    )


def embedding_parameters(model: Any) -> "list[Tensor]":
    """Weights of the embedding and of the head, each once: a tied model has one matrix for both."""
    inner = bare(model)
    modules = [inner.get_input_embeddings(), inner.get_output_embeddings()]
    return list({id(p): p for module in modules if module is not None for p in module.parameters()}.values())
