"""A recipe with the key `encoder: embedder` → a checked, frozen object. It reads no data."""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from adapt.encoders.pair_recipe import PACKAGED, checked_recipe
from adapt.recipe import Count, Positive, Settings, Share
from adapt.recipe_rules import Problem

EMBEDDER = "embedder"
_NAME = re.compile(r"\w[\w\-]{0,39}")


class PairsOf(Settings):
    """A file of queries with their passages, as `fathom data queries` writes it."""

    path: str
    """Relative paths begin at the recipe's `root`."""
    limit: Count | None = None
    """Pairs at most, drawn with the seed."""
    licence: str = ""
    """For the card that lies beside the result."""


class EmbedderRecipe(Settings):
    """What one tuning of an embedding model is: LoRA on all its linear layers. `root` is absolute."""

    encoder: Literal["embedder"]
    name: str
    root: Path
    base: str = PACKAGED
    """"packaged", a folder, or a name of the hub."""
    data: dict[str, PairsOf]
    general: PairsOf | None = None
    """Pairs of other texts than the collection's, on which the tuned model must not fall behind; never trained on. None
    takes docstrings of Python's own library."""
    r: Count = 16
    alpha: Positive | None = None
    """None is 2 × r."""
    lr: Positive = 1e-3
    """Peak, reached after a tenth of the steps, then down to 0 as a cosine."""
    steps: Count = 60
    batch: Annotated[int, Field(ge=2)] = 32
    """Pairs a step; each one's passage is a wrong one for the others."""
    alike: Count = 4
    """Pairs of a batch whose queries are nearest neighbours by the stock model: the others' passages are then hard to
    tell from the right one (topic-aware batches: Hofstätter et al. 2021, arXiv:2104.06967). 1 draws all at random."""
    negatives: Annotated[int, Field(ge=0)] = 0
    """Mined wrong passages of each pair that are read too, drawn anew in every step; the file must have them."""
    max_tokens: Annotated[int, Field(ge=16, le=8192)] = 128
    """Of a passage in training; in use the model reads as many as ever."""
    temperature: Positive = 0.05
    """That cosines are divided by."""
    held_out: Annotated[float, Field(gt=0.0, le=0.5)] = 0.1
    """Share of the pairs, by document, that is measured on and never trained on."""
    most_held_out: Count = 200
    distractors: Annotated[int, Field(ge=0)] = 4
    """Passages to train on that each held-out query must tell from its own: those asked for by its nearest queries."""
    shares: tuple[Annotated[float, Field(gt=0.0, le=1.0)], ...] = (0.4, 0.7, 1.0)
    """Of the way from the stock model to the tuned one, of which held-out pairs choose the best (WiSE-FT: Wortsman et
    al. 2022, arXiv:2109.01903)."""
    general_loss: Share = 0.01
    """What the figure on general pairs may fall by."""
    seed: int = 0
    save_steps: Count = 20


def load_embedder_recipe(
    path: Path,
    *,
    root: Path | None = None,
    data: Mapping[str, str] | None = None,
    settings: Mapping[str, str] | None = None,
) -> EmbedderRecipe:
    """Read and check a recipe. `root`, `data` and `settings` are what the command line says, as for other recipes.

    Raises UsageError with all problems of the file together, one a line.
    """
    return checked_recipe(EmbedderRecipe, _contradictions, path, root=root, data=data, settings=settings)


def _contradictions(recipe: EmbedderRecipe) -> Iterator[Problem]:
    if not recipe.data:
        yield Problem(("data",), "no file of pairs", "write data: {name: {path: …}}")
    for name in recipe.data:
        if not _NAME.fullmatch(name):
            yield Problem(("data",), f"{name[:60]!r} cannot name a source", "use letters, digits, '-' and '_'")
    if not recipe.shares:
        yield Problem(("shares",), "nothing to choose from", "write one or more shares above 0 up to 1")
