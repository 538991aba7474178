"""Weights as they were → a pull back to them, added to the gradients: L2-SP and EWC, at no cost of a forward pass.

L2-SP (Li et al. 2018, arXiv:1802.01483) pulls every weight alike, EWC (Kirkpatrick et al. 2017, arXiv:1612.00796) each
by what it matters for the old task (`fisher`). It knows no loss and no data.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from adapt.forgetting.layers import plain_name, trainable, unwrapped
from retrieval.errors import UsageError

if TYPE_CHECKING:
    from torch import Tensor

_UNSUITED = {
    "lora_magnitude_vector": "DoRA, whose update is no product of two matrices",
    "trainable_tokens_delta": "`trainable_token_indices`",
    "lora_embedding_A": "LoRA on the embedding",
    "lora_embedding_B": "LoRA on the embedding",
}


@dataclass(frozen=True)
class _Anchor:
    """Of one parameter (with FSDP of this process's shard): where its first rows were and how much each matters."""

    old: "Tensor"
    importance: "Tensor | None"
    replicas: int
    """Processes that hold this same shard."""


class Anchors:
    """Adds w · (θ - θ₀) for L2-SP, w · F · (θ - θ₀) for EWC, or the sum of both, to the gradients of what is trained.

    That is the gradient of ½ w ‖θ - θ₀‖² and ½ w Σ F (θ - θ₀)². It is added once in a step of the optimizer, so it
    costs one pass over the weights instead of a graph in every forward pass. Add it after clipping: clipping is against
    spikes of the loss, and a few weights have so large an F (3 million times the mean in SmolLM2-135M) that their pull
    alone would be the norm, and the loss's gradient would be scaled away with it. (A tiny model with such weights,
    AdamW, clip 1, w 10, 60 steps: pulled before clipping, the norm is 770 on average and the new task's loss falls from
    6.3 to 3.04; pulled after it, to 1.82, as without such weights.)

    Memory: θ₀ of every trained weight. In bf16 (2 bytes) where that is exact, as it is for a model published in bf16;
    otherwise in the weight's own precision: rounding 0.03 to bf16 moves it by up to 6e-5, which is what a step at a
    learning rate of 6e-5 moves it, so a rounded anchor would pull to a place the model never was. EWC keeps the Fisher
    in bf16 (2 bytes), where 0.4 % is of no matter.

    With Adam the pull is divided, like every gradient, by the running size of the gradients: `weight` competes with the
    loss's gradient, not with the learning rate. Decoupled weight decay pulls to zero at the same time; Li et al.
    replace it by L2-SP, so set `weight_decay: 0` with it.

    FSDP2: parameters are DTensors and each process keeps and pulls its own shard, which is exact since the pull of a
    weight depends on no other weight; make the anchors after sharding. DDP: nothing special. DeepSpeed ZeRO hides
    gradients: not supported. In precision bf16 the sharded weights are fp32, as gradients are.

    Resume: make the anchors from the model that the stage begins with, then load the checkpoint's weights. The same
    with `expansion`: its new layers shift the names of those above, so `before` by name would be of other layers.

    LoRA: the old weights are frozen and what moves is the update s·B·A, which begins at zero, so L2-SP pulls that:
    the gradient of ½ w ‖s·B·A‖², by r x r matrices and without ever making B·A. Parameters trained beside an adapter in
    full (`modules_to_save`, biases) are pulled as usual. EWC is refused there: F is of single old weights, and weighing
    B·A by it needs the whole matrix B·A and F of every layer at every step.
    """

    def __init__(
        self,
        model: Any,
        *,
        l2sp: float | None = None,
        ewc: float | None = None,
        fisher: Mapping[str, "Tensor"] | None = None,
        before: Mapping[str, "Tensor"] | None = None,
    ) -> None:
        """`l2sp` and `ewc` are weights; None leaves that one out. `before` has θ₀ by plain name, whole and unsharded;
        None is the model as it is now. Where a parameter has more rows than its anchor (a vocabulary that has grown),
        the rows at its end are new and free. `fisher` is what `fisher.fisher` made, whole and unsharded.

        Raises UsageError: EWC without a Fisher or with an adapter, an adapter whose update is not s·B·A, a parameter
        without an anchor, or one of another shape.
        """
        for name, weight in (("l2sp", l2sp), ("ewc", ewc)):
            if weight is not None and not weight > 0:
                raise UsageError(f"`keep.{name}.weight` is {weight}; it must be above 0, or leave `{name}` out")
        if ewc is not None and fisher is None:
            raise UsageError("EWC needs the Fisher information of the old task; measure it first (`fisher.fisher`)")
        self._l2sp, self._ewc = l2sp or 0.0, ewc or 0.0
        self._adapter = hasattr(unwrapped(model), "peft_config")
        if self._adapter and ewc is not None:
            raise UsageError(
                "`keep.ewc` works with `method: full` only: with an adapter no old weight is trained, and what it adds "
                "to them is one matrix product; use `keep.l2sp` or `keep.kl` beside an adapter"
            )
        if self._adapter:
            _judge_adapter(unwrapped(model))
        self._anchors = {
            name: _anchor(name, parameter, fisher if ewc is not None else None, before)
            for name, parameter in self._plain(model)
        }

    def add_gradients(self, model: Any) -> float:
        """p.grad += the pull, for every trained parameter that has a gradient; one without is frozen in this step.

        Returns the penalty ½ w Σ (θ - θ₀)² + ½ w Σ F (θ - θ₀)², the whole model's with FSDP too (one number is summed
        over the processes, which must all call this). Raises UsageError for a parameter that was not there at first.
        """
        import torch

        with torch.no_grad():
            own: list[Tensor] = []
            shared: list[Tensor] = []
            for name, parameter in self._plain(model):
                anchor = self._anchors.get(name)
                if anchor is None:
                    raise UsageError(f"'{name}' is trained now and was not when its anchor would have been kept")
                if parameter.grad is not None:
                    (shared if _is_sharded(parameter) else own).append(self._pull(parameter, anchor))
            for lora_a, lora_b, scale in _low_rank(model) if self._adapter and self._l2sp else ():
                penalty = _pull_product(lora_a, lora_b, self._l2sp * scale * scale)
                (shared if _is_sharded(lora_a) else own).append(penalty)
            total = float(torch.stack(own).sum()) if own else 0.0
            if shared:
                over_all = torch.stack(shared).sum()
                torch.distributed.all_reduce(over_all)
                total += float(over_all)
        return total

    def _plain(self, model: Any) -> "Iterator[tuple[str, Tensor]]":
        """All that is pulled weight by weight."""
        for name, parameter in trainable(model):
            if not (self._adapter and (".lora_A." in name or ".lora_B." in name)):
                yield name, parameter

    def _pull(self, parameter: "Tensor", anchor: _Anchor) -> "Tensor":
        rows = slice(0, len(anchor.old)) if anchor.old.ndim else ()
        moved = _local(parameter)[rows].float() - anchor.old.float()
        force = moved * self._l2sp
        if anchor.importance is not None:
            force += (moved * anchor.importance) * self._ewc
        _local(parameter.grad)[rows].add_(force)
        return 0.5 * (moved * force).sum() / anchor.replicas


def _anchor(
    name: str,
    parameter: "Tensor",
    fisher: Mapping[str, "Tensor"] | None,
    before: Mapping[str, "Tensor"] | None,
) -> _Anchor:
    import torch

    if before is None:
        old = _local(parameter).detach().clone()
    else:
        if name not in before:
            raise UsageError(f"the older weights have no '{name}', which is trained; they are of another model")
        old = _rows_of(name, parameter, before[name])
    importance = None
    if fisher is not None:
        if name not in fisher:
            raise UsageError(
                f"the Fisher information has no '{name}', which is trained; it was measured with other weights frozen "
                "or of another model, so measure it again"
            )
        importance = _rows_of(name, parameter, fisher[name]).to(torch.bfloat16)
        if old.ndim:  # rows beyond either are new: free
            rows = min(len(importance), len(old))
            old, importance = old[:rows], importance[:rows]
    rounded = old.to(torch.bfloat16)
    if torch.equal(rounded.to(old.dtype), old):
        old = rounded
    return _Anchor(old.contiguous(), importance, _replicas(parameter))


def _rows_of(name: str, parameter: "Tensor", whole: "Tensor") -> "Tensor":
    """The first rows of the parameter's local shard that `whole` speaks of, on the parameter's device."""
    import torch

    if (
        whole.ndim != parameter.ndim
        or whole.shape[1:] != parameter.shape[1:]
        or (whole.ndim and len(whole) > len(parameter))
    ):
        raise UsageError(
            f"'{name}' was {tuple(whole.shape)} and is {tuple(parameter.shape)} now; only rows may have been added"
        )
    whole = whole.detach().to(_local(parameter).device)
    if not _is_sharded(parameter):
        return whole.clone()
    from torch.distributed.tensor import Replicate, Shard, distribute_tensor
    from torch.distributed.tensor._utils import compute_local_shape_and_global_offset

    placements = parameter.placements  # type: ignore[attr-defined]
    if any(type(place) not in (Replicate, Shard) or (place.is_shard() and place.dim != 0) for place in placements):
        raise UsageError(f"'{name}' is sharded as {placements}; anchors know shards of rows only (FSDP)")
    padded = torch.zeros(parameter.shape, dtype=whole.dtype, device=whole.device)
    padded[: len(whole)] = whole
    mesh = parameter.device_mesh  # type: ignore[attr-defined]
    # Every process has the whole tensor: none is sent.
    local = distribute_tensor(padded, mesh, placements, src_data_rank=None).to_local()
    _, offset = compute_local_shape_and_global_offset(parameter.shape, mesh, placements)
    return local[: max(0, len(whole) - offset[0])].clone()


def _is_sharded(tensor: "Tensor") -> bool:
    return hasattr(tensor, "to_local")


def _local(tensor: Any) -> "Tensor":
    """This process's part of it, sharing its memory."""
    return tensor.to_local() if _is_sharded(tensor) else tensor


def _replicas(parameter: Any) -> int:
    """Processes that hold the same values: with hybrid sharding each shard is there more than once."""
    if not _is_sharded(parameter):
        return 1
    mesh = parameter.device_mesh
    count = 1
    for dimension, place in enumerate(parameter.placements):
        count *= mesh.size(dimension) if place.is_replicate() else 1
    return count


# --- adapters --------------------------------------------------------------------------------------------------------


def _judge_adapter(model: Any) -> None:
    """Raises UsageError where the adapter's update is not s·B·A, beginning at zero."""
    for name, config in model.peft_config.items():
        kind = str(getattr(config.peft_type, "value", config.peft_type))
        if kind != "LORA":
            raise UsageError(f"`keep.l2sp` knows LoRA and full training; the adapter '{name}' is {kind}")
        if config.init_lora_weights not in (True, "gaussian"):
            raise UsageError(
                f"`keep.l2sp` needs a LoRA that begins at zero; with init_lora_weights={config.init_lora_weights!r} "
                "the old weights are changed before training begins"
            )
    for name, _ in trainable(model):
        unsuited = next((words for part, words in _UNSUITED.items() if part in name), None)
        if unsuited:
            raise UsageError(f"`keep.l2sp` does not know {unsuited} ('{plain_name(name)}'); leave one of the two out")


def _low_rank(model: Any) -> "Iterator[tuple[Tensor, Tensor, float]]":
    """(A [r, in], B [out, r], scale) of every LoRA layer whose adapter is trained."""
    for module in model.modules():
        scaling = getattr(module, "scaling", None)
        if not isinstance(scaling, dict) or not hasattr(module, "lora_A"):
            continue
        for adapter, lora_a in module.lora_A.items():
            lora_b = module.lora_B[adapter]
            if lora_a.weight.requires_grad and lora_a.weight.grad is not None and lora_b.weight.grad is not None:
                yield lora_a.weight, lora_b.weight, float(scaling[adapter])


def _pull_product(lora_a: Any, lora_b: Any, weight: float) -> "Tensor":
    """Add the gradient of ½ weight ‖B·A‖²: BᵀB·A to A's and B·AAᵀ to B's. Returns this process's part of the penalty.

    ‖B·A‖² = trace(BᵀB · AAᵀ), so nothing larger than A and B is made. With FSDP the two are gathered: they are small.
    """
    a, b = (part.full_tensor().float() if _is_sharded(part) else part.float() for part in (lora_a, lora_b))
    if a.ndim != 2 or b.ndim != 2:
        raise UsageError("`keep.l2sp` knows LoRA on linear layers; leave convolutions out of `method.targets`")
    bb, aa = b.T @ b, a @ a.T
    for parameter, gradient in ((lora_a, weight * (bb @ a)), (lora_b, weight * (b @ aa))):
        if _is_sharded(parameter):
            from torch.distributed.tensor import distribute_tensor

            mesh, placements = parameter.device_mesh, parameter.placements
            gradient = distribute_tensor(gradient, mesh, placements, src_data_rank=None).to_local()
        _local(parameter.grad).add_(gradient)
    processes = lora_a.device_mesh.size() if _is_sharded(lora_a) else 1
    return 0.5 * weight * (bb * aa).sum() / processes
