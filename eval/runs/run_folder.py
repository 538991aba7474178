"""run.json and metrics.json of a run folder: written whole, read with suspicion. It knows no part and no metric."""

import json
import os
import time
from pathlib import Path
from typing import Any

from eval.runs.parts import finite
from retrieval.errors import DamagedError, UsageError
from retrieval.storage.durable import sync_to_disk

MANIFEST = "run.json"
METRICS = "metrics.json"
UNFINISHED, FINISHED, WITH_ERRORS = "unfinished", "finished", "finished with errors"


def read_manifest(folder: Path) -> dict[str, Any]:
    """run.json. Raises UsageError where there is none, DamagedError where it is not what was written."""
    if not (folder / MANIFEST).is_file():
        raise UsageError(f"'{folder}' is no run: it holds no {MANIFEST}; 'fathom eval runs' lists those there are")
    manifest = read_json(folder / MANIFEST)
    expected: dict[str, Any] = {"name": str, "seed": int, "config_hash": str, "started": str, "status": str}
    parts = manifest.get("parts")
    sound = isinstance(parts, dict) and all(
        isinstance(fact, dict)
        and isinstance(fact.get("settings"), dict)
        and isinstance(fact.get("data"), dict)
        and isinstance(fact.get("kind"), str)
        and isinstance(fact.get("described"), str)
        and isinstance(fact.get("items"), int)
        and Path(name).name == name
        for name, fact in parts.items()
    )
    if not sound or any(not isinstance(manifest.get(key), kind) for key, kind in expected.items()):
        raise DamagedError(f"{folder / MANIFEST} lacks what a run has; remove the folder and measure again")
    return manifest


def read_json(file: Path) -> dict[str, Any]:
    """The object in a file of a run. Raises DamagedError."""
    try:
        value = json.loads(file.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise DamagedError(f"{file} cannot be read ({error}); remove the run and measure again") from error
    if not isinstance(value, dict):
        raise DamagedError(f"{file} is not what was written; remove the run and measure again")
    return value


def write_json(file: Path, value: Any) -> None:
    """Write whole or not at all: beside it, to the disk, then renamed. Raises OSError."""
    temporary = file.with_name(f".{file.name}.new")
    try:
        temporary.write_text(
            json.dumps(finite(value), ensure_ascii=True, indent=1, allow_nan=False) + "\n", encoding="utf-8"
        )
        sync_to_disk(temporary)
        os.replace(temporary, file)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise
    sync_to_disk(file.parent)


def now() -> str:
    """UTC, to the second, as in ISO 8601."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
