"""Groups of pairs → a trained pair encoder: a plain loop of torch that is stopped and gone on with at any step.

The loss is listwise: the softmax over a question's passages against the one that answers it (InfoNCE, van den Oord et
al. 2018, arXiv:1807.03748; for rerankers "localized contrastive estimation", Gao et al. 2021, arXiv:2101.08751). Binary
cross-entropy would spend a small model's training on the level of the scores, which the calibration sets later; only
their order counts here. A checker's classes are told by cross-entropy.

The order of everything is drawn from the seed and the step alone, so that a training that was stopped goes on exactly.
"""

import json
import math
import random
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from adapt.encoders.pair_recipe import PairMethod
from adapt.training.checkpoints import Checkpoints, Identity
from retrieval.errors import FathomError
from retrieval.reranking.pairs import Pair, PairTokenizer, padded

if TYPE_CHECKING:
    import torch

Progress = Callable[[str, int, int], None]
WARM_UP = 0.1
"""Share of the steps in which the learning rate rises."""
DROPOUT_SEED = 1_000_003
MICRO_TOKENS = 4096
"""Padded tokens that go through the network at once."""
METRICS = "metrics.jsonl"


@dataclass(frozen=True, slots=True)
class Example:
    """A question and a text: the one that answers it, with a pool of wrong ones to draw from (a reranker), or one of
    the class `label` (a checker)."""

    question: str
    text: str
    pool: tuple[str, ...] = ()
    label: int = 0


@dataclass(frozen=True, slots=True)
class TrainingSettings:
    """`negatives` are drawn for each example; 0 is a classification of single pairs."""

    lr: float
    head_lr: float
    epochs: float
    batch: int
    negatives: int
    seed: int
    save_steps: int


@dataclass(frozen=True, slots=True)
class TrainingResult:
    """`finished` is False where it was stopped; `loss` is the mean of the last tenth of the steps."""

    finished: bool
    steps: int
    loss: float
    seconds: float
    tokens_per_second: float


def with_lora(trunk: Any, method: PairMethod) -> Any:
    """The trunk with low-rank matrices on all its linear layers, everything else frozen and in bf16."""
    import torch
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(
        r=method.r, lora_alpha=method.alpha or 2 * method.r, target_modules="all-linear", lora_dropout=0
    )
    return get_peft_model(trunk.to(torch.bfloat16), config, autocast_adapter_dtype=True)


def steps_of(examples: int, settings: TrainingSettings) -> int:
    """Steps of the whole training."""
    return max(1, math.ceil(examples * settings.epochs / settings.batch))


def train(
    network: "torch.nn.Module",
    examples: Sequence[Example],
    tokens: PairTokenizer,
    settings: TrainingSettings,
    *,
    folder: Path,
    model: str,
    order: str,
    progress: Progress,
    stop: threading.Event,
) -> TrainingResult:
    """Train `network` in place, or as far as `stop` lets it; checkpoints and metrics.jsonl lie in `folder`.

    `model` and `order` are hashes of what is trained and of what it is trained on: a checkpoint of another training is
    refused. Raises FathomError for a loss that is no number, UsageError, OSError (a full disk).
    """
    import torch

    steps = steps_of(len(examples), settings)
    known = {name: getattr(settings, name) for name in settings.__slots__ if name not in ("seed", "save_steps")}
    checkpoints = Checkpoints(folder / "checkpoints", Identity(model, order, known, settings.seed))
    checkpoints.clear_leftovers()
    head = [value for name, value in network.named_parameters() if name.startswith("head.")]
    body = [value for name, value in network.named_parameters() if not name.startswith("head.") and value.requires_grad]
    optimizer = torch.optim.AdamW(
        [{"params": body, "lr": settings.lr}, {"params": head, "lr": settings.head_lr}], weight_decay=0.0
    )
    peaks = [group["lr"] for group in optimizer.param_groups]
    found = checkpoints.newest()
    first = 0
    if found is not None:
        first = int(found[1]["step"])
        restore_state(network, optimizer, found[0])
    network.train()
    began, read = time.monotonic(), 0
    losses: list[float] = []
    with (folder / METRICS).open("a", encoding="utf-8") as metrics:
        for step in range(first, steps):
            if stop.is_set():
                save_state(checkpoints, network, optimizer, step)
                break
            share = _rate(step, steps)
            for group, peak in zip(optimizer.param_groups, peaks, strict=True):
                group["lr"] = peak * share
            torch.manual_seed(settings.seed * DROPOUT_SEED + step)
            chosen = _drawn(examples, settings, step)
            loss, number = _loss(network, tokens, chosen, settings)
            last = loss.item()
            if not math.isfinite(last):
                raise FathomError(f"the loss is no number at step {step + 1}; take a smaller lr")
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_([*body, *head], 1.0)
            optimizer.step()
            read += number
            losses.append(last)
            passed = time.monotonic() - began
            row = {"step": step + 1, "loss": round(last, 5), "lr": settings.lr * share, "seconds": round(passed, 2)}
            metrics.write(json.dumps(row | {"tokens_per_second": round(read / passed)}) + "\n")
            metrics.flush()
            progress(f"training, loss {sum(losses[-20:]) / len(losses[-20:]):.3f}", step + 1, steps)
            if (step + 1) % settings.save_steps == 0 or step + 1 == steps:
                save_state(checkpoints, network, optimizer, step + 1)
    network.eval()
    finished = first + len(losses) >= steps
    tail = losses[-max(1, steps // 10) :]
    passed = max(time.monotonic() - began, 1e-9)
    return TrainingResult(finished, steps, sum(tail) / len(tail) if tail else math.nan, passed, read / passed)


def _rate(step: int, steps: int) -> float:
    warm = max(1, round(WARM_UP * steps))
    return (step + 1) / warm if step < warm else max(0.0, (steps - step) / max(1, steps - warm))


def _drawn(examples: Sequence[Example], settings: TrainingSettings, step: int) -> list[Example]:
    """The examples of a step, each epoch in an order of its own, with negatives drawn for this step."""
    chosen = []
    for place in range(step * settings.batch, (step + 1) * settings.batch):
        epoch, within = divmod(place, len(examples))
        order = list(range(len(examples)))
        random.Random(f"{settings.seed}-{epoch}").shuffle(order)
        example = examples[order[within]]
        if settings.negatives:
            chooser = random.Random(f"{settings.seed}-{epoch}-{order[within]}")
            pool = example.pool if len(example.pool) <= settings.negatives else None
            drawn = pool if pool is not None else tuple(chooser.sample(example.pool, settings.negatives))
            example = Example(example.question, example.text, drawn, example.label)
        chosen.append(example)
    return chosen


def _loss(
    network: "torch.nn.Module", tokens: PairTokenizer, examples: Sequence[Example], settings: TrainingSettings
) -> "tuple[torch.Tensor, int]":
    """(mean loss, tokens read)."""
    import torch

    pairs: list[Pair] = []
    spans: list[tuple[int, int]] = []
    for example in examples:
        start = len(pairs)
        pairs += tokens(example.question, [example.text, *example.pool])
        spans.append((start, len(pairs)))
    logits, number = forward(network, pairs, tokens.pad_id)
    if settings.negatives:
        rows = [logits[start:end, 0] for start, end in spans]
        losses = torch.stack([-torch.log_softmax(row, 0)[0] for row in rows])
        return losses.mean(), number
    wanted = torch.tensor([example.label for example in examples], device=logits.device)
    return torch.nn.functional.cross_entropy(logits, wanted), number


def forward(network: "torch.nn.Module", pairs: Sequence[Pair], pad_id: int) -> "tuple[torch.Tensor, int]":
    """(pairs, labels) logits with their graph, and the padded tokens read; pairs of like length go together."""
    import torch

    device = next(network.parameters()).device
    order = sorted(range(len(pairs)), key=lambda place: -len(pairs[place].ids))
    parts: list[torch.Tensor] = []
    number = start = 0
    while start < len(order):
        width = len(pairs[order[start]].ids)
        chosen = order[start : start + max(1, MICRO_TOKENS // width)]
        start += len(chosen)
        batch = padded([pairs[place] for place in chosen], pad_id)
        number += batch[0].size
        with torch.autocast(device.type, dtype=torch.bfloat16):
            parts.append(network(*(torch.from_numpy(each).to(device) for each in batch)).float())
    back = torch.empty(len(order), dtype=torch.long, device=device)
    back[torch.tensor(order, device=device)] = torch.arange(len(order), device=device)
    return torch.cat(parts)[back], number


def _trained(network: "torch.nn.Module") -> "dict[str, torch.Tensor]":
    return {name: value.detach() for name, value in network.named_parameters() if value.requires_grad}


def save_state(checkpoints: Checkpoints, network: "torch.nn.Module", optimizer: Any, step: int) -> None:
    """Write what is trained of a network, and AdamW's moments, as the checkpoint after `step` steps."""
    from safetensors.torch import save_file

    weights = {name: value.contiguous().clone() for name, value in _trained(network).items()}
    state = {
        f"{number}.{name}": value.contiguous().clone() if value.dim() else value.reshape(1).clone()
        for number, kept in optimizer.state_dict()["state"].items()
        for name, value in kept.items()
    }

    def fill(place: Path) -> None:
        save_file(weights, place / "weights.safetensors")
        save_file(state, place / "optimizer.safetensors")

    size = sum(value.numel() * value.element_size() for value in (*weights.values(), *state.values()))
    checkpoints.write(step, fill, size=size, facts={})


def restore_state(network: "torch.nn.Module", optimizer: Any, folder: Path) -> None:
    """Inverse of `save_state`, from the folder of a checkpoint."""
    import torch
    from safetensors.torch import load_file

    weights = load_file(folder / "weights.safetensors")
    with torch.no_grad():
        for name, value in _trained(network).items():
            value.copy_(weights[name])
    kept: dict[int, dict[str, torch.Tensor]] = {}
    for key, value in load_file(folder / "optimizer.safetensors").items():
        number, _, name = key.partition(".")
        kept.setdefault(int(number), {})[name] = value.reshape(()) if name == "step" else value
    optimizer.load_state_dict({"state": kept, "param_groups": optimizer.state_dict()["param_groups"]})
