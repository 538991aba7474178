"""A suite → a plan: every part prepared, every problem found, and the run folder that it belongs into.

A run is known by its configuration: settings, data and models decide it, not its name. It does none of the work.
"""

import hashlib
import json
import re
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from eval.runs.parts import Prepared, Tools, finite
from eval.runs.run_folder import FINISHED, MANIFEST, read_manifest
from eval.runs.suites import KINDS, Suite, settings_of
from retrieval.errors import DamagedError, FathomError, MissingError, UsageError

RUN_NAME = re.compile(r"\w[\w.@+\-]{0,119}")


@dataclass(frozen=True)
class Plan:
    """A suite whose parts are all checked. `facts` is what run.json says of each part, `skipped` why a part is left."""

    suite: Suite
    parts: Mapping[str, Prepared]
    skipped: Mapping[str, str]
    facts: Mapping[str, dict[str, Any]]
    config_hash: str


def make_plan(suite: Suite, tools: Tools) -> Plan:
    """Prepare every part before any work is done. Raises UsageError with the problems of all parts together."""
    parts: dict[str, Prepared] = {}
    skipped: dict[str, str] = {}
    problems: list[tuple[str, FathomError]] = []
    for name, part in suite.parts.items():
        try:
            if name in suite.optional and (absent := _absent_path(vars(part))):
                raise MissingError(f"{absent} is not there")
            parts[name] = _after(part.prepare(tools), parts, skipped)
        except FathomError as error:
            if name in suite.optional and isinstance(error, MissingError):
                skipped[name] = str(error)
            else:
                problems.append((name, error))
    if len(problems) == 1 and not suite.places:
        raise problems[0][1]
    if problems:
        lines = [f"{suite.places.get(name, suite.name)}, part '{name}': {error}" for name, error in problems]
        raise UsageError("\n".join(lines))
    if not parts:
        reasons = "; ".join(f"{name}: {why}" for name, why in skipped.items())
        raise MissingError(f"suite '{suite.name}' has nothing to measure here ({reasons})")
    facts = {name: _facts(suite, name, prepared, tools) for name, prepared in parts.items()}
    return Plan(suite, parts, skipped, facts, config_hash(suite.seed, facts))


def _after(prepared: Prepared, parts: Mapping[str, Prepared], skipped: Mapping[str, str]) -> Prepared:
    """A part that follows another has as many items as that one. Raises UsageError if no such part comes before it."""
    if prepared.follows is None:
        return prepared
    if prepared.follows in skipped:
        raise MissingError(f"part '{prepared.follows}', which it follows, was skipped")
    if prepared.follows not in parts:
        before = f"before it come {', '.join(parts)}" if parts else "it is the first"
        raise UsageError(f"it follows part '{prepared.follows}', which is not before it; {before}")
    items = parts[prepared.follows].items
    return replace(prepared, items=items if prepared.most is None else min(items, prepared.most))


def _absent_path(value: Any) -> Path | None:
    if isinstance(value, Path):
        file = Path(str(value).partition("#")[0])  # `file.jsonl#field` is a way to name one field of a file
        return None if value.exists() or file.exists() else file
    items = value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else ()
    return next((absent for item in items if (absent := _absent_path(item))), None)


TOPICS: Mapping[str, tuple[str, ...]] = {
    "embedding": (),
    "splitting": (),
    "search": (),
    "answer": (),
    "engine": ("engine",),
    "language_model": ("model", "adapter"),
    "reranker": ("reranker",),
    "rewriter": ("rewriter",),
    "assist": ("planner", "reranker"),
    "checker": ("engine", "support"),
    "collection": ("collection",),
}
"""What results may rely on → the fields of a part that name something else than the settings do."""


def _facts(suite: Suite, name: str, prepared: Prepared, tools: Tools) -> dict[str, Any]:
    part, kind = suite.parts[name], suite.kinds[name]
    topics = prepared.relies_on
    if topics is None:
        # A lexical search needs no embedding model: not that it is installed, nor that it stays the same.
        lexical = "lexical" in str(getattr(part, "pipeline", ""))
        topics = tuple(topic for topic in KINDS[kind].relies_on if not (lexical and topic == "embedding"))
    facts = {
        "kind": kind,
        "settings": settings_of(part),
        "data": {str(key): str(value) for key, value in prepared.data.items()},
        "relies_on": {
            topic: tools.identity(topic, *(getattr(part, field) for field in TOPICS[topic] if hasattr(part, field)))
            for topic in topics
        },
        "described": prepared.described,
        "items": prepared.items,
    }
    return json.loads(json.dumps(finite(facts), default=str))  # as it will be read back, to be compared with that


def config_hash(seed: int, facts: Mapping[str, Mapping[str, Any]]) -> str:
    """SHA-256 (hex) of what decides results: settings, data, models, seed; not machine, time or wording."""
    return _hash(seed, facts, ("kind", "settings", "data", "relies_on"))


def _same_settings(plan: Plan, earlier: Mapping[str, Any]) -> bool:
    keys = ("kind", "settings")
    return _hash(earlier["seed"], earlier["parts"], keys) == _hash(plan.suite.seed, plan.facts, keys)


def _hash(seed: int, facts: Mapping[str, Mapping[str, Any]], keys: tuple[str, ...]) -> str:
    decisive = {"seed": seed, "parts": {name: {key: fact[key] for key in keys} for name, fact in facts.items()}}
    return hashlib.sha256(json.dumps(decisive, sort_keys=True).encode()).hexdigest()


def refuse_other(plan: Plan, folder: Path, earlier: Mapping[str, Any]) -> None:
    """Raise UsageError that says what differs, unless `earlier` is the manifest of the same configuration and data."""
    if earlier["config_hash"] == plan.config_hash:
        return
    if _same_settings(plan, earlier):
        changed = [
            file
            for name, fact in plan.facts.items()
            for file in sorted({*fact["data"], *earlier["parts"][name]["data"]})
            if fact["data"].get(file) != earlier["parts"][name]["data"].get(file)
        ]
        if changed:
            more = f" and {len(changed) - 1} more" if len(changed) > 1 else ""
            raise UsageError(
                f"{changed[0]}{more} has changed since the run '{folder.name}' was begun; put back the file to go on "
                "with it, or begin a new run with --fresh"
            )
    said = "; ".join(differences(earlier, plan))
    raise UsageError(
        f"the run '{folder.name}' has another configuration ({said}); choose another --run NAME, or --fresh to replace "
        "that run"
    )


def differences(earlier: Mapping[str, Any], plan: Plan) -> list[str]:
    """What differs between a manifest and a plan, the first few, in words."""
    old: dict[str, Any] = {"seed": earlier["seed"], "parts": earlier["parts"]}
    new: dict[str, Any] = {"seed": plan.suite.seed, "parts": dict(plan.facts)}
    found = list(_differing(old, new, ()))
    return [*found[:5], *([f"{len(found) - 5} more"] if len(found) > 5 else [])]


def _differing(old: Any, new: Any, at: tuple[str, ...]) -> Iterator[str]:
    if isinstance(old, dict) and isinstance(new, dict):
        for key in sorted({*old, *new}):
            if len(at) == 2 and key in ("described", "items", "seconds"):
                continue
            yield from _differing(old.get(key), new.get(key), (*at, key))
    elif old != new:
        where = ".".join(word for word in at if word not in ("parts", "settings"))
        yield f"{where} was {_brief(old)}, is {_brief(new)}"


def _brief(value: Any) -> str:
    if isinstance(value, dict):
        return "there"
    text = "not there" if value is None else str(value)
    return text if len(text) <= 60 else f"{text[:28]}…{text[-28:]}"


@dataclass(frozen=True)
class Place:
    """The folder of a run: a new one, one to go on with, one where everything is done, or one to be replaced."""

    folder: Path
    found: Literal["new", "unfinished", "finished", "replaced"]


def choose_place(plan: Plan, runs: Path, *, label: str, run: str | None = None, fresh: bool = False) -> Place:
    """Where the plan is measured, under the folder `runs`. Nothing is written.

    Without `run`, the newest run of the same configuration is taken up (a finished one too, to be shown), else a new
    folder named `<UTC date-time>-<label>`. Raises UsageError for a name that cannot be one, for a run of that name with
    another configuration, and for an unfinished run whose data has changed; with `fresh` for none of the last two.
    """
    if run is not None:
        if not RUN_NAME.fullmatch(run) or run.endswith("."):
            raise UsageError(f"{run[:80]!r} cannot name a run; use up to 120 letters, digits, '-', '_', '.', '+', '@'")
        folder = runs / run
        # Names that begin with a dot are what a kill in the first moment leaves: a lock, a manifest in the making.
        if not folder.exists() or (folder.is_dir() and all(file.name.startswith(".") for file in folder.iterdir())):
            return Place(folder, "new")
        earlier = read_manifest(folder)
        if fresh:
            return Place(folder, "replaced")
        refuse_other(plan, folder, earlier)
        return Place(folder, _state(earlier))
    stale = None
    if not fresh:
        for folder, earlier in manifests(runs):
            if earlier["config_hash"] == plan.config_hash:
                return Place(folder, _state(earlier))
            if stale is None and earlier["status"] != FINISHED and _same_settings(plan, earlier):
                stale = folder, earlier
    if stale is not None:
        refuse_other(plan, *stale)
    stem = f"{time.strftime('%Y%m%d-%H%M%S', time.gmtime())}-{label}"[:120].rstrip(".-")
    folder, number = runs / stem, 1
    while folder.exists():
        number += 1
        folder = runs / f"{stem}-{number}"
    return Place(folder, "new")


def _state(manifest: Mapping[str, Any]) -> Literal["unfinished", "finished"]:
    return "finished" if manifest["status"] == FINISHED else "unfinished"


def manifests(runs: Path) -> Iterator[tuple[Path, dict[str, Any]]]:
    """Every readable run under `runs`, the newest first; what is damaged or no run is left out."""
    found = []
    for folder in runs.iterdir() if runs.is_dir() else ():
        if folder.is_symlink() or not (folder / MANIFEST).is_file():
            continue
        try:
            found.append((folder, read_manifest(folder)))
        except DamagedError:
            continue  # opening it by name says what is wrong with it
    yield from sorted(found, key=lambda pair: (pair[1]["started"], pair[0].name), reverse=True)
