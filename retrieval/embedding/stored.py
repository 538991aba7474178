"""Things made once and kept in a cache folder: written beside and renamed, hashed, checked before every use.

Whatever is doubtful counts as absent, so the caller makes it again. Knows nothing of what it keeps.
"""

import hashlib
import json
import logging
import os
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

_LOG = logging.getLogger(__name__)
_HASHES = "hashes.json"
LEFTOVER_SECONDS = 24 * 3600


def file_hash(path: Path) -> str:
    """SHA-256 (hex) of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def make_folder(cache: Path) -> None:
    """Make a cache folder that only its owner may read and write. Raises OSError."""
    cache.mkdir(mode=0o700, parents=True, exist_ok=True)


def write_sealed(path: Path, data: bytes) -> None:
    """Write a small file whole or not at all, with its SHA-256 before it.

    Where the cache cannot be written, log it and go on: it only saves time.
    """
    try:
        make_folder(path.parent)
        handle, temporary = tempfile.mkstemp(dir=path.parent)
        with os.fdopen(handle, "wb") as file:
            file.write(hashlib.sha256(data).hexdigest().encode() + b"\n" + data)
        os.replace(temporary, path)
    except OSError as error:
        _LOG.warning("cannot write %s (%s); it will be made again next time", path, error)


def read_sealed(path: Path) -> bytes | None:
    """What `write_sealed` wrote; None where it cannot be read or is not what was written."""
    try:
        seal, _, data = path.read_bytes().partition(b"\n")
    except OSError:
        return None  # where the cache itself is unusable, making the thing again says so
    return data if seal == hashlib.sha256(data).hexdigest().encode() else None


def is_whole(folder: Path) -> bool:
    """Whether a kept folder has exactly the files that were put into it, unchanged."""
    data = read_sealed(folder / _HASHES)
    if data is None:
        return False
    hashes = json.loads(data)
    if {entry.name for entry in folder.iterdir()} != {*hashes, _HASHES}:
        return False
    return all((folder / name).is_file() and file_hash(folder / name) == known for name, known in hashes.items())


def keep(folder: Path, fill: Callable[[Path], None]) -> None:
    """Let `fill` write files into a new folder, then put it in the place of `folder`, whole or not at all.

    Two processes may do so at once: either's result stays. Raises OSError (a full disk).
    """
    make_folder(folder.parent)
    _clear_leftovers(folder.parent)
    temporary = Path(tempfile.mkdtemp(dir=folder.parent, prefix=".making-"))
    try:
        fill(temporary)
        hashes = {entry.name: file_hash(entry) for entry in sorted(temporary.iterdir())}
        write_sealed(temporary / _HASHES, json.dumps(hashes).encode())
        for entry in temporary.iterdir():
            with entry.open("rb") as file:
                os.fsync(file.fileno())
        _replace(folder, temporary)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _clear_leftovers(parent: Path) -> None:
    """Remove what killed processes left half made; a day old, since another process may be at it now."""
    for entry in parent.glob(".making-*"):
        if time.time() - entry.lstat().st_mtime > LEFTOVER_SECONDS:
            shutil.rmtree(entry, ignore_errors=True)


def _replace(folder: Path, new: Path) -> None:
    try:
        os.rename(new, folder)
    except OSError:
        if not folder.exists() or is_whole(folder):
            if not folder.exists():
                raise
            return
        # A folder cannot be renamed onto one that has files: move the damaged one away first.
        aside = Path(tempfile.mkdtemp(dir=folder.parent, prefix=".damaged-"))
        os.rename(folder, aside / "folder")
        os.rename(new, folder)
        shutil.rmtree(aside, ignore_errors=True)
