"""What stops a training before it does harm: a loss or gradient that is no number, a loss that explodes, and, before
the first step, documents that see each other and token numbers the model has no row for."""

import math
import statistics
from collections import deque
from collections.abc import Iterable
from typing import Any

import numpy as np

from retrieval.errors import DamagedError, FathomError, UsageError

WINDOW = 50
"""Steps whose median loss is what is usual."""
FEWEST = 20
"""Steps before anything is called unusual."""
TIMES, NATS, PATIENCE = 1.5, 1.0, 3
"""Exploding: over so many times the median and so many nats above it, in so many steps on end."""
TOLERANCE = {"fp32": 1e-4, "bf16": 0.05}
"""Nats a token by which the same documents may cost more or less packed than alone. In bf16 sums are rounded in another
order; documents that see each other differed by 0.3 and more with SmolLM2."""


class TrainingFailed(FathomError):
    """The training cannot go on; what was learned up to the last checkpoint is kept."""


class LossGuard:
    """Looks at each step before the weights are changed."""

    def __init__(self, losses: Iterable[float] = ()) -> None:
        self._usual = deque(losses, maxlen=WINDOW)
        self.suspicious = 0
        """Steps on end whose loss was far too high: their weights are no good checkpoint."""

    def check(self, step: int, loss: float, gradient: float, lr: float) -> None:
        """`loss` in nats per token, `gradient` the norm before clipping. Raises TrainingFailed."""
        if not (math.isfinite(loss) and math.isfinite(gradient)):
            what = "loss" if not math.isfinite(loss) else "gradient"
            raise TrainingFailed(
                f"the {what} of step {step} is no number (loss {loss:.3g}, gradient {gradient:.3g}) at a learning rate "
                f"of {lr:.2g}; the last checkpoint is kept; set a lower lr.peak, a longer lr.warm_up or precision fp32 "
                "and train again"
            )
        usual = statistics.median(self._usual) if len(self._usual) >= FEWEST else math.inf
        if loss > max(TIMES * usual, usual + NATS):
            self.suspicious += 1
            if self.suspicious >= PATIENCE:
                raise TrainingFailed(
                    f"the loss explodes: {loss:.3f} nats per token at step {step}, where {usual:.3f} was usual, at a "
                    f"learning rate of {lr:.2g}; the last checkpoint is from before; set a lower lr.peak or a lower "
                    "clip and train again"
                )
            return
        self.suspicious = 0
        self._usual.append(loss)


def require_rows(model: Any, tokenizer: Any, order: Any, *, look_at: int = 64) -> None:
    """The tokenizer and the rows' token numbers must fit the model's embedding. Raises UsageError, DamagedError."""
    rows = int(model.get_input_embeddings().weight.shape[0])
    if len(tokenizer) > rows:
        raise UsageError(
            f"the tokenizer knows {len(tokenizer)} tokens and the model has rows for {rows}; the folder's tokenizer "
            "belongs to another model: put its own there, or extend the vocabulary with the stage 'vocabulary'"
        )
    for number in {*range(min(look_at, len(order))), *range(0, len(order), max(1, len(order) // look_at))}:
        ids = np.asarray(order.row(number).ids)
        if len(ids) and (int(ids.max()) >= rows or int(ids.min()) < 0):
            raise DamagedError(
                f"row {number} of the order has token {int(ids.max())}, and the model has rows for {rows}; the order "
                "was packed with another tokenizer: remove it and run the recipe again"
            )


def require_separate_documents(model: Any, order: Any, collate: Any, *, precision: str, device: Any) -> float:
    """Two documents packed into one row must cost what they cost alone, and our loss must be the model's own.

    Returns the difference in nats per token. `model` is one that `adapt.training.loss.attach` was called on. Raises
    UsageError: such a model or attention would mix documents up, or bends its logits in a way that is not known here.
    """
    import torch

    from adapt.training.rows import IGNORED

    first, second = _two_documents(order)
    was_training = model.training
    model.eval()
    for module in model.modules():
        if type(module).__name__ == "Linear4bit":
            # In evaluation on a CPU, bitsandbytes 0.50 packs the weights anew for good, and its backward pass then
            # reads them wrongly: gradients of a tiny model were a fifth of what they are.
            module.train()
    autocast = torch.autocast(torch.device(device).type, torch.bfloat16, enabled=precision == "bf16")

    def batch(pieces: list[np.ndarray]) -> dict[str, Any]:
        made = collate([(0, _Row(np.concatenate(pieces), np.array([len(piece) for piece in pieces]), 0))])
        return {
            key: value.to(device) if hasattr(value, "to") else value
            for key, value in made.items()
            if key not in ("rows", "sources")
        }

    def cost(pieces: list[np.ndarray]) -> float:
        return float(model(**batch(pieces))["loss"])

    try:
        with torch.no_grad(), autocast:
            places = len(first) + len(second) - 2
            apart = (cost([first]) + cost([second])) / places
            packed = cost([first, second]) / places
            inputs = batch([first])
            targets = inputs.pop("targets")
            logits = model(**inputs).logits.float()
            own = float(torch.nn.functional.cross_entropy(logits[0], targets[0], ignore_index=IGNORED))
            ours = cost([first]) / (len(first) - 1)
    finally:
        model.train(was_training)
    allowed = TOLERANCE[precision]
    if not abs(packed - apart) <= allowed:
        raise UsageError(
            f"documents packed into one row see each other in this model (loss {packed:.4f} packed, {apart:.4f} "
            "apart); it cannot be trained on packed rows; choose another attention (trainer: model_init_kwargs: "
            "attn_implementation: sdpa) or another base"
        )
    if not abs(ours - own) <= allowed:
        raise UsageError(
            f"this model's loss is {own:.4f} and comes out here as {ours:.4f}: it changes its logits in a way that is "
            "not known here, so it cannot be trained; choose another base"
        )
    return abs(packed - apart)


class _Row:
    def __init__(self, ids: np.ndarray, pieces: np.ndarray, source: int) -> None:
        self.ids, self.pieces, self.source, self.learned = ids, pieces, source, None


def _two_documents(order: Any, length: int = 48) -> tuple[np.ndarray, np.ndarray]:
    """Beginnings of two parts of the first rows."""
    found = []
    for number in range(min(len(order), 32)):
        ids = np.asarray(order.row(number).ids)
        if len(ids) >= 4:
            found.append(ids[:length])
        if len(found) == 2:
            break
    if not found:
        raise UsageError("the first rows hold fewer than 4 tokens each; there is nothing in them to learn from")
    if len(found) == 1:  # a single row: its two halves
        half = len(found[0]) // 2
        return found[0][:half], found[0][half:]
    return found[0], found[1]
