"""One training job → a model folder: loads, checks, goes on from the newest checkpoint, trains, writes the result.

`train` is what a stage calls. In several processes each runs `train_here`, started by adapt/training/launching.py.
"""

import logging
import os
import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

from adapt.recipe import PROMPTS, Sft
from adapt.training.bases import weights_hash
from adapt.training.checkpoints import Checkpoints, Identity, install, whole
from adapt.training.job import TrainingJob, TrainingResult, decisive
from adapt.training.metrics import NAME, MetricsFile
from adapt.training.rows import Batches, RowOrder
from eval.models.language_models import quiet
from eval.runs.parts import Progress
from retrieval.errors import UsageError
from retrieval.storage.locking import WriterLock

CPU_MICRO_TOKENS = 2048
GPU_MICRO_TOKENS = 16384
RESULT, MODEL, ADAPTER, CHECKPOINTS = "result.json", "model", "adapter", "checkpoints"
_LOG = logging.getLogger(__name__)


Watch = Callable[[Any], None]
"""Is shown the trainer when its model is trained and, on disk, whole."""


def train(
    job: TrainingJob,
    *,
    progress: Progress,
    stop: threading.Event | None = None,
    order: RowOrder | None = None,
    watch: Watch | None = None,
) -> TrainingResult:
    """Train, going on from the newest whole checkpoint in `job.folder`; a finished training is handed back at once.

    `stop` (or SIGTERM, or Ctrl-C) writes a checkpoint after the step that was finished last and returns with `stopped`.
    `order` is for rows that no Order on disk holds, `watch` for who measures in this process. Raises UsageError
    (settings that cannot be, another base, order or settings than the checkpoint's), MissingError, DamagedError,
    BusyError (another process trains there), TrainingFailed (the loss explodes), DiskFull.
    """
    stop = stop or threading.Event()
    processes = _processes(job)
    job.folder.mkdir(parents=True, exist_ok=True)
    if processes > 1 and "RANK" not in os.environ:
        from adapt.training.launching import launch

        if order is not None:
            raise UsageError("several processes read their rows from an order on disk")
        with _stopping_on_signals(stop):
            return launch(job, processes, progress=progress, stop=stop)
    lock = None
    if os.environ.get("RANK", "0") == "0":
        lock = WriterLock(job.folder / ".lock", doing="training", guarded=f"the training in '{job.folder}'")
    try:
        return train_here(job, progress=progress, stop=stop, order=order, watch=watch)
    finally:
        if lock is not None:
            lock.release()


def _processes(job: TrainingJob) -> int:
    if job.processes is not None:
        return job.processes
    import torch

    return max(1, torch.cuda.device_count())


def train_here(
    job: TrainingJob,
    *,
    progress: Progress,
    stop: threading.Event,
    order: RowOrder | None = None,
    watch: Watch | None = None,
) -> TrainingResult:
    """`train` in this process, which may be one of several that a launcher started (RANK, WORLD_SIZE)."""
    rank, processes = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    order = _order(job.order) if order is None else order
    identity = Identity(weights_hash(job.model, cache=job.cache), order.sha256, decisive(job.settings), job.seed)
    finished = _finished(job, identity)
    if finished is not None:
        return finished
    checkpoints = Checkpoints(job.folder / CHECKPOINTS, identity)
    if rank == 0:
        checkpoints.clear_leftovers()
    found = checkpoints.newest(tidy=rank == 0)
    shared = _batches(job, order, processes, rank)
    session = _Session(job, order, shared, identity, checkpoints, found, progress, stop, watch)
    with _stopping_on_signals(stop), quiet():
        return session.run()


def _order(folder: Path) -> RowOrder:
    from adapt.corpus.mixing import Order

    return Order.open(folder)


def _batches(job: TrainingJob, order: RowOrder, processes: int, rank: int) -> Batches:
    import torch

    from adapt.training.rows import batches

    usual = GPU_MICRO_TOKENS if torch.cuda.is_available() else CPU_MICRO_TOKENS
    return batches(
        len(order),
        block=job.settings.block,
        batch_tokens=job.settings.batch_tokens,
        micro_tokens=job.settings.micro_tokens or usual,
        processes=processes,
        rank=rank,
    )


def _finished(job: TrainingJob, identity: Identity) -> TrainingResult | None:
    """The result of an earlier call, if it is of this very job and its model is whole."""
    merges = job.settings.method.merges
    manifest = whole(job.folder / (MODEL if merges else ADAPTER))
    if manifest is None or not (job.folder / RESULT).is_file():
        return None
    identity.require_same(manifest, job.folder)
    result = TrainingResult.read(job.folder / RESULT)
    return replace(
        result,
        model=job.folder / MODEL if merges else job.model,
        adapter=job.folder / ADAPTER if result.adapter else None,
        metrics=job.folder / NAME,
    )


class _Session:
    """One call of `train_here`: what is there from the first check to the result."""

    def __init__(
        self,
        job: TrainingJob,
        order: RowOrder,
        shared: Batches,
        identity: Identity,
        checkpoints: Checkpoints,
        found: tuple[Path, dict[str, Any]] | None,
        progress: Progress,
        stop: threading.Event,
        watch: Watch | None,
    ) -> None:
        from retrieval.embedding.load import EmbeddingSettings

        self.job, self.order, self.batches, self.identity = job, order, shared, identity
        self.checkpoints, self.found, self.progress, self.stop = checkpoints, found, progress, stop
        self.watch = watch
        self.settings = job.settings
        self.cache = job.cache or EmbeddingSettings().cache_folder()
        self.chief = shared.rank == 0
        self.result: TrainingResult | None = None

    def run(self) -> TrainingResult:
        from transformers import set_seed

        from adapt.training.adapters.adalora import RankAllocation
        from adapt.training.adapters.rounding_error import ROWS
        from adapt.training.arguments import arguments, rates
        from adapt.training.guards import LossGuard, require_rows, require_separate_documents
        from adapt.training.loss import attach
        from adapt.training.methods import device, is_flat, load_model, precision_of, under_adapter
        from adapt.training.noise import EmbeddingNoise
        from adapt.training.pulls import Pulls, ask_teacher, hold_back, require_possible, shape
        from adapt.training.rows import Collator, OrderRows
        from adapt.training.sharding import require_shardable
        from adapt.training.trainer import OrderTrainer

        settings, job = self.settings, self.job
        require_possible(settings, self.order)
        require_shardable(settings)
        precision = precision_of(settings)
        args = arguments(
            settings,
            folder=job.folder / CHECKPOINTS,
            steps=self.batches.steps,
            micro_rows=self.batches.micro_rows,
            accumulation=self.batches.accumulation,
            seed=job.seed,
            precision=precision,
        )
        wait = args.distributed_state.wait_for_everyone
        pulls = Pulls()
        here: dict[str, Any] = {
            "precision": precision, "cache": self.cache, "progress": self.progress, "chief": self.chief, "wait": wait,
        }  # fmt: skip
        if not ask_teacher(job, self.order, pulls, stop=self.stop, **here):
            return self._stopped_early()
        set_seed(job.seed)
        self.progress("loading", 0, 1)
        model, tokenizer = load_model(job.model, settings, precision=precision, cache=self.cache)
        self.config = {"use_cache": getattr(model.config, "use_cache", True), **self._ends()}
        require_rows(model, tokenizer, self.order)
        shape(model, settings)
        attach(model)
        collate = Collator(flat=is_flat(model))
        require_separate_documents(model, self.order, collate, precision=precision, device=device())
        model = under_adapter(
            model,
            settings.method,
            activation_checkpointing=settings.activation_checkpointing,
            steps=self.batches.steps,
            tokenizer=tokenizer,
            rows=(self.order.row(number).ids for number in range(min(ROWS, len(self.order)))),
            folder=job.model,
        )
        if settings.method.kind in PROMPTS:
            collate = Collator(apart=True)
        hold_back(model, settings, pulls, job=job, order=self.order, steps=self.batches.steps, **here)
        alpha = settings.neftune if isinstance(settings, Sft) else None
        noise = EmbeddingNoise(model, alpha=alpha, seed=job.seed) if alpha is not None else None
        metrics = None
        step = self.found[1]["step"] if self.found else 0
        if self.chief:
            metrics = MetricsFile(job.folder / NAME, since=step)
        trainer = OrderTrainer(
            model,
            args,
            data=OrderRows(self.order, pulls.kept),
            batches=self.batches,
            collate=collate,
            rates=rates(settings.lr, self.batches.steps),
            pulls=pulls,
            guard=LossGuard(metrics.losses if metrics else ()),
            checkpoints=self.checkpoints,
            metrics=metrics,
            save=self._save,
            partly=settings.method.kind != "full",
            ranks=RankAllocation(model) if settings.method.kind == "adalora" else None,
            minutes=settings.checkpoint_minutes,
            every=settings.checkpoint_steps,
            stop=self.stop,
            progress=self.progress,
            seconds=float(self.found[1]["seconds"]) if self.found else 0.0,
            noise=noise,
        )
        if self.chief:
            whole_model = 4 * sum(weight.numel() for weight in model.parameters())
            self.checkpoints.require_room(trainer.state_size(), whole_model)
        try:
            trainer.train(resume_from_checkpoint=str(self.found[0]) if self.found else None)
            if not trainer.stopped:
                self._write_result(trainer)
        finally:
            if metrics is not None:
                metrics.close()
        return self.result or self._result(trainer)

    def _save(self, model: Any, folder: Path, state: Mapping[str, Any] | None = None) -> None:
        from adapt.training.methods import save_model

        for name, value in self.config.items():
            setattr(model.config, name, value)
        save_model(model, folder, like=self.job.tokenizer or self.job.model, state=state)

    def _ends(self) -> dict[str, Any]:
        """What ends an answer, for the result's config, where its tokenizer is another than the model's."""
        if self.job.tokenizer is None:
            return {}
        from eval.runs.run_folder import read_json

        return {"eos_token_id": read_json(self.job.tokenizer / "generation_config.json")["eos_token_id"]}

    def _write_result(self, trainer: Any) -> None:
        """The full model, where there is one, and the adapter beside it."""
        from adapt.training.methods import merged, narrowed, narrowed_state, precision_of
        from adapt.training.sharding import whole_weights

        self.progress("writing the model", 0, 1)
        job, method = self.job, self.settings.method
        model = trainer.accelerator.unwrap_model(trainer.model)
        state = whole_weights(model, keep=self.chief)  # all processes take part
        if self.chief:
            facts = {"step": trainer.state.global_step, **self.identity.facts()}
            if method.leaves_adapter:
                install(job.folder / ADAPTER, lambda new: self._save_adapter(model, new, state), facts)
                if trainer.ranks is not None:
                    trainer.ranks.finish()
            if self.watch is not None:
                self.watch(trainer)
            if method.merges:
                if method.leaves_adapter:
                    precision, adapter = precision_of(self.settings), job.folder / ADAPTER
                    model = merged(adapter, job.model, self.settings, precision=precision, cache=self.cache)
                    state = None
                if state is None:
                    model = narrowed(model, job.model)
                else:
                    state = narrowed_state(state, job.model)
                install(job.folder / MODEL, lambda new: self._save(model, new, state), facts)
            self.result = self._result(trainer)
            self.result.write(job.folder / RESULT)
            self.checkpoints.remove_all()
        trainer.accelerator.wait_for_everyone()

    def _save_adapter(self, model: Any, folder: Path, state: Mapping[str, Any] | None) -> None:
        import torch

        from adapt.training.methods import device, four_bits_of, precision_of, save_adapter
        from eval.models.adapter_base import AdapterBase

        method, like = self.settings.method, self.job.model
        precision = precision_of(self.settings)
        # What P-tuning's network makes is saved, and is to be what it made in training.
        made = torch.autocast(torch.device(device()).type, torch.bfloat16, enabled=precision == "bf16")
        with made if method.kind == "p_tuning" else nullcontext():
            save_adapter(model, folder, method, like=like, state=state)
        bits = four_bits_of(method, precision)
        AdapterBase(str(like), self.identity.model, bits).write(folder)

    def _stopped_early(self) -> TrainingResult:
        """Before the first step of this session."""
        facts = self.found[1] if self.found else {"step": 0, "tokens": 0, "seconds": 0.0}
        return TrainingResult(
            model=None,
            adapter=None,
            stopped=True,
            step=int(facts["step"]),
            steps=self.batches.steps,
            tokens=int(facts["tokens"]),
            seconds=float(facts["seconds"]),
            loss=None,
            metrics=self.job.folder / NAME,
        )

    def _result(self, trainer: Any) -> TrainingResult:
        done, method = not trainer.stopped, self.settings.method
        return TrainingResult(
            model=(self.job.folder / MODEL if method.merges else self.job.model) if done else None,
            adapter=self.job.folder / ADAPTER if done and method.leaves_adapter else None,
            stopped=trainer.stopped,
            step=trainer.state.global_step,
            steps=self.batches.steps,
            tokens=trainer.tokens,
            seconds=round(trainer.seconds(), 3),
            loss=trainer.last_loss,
            metrics=self.job.folder / NAME,
        )


@contextmanager
def _stopping_on_signals(stop: threading.Event) -> Iterator[None]:
    """SIGTERM and the first Ctrl-C ask for a checkpoint and an end; the second Ctrl-C is the usual one."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}

    def ask(number: int, frame: Any) -> None:
        del frame
        _LOG.warning("stopping after a checkpoint (%s)", signal.Signals(number).name)
        stop.set()
        if number == signal.SIGINT:
            signal.signal(signal.SIGINT, before[signal.SIGINT] or signal.default_int_handler)

    for number in before:
        signal.signal(number, ask)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
