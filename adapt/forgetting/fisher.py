"""A model and rows of the old task → how much each weight matters for it: the diagonal of the empirical Fisher.

Kirkpatrick et al. 2017 (arXiv:1612.00796); what "empirical" gives away: Kunstner et al. 2019 (arXiv:1905.12558).
It knows no training and no anchor.
"""

import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from adapt.forgetting.layers import trainable
from adapt.forgetting.passing import PackedRow, packed_inputs, predicting
from eval.runs.parts import Progress
from retrieval.errors import DamagedError, UsageError
from retrieval.storage.durable import sync_to_disk

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Fisher:
    """Importance of each trained weight by plain name, with mean 1 over all of them.

    `scale` is what the mean was before (nats² per token and unit of weight²): values · scale is the raw Fisher.
    """

    values: "Mapping[str, Tensor]"
    scale: float
    tokens: int
    rows: int


def fisher(model: Any, rows: Iterable[PackedRow], *, tokens: int, progress: Progress) -> Fisher:
    """Read rows until they had `tokens` tokens; F = Σ over rows (∇ Σ over the row's places of log p)² / tokens read.

    One backward pass a row. Under the model's own distribution the gradients of a text's tokens are uncorrelated (each
    has expectation zero given the tokens before it), so the square of their sum has the same expectation as the sum of
    their squares: F is per token, and long rows are as good as short ones. Documents in a row do not see each other.

    Normalised to mean 1 over all trained weights, so that EWC's `weight` is on the scale of L2-SP's (which is EWC with
    F = 1 everywhere) and means the same for models of every size, and whatever the model's loss on that text is: raw
    means differ by orders of magnitude (1e-4 for SmolLM2-135M on wikitext, 2e-10 for a tiny model that has learnt its
    text by heart; see `scale`). Of SmolLM2's weights, half have less than 0.03, nine in ten less than 0.3, one in a
    thousand more than 48; the gains of norms matter most.

    Weights that are frozen are left out. The model's mode and its gradients (none) are as before. One process; memory:
    gradients and F in fp32. Raises UsageError where no row predicts anything.
    """
    import torch
    from torch.nn import functional

    parameters = dict(trainable(model))
    sums = {name: torch.zeros_like(parameter, dtype=torch.float32) for name, parameter in parameters.items()}
    training = model.training
    model.eval()
    seen = read = predicted = 0
    try:
        for row in rows:
            places = predicting([row], model.device)
            if not bool(places.any()):
                continue
            progress("measuring which weights matter", min(seen, tokens), tokens)
            inputs, _ = packed_inputs([row], model)
            with torch.enable_grad():
                model.zero_grad(set_to_none=True)
                logits = model(**inputs).logits[0][places]
                following = inputs["input_ids"][0].roll(-1)[places]
                functional.cross_entropy(logits.float(), following, reduction="sum").backward()
            for name, parameter in parameters.items():
                if parameter.grad is not None:
                    sums[name].addcmul_(parameter.grad.float(), parameter.grad.float())
            seen += len(row.ids)
            predicted += int(places.sum())
            read += 1
            if seen >= tokens:
                break
    finally:
        model.zero_grad(set_to_none=True)
        model.train(training)
    count = sum(total.numel() for total in sums.values())
    scale = sum(float(total.sum(dtype=torch.float64)) for total in sums.values()) / max(1, count) / max(1, predicted)
    if not predicted or not scale > 0 or scale == float("inf"):
        raise UsageError(
            f"which weights matter could not be told from {read} rows with {predicted} predicted tokens (mean square "
            f"{scale}); name a source with text for `keep.ewc.on`"
        )
    for total in sums.values():
        total.div_(scale * predicted)
    progress("measuring which weights matter", tokens, tokens)
    return Fisher(sums, scale, predicted, read)


def save_fisher(found: Fisher, file: Path, *, of: str = "") -> None:
    """Write as safetensors in bf16 (a ratio of 0.4 % says nothing about importance), whole or not at all.

    `of` names what it was measured of (hashes of model and text), for `load_fisher` to compare.
    """
    import torch
    from safetensors.torch import save_file

    facts = {"scale": found.scale, "tokens": found.tokens, "rows": found.rows, "of": of}
    temporary = file.with_name(f".{file.name}.new")
    try:
        tensors = {name: value.to(torch.bfloat16).cpu().contiguous() for name, value in found.values.items()}
        save_file(tensors, str(temporary), metadata={"fisher": json.dumps(facts)})
        sync_to_disk(temporary)
        os.replace(temporary, file)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise
    sync_to_disk(file.parent)


def load_fisher(file: Path, *, of: str = "") -> Fisher:
    """What `save_fisher` wrote. Raises DamagedError where it is not, or is of something else."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(str(file), framework="pt") as opened:
            facts = json.loads((opened.metadata() or {})["fisher"])
            values = {name: opened.get_tensor(name) for name in opened.keys()}
        found = Fisher(values, float(facts["scale"]), int(facts["tokens"]), int(facts["rows"]))
    except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
        raise DamagedError(f"{file} cannot be read ({error}); remove it and it is measured again") from error
    if of and facts.get("of") != of:
        raise DamagedError(f"{file} was measured of another model or text; remove it and it is measured again")
    return found
