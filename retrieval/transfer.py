"""A collection to one file and back, and from one embedding model to another. Nothing half-done is ever visible."""

import base64
import binascii
import json
import os
import shutil
import sqlite3
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from retrieval.collection import CATALOGUE, Collection
from retrieval.embedding.adapter import (
    ABOUT,
    CARD,
    CONFIG,
    IN_COLLECTION,
    MAX_BYTES,
    WEIGHTS,
    hash_with,
    keep_copy,
    kept_in,
    read_adapter,
)
from retrieval.embedding.embedder import Embedder
from retrieval.errors import DamagedError, FathomError, UsageError
from retrieval.fingerprint import Fingerprint
from retrieval.intake import Incoming
from retrieval.splitting import SplitSettings
from retrieval.storage.catalogue import Catalogue
from retrieval.storage.durable import exchange
from retrieval.storage.file_memory import file_states, put_file_state, put_root, roots
from retrieval.storage.schema import connect, in_words
from retrieval.storage.sealing import seal
from retrieval.verifying import verify

Progress = Callable[[str, int, int], None]


def export_collection(collection: Collection, target: Path) -> int:
    """Write a compact copy of the catalogue, and in it the collection's adapter; the caches are not needed. Returns its
    size in bytes.

    Raises UsageError where `target` exists, DamagedError where the adapter is not what was stored.
    """
    if target.exists():
        raise UsageError(f"'{target}' already exists; choose another name")
    temporary = target.with_name(f".{target.name}.writing-{os.getpid()}")
    adapter = kept_in(collection.folder)
    try:
        source = connect(collection.catalogue.path, write=False)
        try:
            with in_words(temporary):
                copy = sqlite3.connect(temporary)
                source.backup(copy)
                if adapter is not None:
                    _put_adapter(copy, adapter)
                copy.execute("PRAGMA journal_mode=DELETE")
                copy.close()
        finally:
            source.close()
        descriptor = os.open(temporary, os.O_RDONLY)
        os.fsync(descriptor)
        os.close(descriptor)
        os.link(temporary, target)
    except FileExistsError as error:
        raise UsageError(f"'{target}' already exists; choose another name") from error
    except OSError as error:
        raise FathomError(f"'{target}' cannot be written ({error.strerror}); choose another place") from error
    finally:
        temporary.unlink(missing_ok=True)
    return target.stat().st_size


def import_collection(source: Path, folder: Path, *, name: str, progress: Progress | None = None) -> None:
    """Make a collection from an export. The file may come from anywhere: its schema must be exactly ours and every seal
    must hold before it is accepted.

    Raises UsageError where `source` is no file or `folder` holds something, DamagedError where the export is not whole.
    """
    if not source.is_file():
        raise UsageError(f"'{source}' is not a file; name the file that `fathom index export` wrote")
    if folder.exists() and any(folder.iterdir()):
        raise UsageError(f"the collection '{name}' already exists; choose another with --collection")
    fresh = folder.with_name(f".{folder.name}.new-{os.getpid()}")
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir(parents=True)
    try:
        shutil.copyfile(source, fresh / CATALOGUE)
        try:
            catalogue = Catalogue(fresh / CATALOGUE, write=True)
        except DamagedError as error:
            raise DamagedError(
                f"'{source}' is not an export of this version of Fathom, or it is damaged; name the file that "
                "`fathom index export` wrote"
            ) from error
        with catalogue.transaction():
            catalogue.set_setting("name", name)
            # Snapshots are not part of an export.
            catalogue.forget_setting("dense")
            _take_adapter(catalogue, fresh, source)
        catalogue.close()
        with Collection.open(fresh, write=True, doing="importing") as collection:
            problems = [p for p in verify(collection, progress=progress).problems if not p.startswith("lexical index")]
            if problems:
                raise DamagedError(f"the export '{source}' is not whole ({'; '.join(problems[:3])}); export it again")
            collection.accelerators.rebuild()
        if folder.exists():
            folder.rmdir()
        fresh.rename(folder)
    except BaseException:
        shutil.rmtree(fresh, ignore_errors=True)
        raise


def _put_adapter(copy: sqlite3.Connection, adapter: Path) -> None:
    """The adapter's files as settings of an export, sealed as every row is."""
    with copy:
        for name in (WEIGHTS, CONFIG, ABOUT, CARD):
            if (adapter / name).is_file():
                key, value = f"{IN_COLLECTION}/{name}", base64.b64encode((adapter / name).read_bytes()).decode("ascii")
                copy.execute("INSERT INTO settings VALUES (?, ?, ?)", (key, value, seal(key, value)))


def _take_adapter(catalogue: Catalogue, fresh: Path, source: Path) -> None:
    """The adapter out of an export into the new collection's folder, judged as any stranger's. Raises DamagedError,
    UsageError, MissingError."""
    files = {name: catalogue.setting(f"{IN_COLLECTION}/{name}") for name in (WEIGHTS, CONFIG, ABOUT, CARD)}
    if not any(text is not None for text in files.values()):
        return
    with tempfile.TemporaryDirectory(dir=fresh) as place:
        for name, text in files.items():
            if text is None:
                continue
            try:
                data = base64.b64decode(text, validate=True) if len(text) <= MAX_BYTES * 2 else None
            except (binascii.Error, ValueError):
                data = None
            if data is None:
                raise DamagedError(f"the embedding adapter in the export '{source}' cannot be read; export it again")
            (Path(place) / name).write_bytes(data)
            catalogue.forget_setting(f"{IN_COLLECTION}/{name}")
        adapter = read_adapter(Path(place))
        made_with = Fingerprint.from_json(catalogue.setting("fingerprint") or "{}").embedder.weights
        if hash_with(adapter.base_sha256, adapter) != made_with:
            raise DamagedError(
                f"the vectors of the export '{source}' were not made with the embedding adapter in it; export it again"
            )
        keep_copy(adapter.folder, fresh)


def reembed(
    folder: Path,
    *,
    embedder: Callable[[], Embedder],
    split: SplitSettings,
    adapter: Path | None = None,
    wait: float = 0.0,
    progress: Progress | None = None,
) -> int:
    """Move a collection to another embedding model or splitter, from the stored texts; returns the passages written.

    `adapter` is the folder of the one that `embedder` has on its model; the collection keeps a copy of it.
    The new collection is made beside the old one, which serves readers until the two are swapped by rename.
    """
    with Collection.open(folder, write=True, wait=wait, doing="re-embedding") as old:
        fresh = folder.with_name(f".{folder.name}.reembed")
        shutil.rmtree(fresh, ignore_errors=True)
        new = Collection.create(fresh, name=old.name, embedder=embedder, split=split, owner=old.owner, adapter=adapter)
        try:
            rows = old.documents()
            passages = 0
            for owner in sorted({row.source.owner for row in rows}):
                mine = [row for row in rows if row.source.owner == owner]

                def arriving(mine: list = mine) -> Iterator[Incoming]:
                    for row in mine:
                        yield Incoming(old.document(row.source.id), row.root, row.path)

                passages += new.add(arriving(), owner=owner, total=len(mine), progress=progress).passages
            with new.catalogue.transaction():
                for path, prefix in roots(old.catalogue).items():
                    put_root(new.catalogue, path, prefix)
                    for state in file_states(old.catalogue, path).values():
                        put_file_state(new.catalogue, state)
                    settings = old.catalogue.setting(f"sync:{path}")
                    if settings is not None:
                        new.catalogue.set_setting(f"sync:{path}", settings)
                new.catalogue.set_setting("moved_from", json.dumps(dict(old.fingerprint.describe())))
        except BaseException:
            new.close()
            shutil.rmtree(fresh, ignore_errors=True)
            raise
        new.close()
        try:
            exchange(fresh, folder)
        except OSError as error:
            raise FathomError(
                f"'{folder}' cannot be exchanged with its new form ({error.strerror}); the old collection stays"
            ) from error
    # What stands there now is the old collection.
    shutil.rmtree(fresh, ignore_errors=True)
    return passages
