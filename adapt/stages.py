"""One stage of a recipe and a model folder in, the next model folder out: what each kind of stage does, and on which
texts it depends. It knows no gates, no report and no other stage.
"""

import hashlib
import json
import logging
import shutil
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from adapt.corpus.sealed_folder import MANIFEST
from adapt.recipe import Dapt, Decontamination, Recipe, Sft, Stage, Tapt, Vocabulary
from eval.runs.parts import Progress
from eval.runs.run_folder import read_json
from retrieval.errors import UsageError

if TYPE_CHECKING:
    from adapt.corpus.mixing import Order
    from adapt.corpus.packing import Blocks
    from adapt.corpus.preparing import Corpus
    from adapt.corpus.texts import TrainingText
    from retrieval.embedding.embedder import Embedder

VERSION = 2
"""Raised when a stage's work changes: finished stages of older runs are then done again."""
SELECTED = "selected"
"""What TAPT calls the text that it selected."""
T = TypeVar("T")
TOKENIZER = "tokenizer"
"""Folder of a stage that teaches a chat template: the tokenizer that its result will have."""
_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class Surroundings:
    """What all stages of a run share. `base` is the folder of the recipe's base model."""

    recipe: Recipe
    base: Path
    corpora: "Mapping[str, Corpus]"
    cache: Path
    embedder: "Callable[[], Embedder]"
    progress: Progress
    stop: threading.Event
    processes: int | None = None
    """None is one on a CPU and one for each GPU."""


@dataclass(frozen=True)
class Outcome:
    """What a stage left. `model` is None where it was stopped before its end; what it has done is kept."""

    model: Path | None
    facts: dict[str, Any] = field(default_factory=dict)


def sources_of(stage: Stage) -> tuple[str, ...]:
    """Sources of the recipe that a stage reads, each once."""
    settings = stage.settings
    if isinstance(settings, Vocabulary):
        replay = settings.warm.replay if settings.warm is not None else None
        return (settings.source,) if replay is None else (settings.source, replay)
    named: list[str] = [name for name in settings.mix if name != SELECTED]
    if isinstance(settings, Tapt):
        named += [settings.select.source, settings.select.near]
    if settings.keep.ewc is not None:
        named.append(settings.keep.ewc.on)
    return tuple(dict.fromkeys(named))


def trained_on(recipe: Recipe) -> frozenset[str]:
    """Sources whose texts end up in the model: all that stages read but the sentences that TAPT looks for."""
    found = set()
    for stage in recipe.stages:
        near = stage.settings.select.near if isinstance(stage.settings, Tapt) else None
        mixed = () if isinstance(stage.settings, Vocabulary) else stage.settings.mix
        found |= {name for name in sources_of(stage) if name != near or name in mixed}
    return frozenset(found)


def decontamination_of(recipe: Recipe, name: str) -> Decontamination:
    """What a source's documents must not hold. Sentences of the task may be an evaluation's: they only choose texts."""
    return recipe.decontaminate if name in trained_on(recipe) else Decontamination()


def stage_key(stage: Stage, before: str, around: Surroundings) -> str:
    """SHA-256 of everything that decides a stage's result: its settings, the seed, its texts and all stages before; for
    TAPT also the embedding model that selects."""
    described = {
        "version": VERSION,
        "kind": stage.kind,
        "settings": stage.settings.model_dump(mode="json"),
        "seed": around.recipe.seed,
        "before": before,
        "texts": {name: around.corpora[name].sha256 for name in sources_of(stage)},
    }
    if isinstance(stage.settings, Tapt):
        described["embedder"] = around.embedder().fingerprint.to_json()
    return hashlib.sha256(json.dumps(described, sort_keys=True).encode()).hexdigest()


def run_stage(stage: Stage, model: Path, folder: Path, around: Surroundings) -> Outcome:
    """Do a stage on the model in `model`, in `folder`; what a stopped run left there is gone on with.

    Raises UsageError for what cannot be done with these texts, FathomError for training that went wrong.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if isinstance(stage.settings, Vocabulary):
        return _extend_vocabulary(stage.settings, model, folder, around)
    return _train(stage.settings, model, folder, around)


def _extend_vocabulary(settings: Vocabulary, model: Path, folder: Path, around: Surroundings) -> Outcome:
    from adapt.vocabulary.extending import REPORT, extend
    from adapt.vocabulary.warming import StoppedError

    try:
        result = extend(
            model,
            around.corpora[settings.source],
            settings,
            folder=folder,
            seed=around.recipe.seed,
            progress=around.progress,
            stop=around.stop,
            replay=around.corpora[settings.warm.replay] if settings.warm and settings.warm.replay else None,
        )
    except StoppedError:
        return Outcome(None)
    return Outcome(result, {"vocabulary": read_json(folder / REPORT)})


def _train(settings: Dapt | Tapt | Sft, model: Path, folder: Path, around: Surroundings) -> Outcome:
    from adapt.training.job import TrainingJob
    from adapt.training.train import train

    tokenizer = None
    if isinstance(settings, Sft):
        from adapt.chat.dressing import dressed

        tokenizer = dressed(model, settings.template, folder / TOKENIZER)
    order, facts = order_of(settings, model, folder, around)
    facts["shares"] = {"planned": order.planned, "realised": order.realised}
    job = TrainingJob(
        model=model,
        base=around.base,
        order=order.folder,
        settings=settings,
        folder=folder,
        seed=around.recipe.seed,
        processes=around.processes,
        cache=around.cache,
        tokenizer=tokenizer,
    )
    result = train(job, progress=around.progress, stop=around.stop)
    facts["training"] = {
        "steps": result.steps,
        "tokens": result.tokens,
        "seconds": result.seconds,
        "loss": result.loss,
        "metrics": result.metrics.name,
        "adapter": result.adapter.name if result.adapter else None,
    }
    return Outcome(result.model, facts)


def order_of(
    settings: Dapt | Tapt | Sft, model: Path, folder: Path, around: Surroundings
) -> "tuple[Order, dict[str, Any]]":
    """The fixed order of blocks that a stage trains on, made in `folder` unless it is there, and facts for the report.

    Raises UsageError where the texts do not suffice.
    """
    from adapt.corpus.mixing import Order, mix
    from adapt.vocabulary.tokenizer_file import load

    facts: dict[str, Any] = {}
    place = folder / "order"
    blocks: dict[str, Blocks] = {}
    for name in settings.mix:
        if name == SELECTED:
            texts, key, found = _selected(settings, load(model), folder, around)
            facts["selection"] = found
        else:
            corpus = around.corpora[name]
            if isinstance(settings, Sft) and around.recipe.data[name].chat:
                blocks[name] = _packed_chats(name, corpus, settings, folder / TOKENIZER, around)
                continue
            texts, key = corpus.texts("train"), corpus.sha256
        blocks[name] = _packed(name, texts, key, settings, model, facts, around)
    told = ("rows", "tokens", "learned", "conversations", "too_long")
    facts["blocks"] = {name: {k: one.facts[k] for k in told if k in one.facts} for name, one in blocks.items()}
    if (place / MANIFEST).is_file():
        order = Order.open(place)
        order.verify()
        return order, facts
    order = mix(
        blocks,
        settings.mix,
        tokens=settings.tokens,
        epochs=settings.epochs,
        seed=around.recipe.seed,
        folder=place,
    )
    return order, facts


def _packed(
    name: str,
    texts: "Iterable[TrainingText]",
    key: str,
    settings: Dapt | Tapt | Sft,
    model: Path,
    facts: dict[str, Any],
    around: Surroundings,
) -> "Blocks":
    """The blocks of a source, made once for these texts, this tokenizer and this block size.

    Texts on which a teacher speaks are cut by the base's tokenizer: after a vocabulary was extended its tokens are the
    student's too (new ones only came after them), so both see the same sequence.
    """
    from adapt.corpus.packing import Blocks, pack
    from adapt.vocabulary.tokenizer_file import load
    from retrieval.embedding.stored import file_hash

    taught = settings.keep.kl is not None and name in settings.keep.kl.on
    place = around.base if taught else model
    reading = settings.reading if settings.reading is not None and name in settings.reading.on else None
    described = {
        "version": VERSION,
        "texts": key,
        "tokenizer": file_hash(place / "tokenizer.json"),
        "block": settings.block,
        "seed": around.recipe.seed,
        "reading": reading.model_dump(mode="json") if reading else None,
    }
    digest = hashlib.sha256(json.dumps(described, sort_keys=True).encode()).hexdigest()
    folder = around.cache / "blocks" / digest[:32]
    if (folder / MANIFEST).is_file():
        blocks = Blocks.open(folder)
    else:
        counts: Counter[str] = Counter()
        if reading is not None:
            from adapt.corpus.reading_tasks import transform

            texts = transform(texts, reading, seed=around.recipe.seed, counts=counts)
        around.progress(f"packing {name}", 0, 0)
        blocks = pack(
            _until_stopped(texts, around.stop),
            load(place),
            block=settings.block,
            folder=folder,
            seed=around.recipe.seed,
            progress=around.progress,
            name=f"'{name}'",
            more=counts,
        )
    if reading is not None:
        facts.setdefault("reading", {})[name] = dict(blocks.more)
    return blocks


def _packed_chats(name: str, corpus: "Corpus", settings: Sft, place: Path, around: Surroundings) -> "Blocks":
    """The rows of a source of conversations, made once for these and the tokenizer in `place` with its template."""
    from adapt.chat.rows import pack_chats, rows_key
    from adapt.chat.templates import require
    from adapt.chat.writing import Writer
    from adapt.corpus.packing import Blocks
    from adapt.vocabulary.tokenizer_file import load

    tokenizer = load(place)
    writer = Writer(
        tokenizer, template=require(tokenizer, settings.template), system=settings.system, learn=settings.learn
    )
    seed = around.recipe.seed
    digest = rows_key(corpus.sha256, writer, block=settings.block, too_long=settings.too_long, seed=seed)
    folder = around.cache / "blocks" / digest[:32]
    if (folder / MANIFEST).is_file():
        return Blocks.open(folder)
    around.progress(f"packing {name}", 0, 0)
    return pack_chats(
        _until_stopped(corpus.conversations("train"), around.stop),
        writer,
        block=settings.block,
        too_long=settings.too_long,
        folder=folder,
        seed=seed,
        progress=around.progress,
        name=f"'{name}'",
    )


def _selected(
    settings: Dapt | Tapt | Sft, tokenizer: Any, folder: Path, around: Surroundings
) -> "tuple[Iterator[TrainingText], str, dict[str, Any]]":
    from adapt.corpus.selection import Selected, select

    if not isinstance(settings, Tapt):
        raise UsageError(f"only 'tapt' selects text; give 'dapt' a source of the recipe instead of '{SELECTED}'")
    chosen = settings.select
    place = folder / SELECTED
    if (place / MANIFEST).is_file():
        found = Selected.open(place)
    else:
        found = select(
            _until_stopped(around.corpora[chosen.source].texts("train"), around.stop),
            around.corpora[chosen.near].texts("train"),
            chosen,
            embedder=around.embedder(),
            seed=around.recipe.seed,
            folder=place,
            progress=around.progress,
            cache=around.cache / "passages",
            count=lambda texts: [len(ids) for ids in tokenizer(list(texts), add_special_tokens=False)["input_ids"]],
        )
    return found.texts(), found.sha256, dict(found.report)


def _until_stopped(texts: Iterable[T], stop: threading.Event) -> Iterator[T]:
    for text in texts:
        if stop.is_set():
            raise KeyboardInterrupt  # packing is made again from the beginning, which takes seconds
        yield text


def clear(folder: Path) -> None:
    """Remove what a stage has done, so that it begins anew."""
    shutil.rmtree(folder, ignore_errors=True)
