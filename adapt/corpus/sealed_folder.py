"""Files and a manifest with their hashes in one folder: written whole or not at all, checked whenever it is opened.

It knows nothing of what the files hold. Arrays among them are read without pickle.
"""

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from retrieval.embedding.stored import file_hash, keep
from retrieval.errors import DamagedError, FathomError, MissingError, UsageError

MANIFEST = "manifest.json"
_AGAIN = "remove the folder and run the command again"

Fill = Callable[[Path], tuple[Mapping[str, Any], Mapping[str, Any]]]
"""Writes files into the new folder. Returns what is known of them, ready for JSON: first what belongs to their identity
and goes into the hash, then the rest (where other folders lie, examples for people)."""


def write_folder(folder: Path, kind: str, fill: Fill) -> dict[str, Any]:
    """Make `folder` and return its manifest. One that is there already and holds the very same stays.

    Raises UsageError where something else is there, FathomError where it cannot be written (a full disk).
    """
    made: list[dict[str, Any]] = []

    def seal(new: Path) -> None:
        facts, more = fill(new)
        files = {file.name: [file.stat().st_size, file_hash(file)] for file in sorted(new.iterdir())}
        body = {"kind": kind, "facts": dict(facts), "files": files}
        manifest = {**body, "sha256": _hash(body), "more": dict(more)}
        (new / MANIFEST).write_text(json.dumps(manifest, indent=1, allow_nan=False) + "\n", "ascii")
        made.append(manifest)

    try:
        keep(folder, seal)
    except OSError as error:
        raise FathomError(f"cannot make {folder} ({error}); make room or choose another folder") from error
    there = read_manifest(folder, kind, unread=tuple(made[0]["files"]))
    if there["sha256"] != made[0]["sha256"]:
        raise UsageError(f"'{folder}' already holds other {kind}; choose another folder or remove it")
    return there


def read_manifest(folder: Path, kind: str, *, unread: tuple[str, ...] = ()) -> dict[str, Any]:
    """The manifest, after every file's size and hash were checked; those named in `unread` by size only.

    Raises MissingError where nothing is there, DamagedError where it is not what was written.
    """
    if not (folder / MANIFEST).is_file():
        raise MissingError(f"'{folder}' holds no {kind}: there is no {MANIFEST}; make them first")
    try:
        manifest = json.loads((folder / MANIFEST).read_bytes())
        body = {key: manifest[key] for key in ("kind", "facts", "files")}
        if manifest["sha256"] != _hash(body) or not isinstance(manifest["more"], dict):
            raise ValueError("its hash is another")
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise DamagedError(f"{folder / MANIFEST} is not what was written ({error}); {_AGAIN}") from error
    if manifest["kind"] != kind:
        raise UsageError(f"'{folder}' holds {manifest['kind']}, not {kind}")
    for name, (size, digest) in manifest["files"].items():
        file = folder / name
        if not file.is_file() or file.stat().st_size != size:
            raise DamagedError(f"{file} is gone or has another size than was written; {_AGAIN}")
        if name not in unread and file_hash(file) != digest:
            raise DamagedError(f"{file} has changed since it was written; {_AGAIN}")
    return manifest


def read_array(file: Path) -> np.ndarray:
    """An .npy file. Raises DamagedError."""
    try:
        return np.load(file, allow_pickle=False)
    except (OSError, ValueError) as error:
        raise DamagedError(f"{file} is no array ({error}); {_AGAIN}") from error


def _hash(body: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(body, sort_keys=True, allow_nan=False).encode()).hexdigest()
