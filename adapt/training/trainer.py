"""transformers' Trainer over an order of packed rows: rows in sequence, the loss a mean over all tokens of a step, a
pull back to older weights or an older model, whole checkpoints, and a line of figures for each step.

See adapt/training/arguments.py for why it is not TRL's. What the stage means is decided in adapt/training/train.py.
"""

import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import DataLoader
from transformers import PrinterCallback, Trainer, TrainerCallback

from adapt.training.checkpoints import Checkpoints
from adapt.training.guards import LossGuard
from adapt.training.metrics import MetricsFile
from adapt.training.noise import EmbeddingNoise
from adapt.training.pulls import Pulls
from adapt.training.rows import IGNORED, Batches, Collator, OrderRows
from adapt.training.sharding import shard_optimizer, whole, whole_optimizer, whole_weights
from adapt.training.states import (
    load_optimizer,
    load_random,
    load_weights,
    random_state,
    save_optimizer,
    save_random,
)
from eval.runs.parts import Progress

OPTIMIZER, SCHEDULE, RANDOM, STATE = "optimizer", "schedule.json", "random.json", "trainer_state.json"


class OrderTrainer(Trainer):
    """`metrics` and `checkpoints` are written by the first process only; every process calls everything."""

    lr_scheduler: Any

    def __init__(
        self,
        model: Any,
        args: Any,
        *,
        data: OrderRows,
        batches: Batches,
        collate: Collator,
        rates: Callable[[int], float],
        pulls: Pulls,
        guard: LossGuard,
        checkpoints: Checkpoints,
        metrics: MetricsFile | None,
        save: Callable[[Any, Path, Mapping[str, Any] | None], None],
        minutes: float,
        every: int | None,
        stop: threading.Event,
        progress: Progress,
        seconds: float = 0.0,
        noise: EmbeddingNoise | None = None,
    ) -> None:
        self.data, self.batches, self.rates, self.pulls, self.guard = data, batches, rates, pulls, guard
        self.checkpoints, self.metrics, self.save_weights = checkpoints, metrics, save
        self.minutes, self.every, self.stop, self.progress = minutes, every, stop, progress
        self.seconds_before, self.tokens = seconds, 0
        self.noise, self.micro_batch = noise, 0
        self.stopped = False
        self.began = self.saved_at = time.monotonic()
        self.line_written = seconds
        self.saved_step = 0
        self.random_state: dict[str, Any] = {}
        self.last_loss: float | None = None
        self._casting: torch.autocast | None = None
        super().__init__(
            model,
            args,
            data_collator=collate,
            train_dataset=data,  # type: ignore[arg-type]
            callbacks=[_Steps(self)],
        )
        self.remove_callback(PrinterCallback)
        self.loss_is_scaled_for_ga = True

    # --- data ---

    def get_train_dataloader(self) -> DataLoader:
        """The rows of this process. Not accelerate's: it would hand out batches that are left over twice."""
        return DataLoader(
            self.data,  # type: ignore[arg-type]
            batch_sampler=self.batches,  # type: ignore[arg-type]
            collate_fn=self.data_collator,
            generator=torch.Generator(),  # or it would draw from the numbers that dropout draws from
        )

    def get_batch_samples(self, epoch_iterator: Any, num_batches: int, device: Any) -> tuple[list, None]:
        """The micro-batches of one step, in which its sums begin anew."""
        samples = [batch for _, batch in zip(range(num_batches), epoch_iterator, strict=False)]
        self._forget_casts()
        self.step_counts = self.data.counts(self.batches.of_step(self.state.global_step))
        self.sums = torch.zeros(2, device=device)  # cross-entropy, distance
        self.micro_batch = 0
        return samples, None

    def floating_point_ops(self, inputs: Any) -> int:
        return 0  # counting weights at every micro-batch, for a figure that nobody reads

    # --- loss and gradients ---

    def compute_loss(  # type: ignore[override]
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """This micro-batch's share of the mean over the tokens of the whole step. DDP and FSDP average over processes,
        so it is multiplied by their number."""
        numbers, sources = inputs.pop("rows"), inputs.pop("sources")
        factor = self.batches.processes / max(1, self.step_counts.targets)
        told = self._teacher(numbers, sources, inputs["targets"])
        if self.noise is not None:
            place = {"step": self.state.global_step, "micro_batch": self.micro_batch, "rank": self.batches.rank}
            self.noise.begin(inputs["position_ids"], **place)
            self.micro_batch += 1
        losses = model(**inputs, factor=factor, **told)
        if self.noise is not None:
            self.noise.end()
        loss, kl = losses["loss"], losses["kl"]
        self.sums += torch.stack([loss.detach(), kl.detach()])
        return loss + self.pulls.weight * kl if told else loss

    def training_step(self, model: Any, inputs: dict[str, Any], num_items_in_batch: Any = None) -> Any:
        """One micro-batch forward and backward.

        Weights in fp32 are turned into bf16 for every product. torch keeps what it turned until the outermost autocast
        is left, which in transformers' loop is each micro-batch: casts were 8 % of a step on a CPU. Here the outermost
        lasts for all of a step, between two changes of the weights. Not where weights are shared out: what is kept
        would be all of them.
        """
        if not self.args.bf16 or self.is_fsdp_enabled or self.args.torch_empty_cache_steps is not None:
            return super().training_step(model, inputs, num_items_in_batch)
        kind = self.args.device.type
        if self._casting is None:
            self._casting = torch.autocast(kind, torch.bfloat16)
            self._casting.__enter__()
        model.train()
        loss = self.compute_loss(model, self._prepare_inputs(inputs))
        with torch.autocast(kind, enabled=False):  # a backward pass has its types from the forward one
            self.accelerator.backward(loss)
        return loss.detach()

    def _forget_casts(self) -> None:
        """Before weights change, and however a step ends: autocast is a state of the thread."""
        if self._casting is not None:
            self._casting.__exit__(None, None, None)
            self._casting = None

    def _run_epoch(self, **about: Any) -> None:
        try:
            super()._run_epoch(**about)
        finally:
            self._forget_casts()

    def _teacher(self, numbers: Any, sources: Any, targets: Any) -> dict[str, Any]:
        """What the older model thought at the places of kept rows, where there are any in this micro-batch."""
        if self.pulls.teacher is None:
            return {}
        lines = [number for number, source in enumerate(sources.tolist()) if source in self.data.kept_sources]
        if not lines:
            return {}
        which = numbers.tolist()
        rows = [self.data.order.row(which[line]) for line in lines]
        kept = torch.zeros_like(targets, dtype=torch.bool)
        if len(targets) == len(which):
            kept[lines] = True
        else:  # all rows behind one another
            ends = torch.tensor([0 if n < 0 else len(self.data.order.row(n).ids) for n in which]).cumsum(0).tolist()
            for line in lines:
                kept[0, (ends[line - 1] if line else 0) : ends[line]] = True
        teacher = self.pulls.teacher.targets([which[line] for line in lines], rows)
        predicting = torch.cat([_predicting(row) for row in rows])
        return {"kept": kept, "teacher": teacher.at(predicting).to(targets.device)}

    def _clip_grad_norm(self, model: Any) -> Any:
        """Everything between the last micro-batch and the optimizer: gradients are clipped, older weights pull, and
        what is no number stops the training before it reaches a weight.

        They pull after clipping, for the largest Fisher values are a million times the mean: such weights would swamp
        the norm, and clipping would leave nothing of the loss (adapt/forgetting/anchors.py)."""
        self._forget_casts()
        counts = self.step_counts
        sums = self.accelerator.reduce(self.sums, "mean") if self.batches.processes > 1 else self.sums
        if self.pulls.hold is not None:
            self.pulls.hold(self.state.global_step)
        norm = whole(super()._clip_grad_norm(model))
        penalty = self.pulls.anchors.add_gradients(self.model) if self.pulls.anchors is not None else None
        loss, distance, gradient = torch.stack([*sums, torch.as_tensor(norm, device=sums.device)]).tolist()
        lr = float(self.optimizer.param_groups[0]["lr"])
        step = self.state.global_step + 1
        self.guard.check(step, loss, gradient, lr)
        self.last_loss = loss
        kept = distance * counts.targets / counts.kept if self.pulls.teacher is not None and counts.kept else None
        self.line = {
            "step": step,
            "loss": loss,
            "kl": kept,
            "penalty": penalty,
            "lr": lr,
            "grad_norm": gradient,
            "shares": {
                name: round(tokens / max(1, counts.tokens), 6)
                for name, tokens in zip(self.data.order.sources, counts.by_source, strict=True)
            },
        }
        return norm

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any:
        """Of the rates that the stage has, which decide all."""
        if self.lr_scheduler is None:
            self.lr_scheduler = LambdaLR(optimizer or self.optimizer, self.rates)
            self._created_lr_scheduler = True
        return self.lr_scheduler

    # --- figures ---

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """transformers' own summary, which metrics.jsonl has in full."""

    def seconds(self) -> float:
        return self.seconds_before + time.monotonic() - self.began

    def write_line(self) -> None:
        now = self.seconds()
        self.tokens += self.step_counts.tokens
        speed = self.step_counts.tokens / max(1e-9, now - self.line_written)
        self.line_written = now
        if self.metrics is not None:
            self.metrics.append(
                {**self.line, "tokens": self.tokens, "seconds": round(now, 3), "tokens_per_second": round(speed, 2)}
            )

    # --- checkpoints ---

    def state_size(self) -> int:
        """Bytes that a checkpoint takes: the weights that are saved, and two numbers for each that is trained."""
        trained = sum(weight.numel() for weight in self.model.parameters() if weight.requires_grad)
        saved = trained if hasattr(self.model, "peft_config") else sum(w.numel() for w in self.model.parameters())
        return 4 * saved + 8 * trained

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        """Everything as after the last finished step, whatever of the next one has been computed since."""
        del model, trial
        step = self.state.global_step
        if step == self.saved_step or self.guard.suspicious:
            return
        states = [self.random_state]
        if self.batches.processes > 1:
            from accelerate.utils import gather_object

            states = gather_object(states)
        chief = self.args.process_index == 0
        weights = whole_weights(self.model, keep=chief)
        optimizer = whole_optimizer(self.optimizer.state_dict(), keep=chief)
        if chief:

            def fill(new: Path) -> None:
                self.save_weights(self.accelerator.unwrap_model(self.model), new, weights)
                save_optimizer(optimizer, new / OPTIMIZER)
                _write(new / SCHEDULE, self.lr_scheduler.state_dict())
                save_random(states, new / RANDOM)
                self.state.save_to_json(str(new / STATE))

            if self.metrics is not None:
                self.metrics.sync()
            facts = {"tokens": self.tokens, "seconds": round(self.seconds(), 3)}
            self.checkpoints.write(step, fill, size=self.state_size(), facts=facts)
        self.accelerator.wait_for_everyone()
        self.saved_step, self.saved_at = step, time.monotonic()

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        load_weights(self.model if model is None else model, Path(resume_from_checkpoint))

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        if checkpoint is not None:
            state = load_optimizer(Path(checkpoint) / OPTIMIZER)
            self.optimizer.load_state_dict(shard_optimizer(state, self.optimizer))
            self.lr_scheduler.load_state_dict(_read(Path(checkpoint) / SCHEDULE))

    def _load_scaler(self, checkpoint: str | None) -> None:
        """bf16 scales no loss."""

    def _load_rng_state(self, checkpoint: str | None) -> None:
        if checkpoint is not None:
            load_random(Path(checkpoint) / RANDOM, self.args.process_index)
            self.random_state = random_state()

    def agreed(self, *wishes: bool) -> list[bool]:
        """What any process wishes, so that all do the same."""
        if self.batches.processes == 1:
            return list(wishes)
        told = torch.tensor([float(wish) for wish in wishes], device=self.args.device)
        torch.distributed.all_reduce(told, op=torch.distributed.ReduceOp.MAX)
        return [bool(wish) for wish in told.tolist()]


class _Steps(TrainerCallback):
    """What happens between micro-batches and between steps."""

    def __init__(self, trainer: OrderTrainer) -> None:
        self.trainer = trainer

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        trainer = self.trainer
        trainer.tokens = sum(
            trainer.data.counts(trainer.batches.of_step(step)).tokens for step in range(state.global_step)
        )
        trainer.began = trainer.saved_at = time.monotonic()
        trainer.line_written = trainer.seconds_before
        trainer.saved_step = state.global_step
        trainer.random_state = random_state()
        self.reached = trainer.tokens

    def on_substep_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Between two micro-batches: a step may take half a minute on a CPU, and who sends SIGTERM may not wait."""
        trainer = self.trainer
        self._report(self.reached + trainer.step_counts.tokens // trainer.batches.accumulation)
        (stop,) = trainer.agreed(trainer.stop.is_set())
        if stop:
            trainer.stopped = control.should_save = control.should_training_stop = True

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        trainer = self.trainer
        trainer.random_state = random_state()
        trainer.write_line()
        self._report(trainer.tokens)
        last = state.global_step >= state.max_steps
        due = time.monotonic() - trainer.saved_at >= 60 * trainer.minutes
        due = due or (trainer.every is not None and state.global_step % trainer.every == 0)
        stop, due = trainer.agreed(trainer.stop.is_set(), due)
        if stop and not last:
            trainer.stopped = control.should_training_stop = True
        control.should_save = (due or stop) and not last

    def _report(self, tokens: int) -> None:
        self.reached = tokens
        if self.trainer.args.process_index == 0:
            self.trainer.progress(
                "training", min(tokens, self.trainer.data.order.tokens), self.trainer.data.order.tokens
            )


def _predicting(row: Any) -> torch.Tensor:
    from adapt.training.rows import targets_of

    return torch.from_numpy(targets_of(row.ids, row.pieces, row.learned) != IGNORED)


def _write(file: Path, value: Mapping[str, Any]) -> None:
    from eval.runs.run_folder import write_json

    write_json(file, {key: item for key, item in value.items() if key != "lr_lambdas"})


def _read(file: Path) -> dict[str, Any]:
    from eval.runs.run_folder import read_json

    return {**read_json(file), "lr_lambdas": [None] * 8}
