"""A recipe → its base and texts made ready, and its `dapt` stage run as `fathom adapt run` runs it, under any settings
and seed: what the table of remedies asks for.
"""

import hashlib
import json
import threading
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from adapt.experiments.forgetting_figures import DOMAIN, GENERAL
from adapt.experiments.forgetting_table import Trained
from adapt.recipe import Dapt, Recipe, Stage
from adapt.stages import Surroundings, run_stage
from adapt.training.bases import base_folder, weights_hash
from eval.runs.parts import Progress
from eval.runs.run_folder import read_json
from retrieval.errors import DamagedError, UsageError


class RecipeStages:
    """The sources "domain" and "general" of a recipe, prepared once whatever the seed. See `Stages`."""

    def __init__(self, recipe: Recipe, *, cache: Path, progress: Progress, processes: int | None = None) -> None:
        """Raises UsageError for a recipe without these sources or without held-out texts in them, and what preparing a
        corpus and finding a base raise."""
        from adapt.corpus.preparing import prepare

        for name in (DOMAIN, GENERAL):
            if name not in recipe.data or recipe.data[name].synthetic is not None:
                raise UsageError(f"the recipe '{recipe.name}' has no texts of a source '{name}'; the table needs both")
        self._recipe = recipe
        self.base = base_folder(recipe.base, cache=cache)
        corpora = {
            name: prepare(
                name,
                recipe.data[name],
                root=recipe.root,
                decontaminate=recipe.decontaminate,
                seed=recipe.seed,
                cache=cache,
                progress=progress,
            )
            for name in (DOMAIN, GENERAL)
        }
        for name, corpus in corpora.items():
            if not corpus.count("held_out"):
                raise UsageError(f"the source '{name}' holds nothing back to measure on; set its held_out")
        self.held_out: Mapping[str, Path] = {name: corpus.file("held_out") for name, corpus in corpora.items()}
        texts = {name: corpus.sha256 for name, corpus in corpora.items()}
        self.key = hashlib.sha256(json.dumps([weights_hash(self.base, cache=cache), texts]).encode()).hexdigest()
        self._around = Surroundings(
            recipe=recipe,
            base=self.base,
            corpora=corpora,
            cache=cache,
            embedder=_no_embedder,
            progress=progress,
            stop=threading.Event(),
            processes=processes,
        )

    @property
    def layers(self) -> int:
        """Decoder layers of the base. Raises DamagedError."""
        layers = read_json(self.base / "config.json").get("num_hidden_layers")
        if not isinstance(layers, int) or layers < 1:
            raise DamagedError(f"{self.base / 'config.json'} does not say how many layers the model has")
        return layers

    def train(
        self, settings: Dapt, *, seed: int, folder: Path, progress: Progress, stop: threading.Event | None
    ) -> Trained:
        """As `Stages.train`. Raises KeyboardInterrupt when stopped, and what the stage raises."""
        recipe = self._recipe.model_copy(update={"seed": seed})
        around = replace(self._around, recipe=recipe, progress=progress, stop=stop or threading.Event())
        outcome = run_stage(Stage(kind="dapt", settings=settings), self.base, folder, around)
        if outcome.model is None:
            raise KeyboardInterrupt
        told = outcome.facts["training"]
        return Trained(outcome.model, int(told["tokens"]), float(told["seconds"]))


def _no_embedder() -> Any:
    raise UsageError("a dapt stage embeds nothing")
