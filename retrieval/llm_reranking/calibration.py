"""Judged pairs and what a model thought of them → two numbers that turn its logits into probabilities, kept as JSON
beside the adapter. It knows no engine."""

import json
import math
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from retrieval.errors import DamagedError, FathomError, UsageError
from retrieval.llm_reranking.judging import JUDGE_VERSION
from retrieval.llm_reranking.outcome import sigmoid

FILE = "calibration.json"
FEWEST = 20
"""Judged pairs of each kind below which two numbers say more about chance than about the model."""
_MOST_BYTES = 10_000
_STEPS = 100


@dataclass(frozen=True, slots=True)
class Platt:
    """P(relevant) = sigmoid(slope · logit + offset), logit = ln P(yes) - ln P(no) (Platt 1999).

    `pairs` is how many it was fitted on; `share` of them were relevant: probabilities hold where such a share is, and
    are too high where fewer passages are relevant; a threshold means the same for every query in any case.
    """

    slope: float
    offset: float
    pairs: int = 0
    share: float = 0.5
    prompt_version: str = JUDGE_VERSION

    def __call__(self, logit: float) -> float:
        return sigmoid(self.slope * logit + self.offset)


def fit_platt(logits: Sequence[float], relevant: Sequence[bool]) -> Platt:
    """The two numbers of greatest likelihood, by Newton's method with targets drawn in from 0 and 1, which keeps them
    finite where a line parts the two kinds (Lin, Lin & Weng 2007).

    Raises UsageError for fewer than FEWEST pairs of a kind, FathomError where relevant pairs do not have the higher
    logits: such a model must not reorder anything.
    """
    yes, no = sum(relevant), len(relevant) - sum(relevant)
    if min(yes, no) < FEWEST:
        raise UsageError(f"{yes} relevant and {no} other judged pairs; calibration needs {FEWEST} of each, at least")
    targets = [(yes + 1) / (yes + 2) if one else 1 / (no + 2) for one in relevant]
    slope, offset = 1.0, math.log(yes / no)
    loss = _loss(slope, offset, logits, targets)
    for _ in range(_STEPS):
        told = [sigmoid(slope * logit + offset) for logit in logits]
        errors = [p - target for p, target in zip(told, targets, strict=True)]
        weights = [p * (1 - p) for p in told]
        g1, g2 = sum(e * x for e, x in zip(errors, logits, strict=True)), sum(errors)
        h11 = sum(w * x * x for w, x in zip(weights, logits, strict=True)) + 1e-9
        h12 = sum(w * x for w, x in zip(weights, logits, strict=True))
        h22 = sum(weights) + 1e-9
        determinant = h11 * h22 - h12 * h12
        if max(abs(g1), abs(g2)) < 1e-6 or determinant <= 0:
            break
        d1, d2 = (h22 * g1 - h12 * g2) / determinant, (h11 * g2 - h12 * g1) / determinant
        step = 1.0
        while step > 1e-6:
            nearer = _loss(slope - step * d1, offset - step * d2, logits, targets)
            if nearer < loss:
                break
            step /= 2
        else:
            break
        slope, offset, loss = slope - step * d1, offset - step * d2, nearer
    if not slope > 0 or not math.isfinite(offset):
        raise FathomError(
            f"the model thinks no better of relevant passages than of others (slope {slope:.3f} over {yes + no:,} "
            "pairs); train it before it reranks"
        )
    return Platt(slope, offset, yes + no, yes / (yes + no))


def _loss(slope: float, offset: float, logits: Sequence[float], targets: Sequence[float]) -> float:
    total = 0.0
    for logit, target in zip(logits, targets, strict=True):
        z = slope * logit + offset
        total += max(z, 0.0) + math.log1p(math.exp(-abs(z))) - target * z
    return total


def write_calibration(folder: Path, found: Platt) -> Path:
    """Keep it beside an adapter, whole or not at all. Raises FathomError."""
    from retrieval.storage.durable import sync_to_disk

    file = folder / FILE
    new = folder / f".{FILE}.{os.getpid()}.new"
    try:
        new.write_text(json.dumps(asdict(found), indent=1) + "\n", "utf-8")
        sync_to_disk(new)
        os.replace(new, file)
        sync_to_disk(folder)
    except OSError as error:
        new.unlink(missing_ok=True)
        raise FathomError(f"'{file}' cannot be written ({error.strerror or error}); name another folder") from error
    return file


def read_calibration(folder: Path) -> Platt | None:
    """What is kept beside an adapter; None where there is none. Raises DamagedError for what is no calibration,
    UsageError for one of another prompt."""
    file = folder / FILE
    try:
        if file.stat().st_size > _MOST_BYTES:
            raise DamagedError(f"{file} is no calibration ({file.stat().st_size:,} bytes); remove it")
        row: Any = json.loads(file.read_text("utf-8"))
        found = Platt(**row)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError, RecursionError) as error:
        raise DamagedError(f"{file} is no calibration ({error}); remove it, or calibrate again") from error
    numbers = (found.slope, found.offset, found.share)
    if any(isinstance(value, bool) or not isinstance(value, int | float) for value in numbers) or not (
        0 < found.slope < math.inf and math.isfinite(found.offset) and 0 < found.share < 1
    ):
        raise DamagedError(f"{file} is no calibration (slope {found.slope}, offset {found.offset}); remove it")
    if found.prompt_version != JUDGE_VERSION:
        raise UsageError(
            f"{file} was made with the prompt {str(found.prompt_version)[:40]} and passages are judged with "
            f"{JUDGE_VERSION}; calibrate again"
        )
    return found
