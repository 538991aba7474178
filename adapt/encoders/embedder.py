"""A recipe for an embedding adapter → pairs split by document, LoRA matrices trained, the share of them that is kept
chosen on held-out pairs, and the adapter in a folder that `[embedding] adapter` and `fathom index reembed` take.
"""

import hashlib
import json
import random
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from adapt.encoders.embedder_card import card
from adapt.encoders.embedder_recipe import EmbedderRecipe, PairsOf
from adapt.encoders.interpolation import Trial, alike, chosen, gain_of, trials
from adapt.encoders.pair_recipe import PACKAGED
from adapt.encoders.pair_run import FINISHED, GATED, MANIFEST, RESULT, RUNNING, STOPPED, EncoderResult
from adapt.queries.pair_file import QueryPair, read_pairs, split_by_document
from eval.figures.statistics import Interval, bootstrap
from eval.runs.run_folder import now, read_json, write_json
from retrieval.embedding.adapter import ABOUT, CARD, CONFIG, ROLE, WEIGHTS
from retrieval.embedding.stored import file_hash, keep
from retrieval.errors import UsageError

if TYPE_CHECKING:
    from adapt.encoders.embedder_training import TunedModel
    from retrieval.embedding.model_files import ModelFiles

Progress = Callable[[str, int, int], None]
PACKAGED_EMBEDDER = "all-MiniLM-L6-v2"
OWN, GENERAL = "own pairs, MRR", "general pairs, MRR"
LEAST_PAIRS = 64
"""To train on: two steps of the usual size."""
LEAST_HELD_OUT = 20
"""Fewer than this say nothing."""
NOTHING_GAINED = "held-out pairs are not surely found better"


def run_embedder(
    recipe: EmbedderRecipe,
    out: Path,
    progress: Progress = lambda *_: None,
    *,
    stop: threading.Event | None = None,
    cache: Path | None = None,
) -> EncoderResult:
    """Do what is not done yet of a recipe in the folder `out`, which nobody else writes; the adapter is `out`/result.

    Where no share of what was learnt finds held-out pairs better without losing on general ones, there is no result and
    the status says so. `stop` ends the work at the next safe place; the same call goes on from there.

    Raises UsageError for data that trains nothing, ReadingError for a file that holds no pairs, MissingError or
    DamagedError for the base, FathomError for training that went wrong, OSError on a full disk.
    """
    return _Run(recipe, out, progress, stop or threading.Event(), cache).go()


def read_sources(recipe: EmbedderRecipe) -> tuple[list[QueryPair], list[QueryPair], dict[str, Any]]:
    """(to train on, held out, facts by source). Raises UsageError, ReadingError."""
    learned: list[QueryPair] = []
    held: list[QueryPair] = []
    facts: dict[str, Any] = {}
    for name, source in recipe.data.items():
        pairs = _limited(_read(recipe, source), source, recipe.seed)
        most = max(1, recipe.most_held_out // len(recipe.data))
        own, out = split_by_document(pairs, recipe.held_out, most, recipe.seed)
        # Documents of one source are others than those of another, whatever they are called.
        learned += [_of(name, pair) for pair in own]
        held += [_of(name, pair) for pair in out]
        facts[name] = {
            "pairs": len(own),
            "held_out": len(out),
            "sha256": file_hash(recipe.root / source.path),
            "licence": source.licence,
        }
    if len(learned) < LEAST_PAIRS or len(held) < LEAST_HELD_OUT:
        raise UsageError(
            f"{len(learned):,} pairs to train on and {len(held):,} held out are too few; at least {LEAST_PAIRS} and "
            f"{LEAST_HELD_OUT} are needed: make more with 'fathom data queries'"
        )
    if recipe.negatives and not any(pair.negatives for pair in learned):
        raise UsageError(
            "the recipe wants negatives and no pair has any; make them with 'fathom data queries --negatives'"
        )
    return learned, held, facts


class _Run:
    def __init__(
        self, recipe: EmbedderRecipe, folder: Path, progress: Progress, stop: threading.Event, cache: Path | None
    ) -> None:
        from retrieval.embedding.load import EmbeddingSettings
        from retrieval.embedding.model_files import find_model, weights_hash

        self.recipe, self.folder, self.progress, self.stop = recipe, folder, progress, stop
        folder.mkdir(parents=True, exist_ok=True)
        file = folder / MANIFEST
        self.before: dict[str, Any] = read_json(file) if file.is_file() else {}
        self.progress("looking at the base model", 0, 0)
        word = PACKAGED_EMBEDDER if recipe.base == PACKAGED else recipe.base
        self.base: ModelFiles = find_model(word, download=False)
        place = Path(word).expanduser()
        self.base_name = str(place.absolute()) if place.is_dir() else self.base.name
        self.base_hash = weights_hash(self.base, cache or EmbeddingSettings().cache_folder())
        kept: dict[str, Any] = {key: self.before[key] for key in ("started", "training") if key in self.before}
        self.facts: dict[str, Any] = {
            "name": recipe.name,
            "recipe": recipe.model_dump(mode="json", exclude={"root"}),
            "started": now(),
            **kept,
        }
        self.note(status=RUNNING, base={"name": self.base_name, "sha256": self.base_hash})

    def go(self) -> EncoderResult:
        recipe = self.recipe
        self.progress("reading pairs", 0, 0)
        learned, held, facts = read_sources(recipe)
        general = general_pairs(recipe, len(held))
        self.note(data=facts)
        said = [[pair.as_json() for pair in part] for part in (learned, held, general)]
        key = _hash([said, self.base_hash, recipe.model_dump(mode="json", exclude={"root", "name", "save_steps"})])
        if self.before.get("key") == key and self.before.get("status") in (FINISHED, GATED):
            self.facts |= {name: value for name, value in self.before.items() if name not in ("recipe", "name")}
            return self._end(str(self.before["status"]), _figures(self.before), tuple(self.before.get("failed", ())))
        from adapt.encoders.embedder_training import TunedModel, train

        self.progress("loading the model", 0, 0)
        tuned = TunedModel(self.base, recipe)
        model, order = _hash([self.base_hash, recipe.r, recipe.alpha]), _hash(said[0])
        result = train(
            tuned, learned, recipe, folder=self.folder, model=model, order=order, progress=self.progress, stop=self.stop
        )
        self.note(training=asdict(result))
        if not result.finished or self.stop.is_set():
            return self._end(STOPPED)
        others = alike(tuned, held, learned, recipe.distractors)
        found = trials(tuned, held, general, recipe.shares, self.progress, others=others)
        documents = [pair.document for pair in held]
        best = chosen(found, recipe.general_loss, documents, seed=recipe.seed)
        gain = gain_of(best, found[0], documents, seed=recipe.seed)
        difference = gain.difference
        figures = _intervals(found[0], best, recipe.seed)
        self.note(
            key=key,
            share=best.share,
            shares=[
                {"share": one.share, "own": float(one.own.mean()), "general": float(one.general.mean())}
                for one in found
            ],
            gain={"difference": difference.value, "low": difference.low, "high": difference.high, "p": gain.p},
        )
        if not best.share:
            return self._end(GATED, figures, (NOTHING_GAINED,))
        self._write(tuned, best.share, figures)
        return self._end(FINISHED, figures)

    def _write(self, tuned: "TunedModel", share: float, figures: Mapping[str, Interval]) -> None:
        import shutil

        from safetensors.torch import save_file

        def fill(place: Path) -> None:
            save_file(tuned.state(share), place / WEIGHTS, metadata={"format": "pt"})
            write_json(place / CONFIG, _config(tuned.lora.peft_config["default"], self.base_name))
            write_json(
                place / ABOUT,
                {"base": self.base_name, "base_sha256": self.base_hash, "role": ROLE, "prompt_version": ""},
            )
            (place / CARD).write_text(card(self.facts, figures), "utf-8")

        result = self.folder / RESULT
        if result.exists():
            shutil.rmtree(result)
        keep(result, fill)
        (result / "hashes.json").unlink()

    def _end(
        self, status: str, figures: Mapping[str, Interval] | None = None, failed: Sequence[str] = ()
    ) -> EncoderResult:
        figures = figures or {}
        self.note(
            status=status,
            finished=now(),
            failed=list(failed),
            figures={name: asdict(interval) for name, interval in figures.items()},
        )
        result = self.folder / RESULT if status == FINISHED else None
        return EncoderResult(self.folder, self.recipe.name, status, result, figures, self.facts, tuple(failed))

    def note(self, **facts: Any) -> None:
        """Write down what is known. Raises OSError."""
        self.facts |= facts
        write_json(self.folder / MANIFEST, self.facts)


def general_pairs(recipe: EmbedderRecipe, count: int) -> list[QueryPair]:
    """`count` pairs of texts that the collection has nothing to do with. Raises UsageError, ReadingError."""
    if recipe.general is not None:
        pairs = _limited(_read(recipe, recipe.general), recipe.general, recipe.seed)
        return random.Random(recipe.seed).sample(pairs, min(count, len(pairs)))
    from retrieval.embedding.quantise import docstrings

    found: list[QueryPair] = []
    for number, text in enumerate(docstrings(4 * count)):
        first, _, rest = text.partition("\n\n")
        if len(first.split()) >= 4 and len(rest.split()) >= 30 and len(found) < count:
            found.append(QueryPair(" ".join(first.split()), rest.strip(), f"docstring {number}", "half"))
    return found


def _read(recipe: EmbedderRecipe, source: PairsOf) -> list[QueryPair]:
    return read_pairs(recipe.root / Path(source.path).expanduser())


def _limited(pairs: list[QueryPair], source: PairsOf, seed: int) -> list[QueryPair]:
    if source.limit is None or source.limit >= len(pairs):
        return pairs
    return random.Random(seed).sample(pairs, source.limit)


def _of(source: str, pair: QueryPair) -> QueryPair:
    return QueryPair(pair.query, pair.positive, f"{source}\0{pair.document}", pair.kind, pair.negatives)


def _intervals(stock: Trial, best: Trial, seed: int) -> dict[str, Interval]:
    parts = {
        f"{OWN}, stock": stock.own,
        f"{OWN}, tuned": best.own,
        f"{GENERAL}, stock": stock.general,
        f"{GENERAL}, tuned": best.general,
    }
    return {name: bootstrap([float(value) for value in values], seed=seed) for name, values in parts.items()}


def _figures(facts: Mapping[str, Any]) -> dict[str, Interval]:
    return {name: Interval(**found) for name, found in facts.get("figures", {}).items()}


def _config(config: Any, base: str) -> dict[str, Any]:
    """What peft saves of itself, without where the base lay on this machine; sets become sorted lists."""
    found = {
        name: sorted(value) if isinstance(value, set | frozenset) else getattr(value, "value", value)
        for name, value in config.to_dict().items()
    }
    return {**found, "base_model_name_or_path": base, "inference_mode": True}


def _hash(said: Any) -> str:
    return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()
