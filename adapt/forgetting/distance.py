"""Teacher's distribution and student's hidden states → KL(old ‖ new), place by place, without a matrix of all logits.

Keeping a model near to what it was by its outputs: Li & Hoiem 2016 (Learning without Forgetting, arXiv:1606.09282),
with the distances of Hinton et al. 2015 (arXiv:1503.02531). It knows no trainer and no file.
"""

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol

from adapt.forgetting.passing import PackedRow, grouped, packed_inputs
from retrieval.errors import UsageError

if TYPE_CHECKING:
    from torch import Tensor

LOGITS_AT_ONCE = 2**25
"""Logits that `kl` holds at once, as fp32 (128 MiB, and about three times that while a chunk is computed)."""
TEACHER_LOGITS_AT_ONCE = 2**28
"""Logits of a teacher's pass (1 GiB as fp32): rows go through it together up to so many."""


@dataclass(frozen=True)
class TopTargets:
    """The teacher's distribution at n places: its k likeliest tokens, and all others together as one bucket.

    ids         int64 [n, k], without repetition in a place
    logprobs    float [n, k], natural logarithm, at `temperature`
    rest        float [n], logarithm of what the other tokens have together; -inf where k is the whole vocabulary
    vocabulary  tokens that the teacher's distribution is over: ids below it. The student's logits are cut to them
    temperature that the logits were divided by
    """

    ids: "Tensor"
    logprobs: "Tensor"
    rest: "Tensor"
    vocabulary: int
    temperature: float = 1.0

    def __len__(self) -> int:
        return int(self.ids.shape[0])

    def at(self, places: "Tensor") -> "TopTargets":
        """Those of some places only: a bool mask [n] or indices."""
        return TopTargets(self.ids[places], self.logprobs[places], self.rest[places], self.vocabulary, self.temperature)

    def to(self, device: Any) -> "TopTargets":
        """The same on another device."""
        ids, logprobs, rest = (part.to(device, non_blocking=True) for part in (self.ids, self.logprobs, self.rest))
        return TopTargets(ids, logprobs, rest, self.vocabulary, self.temperature)


class Teacher(Protocol):
    """Who says what the older model thought. Either reads it (`stored_teacher`) or runs that model (`LiveTeacher`)."""

    def targets(self, numbers: Sequence[int], rows: Sequence[PackedRow]) -> TopTargets:
        """Targets of all places of these rows of the order, behind one another as in `passing.packed_inputs`.

        `numbers` are the rows' places in the order, `rows` what stands there.
        """
        ...


def kl(
    hidden: "Tensor",
    weight: "Tensor",
    targets: TopTargets,
    *,
    bias: "Tensor | None" = None,
    scale: float = 1.0,
    cap: float | None = None,
    factor: float = 1.0,
    reduction: Literal["mean", "sum"] = "mean",
    logits_at_once: int = LOGITS_AT_ONCE,
) -> "Tensor":
    """`factor` · KL(old ‖ new) in nats over n places: a scalar in fp32 with a gradient for hidden, weight and bias.

    hidden   [n, width], the student's last hidden states at any places, `targets` being of the same places (`at`)
    weight   [tokens, width] and `bias` [tokens] of the language-model head
    scale    of the logits (Cohere, Granite), and `cap` that they are bent to (Gemma 2): cap · tanh(scale · z / cap)

    What is compared is the k likeliest tokens and one bucket for the rest. That is exact for the coarsened
    distributions, and by the log-sum inequality never more than the full KL; with k = vocabulary it is the full KL. It
    is zero only where the student agrees on every one of the k tokens and on the sum of the others; about the rest of
    the tokens among themselves it says nothing.

    Where the student has more tokens than the teacher, its logits are cut to the teacher's tokens and normalised anew:
    nothing is said about how much it gives to new tokens, which the teacher cannot know.

    At a temperature T other than 1 the result is multiplied by T², so that its gradient keeps its size (Hinton et al.
    2015, section 2). `sum` is for a loss divided by the targets of the whole step: it needs no care about micro-batches
    with few such places or none, and each of them then weighs `factor` times its cross entropy.

    Logits are made for a chunk of places at a time and their gradient taken at once: that is softmax(new) - old, where
    old's rest is spread as the student spreads it. So nothing is computed twice, and weights that FSDP has gathered are
    needed in the forward pass only. Under autocast products are in its type, the softmax in fp32.
    """
    import torch

    if len(hidden) != len(targets):
        raise ValueError(f"{len(hidden)} places of the student, {len(targets)} of the teacher")
    if len(weight) < targets.vocabulary:
        raise UsageError(
            f"the teacher has {targets.vocabulary} tokens and the student only {len(weight)}; the older model must not "
            "have more, so name a teacher that this model was made from"
        )
    if reduction == "mean":
        factor = factor / max(1, len(hidden))
    device = hidden.device.type
    dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else weight.dtype
    shape = (scale, cap, factor * targets.temperature**2, dtype, max(1, logits_at_once // targets.vocabulary))
    with torch.autocast(device, enabled=False):
        return _divergence().apply(hidden, weight, bias, targets, shape)


@functools.cache
def _divergence() -> Any:
    """The autograd function; made at the first use, since torch is loaded no earlier."""
    import torch

    class Divergence(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, hidden: Any, weight: Any, bias: Any, targets: TopTargets, shape: Any) -> Any:
            scale, cap, factor, dtype, chunk = shape
            head = weight[: targets.vocabulary].to(dtype)
            shift = None if bias is None else bias[: targets.vocabulary].float()
            wanted = ctx.needs_input_grad[:3]
            grads = [torch.zeros_like(t) if w else None for t, w in zip((hidden, weight, bias), wanted, strict=True)]
            total = hidden.new_zeros((), dtype=torch.float32)
            for start in range(0, len(hidden), chunk):
                part = slice(start, start + chunk)
                states = hidden[part].to(dtype)
                values = (states @ head.T).float()
                if shift is not None:
                    values += shift
                values *= scale
                bent = None
                if cap is not None:
                    bent = torch.tanh(values / cap)
                    values = bent * cap
                slope = values.div_(targets.temperature)
                total += _coarse_kl(slope, targets.ids[part], targets.logprobs[part], targets.rest[part])
                if not any(wanted):
                    continue
                slope *= factor / targets.temperature * scale
                if bent is not None:
                    slope *= 1 - bent.square()
                if grads[2] is not None:
                    grads[2][: targets.vocabulary] += slope.sum(0)
                slope = slope.to(dtype)
                if grads[0] is not None:
                    grads[0][part] = slope @ head
                if grads[1] is not None:
                    grads[1][: targets.vocabulary] += slope.T @ states
            ctx.save_for_backward(*(grad for grad in grads if grad is not None))
            ctx.there = [grad is not None for grad in grads]
            return total * factor

        @staticmethod
        def backward(ctx: Any, upstream: Any) -> Any:
            saved = list(ctx.saved_tensors)
            return (*(saved.pop(0) * upstream if there else None for there in ctx.there), None, None)

    return Divergence


def _coarse_kl(logits: "Tensor", ids: "Tensor", logprobs: "Tensor", rest: "Tensor") -> "Tensor":
    """KL summed over places; `logits` [n, tokens], fp32, become its gradient in place."""
    import torch

    norm = logits.logsumexp(-1, keepdim=True)
    logprobs = logprobs.float()
    old, new = logprobs.exp(), logits.gather(-1, ids) - norm
    # Where the teacher gives nothing the term is 0, and 0 · inf must not make it NaN.
    total = torch.where(old > 0, old * (logprobs - new), 0.0).sum()
    if ids.shape[-1] == logits.shape[-1]:
        logits.sub_(norm).exp_().scatter_add_(-1, ids, -old)
        return total
    # The student's rest from its own logits, not as 1 - Σ new: in fp32 that loses every digit where the top has it all.
    teacher = logits.scatter(-1, ids, float("-inf"))
    others = teacher.logsumexp(-1, keepdim=True)
    left, mass = rest.float(), rest.float().exp()
    total += torch.where(mass > 0, mass * (left - (others - norm)[:, 0]), 0.0).sum()
    # softmax(new) - old, where old's rest is spread over the other tokens as the student spreads its own.
    teacher.sub_(others).exp_().mul_(mass[:, None]).scatter_(-1, ids, old)
    logits.sub_(norm).exp_().sub_(teacher)
    return total


def top_of(logits: "Tensor", *, top: int, vocabulary: int, temperature: float = 1.0) -> TopTargets:
    """What a teacher's logits [n, tokens] say, cut to the tokens below `vocabulary`, at `temperature`."""
    import torch

    with torch.no_grad():
        logits = logits[..., :vocabulary].float() / temperature
        norm = logits.logsumexp(-1)
        values, ids = logits.topk(min(top, logits.shape[-1]), dim=-1)
        if ids.shape[-1] < logits.shape[-1]:
            rest = logits.scatter(-1, ids, float("-inf")).logsumexp(-1) - norm
        else:
            rest = torch.full_like(norm, float("-inf"))
        return TopTargets(ids, values - norm[:, None], rest, logits.shape[-1], temperature)


class LiveTeacher:
    """The older model beside the student: costs its memory and a forward pass of every such row, and no disk.

    For rows that are read once, it is cheaper than writing them down; for several epochs, or where the memory is short,
    `stored_teacher.precompute` is. The model is put into evaluation mode and never trained.
    """

    def __init__(self, model: Any, *, top: int, old_vocabulary: int | None = None, temperature: float = 1.0) -> None:
        """`old_vocabulary`: tokens that the teacher's tokenizer has, where its matrix holds more rows than those."""
        self._model = model.eval().requires_grad_(False)
        rows = int(model.get_output_embeddings().weight.shape[0])
        self._vocabulary = min(rows, old_vocabulary or rows)
        self._top, self._temperature = top, temperature
        self._at_once = max(1, TEACHER_LOGITS_AT_ONCE // rows)

    def targets(self, numbers: Sequence[int], rows: Sequence[PackedRow]) -> TopTargets:
        """See `Teacher`; `numbers` are not looked at. Raises UsageError for a row with a token the teacher lacks."""
        import torch

        parts = [self._pass(group) for group in grouped(rows, self._at_once)]
        return TopTargets(
            torch.cat([part.ids for part in parts]),
            torch.cat([part.logprobs for part in parts]),
            torch.cat([part.rest for part in parts]),
            self._vocabulary,
            self._temperature,
        )

    def _pass(self, rows: list[PackedRow]) -> TopTargets:
        import torch

        for row in rows:
            if not aligns(row, self._vocabulary):
                raise UsageError(not_aligned(row, self._vocabulary))
        with torch.inference_mode():
            inputs, inside = packed_inputs(rows, self._model)
            logits = self._model(**inputs).logits[inside]
            found = top_of(logits, top=self._top, vocabulary=self._vocabulary, temperature=self._temperature)
        # Tensors made in inference mode may not be kept for a backward pass; the few that are left are copied.
        return TopTargets(
            found.ids.clone(), found.logprobs.clone(), found.rest.clone(), self._vocabulary, self._temperature
        )


def aligns(row: PackedRow, old_vocabulary: int) -> bool:
    """Whether teacher and student read this row alike: it holds none but the older tokenizer's tokens.

    An extended tokenizer cuts the same text into other pieces, so the two models' places do not match. Rows of the
    sources that `keep.kl.on` names are therefore packed with the older tokenizer (its tokens keep their ids in the
    extended one); all of them then align.
    """
    return not len(row.ids) or int(row.ids.max()) < old_vocabulary


def not_aligned(row: PackedRow, old_vocabulary: int, source: str | None = None) -> str:
    """Why such a row cannot be compared, for people."""
    where = f"a row of the source '{source}'" if source else "a row"
    return (
        f"{where} holds token {int(row.ids.max())}, and the older model knows only the {old_vocabulary} below "
        f"{old_vocabulary}; pack the sources of `keep.kl.on` with the older model's tokenizer"
    )
