"""The options that the commands of `fathom adapt` share, each written once, and the recipe that they lead to."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from retrieval.errors import UsageError

if TYPE_CHECKING:
    from adapt.recipe import Recipe

RecipeFile = Annotated[
    Path, typer.Argument(metavar="RECIPE", help="YAML file that says which model, texts and stages.")
]
Root = Annotated[
    Path | None,
    typer.Option("--root", metavar="DIR", help="Where paths of the recipe begin.", show_default="as the recipe says"),
]
Data = Annotated[
    list[str] | None,
    typer.Option(
        "--data",
        metavar="NAME=PATH",
        help="Take a source's texts from here (or add the source); may be repeated.",
        show_default=False,
    ),
]
Set = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="Change a setting, as in stages.dapt.tokens=200000 or seed=3; may be repeated.",
        show_default=False,
    ),
]


def recipe_of(path: Path, root: Path | None, data: Sequence[str] | None, settings: Sequence[str] | None) -> "Recipe":
    """The checked recipe, with what the command line changes of it. Raises UsageError."""
    from adapt.recipe_file import load_recipe

    return load_recipe(path, **changes_of(root, data, settings))


def changes_of(root: Path | None, data: Sequence[str] | None, settings: Sequence[str] | None) -> dict[str, Any]:
    """What the command line changes of a recipe, as keywords of every recipe's loader. Raises UsageError."""
    if root is not None and not root.is_dir():
        raise UsageError(f"--root: there is no folder '{root}'")
    return {
        "root": root,
        "data": _pairs(data or (), "--data", "NAME=PATH"),
        "settings": _pairs(settings or (), "--set", "KEY=VALUE"),
    }


def _pairs(words: Sequence[str], option: str, form: str) -> dict[str, str]:
    pairs: dict[str, str] = {}
    for word in words:
        name, equals, value = word.partition("=")
        if not equals or not name.strip():
            raise UsageError(f"{option} {word[:80]!r} is not of the form {form}")
        if name.strip() in pairs:
            raise UsageError(f"{option} {name.strip()[:80]!r} is given twice; keep one")
        pairs[name.strip()] = value.strip()
    return pairs
