"""A model and texts → tokens a second of Fathom's loop, of TRL's bare SFTTrainer on the same packed rows, and of TRL on
the same documents padded, with the losses that show that all three do the same work.

`python -m adapt.experiments.throughput --texts FILE --out FIGURES.json` (app/ and eval/ print; this writes a file.)
Arms take turns (A B C C B A), each with the model loaded anew; the first step of each is left out. CPU seconds of this
process are what counts on a CPU, so that who else is at work is of little matter; on a GPU it is the clock.
"""

import argparse
import contextlib
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from adapt.corpus.mixing import Order, mix
from adapt.corpus.packing import pack
from adapt.corpus.texts import TrainingText
from adapt.recipe import Mixture, Training
from adapt.training.bases import base_folder
from eval.data.texts import read_texts
from eval.runs.environment import machine
from eval.runs.run_folder import write_json

SAME = {"fp32": 1e-5, "bf16": 1e-2}
"""Relative difference of the first step's loss up to which two arms do the same work."""
ARMS = ("fathom", "trl", "trl padded")


@dataclass(frozen=True)
class Setup:
    """`rows` go through at once in Fathom's loop, `trl_rows` in TRL's, which lays them behind one another."""

    model: Path
    settings: Training
    precision: str
    rows: int
    trl_rows: int
    steps: int


@dataclass
class Run:
    """Of one arm: seconds and tokens (none of them filling) of each step, and its losses."""

    arm: str
    cpu: list[float]
    clock: list[float]
    tokens: list[int]
    losses: list[float]

    def rate(self, seconds: Sequence[float]) -> float:
        return sum(self.tokens[1:]) / sum(seconds[1:])


def _timing(run: Run) -> Any:
    """A callback of transformers that both loops take."""
    import torch
    from transformers import TrainerCallback

    class Timing(TrainerCallback):
        def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            self.began = time.process_time(), time.monotonic()

        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            now = time.process_time(), time.monotonic()
            run.cpu.append(now[0] - self.began[0])
            run.clock.append(now[1] - self.began[1])
            self.began = now

        def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
            if logs and "loss" in logs:
                run.losses.append(float(logs["loss"]))

    return Timing()


def fathom(setup: Setup, order: Order) -> Run:
    """Our loop, without checkpoints."""
    import torch

    from adapt.training.arguments import arguments, rates
    from adapt.training.checkpoints import Checkpoints, Identity
    from adapt.training.guards import LossGuard
    from adapt.training.loss import attach
    from adapt.training.metrics import NAME, MetricsFile, read
    from adapt.training.pulls import Pulls
    from adapt.training.rows import Batches, Collator, OrderRows
    from adapt.training.trainer import OrderTrainer

    each = setup.settings.batch_tokens // setup.settings.block
    batches = Batches(setup.steps * each, each, setup.rows)
    model = _model(setup)
    attach(model)
    run = Run("fathom", [], [], [], [])
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        metrics = MetricsFile(folder / NAME, since=0)
        trainer = OrderTrainer(
            model,
            arguments(
                setup.settings,
                folder=folder,
                steps=setup.steps,
                micro_rows=setup.rows,
                accumulation=batches.accumulation,
                seed=0,
                precision=setup.precision,
            ),
            data=OrderRows(order),
            batches=batches,
            collate=Collator(),
            rates=rates(setup.settings.lr, setup.steps),
            pulls=Pulls(),
            guard=LossGuard(),
            checkpoints=Checkpoints(folder / "checkpoints", Identity("", "", {}, 0)),
            metrics=metrics,
            save=lambda *_: None,
            minutes=1e9,
            every=None,
            stop=threading.Event(),
            progress=lambda *_: None,
        )
        trainer.add_callback(_timing(run))
        torch.manual_seed(0)
        trainer.train()
        metrics.close()
        run.losses = [float(line["loss"]) for line in read(folder / NAME)]
    run.tokens = [trainer.data.counts(batches.of_step(step)).tokens for step in range(setup.steps)]
    return run


def trl(setup: Setup, order: Order, *, padded: bool) -> Run:
    """TRL's SFTTrainer as it is, on the same rows in the same order, or on their documents one a row, filled up to the
    longest of a batch."""
    from datasets import Dataset
    from transformers import AutoTokenizer
    from trl import SFTConfig, SFTTrainer

    each = setup.settings.batch_tokens // setup.settings.block
    rows = [order.row(number) for number in range(setup.steps * each)]
    if padded:
        pieces = [piece for row in rows for piece in _pieces(row)]
        data: dict[str, Any] = {"input_ids": pieces, "labels": pieces}
        at_once = setup.rows
        accumulation = max(1, len(pieces) // setup.steps // at_once)
        sizes = [len(piece) for piece in pieces]
        step = at_once * accumulation
        tokens = [sum(sizes[number * step : (number + 1) * step]) for number in range(setup.steps)]
    else:
        data = {
            "input_ids": [row.ids.tolist() for row in rows],
            "labels": [row.ids.tolist() for row in rows],
            "seq_lengths": [row.pieces.tolist() for row in rows],
        }
        at_once, accumulation = setup.trl_rows, each // setup.trl_rows
        tokens = [sum(len(row.ids) for row in rows[n * each : (n + 1) * each]) for n in range(setup.steps)]
    run = Run("trl padded" if padded else "trl", [], [], tokens, [])
    with tempfile.TemporaryDirectory() as place:
        config = SFTConfig(
            output_dir=place,
            max_steps=setup.steps,
            per_device_train_batch_size=at_once,
            gradient_accumulation_steps=accumulation,
            learning_rate=setup.settings.lr.peak,
            lr_scheduler_type="cosine_warmup_with_min_lr",
            lr_scheduler_kwargs={"min_lr_rate": setup.settings.lr.floor},
            warmup_steps=1,
            weight_decay=setup.settings.weight_decay,
            adam_beta2=0.95,
            max_grad_norm=setup.settings.clip,
            optim="adamw_torch_fused",
            bf16=setup.precision == "bf16",
            gradient_checkpointing=False,
            padding_free=not padded,
            max_length=None,
            dataset_kwargs={"skip_prepare_dataset": True},
            train_sampling_strategy="sequential",
            logging_steps=1,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            dataloader_pin_memory=False,
            use_cpu=not _cuda(),
            seed=0,
        )
        tokenizer = AutoTokenizer.from_pretrained(str(setup.model), local_files_only=True)
        tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
        with contextlib.redirect_stdout(sys.stderr):  # it prints its figures
            SFTTrainer(
                _model(setup),
                config,
                train_dataset=Dataset.from_dict(data),
                processing_class=tokenizer,
                callbacks=[_timing(run)],
            ).train()
    return run


def _pieces(row: Any) -> list[list[int]]:
    """The documents' parts that have something to predict."""
    import numpy as np

    parts = np.split(row.ids, np.cumsum(row.pieces)[:-1])
    return [part.tolist() for part in parts if len(part) > 1]


def _model(setup: Setup) -> Any:
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(
        str(setup.model), dtype=torch.float32, attn_implementation="sdpa", local_files_only=True
    )
    return model.to("cuda" if _cuda() else "cpu")


def _cuda() -> bool:
    import torch

    return bool(torch.cuda.is_available())


def compare(setup: Setup, order: Order, *, rounds: int) -> dict[str, Any]:
    """All arms in turn, ready for JSON. `same_work` is false where the first losses differ: the rates then mean
    nothing."""
    arms: dict[str, Callable[[], Run]] = {
        "fathom": lambda: fathom(setup, order),
        "trl": lambda: trl(setup, order, padded=False),
        "trl padded": lambda: trl(setup, order, padded=True),
    }
    runs: list[Run] = []
    for number in range(rounds):
        runs += [arms[name]() for name in (ARMS if number % 2 == 0 else ARMS[::-1])]
    cuda = _cuda()
    rates = {name: [run.rate(run.clock if cuda else run.cpu) for run in runs if run.arm == name] for name in ARMS}
    median = {name: statistics.median(found) for name, found in rates.items()}
    first = {name: [run.losses[0] for run in runs if run.arm == name] for name in ARMS}
    apart = max(abs(a - b) / abs(b) for a in first["fathom"] for b in first["trl"])
    return {
        "tokens_per_second": rates,
        "by": "clock" if cuda else "cpu seconds of the process",
        "fathom_over_trl": median["fathom"] / median["trl"],
        "packed_over_padded": median["fathom"] / median["trl padded"],
        "packed_over_padded_trl": median["trl"] / median["trl padded"],
        "first_loss": first,
        "first_loss_apart": apart,
        "same_work": apart <= SAME[setup.precision],
        "runs": [vars(run) for run in runs],
    }


def main(words: Sequence[str] | None = None) -> int:
    """Measure and write the file; 1 where the arms do not do the same work."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--texts", type=Path, required=True, help="a file of texts, or rows.jsonl#field")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--model", default="packaged")
    parser.add_argument("--cache", type=Path, default=Path.home() / ".cache" / "fathom")
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32")
    parser.add_argument("--block", type=int, default=256)
    parser.add_argument("--batch-tokens", type=int, default=1024)
    parser.add_argument(
        "--rows", type=int, default=4, help="rows at once in Fathom's loop and padded documents in TRL's"
    )
    parser.add_argument("--trl-rows", type=int, default=1, help="rows at once in TRL's loop")
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--threads", type=int, default=1)
    told = parser.parse_args(words)
    import torch
    import transformers
    import trl as trl_package

    torch.set_num_threads(told.threads)
    settings = Training(block=told.block, batch_tokens=told.batch_tokens, lr=1e-5)  # type: ignore[arg-type]
    with tempfile.TemporaryDirectory() as place:
        model = base_folder(told.model, cache=told.cache)
        needed = told.batch_tokens * (told.steps + 1)
        order = _order(told.texts, model, told.block, needed, Path(place))
        setup = Setup(model, settings, told.precision, told.rows, told.trl_rows, told.steps)
        figures = compare(setup, order, rounds=told.rounds)
    versions = {"torch": torch.__version__, "transformers": transformers.__version__, "trl": trl_package.__version__}
    asked = {name: str(value) for name, value in vars(told).items()}
    write_json(told.out, {"asked": asked, "versions": versions, "machine": machine(), **figures})
    return 0 if figures["same_work"] else 1


def _order(texts: Path, model: Path, block: int, tokens: int, folder: Path) -> Order:
    from transformers import AutoTokenizer

    def quiet(stage: str, done: int, total: int) -> None:
        """No progress: the file is all that is said."""

    read = [TrainingText(str(number), text.text) for number, text in enumerate(read_texts(texts).documents)]
    tokenizer = AutoTokenizer.from_pretrained(str(model), local_files_only=True)
    blocks = pack(read, tokenizer, block=block, folder=folder / "texts", seed=0, progress=quiet)
    return mix(
        {"texts": blocks},
        {"texts": Mixture(start=1.0, end=1.0)},
        tokens=min(tokens, blocks.tokens),
        epochs=1.0,
        seed=0,
        folder=folder / "order",
    )


if __name__ == "__main__":
    sys.exit(main())
