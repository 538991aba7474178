"""Hidden states and the head's weights → the summed cross-entropy and its gradients, without ever holding the logits
of all places; and a model whose forward pass ends in that.

Logits of SmolLM2 for 4,096 places are 805 MB in fp32. Here some of the places are turned into logits at a time and
their gradients taken at once (Liger Kernel, Hsu et al. 2024, arXiv:2410.10989), so nothing is computed twice, where
checkpointing the chunks (and TRL's fused head) multiplies by the head once more.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from adapt.training.rows import IGNORED

CHUNK = 256
"""Places that have logits at once. With SmolLM2-135M in bf16 on an AVX-512 core, a step had 158, 242, 245 and 208
tokens a CPU second with 64, 128, 256 and 512."""
GPU_CHUNK = 4096
"""The same on a GPU, where small products leave most of it idle."""


@dataclass(frozen=True)
class Logits:
    """What a model does to the product with its head: `scale` it, and bend it to ±`cap` (Gemma 2)."""

    scale: float = 1.0
    cap: float | None = None

    @classmethod
    def of(cls, config: Any) -> "Logits":
        """By the names that transformers' models use (Cohere, Granite, Falcon-H1, Gemma)."""
        text = config.get_text_config()
        scale = getattr(text, "logit_scale", None) or getattr(text, "lm_head_multiplier", None) or 1.0
        if getattr(text, "logits_scaling", None):
            scale = 1 / float(text.logits_scaling)
        return cls(float(scale), getattr(text, "final_logit_softcapping", None))


class _LinearCrossEntropy(torch.autograd.Function):
    """Sum over places of −ln softmax(hidden · weightᵀ + bias)[target], times `factor`."""

    @staticmethod
    def forward(ctx: Any, hidden: Any, weight: Any, bias: Any, targets: Any, factor: Any, logits: Logits, dtype: Any):  # type: ignore[no-untyped-def]  # noqa: E501
        wants_hidden, wants_weight, wants_bias = ctx.needs_input_grad[:3]
        narrow = weight.to(dtype)
        grad_hidden = torch.empty_like(hidden) if wants_hidden else None
        # In fp32 whatever the weights are in: chunks are many, and small sums are lost in bf16.
        wide = torch.promote_types(weight.dtype, torch.float32)
        grad_weight = torch.zeros_like(weight, dtype=wide) if wants_weight else None
        grad_bias = torch.zeros_like(bias) if wants_bias and bias is not None else None
        total = hidden.new_zeros((), dtype=torch.float32)
        chunk = CHUNK if hidden.device.type == "cpu" else GPU_CHUNK
        for first in range(0, len(hidden), chunk):
            part = hidden[first : first + chunk].to(dtype)
            wanted = targets[first : first + chunk]
            values = (part @ narrow.T).float()
            if bias is not None:
                values += bias
            if logits.scale != 1.0:
                values *= logits.scale
            bent = None
            if logits.cap is not None:
                bent = torch.tanh(values / logits.cap)
                values = bent * logits.cap
            reach = torch.logsumexp(values, -1, keepdim=True)
            total += (reach.squeeze(-1) - values.gather(-1, wanted[:, None]).squeeze(-1)).sum()
            if not (wants_hidden or wants_weight):
                continue
            slope = values.sub_(reach).exp_()  # softmax
            slope.scatter_add_(-1, wanted[:, None], slope.new_full((len(wanted), 1), -1.0))
            if bent is not None:
                slope *= 1 - bent.square()
            slope *= factor * logits.scale
            if grad_bias is not None:
                grad_bias += slope.sum(0)
            slope = slope.to(dtype)
            if grad_hidden is not None:
                grad_hidden[first : first + chunk] = slope @ narrow
            if grad_weight is not None and dtype == grad_weight.dtype:
                grad_weight.addmm_(slope.T, part)
            elif grad_weight is not None:
                grad_weight += slope.T @ part
        ctx.save_for_backward(*(grad for grad in (grad_hidden, grad_weight, grad_bias) if grad is not None))
        ctx.dtypes = [hidden.dtype, weight.dtype, None if bias is None else bias.dtype]
        ctx.which = tuple(grad is not None for grad in (grad_hidden, grad_weight, grad_bias))
        return total * factor

    @staticmethod
    def backward(ctx: Any, upstream: Any) -> Any:  # type: ignore[override]
        saved = list(ctx.saved_tensors)
        grads = [
            (saved.pop(0) * upstream.to(torch.float32)).to(dtype) if there else None
            for there, dtype in zip(ctx.which, ctx.dtypes, strict=True)
        ]
        return (*grads, None, None, None, None)


def linear_cross_entropy(
    hidden: torch.Tensor,
    weight: torch.Tensor,
    targets: torch.Tensor,
    *,
    bias: torch.Tensor | None = None,
    factor: float = 1.0,
    logits: Logits | None = None,
) -> torch.Tensor:
    """`factor` times the cross-entropy in nats, summed over places.

    hidden (n × width), weight (vocabulary × width), targets (n, all of them tokens) → a scalar in fp32 with a gradient
    for hidden, weight and bias. Under autocast the products are in its type and the softmax in fp32, as with
    transformers' own loss.
    """
    device = hidden.device.type
    dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else weight.dtype
    with torch.autocast(device, enabled=False):
        return _LinearCrossEntropy.apply(hidden, weight, bias, targets, factor, logits or Logits(), dtype)  # type: ignore[no-untyped-call]


def attach(model: Any) -> Callable[[], None]:
    """Let a causal language model of transformers answer `targets` with losses instead of logits; returns what undoes
    it. Inside the forward pass, since DDP and FSDP have the weights together only there.

    The call then takes input_ids, position_ids and whatever else the backbone does, with targets (rows × length),
    `factor`, and optionally `kept` (rows × length, bool) and `teacher` (TopTargets of the kept places that have a
    target, in their order; see adapt/forgetting/distance.py). It returns {"loss", "kl"}: `factor` times the sum over
    places of the cross-entropy, and of KL(teacher ‖ model), both scalars in fp32.
    """
    plain = model.forward
    shape = Logits.of(model.config)

    def forward(
        input_ids: Any = None,
        *,
        targets: Any = None,
        factor: float = 1.0,
        kept: Any = None,
        teacher: Any = None,
        **options: Any,
    ) -> Any:
        if targets is None:
            return plain(input_ids=input_ids, **options)
        told = {key: value for key, value in options.items() if value is not None}
        told = {key: value for key, value in told.items() if key not in ("labels", "return_dict", "use_cache")}
        hidden = model.base_model(input_ids=input_ids, use_cache=False, **told).last_hidden_state
        hidden = hidden[:, -targets.shape[1] :]  # virtual tokens stand before the text and have nothing to predict
        head = model.get_output_embeddings()
        here = targets != IGNORED
        places = hidden[here]
        loss = linear_cross_entropy(
            places, head.weight, targets[here], bias=getattr(head, "bias", None), factor=factor, logits=shape
        )
        if not len(places):  # nothing to learn here, yet every weight must have a gradient for DDP
            loss = loss + hidden.float().sum() * 0.0
        kl = loss.new_zeros(())
        if teacher is not None:
            from adapt.forgetting.distance import kl as divergence

            kl = divergence(
                hidden[here & kept],
                head.weight,
                teacher,
                bias=getattr(head, "bias", None),
                scale=shape.scale,
                cap=shape.cap,
                factor=factor,
                reduction="sum",
            )
        return {"loss": loss, "kl": kl}

    model.forward = forward

    def undo() -> None:
        del model.forward

    return undo
