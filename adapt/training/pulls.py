"""What a stage's settings set against forgetting → the things that a training asks in every step: an older model's
word, anchors of older weights, layers that are held. How each works is in adapt/forgetting."""

import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from adapt.recipe import Training
from adapt.training.bases import weights_hash
from adapt.training.job import TrainingJob
from adapt.training.methods import device
from adapt.training.rows import RowOrder
from eval.models.language_models import load_parts, locate
from eval.runs.parts import Progress
from retrieval.errors import DamagedError, UsageError

TEACHER, FISHER = "teacher", "fisher.safetensors"


@dataclass
class Pulls:
    """`teacher` says what an older model thought of the rows of the `kept` sources, whose distance counts `weight`
    times as much as the loss; `anchors` adds to the gradients once a step; `hold(step)` forgets those of held
    layers."""

    kept: frozenset[int] = frozenset()
    teacher: Any = None
    weight: float = 0.0
    anchors: Any = None
    hold: Callable[[int], Any] | None = None


def require_possible(settings: Training, order: RowOrder) -> None:
    """Raises UsageError for combinations that cannot be and for sources that are not in the order."""
    if settings.expand is not None and settings.method.kind != "full":
        raise UsageError(f"`expand` trains new layers in full; method {settings.method.kind} does not go with it")
    named = [*(settings.keep.kl.on if settings.keep.kl else ()), *([settings.keep.ewc.on] if settings.keep.ewc else ())]
    for name in named:
        if name not in order.sources:
            raise UsageError(f"`keep` names the source '{name}', and the rows are of {', '.join(order.sources)}")


def ask_teacher(
    job: TrainingJob, order: RowOrder, pulls: Pulls, *, precision: str, cache: Path, progress: Progress,
    stop: threading.Event, chief: bool, wait: Callable[[], None],
) -> bool:  # fmt: skip
    """Put the older model's word into `pulls`, where the settings want one: from a file that is made now if it is not
    there, or from the model itself, live. Before the student is loaded, since both need room. False where `stop` came
    first. Raises what adapt/forgetting/stored_teacher.py raises."""
    wish = job.settings.keep.kl
    if wish is None:
        return True
    from adapt.forgetting.distance import LiveTeacher
    from adapt.forgetting.stored_teacher import precompute

    folder = job.base if wish.teacher == "base" else job.model
    place = locate(str(folder), download=False)
    words = _words(folder)

    def load() -> Any:
        return load_parts(place, cache=cache, device=device(), precision=precision)[0]

    pulls.kept = frozenset(order.sources.index(name) for name in wish.on)
    pulls.weight = wish.weight
    if wish.live:
        pulls.teacher = LiveTeacher(load(), top=wish.top, old_vocabulary=words, temperature=wish.temperature)
        return True

    def stored() -> Any:
        return precompute(
            load,
            order,
            pulls.kept,
            teacher=f"{weights_hash(folder, cache=cache)} {precision}",
            top=wish.top,
            old_vocabulary=words,
            folder=job.folder / TEACHER,
            progress=progress,
            temperature=wish.temperature,
            stop=stop,
        )

    if chief:
        pulls.teacher = stored()
    wait()
    if not chief:
        pulls.teacher = stored()
    return pulls.teacher is not None


def _words(folder: Path) -> int:
    """Tokens that a model folder's tokenizer knows."""
    from transformers import AutoTokenizer

    return len(AutoTokenizer.from_pretrained(str(folder), local_files_only=True, trust_remote_code=False))


def shape(model: Any, settings: Training) -> None:
    """New layers, and what of the model is never trained. Before an adapter, an optimizer and anchors."""
    from adapt.forgetting.expansion import expand, train_only

    if settings.expand is not None:
        made = expand(model, settings.expand.layers, settings.expand.where)
        if settings.expand.only_new:
            train_only(model, made)


def hold_back(
    model: Any, settings: Training, pulls: Pulls, *, job: TrainingJob, order: RowOrder, steps: int, precision: str,
    cache: Path, progress: Progress, chief: bool, wait: Callable[[], None],
) -> None:  # fmt: skip
    """Freeze what stays and put anchors into `pulls`. The model is as the stage begins with it, whatever checkpoint is
    loaded into it later."""
    from adapt.forgetting.freezing import freeze, hold

    freeze(model, settings.freeze)
    if settings.freeze.unfreeze:
        pulls.hold = lambda step: hold(model, settings.freeze, step, steps)
    l2sp, ewc = settings.keep.l2sp, settings.keep.ewc
    if l2sp is None and ewc is None:
        return
    from adapt.forgetting.anchors import Anchors

    matter = None
    if ewc is not None:
        of = f"{weights_hash(job.model, cache=cache)} {order.sha256} {ewc.on} {ewc.tokens} {precision}"
        if chief:
            matter = _fisher(model, job, order, of, precision, progress)
        wait()
        if not chief:
            matter = _fisher(model, job, order, of, precision, progress)
    pulls.anchors = Anchors(model, l2sp=l2sp.weight if l2sp else None, ewc=ewc.weight if ewc else None, fisher=matter)


def _fisher(model: Any, job: TrainingJob, order: RowOrder, of: str, precision: str, progress: Progress) -> Any:
    """How much each weight matters to the old text: from the job's folder, or measured now and kept there.

    What was kept is what is used, at once and after a resume: in bf16.
    """
    import torch

    from adapt.forgetting.fisher import fisher, load_fisher, save_fisher

    file = job.folder / FISHER
    if file.is_file():
        try:
            return load_fisher(file, of=of).values
        except DamagedError:
            file.unlink()
    wish = job.settings.keep.ewc
    assert wish is not None
    source = order.sources.index(wish.on)
    blocks = getattr(order, "blocks", {}).get(wish.on)
    # All of the source, which need not be trained on: a mixture may give it a share of 0.
    rows: Any = (row for row in map(order.row, range(len(order))) if row.source == source)
    if blocks is not None:
        rows = map(blocks.row, range(blocks.rows))
    model.to(device())
    kind = torch.device(device()).type
    with torch.autocast(kind, torch.bfloat16, enabled=precision == "bf16"):
        found = fisher(model, rows, tokens=wish.tokens, progress=progress)
    save_fisher(found, file, of=of)
    return load_fisher(file, of=of).values
