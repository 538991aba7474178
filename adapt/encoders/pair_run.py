"""What every training of a pair encoder shares: its run folder, its base, the training itself, how it ends.

What is finished is kept: the same call goes on. It knows no kind of data.
"""

import hashlib
import json
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from adapt.encoders.pair_card import card
from adapt.encoders.pair_recipe import PACKAGED, PairRecipe
from adapt.encoders.pair_result import write_result
from adapt.encoders.pair_training import Example, TrainingSettings, train, with_lora
from eval.figures.statistics import Interval
from eval.runs.run_folder import now, read_json, write_json
from retrieval.reranking.pair_folder import FACTS, PACKAGED_BASE, PairFacts

if TYPE_CHECKING:
    import torch

    from retrieval.embedding.embedder import Embedder

Progress = Callable[[str, int, int], None]
MANIFEST, RESULT = "encoder.json", "result"
FINISHED, STOPPED, GATED, RUNNING = "finished", "stopped", "stopped at a gate", "unfinished"


@dataclass(frozen=True)
class EncoderResult:
    """What a run came to. `result` is the folder that is loaded, None where a gate failed or the run was stopped;
    `figures` are means with 95 % intervals by name; `failed` are the gates not passed."""

    folder: Path
    name: str
    status: str
    result: Path | None
    figures: Mapping[str, Interval]
    facts: Mapping[str, Any]
    failed: tuple[str, ...] = ()


class PairRun:
    """One run, in `folder`, which nobody else writes."""

    def __init__(
        self,
        recipe: PairRecipe,
        folder: Path,
        name: str,
        embedder: "Callable[[], Embedder]",
        progress: Progress,
        stop: threading.Event,
        cache: Path,
    ) -> None:
        from retrieval.embedding.load import EmbeddingSettings
        from retrieval.embedding.model_files import find_model, weights_hash

        self.recipe, self.folder, self.name = recipe, folder, name
        self.embedder, self.progress, self.stop, self.cache = embedder, progress, stop, cache
        self.models = EmbeddingSettings().cache_folder()
        file = folder / MANIFEST
        self.before: dict[str, Any] = read_json(file) if file.is_file() else {}
        names = ("started", "trained", "training")
        kept: dict[str, Any] = {name: self.before[name] for name in names if name in self.before}
        self.facts: dict[str, Any] = {
            "name": name,
            "recipe": recipe.model_dump(mode="json", exclude={"root"}),
            "started": now(),
            **kept,
        }
        self.progress("looking at the base model", 0, 0)
        word = PACKAGED_BASE if recipe.base == PACKAGED else recipe.base
        self.base = find_model(word)
        # A folder is named by its whole path, so that the adapter finds it again.
        place = Path(word).expanduser()
        self.base_name = str(place.absolute()) if place.is_dir() else self.base.name
        self.base_hash = weights_hash(self.base, self.models)
        self.note(status=RUNNING, base={"name": self.base_name, "sha256": self.base_hash})

    def train(self, examples: Sequence[Example], role: str, labels: tuple[str, ...], negatives: int) -> bool:
        """Train and write the result without a calibration, or as far as `stop` allows: False. A training that was
        finished on the same examples is not done again."""
        from retrieval.reranking.cross_encoder import network_facts
        from retrieval.reranking.pair_encoder import pair_encoder
        from retrieval.reranking.pair_folder import load_trunk

        recipe, method = self.recipe, self.recipe.method
        settings = TrainingSettings(
            recipe.lr, recipe.head_lr, recipe.epochs, recipe.batch, negatives, recipe.seed, recipe.save_steps
        )
        order = _hash([asdict(one) for one in examples])
        model = _hash([self.base_hash, method.model_dump(), recipe.max_tokens, labels])
        key = _hash([order, model, asdict(settings)])
        if self.before.get("trained") == key and (self.folder / RESULT / FACTS).is_file():
            return True
        self.progress("loading the encoder", 0, 0)
        trunk, lora = load_trunk(self.base), method.kind == "lora"
        # A trunk that was trained on single texts knows only the first type; telling sides is left to attention.
        network: torch.nn.Module = pair_encoder(
            with_lora(trunk, method) if lora else trunk, len(labels), token_types=False
        )
        result = train(
            network,
            examples,
            network_facts(self.base, recipe.max_tokens).tokens(),
            settings,
            folder=self.folder,
            model=model,
            order=order,
            progress=self.progress,
            stop=self.stop,
        )
        self.note(training=asdict(result))
        if not result.finished:
            return False
        facts = PairFacts(role, self.base_name, self.base_hash, labels, recipe.max_tokens, False, None)
        write_result(self.folder / RESULT, network, facts, base=self.base.folder, lora=lora, card=card(self.facts, {}))
        self.note(trained=key)
        return True

    def end(
        self, status: str, figures: Mapping[str, Interval] | None = None, failed: Sequence[str] = ()
    ) -> EncoderResult:
        """Note how it ended."""
        figures = figures or {}
        self.note(
            status=status,
            finished=now(),
            failed=list(failed),
            figures={name: asdict(interval) for name, interval in figures.items()},
        )
        result = self.folder / RESULT if status == FINISHED else None
        return EncoderResult(self.folder, self.name, status, result, figures, self.facts, tuple(failed))

    def note(self, **facts: Any) -> None:
        """Write down what is known. Raises OSError."""
        self.facts |= facts
        write_json(self.folder / MANIFEST, self.facts)


def _hash(said: Any) -> str:
    return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()
