"""An adapter that a stage trained → an entry of the registry that knows its base by hash, and the folder of that base.

It loads no weights.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from adapt.registry import Entry, is_adapter_folder, register, registered
from eval.models.adapter_base import base_hash
from retrieval.errors import FathomError, MissingError, UsageError

SUFFIX = "-adapter"
"""What the adapter of a model is called: the model's name with this at its end."""


def register_adapter(
    models: Path, name: str, folder: Path, *, base: str, held: str | None, manifest: Mapping[str, Any]
) -> Entry:
    """Copy the adapter in `folder` to `models/NAME`; see `register`. `base` is the name of the model it was trained on
    and `held` how its weights were held then: "nf4" for QLoRA, else None.

    Raises what `register` raises, and UsageError for an adapter that does not say its base's hash.
    """
    known = base_hash(folder)
    if not is_adapter_folder(folder) or known is None:
        raise UsageError(
            f"'{folder}' is no adapter that names its base by hash; register what a stage of a recipe left"
        )
    return register(models, name, folder, {**manifest, "base": {"name": base, "sha256": known, "held": held}})


def base_of(models: Path, adapter: Entry, *, cache: Path) -> tuple[str, Path]:
    """The name and folder of the model that a registered adapter belongs to, found by its hash: the registered model of
    that name, any other with these weights, else what the name stands for (the packaged model, a folder, the hub).

    Raises UsageError where another model stands under the name, MissingError where there is none.
    """
    from adapt.training.bases import base_folder, weights_hash

    said = adapter.manifest.get("base")
    said = said if isinstance(said, Mapping) else {}
    name, wanted = str(said.get("name") or ""), str(said.get("sha256") or "")
    entries = [one for one in registered(models) if not one.is_adapter and one.damage is None]
    for entry in sorted(entries, key=lambda one: one.name != name):
        if weights_hash(entry.folder, cache=cache) == wanted:
            return entry.name, entry.folder
    missing = f"the adapter '{adapter.name}' belongs to '{name[:80]}' (hash {wanted[:12]})"
    if name in [entry.name for entry in entries]:
        raise UsageError(f"{missing}, and the model of that name has other weights; run its recipe again")
    try:
        folder = base_folder(name, cache=cache)
    except FathomError as error:
        raise MissingError(f"{missing}, which is not here: {error}") from error
    found = weights_hash(folder, cache=cache)
    if found != wanted:
        raise UsageError(
            f"{missing}, and what is there under that name has the hash {found[:12]}; run its recipe again"
        )
    return name, folder


def require_base_of(adapter: Entry, folder: Path, name: str, *, cache: Path) -> None:
    """Raises UsageError where the model in `folder` is not the one that the adapter was trained on, by hash."""
    from adapt.training.bases import weights_hash
    from eval.models.adapter_base import require_base

    require_base(adapter.folder, weights_hash(folder, cache=cache), name)


def adapters_on(models: Path, name: str) -> list[Entry]:
    """The registered adapters that name a model as their base."""
    entries = [one for one in registered(models) if one.is_adapter]
    return [one for one in entries if dict(one.manifest.get("base") or {}).get("name") == name]


def held(adapter: Entry) -> Literal["nf4"] | None:
    """How the base's weights were held when the adapter was trained: "nf4", or None for as they are stored."""
    said = adapter.manifest.get("base")
    return "nf4" if isinstance(said, Mapping) and said.get("held") == "nf4" else None
