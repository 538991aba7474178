"""One training as a file: which model, which order of rows, which settings, where to. It trains nothing."""

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from adapt.recipe import Dapt, Sft, Tapt, Training
from eval.runs.run_folder import write_json
from retrieval.errors import DamagedError

KINDS: dict[str, type[Training]] = {"training": Training, "dapt": Dapt, "tapt": Tapt, "sft": Sft}
FREE = frozenset({"checkpoint_minutes", "checkpoint_steps", "micro_tokens", "activation_checkpointing"})
"""Settings that may differ when a training goes on: they decide how fast it is computed, not what."""


@dataclass(frozen=True)
class TrainingJob:
    """`model` is the folder this stage starts from, `base` the recipe's base (the teacher "base" of `keep.kl`), `order`
    the folder of an Order, `folder` where everything of this training goes. `processes` None is one on a CPU and one
    for each GPU. `tokenizer` is the folder of the result's tokenizer, template and settings of generation, None for the
    model's own; its token numbers are the model's."""

    model: Path
    base: Path
    order: Path
    settings: Training
    folder: Path
    seed: int
    processes: int | None = None
    cache: Path | None = None
    tokenizer: Path | None = None

    def write(self, file: Path) -> None:
        """As JSON, for the processes of a launcher. Raises OSError."""
        kind = next(name for name, found in KINDS.items() if found is type(self.settings))
        facts: dict[str, Any] = {
            "model": str(self.model),
            "base": str(self.base),
            "order": str(self.order),
            "folder": str(self.folder),
            "seed": self.seed,
            "processes": self.processes,
            "cache": str(self.cache) if self.cache else None,
            "tokenizer": str(self.tokenizer) if self.tokenizer else None,
            "kind": kind,
            "settings": self.settings.model_dump(mode="json"),
        }
        write_json(file, facts)

    @classmethod
    def read(cls, file: Path) -> "TrainingJob":
        """Raises DamagedError."""
        try:
            facts = json.loads(file.read_bytes())
            return cls(
                model=Path(facts["model"]),
                base=Path(facts["base"]),
                order=Path(facts["order"]),
                settings=KINDS[facts["kind"]].model_validate(facts["settings"]),
                folder=Path(facts["folder"]),
                seed=int(facts["seed"]),
                processes=facts["processes"],
                cache=Path(facts["cache"]) if facts["cache"] else None,
                tokenizer=Path(facts["tokenizer"]) if facts["tokenizer"] else None,
            )
        except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
            raise DamagedError(f"{file} is no training job ({error}); run the recipe again") from error


@dataclass(frozen=True)
class TrainingResult:
    """What came out. `model` is a full model folder with its tokenizer, None where the training was stopped before its
    end; `adapter` the folder of what a method added. Where the two cannot be merged (`Method.merges`) `model` is the
    one the stage began with, and the result is that under `adapter`. `seconds` are those of training, over all
    sessions."""

    model: Path | None
    adapter: Path | None
    stopped: bool
    step: int
    steps: int
    tokens: int
    seconds: float
    loss: float | None
    """Of the last step, in nats per token."""
    metrics: Path

    def write(self, file: Path) -> None:
        """Raises OSError."""
        write_json(file, {key: str(value) if isinstance(value, Path) else value for key, value in asdict(self).items()})

    @classmethod
    def read(cls, file: Path) -> "TrainingResult":
        """Raises DamagedError."""
        try:
            facts = json.loads(file.read_bytes())
            for name in ("model", "adapter", "metrics"):
                facts[name] = Path(facts[name]) if facts[name] is not None else None
            return cls(**facts)
        except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
            raise DamagedError(f"{file} is no training's result ({error}); run the recipe again") from error


def decisive(settings: Training) -> dict[str, Any]:
    """The settings that decide what is computed, ready for JSON."""
    return {key: value for key, value in settings.model_dump(mode="json").items() if key not in FREE}


def settings_hash(settings: Training) -> str:
    """SHA-256 (hex) over `decisive`."""
    return hashlib.sha256(json.dumps(decisive(settings), sort_keys=True).encode()).hexdigest()
