"""Everything that a training needs to go on exactly → a folder that is there whole or not at all, and back.

step-N/ holds the model (or adapter) with its tokenizer, the optimizer's state and the random numbers' as safetensors,
the rest as JSON, and manifest.json with the SHA-256 of each file. Nothing in it can run code. It knows no trainer.
"""

import errno
import hashlib
import json
import logging
import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from eval.runs.run_folder import now, write_json
from retrieval.embedding.stored import file_hash
from retrieval.errors import FathomError, UsageError
from retrieval.storage.durable import sync_to_disk

KEPT = 2
"""The newest, and one more in case the newest is damaged later."""
MANIFEST = "manifest.json"
SPARE_BYTES = 32 << 20
_LOG = logging.getLogger(__name__)
_MAKING, _DAMAGED = ".making-", "damaged-"


class DiskFull(FathomError):
    """No room for a checkpoint; the one before is untouched."""


@dataclass(frozen=True)
class Identity:
    """What a training is of. A checkpoint of another one is refused: `model` and `order` are hashes, `settings` those
    that decide what is computed."""

    model: str
    order: str
    settings: Mapping[str, Any]
    seed: int

    def require_same(self, stored: Mapping[str, Any], where: Path) -> None:
        """Raises UsageError that says what changed."""
        changed = []
        if stored.get("model") != self.model:
            changed.append("the base changed since the checkpoint")
        if stored.get("order") != self.order:
            changed.append("the texts or their mixture changed since the checkpoint")
        if stored.get("seed") != self.seed:
            changed.append(f"the seed was {stored.get('seed')} and is {self.seed}")
        before = stored.get("settings")
        before = before if isinstance(before, dict) else {}
        changed += [
            f"{name} was {_short(before.get(name))} and is {_short(self.settings.get(name))}"
            for name in sorted({*before, *self.settings})
            if before.get(name) != self.settings.get(name)
        ]
        if changed:
            raise UsageError(
                f"the training in '{where}' cannot go on: {'; '.join(changed)}. Undo the change, or remove the folder "
                "to train from the beginning"
            )

    def facts(self) -> dict[str, Any]:
        return {"model": self.model, "order": self.order, "settings": dict(self.settings), "seed": self.seed}


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 120 else f"{text[:117]}…"


class Checkpoints:
    """The checkpoints of one training, in `folder`."""

    def __init__(self, folder: Path, identity: Identity) -> None:
        self.folder = folder
        self.identity = identity

    def clear_leftovers(self) -> None:
        """Remove what a killed session left half written. Only for who holds the training's lock."""
        for entry in self.folder.glob(f"{_MAKING}*"):
            shutil.rmtree(entry, ignore_errors=True)

    def newest(self, *, tidy: bool = True) -> tuple[Path, dict[str, Any]] | None:
        """The newest whole checkpoint and its manifest; damaged ones are set aside (by the one process that may `tidy`)
        and named in the log.

        Raises UsageError where it is of another training.
        """
        for path in self._steps():
            manifest = whole(path)
            if manifest is not None:
                self.identity.require_same(manifest, self.folder.parent)
                return path, manifest
            if not tidy:
                continue
            aside = path.with_name(f"{_DAMAGED}{path.name}")
            shutil.rmtree(aside, ignore_errors=True)
            os.rename(path, aside)
            _LOG.warning("the checkpoint %s is damaged; it was set aside as %s", path, aside.name)
        return None

    def write(self, step: int, fill: Callable[[Path], None], *, size: int, facts: Mapping[str, Any]) -> Path:
        """Let `fill` write files of about `size` bytes, then give the folder its name. Raises DiskFull, OSError."""
        target = self.folder / f"step-{step}"
        self.folder.mkdir(parents=True, exist_ok=True)
        self._make_room(size)
        new = self.folder / f"{_MAKING}step-{step}"
        shutil.rmtree(new, ignore_errors=True)
        new.mkdir()
        try:
            fill(new)
            seal(new, {"step": step, "written": now(), **self.identity.facts(), **facts})
            if target.exists():  # written by a session that went on from an older one
                shutil.rmtree(target)
            os.rename(new, target)
            sync_to_disk(self.folder)
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise self._full(size) from error
            raise
        except Exception as error:  # safetensors' own, which only says it in words
            if "No space left" in str(error) or "os error 28" in str(error):
                raise self._full(size) from error
            raise
        finally:
            shutil.rmtree(new, ignore_errors=True)
        for old in self._steps()[KEPT:]:
            shutil.rmtree(old, ignore_errors=True)
        for aside in self.folder.glob(f"{_DAMAGED}*"):
            shutil.rmtree(aside, ignore_errors=True)
        return target

    def require_room(self, size: int, result: int) -> None:
        """Before a training begins: room for what will stand on the disk at once. Raises DiskFull."""
        self.folder.mkdir(parents=True, exist_ok=True)
        there = sum(file.stat().st_size for path in self._steps() for file in path.rglob("*") if file.is_file())
        needed = (KEPT + 1) * size + result + SPARE_BYTES
        free = shutil.disk_usage(self.folder).free
        if free + there < needed:
            raise DiskFull(
                f"training in '{self.folder.parent}' needs {needed >> 20} MiB for {KEPT} checkpoints, one in the "
                f"making and the result, and {(free + there) >> 20} MiB are free; make room, or train elsewhere"
            )

    def remove_all(self) -> None:
        """When the result is written and nothing is left to go on with."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _make_room(self, size: int) -> None:
        def free() -> int:
            return shutil.disk_usage(self.folder).free

        needed = size + SPARE_BYTES
        for old in self._steps()[1:][::-1]:
            if free() >= needed:
                break
            shutil.rmtree(old, ignore_errors=True)
        if free() < needed:
            raise self._full(size)

    def _full(self, size: int) -> DiskFull:
        steps = self._steps()
        kept = f"the checkpoint of step {_number(steps[0])} is kept" if steps else "there is no checkpoint yet"
        free = shutil.disk_usage(self.folder).free
        return DiskFull(
            f"the disk of '{self.folder}' is full: a checkpoint takes {size >> 20} MiB and {free >> 20} MiB are free; "
            f"{kept}; make room and run again, it goes on from there"
        )

    def _steps(self) -> list[Path]:
        """Newest first."""
        found = [path for path in self.folder.glob("step-*") if path.is_dir() and _number(path) >= 0]
        return sorted(found, key=_number, reverse=True)


def _number(path: Path) -> int:
    text = path.name.removeprefix("step-")
    return int(text) if text.isdecimal() else -1


def seal(folder: Path, facts: Mapping[str, Any]) -> None:
    """Bring every file of a folder to the disk and write their hashes and `facts` beside them. Raises OSError."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != MANIFEST)
    hashes = {}
    for path in files:
        sync_to_disk(path)
        hashes[path.relative_to(folder).as_posix()] = {"sha256": file_hash(path), "bytes": path.stat().st_size}
    manifest = {**facts, "files": hashes}
    write_json(folder / MANIFEST, {**manifest, "seal": _seal_of(manifest)})
    for inner in sorted(path for path in folder.rglob("*") if path.is_dir()):
        sync_to_disk(inner)
    sync_to_disk(folder)


def whole(folder: Path) -> dict[str, Any] | None:
    """The manifest of a sealed folder whose files are all as they were; None where anything is not."""
    try:
        manifest = json.loads((folder / MANIFEST).read_bytes())
        if manifest.pop("seal") != _seal_of(manifest):
            return None
        for name, known in manifest["files"].items():
            path = folder / name
            if not path.resolve().is_relative_to(folder.resolve()):
                return None
            if path.stat().st_size != known["bytes"] or file_hash(path) != known["sha256"]:
                return None
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None
    return dict(manifest)


def _seal_of(manifest: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()


def install(folder: Path, fill: Callable[[Path], None], facts: Mapping[str, Any]) -> None:
    """Let `fill` write a folder that is then there whole and sealed, in the place of an older one. Raises OSError."""
    new, old = (folder.with_name(f".{folder.name}-{word}") for word in ("making", "old"))
    for leftover in (new, old):
        shutil.rmtree(leftover, ignore_errors=True)
    new.mkdir(parents=True)
    try:
        fill(new)
        seal(new, facts)
        if folder.exists():
            os.rename(folder, old)
        os.rename(new, folder)
        sync_to_disk(folder.parent)
    finally:
        for leftover in (new, old):
            shutil.rmtree(leftover, ignore_errors=True)
