"""A model folder and a stage's settings → tokens a second, by a few real steps on random tokens. Nothing is kept."""

import time
from dataclasses import dataclass
from pathlib import Path

from adapt.recipe import Training
from eval.runs.parts import Progress

MICRO_BATCHES = 3
"""Timed, after one that is not."""
PROBED_STEPS = 1_000
"""Of the training that a method is told it is in."""


@dataclass(frozen=True, slots=True)
class Probed:
    """How fast it was over how many tokens."""

    tokens_per_second: float
    tokens: int


def probe(folder: Path, settings: Training, *, micro: int, cache: Path, progress: Progress) -> Probed:
    """Forward, backward and a step of AdamW, as the training will do them, on this machine's first device.

    The step is counted in as often as the real training makes one. Raises MissingError, UsageError or DamagedError.
    """
    import torch

    from adapt.training.loss import attach
    from adapt.training.methods import device, load_model, precision_of, under_adapter

    progress("loading the model for the probe", 0, 0)
    where, precision = torch.device(device()), precision_of(settings)
    model, tokenizer = load_model(folder, settings, precision=precision, cache=cache)
    attach(model)
    checkpointing = settings.activation_checkpointing
    if checkpointing:
        model.gradient_checkpointing_enable()
    model = under_adapter(
        model, settings.method, activation_checkpointing=checkpointing, steps=PROBED_STEPS, tokenizer=tokenizer
    )
    model.train()
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(weights, lr=0.0)
    rows = max(1, micro // settings.block)
    shape = (rows, settings.block)
    draw = torch.Generator().manual_seed(0)

    def wait() -> float:
        if where.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter()

    began = 0.0
    for number in range(MICRO_BATCHES + 1):
        progress("probing", number, MICRO_BATCHES + 1)
        ids = torch.randint(0, model.config.vocab_size, shape, generator=draw).to(where)
        with torch.autocast(where.type, torch.bfloat16, enabled=precision == "bf16"):
            model(input_ids=ids, targets=ids.roll(-1, 1), factor=1.0 / ids.numel())["loss"].backward()
        if number == 0:
            optimizer.step()  # its moments take their memory now, not in the middle of the figures
            began = wait()
    each = (wait() - began) / MICRO_BATCHES
    began = wait()
    optimizer.step()
    step = wait() - began
    per_step = max(1, settings.batch_tokens // (rows * settings.block))
    seconds = each + step / per_step
    return Probed(rows * settings.block / seconds, MICRO_BATCHES * rows * settings.block)
