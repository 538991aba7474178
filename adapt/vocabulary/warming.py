"""Warming up: the new rows of a model learn their places in domain text, and nothing else changes.

A small loop of its own: AdamW on a few hundred rows, cosine, checkpoints of safetensors and JSON. Two runs with one
seed give the same rows, stopped in between or not. It knows no tokenizer beyond ids.
"""

import json
import math
import random
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from adapt.vocabulary.new_rows import NewRows
from eval.runs.parts import Progress, finite
from retrieval.embedding.stored import is_whole, keep
from retrieval.errors import FathomError

if TYPE_CHECKING:
    import torch

WARM_UP, FLOOR = 0.05, 0.05
"""Shares of the steps that the learning rate rises, and of its peak that it ends with."""
BETAS = (0.9, 0.98)
CLIP = 1.0
NUMBERS_AT_ONCE = {"cpu": 1 << 26, "cuda": 1 << 30}
"""Logits of one forward pass at most: 256 MB and 4 GB in fp32. 512 tokens over 150,000 words are 2 ** 26."""
CHECKPOINT_SECONDS = 300.0
METRICS = "metrics.jsonl"
_STATE, _TENSORS = "state.json", "rows.safetensors"

Loss = Callable[["torch.Tensor", "torch.Tensor"], "tuple[torch.Tensor, int]"]
"""(ids, lengths) of a padded micro-batch → summed loss over the places that count, and how many they are."""


class StoppedError(FathomError):
    """It was asked to stop; what was done is kept, and the same call goes on from there."""

    exit_code = 130


@dataclass(frozen=True)
class Schedule:
    """`tokens` in all (what the rows hold is read again where that is more), `batch_tokens` of them in a step."""

    tokens: int
    batch_tokens: int
    lr: float
    seed: int = 0


def cut(
    documents: Sequence[Sequence[int] | np.ndarray], block: int, *, end: int | None, least: int = 16
) -> list[np.ndarray]:
    """Documents of token ids in rows of at most `block`, each of one document; the rest of one is a row from `least`
    tokens on. `end` is appended to each document where there is such a token."""
    rows = []
    for document in documents:
        ids = np.asarray([*document, *([] if end is None else [end])], dtype=np.int64)
        rows += [ids[start : start + block] for start in range(0, len(ids), block)]
    return [row for row in rows if len(row) >= least]


def batches(rows: Sequence[np.ndarray], schedule: Schedule) -> list[list[int]]:
    """Numbers of the rows of every step: all rows in an order drawn with the seed, then all in another, until the
    tokens are reached."""
    steps: list[list[int]] = []
    taken = filled = number = 0
    step: list[int] = []
    while taken < schedule.tokens and rows:
        order = list(range(len(rows)))
        random.Random(f"{schedule.seed} {number}").shuffle(order)
        number += 1
        for index in order:
            step.append(index)
            filled += len(rows[index])
            taken += len(rows[index])
            if filled >= schedule.batch_tokens or taken >= schedule.tokens:
                steps.append(step)
                step, filled = [], 0
            if taken >= schedule.tokens:
                break
    return steps


def warm(
    model: Any,
    new: NewRows,
    rows: Sequence[np.ndarray],
    schedule: Schedule,
    *,
    folder: Path,
    identity: str,
    progress: Progress,
    stop: threading.Event | None = None,
    loss: Loss | None = None,
    stage: str = "warming up new rows",
) -> dict[str, Any]:
    """Train the new rows on rows of ids; the model then holds them. Returns steps, tokens, seconds, losses.

    `identity` is a hash of all that decides the result: a checkpoint in `folder` of another is no checkpoint of this.
    `loss` is the mean cross entropy of all tokens if not given. Raises StoppedError after a checkpoint when `stop` is
    set, FathomError where the loss is no number.
    """
    import torch

    steps = batches(rows, schedule)
    parameters = new.parameters()
    optimizer = torch.optim.AdamW(parameters.values(), lr=schedule.lr, betas=BETAS, weight_decay=0.0)
    device = next(model.parameters()).device
    loss = loss or cross_entropy(model, device)
    model.eval()
    kept = _Checkpoints(folder, identity)
    state = kept.restore(parameters, optimizer)
    kept.cut_metrics(state["step"])
    saved = began = time.monotonic()
    before = state["seconds"]
    with new.in_place():
        for number in range(state["step"], len(steps)):
            if stop is not None and stop.is_set():
                kept.save(state, parameters, optimizer)
                raise StoppedError(f"stopped after step {number} of {len(steps)}; run it again to go on")
            rate = schedule.lr * _share(number, len(steps))
            for group in optimizer.param_groups:
                group["lr"] = rate
            chosen = [rows[index] for index in steps[number]]
            value = _step(model, chosen, parameters, optimizer, loss, device)
            if not math.isfinite(value):
                raise FathomError(
                    f"the loss of step {number + 1} is no number; lower the stage's warm.lr ({schedule.lr:g})"
                )
            tokens = sum(map(len, chosen))
            state["step"], state["tokens"] = number + 1, state["tokens"] + tokens
            state["seconds"] = before + time.monotonic() - began
            state["first_loss"] = value if number == 0 else state["first_loss"]
            state["last_loss"] = value
            kept.log(state, value, rate)
            progress(stage, state["tokens"], schedule.tokens)
            if time.monotonic() - saved > CHECKPOINT_SECONDS:
                kept.save(state, parameters, optimizer)
                saved = time.monotonic()
    kept.save(state, parameters, optimizer)
    new.write_back()
    return {**state, "steps": len(steps)}


def _share(number: int, steps: int) -> float:
    """Of the peak of the learning rate: a rise, then half a cosine."""
    rise = max(1, round(WARM_UP * steps))
    if number < rise:
        return (number + 1) / rise
    along = (number - rise) / max(1, steps - rise)
    return FLOOR + (1 - FLOOR) * 0.5 * (1 + math.cos(math.pi * along))


def _step(
    model: Any,
    rows: Sequence[np.ndarray],
    parameters: "Mapping[str, torch.Tensor]",
    optimizer: Any,
    loss: Loss,
    device: Any,
) -> float:
    """One step of the optimizer; returns the loss per place that counts."""
    import torch

    optimizer.zero_grad(set_to_none=True)
    total, count = 0.0, 0
    width = model.get_output_embeddings().weight.shape[0]
    most = max(1, NUMBERS_AT_ONCE.get(device.type, NUMBERS_AT_ONCE["cuda"]) // width)
    for group in _groups(rows, most):
        ids, lengths = padded([rows[index] for index in group], device)
        with autocast(device):
            summed, places = loss(ids, lengths)
        if places:
            summed.backward()
            total += float(summed.detach())
            count += places
    if not count:
        return 0.0
    for parameter in parameters.values():
        if parameter.grad is not None:
            parameter.grad /= count
    torch.nn.utils.clip_grad_norm_(list(parameters.values()), CLIP)
    optimizer.step()
    return total / count


def _groups(rows: Sequence[np.ndarray], most: int) -> Iterator[list[int]]:
    """Numbers of rows of about one length, each group padded to at most so many tokens (or one row)."""
    group: list[int] = []
    for index in sorted(range(len(rows)), key=lambda index: (-len(rows[index]), index)):
        if group and (len(group) + 1) * len(rows[group[0]]) > most:
            yield group
            group = []
        group.append(index)
    if group:
        yield group


def padded(rows: Sequence[np.ndarray], device: Any) -> "tuple[torch.Tensor, torch.Tensor]":
    """Rows as int64 of (rows, longest), padded with 0 on the right, where no causal model looks; and their lengths."""
    import torch

    ids = torch.zeros(len(rows), max(map(len, rows)), dtype=torch.int64)
    for place, row in enumerate(rows):
        ids[place, : len(row)] = torch.from_numpy(np.asarray(row, dtype=np.int64))
    return ids.to(device), torch.tensor([len(row) for row in rows], device=device)


def cross_entropy(model: Any, device: Any) -> Loss:
    """The usual loss: of every token but a row's first, given those before."""
    import torch

    def of(ids: "torch.Tensor", lengths: "torch.Tensor") -> "tuple[torch.Tensor, int]":
        targets = ids[:, 1:].clone()
        targets[torch.arange(1, ids.shape[1], device=ids.device)[None] >= lengths[:, None]] = -100
        logits = model(input_ids=ids, use_cache=False).logits[:, :-1]
        summed = torch.nn.functional.cross_entropy(
            logits.float().flatten(0, 1), targets.flatten(), ignore_index=-100, reduction="sum"
        )
        return summed, int((targets >= 0).sum())

    return of


def autocast(device: Any) -> Any:
    """bf16 where the device computes it faster than fp32, else nothing."""
    import torch

    bf16 = (
        torch.cuda.is_bf16_supported()
        if device.type == "cuda"
        else device.type == "cpu"
        and torch.backends.mkldnn.is_available()
        and torch.ops.mkldnn._is_mkldnn_bf16_supported()
    )
    return torch.autocast(device.type, torch.bfloat16, enabled=bool(bf16))


class _Checkpoints:
    """Rows and the optimizer's state of the newest step, in a folder that is there whole or not at all."""

    def __init__(self, folder: Path, identity: str) -> None:
        self.folder, self.identity = folder / "checkpoints", identity
        self.metrics = folder / METRICS
        self.folder.mkdir(parents=True, exist_ok=True)

    def restore(self, parameters: "Mapping[str, torch.Tensor]", optimizer: Any) -> dict[str, Any]:
        """Put the newest valid one into place. Returns its state, or that of the beginning."""
        import torch
        from safetensors.torch import load_file

        for place in sorted(self.folder.glob("step-*"), reverse=True):
            if not is_whole(place):
                continue
            state = json.loads((place / _STATE).read_text("utf-8"))
            if state.pop("identity") != self.identity:
                continue
            tensors = load_file(place / _TENSORS)
            with torch.no_grad():
                for name, parameter in parameters.items():
                    parameter.copy_(tensors[name])
                    optimizer.state[parameter] = {
                        "step": torch.tensor(float(state["step"])),
                        "exp_avg": tensors[f"{name}.mean"].to(parameter.device),
                        "exp_avg_sq": tensors[f"{name}.square"].to(parameter.device),
                    }
            return state
        return {"step": 0, "tokens": 0, "seconds": 0.0, "first_loss": None, "last_loss": None}

    def save(self, state: Mapping[str, Any], parameters: "Mapping[str, torch.Tensor]", optimizer: Any) -> None:
        """Raises OSError (a full disk); the one before then stays."""
        from safetensors.torch import save_file

        place = self.folder / f"step-{state['step']:08d}"
        if not state["step"] or is_whole(place):
            return
        tensors = {}
        for name, parameter in parameters.items():
            tensors[name] = parameter.detach().cpu().contiguous()
            tensors[f"{name}.mean"] = optimizer.state[parameter]["exp_avg"].cpu().contiguous()
            tensors[f"{name}.square"] = optimizer.state[parameter]["exp_avg_sq"].cpu().contiguous()

        def fill(new: Path) -> None:
            save_file(tensors, new / _TENSORS)
            (new / _STATE).write_text(json.dumps({**state, "identity": self.identity}), encoding="utf-8")

        keep(place, fill)
        for older in self.folder.glob("step-*"):
            if older != place:
                shutil.rmtree(older, ignore_errors=True)

    def cut_metrics(self, step: int) -> None:
        """Lines of steps that are done again are dropped."""
        if not self.metrics.is_file():
            return
        lines = self.metrics.read_text("utf-8").splitlines(keepends=True)[:step]
        self.metrics.write_text("".join(lines), encoding="utf-8")

    def log(self, state: Mapping[str, Any], loss: float, rate: float) -> None:
        line = {"step": state["step"], "tokens": state["tokens"], "loss": loss, "lr": rate, "seconds": state["seconds"]}
        with self.metrics.open("a", encoding="utf-8") as file:
            file.write(json.dumps(finite(line)) + "\n")
