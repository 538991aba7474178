"""A dense index on disk: files named by their SHA-256, written beside and renamed, checked before they are used.

FAISS files carry no checksum: of 1,200 single flipped bits, 170 loaded and answered differently.
"""

import hashlib
import os
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from retrieval.errors import DamagedError
from retrieval.storage.dense import DenseIndex, DenseShape
from retrieval.storage.durable import sync_to_disk

ARRAYS = ("ids", "documents", "dead")


@dataclass(frozen=True, slots=True)
class Manifest:
    """Names a snapshot's files, what they must hash to, and the last change they contain."""

    sequence: int
    dimension: int
    index: str
    arrays: str
    shape: dict[str, object]


def save(index: DenseIndex, folder: Path) -> Manifest:
    """Write both files durably. Nothing points to them until the caller has stored the manifest."""
    folder.mkdir(exist_ok=True)
    return Manifest(
        sequence=index.sequence,
        dimension=index.dimension,
        index=_place(folder, "faiss", lambda path: index.write_faiss(path)),
        arrays=_place(folder, "npz", lambda path: _write_arrays(path, index.arrays())),
        shape=asdict(index.shape),
    )


def load(folder: Path, manifest: Manifest) -> DenseIndex:
    """Raises DamagedError for a missing or changed file, in words; the caller rebuilds from the catalogue."""
    for name in (manifest.index, manifest.arrays):
        path = folder / name
        if Path(name).name != name or not path.is_file():
            raise DamagedError(f"the snapshot file '{name}' is missing")
        if _digest(path) != Path(name).stem:
            raise DamagedError(f"the snapshot file '{name}' is not what was written")
    try:
        with np.load(folder / manifest.arrays, allow_pickle=False) as data:
            arrays = {name: data[name] for name in ARRAYS}
        shape = DenseShape(**manifest.shape)  # type: ignore[arg-type]
        return DenseIndex.restore(manifest.dimension, str(folder / manifest.index), arrays, shape, manifest.sequence)
    except (ValueError, KeyError, OSError, RuntimeError, TypeError) as error:
        raise DamagedError(f"the snapshot '{manifest.index}' cannot be read ({error})") from error


def sweep(folder: Path, keep: Manifest | None) -> None:
    """Delete every file that the manifest does not name: older snapshots and what a killed writer left."""
    names = {keep.index, keep.arrays} if keep else set()
    for path in folder.iterdir() if folder.is_dir() else ():
        if path.name not in names:
            path.unlink(missing_ok=True)


def _place(folder: Path, suffix: str, write: Callable[[str], None]) -> str:
    handle, temporary = tempfile.mkstemp(dir=folder, prefix="writing-", suffix=f".{suffix}")
    os.close(handle)
    try:
        write(temporary)
        sync_to_disk(Path(temporary))
        name = f"{_digest(Path(temporary))}.{suffix}"
        os.replace(temporary, folder / name)
        sync_to_disk(folder)
        return name
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def _write_arrays(path: str, arrays: dict[str, np.ndarray]) -> None:
    with open(path, "wb") as file:
        np.savez(file, allow_pickle=False, **arrays)


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
