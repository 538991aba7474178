"""Which weights stay as they are: the embeddings, the lower layers, and when held layers join (gradual unfreezing).

Howard & Ruder 2018 (ULMFiT, arXiv:1801.06146) let layers join from the top, one after the other. It knows no trainer.
"""

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from adapt.forgetting.layers import decoder_layers, embedding_parameters
from adapt.recipe import Freezing
from retrieval.errors import UsageError

if TYPE_CHECKING:
    from torch import Tensor

JOINED_BY = 0.5
"""Share of the stage after which all layers are trained, with `unfreeze`."""


def freeze(model: Any, settings: Freezing) -> int:
    """Set `requires_grad` off for what is never trained in this stage; call before the optimizer is made. Returns how
    many numbers that are.

    `layers` are the lowest decoder layers, `embeddings` the embedding matrix and the head. Where the two are tied they
    are one matrix: frozen embeddings then mean a frozen head, and lower layers frozen without `embeddings` leave a
    matrix in training that stands below them. With an adapter its weights inside frozen layers are frozen.

    With `unfreeze` nothing is frozen for good, so nothing is done here: `hold` does it step by step.

    Raises UsageError where the model has fewer layers, or nothing would be left to train.
    """
    _judge(model, settings)
    if settings.unfreeze:
        return 0
    frozen = _held(model, settings, settings.layers, settings.embeddings)
    for parameter in frozen:
        parameter.requires_grad_(False)
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise UsageError("`freeze` leaves nothing to train; freeze fewer layers")
    return sum(parameter.numel() for parameter in frozen)


def held_units(step: int, steps: int, units: int) -> int:
    """How many of `units` are still held, from the bottom, in step `step` (from 0) of `steps`.

    All at step 0, then one fewer after each equal part of the first half of the stage (`JOINED_BY`), then none.
    """
    if units <= 0 or steps <= 0:
        return 0
    joined = int(units * step / (steps * JOINED_BY))
    return max(0, units - joined)


def hold(model: Any, settings: Freezing, step: int, steps: int) -> int:
    """Forget the gradients of what is still held in this step; call after the micro-batches, before clipping and so
    before `Anchors.add_gradients`. Returns how many layers are held.

    An optimizer passes over a parameter whose gradient is None: no step, no weight decay, no state, so a held layer
    stays the same to the last bit. That works under DDP and FSDP as well, where `requires_grad` must not change after
    the model was wrapped; it saves no time. The embeddings, if they are held too, are the last to join.
    """
    if not settings.unfreeze:
        return 0
    units = settings.layers + settings.embeddings
    held = held_units(step, steps, units)
    embeddings = settings.embeddings and held > 0
    layers = held - embeddings
    for parameter in _held(model, settings, layers, embeddings):
        parameter.grad = None
    return layers


def _judge(model: Any, settings: Freezing) -> None:
    if settings.layers:
        there = len(decoder_layers(model))
        if settings.layers > there:
            raise UsageError(f"`freeze.layers` is {settings.layers} and the model has {there} layers")
    if settings.unfreeze and not (settings.layers or settings.embeddings):
        raise UsageError("`freeze.unfreeze` needs layers to hold at first; set `freeze.layers`")


def _held(model: Any, settings: Freezing, layers: int, embeddings: bool) -> "list[Tensor]":
    held: list[Tensor] = []
    if layers:
        lowest: Iterable[Any] = list(decoder_layers(model))[:layers]
        held += [parameter for layer in lowest for parameter in layer.parameters()]
    if embeddings:
        held += embedding_parameters(model)
    return held
