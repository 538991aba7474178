"""Finished stages → the models and adapters of the registry that they leave. It runs and measures nothing."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from adapt.evidence.gates import GateResult
    from adapt.evidence.measuring import Measurement
    from adapt.registry import Entry


@dataclass(frozen=True)
class StageResult:
    """A stage as it stands on disk. `skipped` tells that an earlier run had finished it; `model` is its result, under
    `adapter` where that cannot be merged."""

    name: str
    kind: str
    key: str
    folder: Path
    model: Path
    seconds: float
    skipped: bool
    facts: dict[str, Any]
    settings: dict[str, Any] = field(default_factory=dict)
    measured: "Measurement | None" = None
    gates: "tuple[GateResult, ...]" = ()
    adapter: Path | None = None


def register_results(
    models: Path, name: str, results: Sequence[StageResult], manifest: Mapping[str, Any]
) -> "tuple[Entry | None, Entry | None]":
    """(the model under `name`, its adapter beside it); where the last stage cannot be merged, the adapter alone has the
    name and is both. `manifest` has base, recipe, data and metrics. Raises what the registry raises."""
    from adapt.adapters import SUFFIX
    from adapt.registry import register

    last = results[-1]
    whole = {
        **manifest,
        "stages": [
            {"name": one.name, "kind": one.kind, "key": one.key, "sha256": one.measured.sha256}
            for one in results
            if one.measured is not None
        ],
        "gates": [gate.as_json() for one in results for gate in one.gates],
        "prompts": {},
    }
    if last.adapter is not None:  # no model by itself
        adapter = _register_adapter(models, name, results, whole)
        return adapter, adapter
    entry = register(models, name, last.model, whole)
    return entry, _register_adapter(models, f"{entry.name}{SUFFIX}", results, whole)


def _register_adapter(
    models: Path, name: str, results: Sequence[StageResult], manifest: Mapping[str, Any]
) -> "Entry | None":
    """The adapter that the last stage trained, to be served on its base: the recipe's, or what the stage before left,
    which is registered for it. None where there is none."""
    from adapt.adapters import register_adapter
    from adapt.registry import register

    last = results[-1]
    trained = (last.facts.get("training") or {}).get("adapter")
    if not trained:
        return None
    base = manifest["base"]["name"]
    if len(results) > 1:
        stages = [one for one in manifest["stages"] if one["name"] != last.name]
        facts = {**manifest, "stages": stages, "metrics": {}}
        base = register(models, f"{manifest['recipe']['run']}-base", results[-2].model, facts).name
    held = "nf4" if (last.settings.get("method") or {}).get("kind") == "qlora" else None
    return register_adapter(
        models, name, last.folder / Path(str(trained)).name, base=base, held=held, manifest=manifest
    )
