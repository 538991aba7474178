"""Weights and states that several processes share out between them (FSDP2) → whole ones, and back into the shards.

A checkpoint holds everything whole, so that any number of processes can go on from it. Each process must call these
functions, in the same order: shards are gathered over the network. What is not shared out passes as it is.
"""

from collections.abc import Mapping
from typing import Any

from adapt.recipe import Training
from retrieval.errors import UsageError


def require_shardable(settings: Training) -> None:
    """Raises UsageError for what does not go with weights that are shared out."""
    if not settings.trainer.get("fsdp"):
        return
    kind = settings.method.kind
    if kind == "qlora":
        raise UsageError("4-bit weights are not shared out (fsdp); use lora, or qlora with the whole model on each GPU")
    if kind not in ("full", "lora") or settings.method.init == "pissa":
        what = "lora with pissa" if kind == "lora" else kind
        raise UsageError(f"{what} is not trained with weights that are shared out (fsdp); use full or lora")
    if settings.keep.l2sp is not None or settings.keep.ewc is not None:
        raise UsageError(
            "keep.l2sp and keep.ewc remember weights before they are shared out (fsdp); keep the whole model on each "
            "GPU, or use keep.kl"
        )


def is_sharded(tensor: Any) -> bool:
    """Whether this process has a part of the tensor only."""
    from torch.distributed.tensor import DTensor

    return isinstance(tensor, DTensor)


def whole(tensor: Any) -> Any:
    """The tensor with all its parts, on this process's device."""
    return tensor.full_tensor() if is_sharded(tensor) else tensor


def whole_weights(model: Any, *, keep: bool) -> dict[str, Any] | None:
    """The model's state by name, whole and in main memory; None where nothing is shared out. One tensor at a time is
    whole on a device. Without `keep` (processes that write nothing) it is gathered and let go, and empty."""
    state = model.state_dict(keep_vars=True)
    if not any(is_sharded(tensor) for tensor in state.values()):
        return None
    gathered: dict[int, Any] = {}  # a tied head is the embedding itself and must remain so
    found = {}
    for name, tensor in state.items():
        if id(tensor) not in gathered:
            full = whole(tensor.detach())
            gathered[id(tensor)] = full.cpu() if keep else None
        if keep:
            found[name] = gathered[id(tensor)]
    return found


def whole_optimizer(state: Mapping[str, Any], *, keep: bool) -> dict[str, Any]:
    """An optimizer's state_dict with whole tensors in main memory; empty without `keep`."""
    found: dict[Any, dict[str, Any]] = {}
    for parameter, values in state["state"].items():
        for name, value in values.items():
            full = whole(value)
            if keep:
                found.setdefault(parameter, {})[name] = full.cpu() if is_sharded(value) else full
    return {"state": found, "param_groups": state["param_groups"]}


def shard_like(value: Any, like: Any) -> Any:
    """This process's part of a whole tensor, as that of `like`; each process has the same `value`."""
    if not is_sharded(like):
        return value
    from torch.distributed.tensor import distribute_tensor

    device = like.to_local().device
    return distribute_tensor(value.to(device), like.device_mesh, like.placements, src_data_rank=None)


def shard_optimizer(state: Mapping[str, Any], optimizer: Any) -> dict[str, Any]:
    """What `whole_optimizer` gave, in the parts that the optimizer's parameters have."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    found = {
        number: {
            name: shard_like(value, parameters[number])
            if getattr(value, "shape", None) == parameters[number].shape
            else value
            for name, value in values.items()
        }
        for number, values in state["state"].items()
    }
    return {"state": found, "param_groups": state["param_groups"]}
