"""Files that people add on the page, on disk: hostile names and streams of bytes in, files under names of ours out.

`FOLDER/COLLECTION/JOB/NUMBER.SUFFIX`; a job's folder is locked while it is in use, so that another process's cleaning
passes it over. Knows nothing of indexing or of HTTP.
"""

import contextlib
import errno
import logging
import os
import secrets
import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

from app.upload_limits import UploadLimits
from app.workspace import collection_name
from retrieval.errors import BusyError, ReadingError, UsageError
from retrieval.reading.formats import format_of, suffix_of
from retrieval.reading.limits import MIB
from retrieval.reading.normalising import normalise
from retrieval.storage.file_memory import path_key
from retrieval.storage.locking import WriterLock

_log = logging.getLogger(__name__)

MAX_NAME = 120
"""Characters of a file's name that are kept."""
_MAX_FOLDER, _MAX_FOLDERS = 60, 6
_LOCK = ".lock"


def clean_name(name: str) -> str:
    """A file's name, with the folders it was dropped in, as text that names a document and is safe to show.

    Invisible and reordering characters go, and every part that climbs or is empty; the name keeps its suffix when it is
    cut. Raises ReadingError where nothing is left.
    """
    parts = name[-20_000:].replace("\\", "/").split("/")
    parts = [
        " ".join(normalise(part if len(part) <= 2_000 else part[:1_000] + part[-1_000:]).split()) for part in parts
    ]
    parts = [part for part in parts if part.strip(". ")]
    if not parts:
        raise ReadingError(name[:MAX_NAME], "name", "has no name that could be shown; rename it.")
    file = parts[-1]
    if len(file) > MAX_NAME:
        suffix = suffix_of(file)
        end = f"….{suffix}" if 0 < len(suffix) <= 10 else "…"
        file = file[: MAX_NAME - len(end)] + end
    folders = [part[:_MAX_FOLDER].rstrip() for part in parts[:-1]]
    return "/".join([*folders[-_MAX_FOLDERS:], file])


class UploadArea:
    """The folder, made at its first use. Its methods may be called from any thread."""

    def __init__(self, folder: Path, limits: UploadLimits) -> None:
        self.folder = Path(os.path.realpath(folder))
        self.limits = limits
        self._used = 0
        self._guard = threading.Lock()

    def owns(self, path: str) -> bool:
        """Whether `path` (as a catalogue keeps it) is that of a file added on the page."""
        return path.startswith(path_key(self.folder) + "/")

    def open(self, collection: str) -> "JobFolder":
        """A new folder for one job's files. Raises UsageError for a name that cannot be one, BusyError."""
        name = collection_name(collection)
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        with self._locked():
            above = self.folder / name
            above.mkdir(mode=0o700, exist_ok=True)
            if above.is_symlink():
                raise UsageError(f"the upload folder of '{name}' is a symbolic link; remove it")
            path = above / secrets.token_hex(16)
            path.mkdir(mode=0o700)
            lock = WriterLock(path / _LOCK, doing="documents added on the page", guarded="a folder of uploads")
        used = sum(file.stat(follow_symlinks=False).st_size for file in _files(self.folder) if file.name != _LOCK)
        with self._guard:
            self._used = used
        return JobFolder(self, path, lock)

    def clean(self, wanted: Callable[[str], set[str] | None]) -> None:
        """Delete what no document points to: leftovers of a process that was killed, of removed documents.

        `wanted(collection)` gives the paths that its documents have, None where that cannot be told; folders in use are
        passed over.
        """
        if not self.folder.is_dir():
            return
        with self._locked():
            for above in _folders(self.folder):
                jobs = list(_folders(above))
                paths = wanted(above.name) if jobs else set()
                if paths is None:
                    continue
                for job in jobs:
                    with contextlib.suppress(BusyError):
                        JobFolder(self, job, WriterLock(job / _LOCK, doing="cleaning")).close(paths)
                _remove_if_empty(above)

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        with WriterLock(self.folder / _LOCK, doing="uploads", wait=10.0, guarded="the folder of uploads"):
            yield

    def take(self, size: int, uri: str) -> None:
        """Count bytes that are about to be written. Raises ReadingError: "quota", "disk"."""
        if shutil.disk_usage(self.folder).free < size + self.limits.free_mb * MIB:
            raise ReadingError(uri, "disk", "does not fit on the disk; free some space first.")
        with self._guard:
            if self._used + size > self.limits.total_mb * MIB:
                raise ReadingError(
                    uri,
                    "quota",
                    f"does not fit: files added on the page may take {self.limits.total_mb:,} MB together; remove "
                    "documents that are not needed any more.",
                )
            self._used += size

    def give_back(self, size: int) -> None:
        """Bytes that were deleted again."""
        with self._guard:
            self._used -= size


class JobFolder:
    """One job's files; locked until `close`."""

    def __init__(self, area: UploadArea, path: Path, lock: WriterLock) -> None:
        self.path = path
        self._area = area
        self._lock = lock
        self._count = 0

    def create(self, uri: str) -> "ArrivingFile":
        """A new, empty file for the document `uri`."""
        self._count += 1
        suffix = suffix_of(uri) if format_of(uri) and suffix_of(uri) else "txt"
        return ArrivingFile(self._area, self.path / f"{self._count:05}.{suffix}", uri)

    def close(self, wanted: set[str]) -> None:
        """Delete the files whose paths are not `wanted`, and the folder if nothing is left; give the lock back."""
        for file in _files(self.path):
            if file.name != _LOCK and path_key(Path(file.path)) not in wanted:
                os.unlink(file.path)
        left = any(entry.name != _LOCK for entry in os.scandir(self.path))
        if not left:
            (self.path / _LOCK).unlink(missing_ok=True)
            _remove_if_empty(self.path)
        self._lock.release()


class ArrivingFile:
    """A file being written; `discard` it unless `finish` returned."""

    def __init__(self, area: UploadArea, path: Path, uri: str) -> None:
        self.path = path
        self.size = 0
        self._area = area
        self._uri = uri
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        self._handle = os.open(path, flags, 0o600)

    def write(self, piece: bytes) -> None:
        """Append. Raises ReadingError: "too-large", "quota", "disk"."""
        if self.size + len(piece) > self._area.limits.file_mb * MIB:
            raise ReadingError(
                self._uri, "too-large", f"is larger than the {self._area.limits.file_mb:,} MB allowed; split it."
            )
        self._area.take(len(piece), self._uri)
        self.size += len(piece)
        try:
            while piece:
                piece = piece[os.write(self._handle, piece) :]
        except OSError as problem:
            full = problem.errno in (errno.ENOSPC, errno.EDQUOT)
            what = "does not fit on the disk; free some space first." if full else f"could not be kept ({problem})."
            raise ReadingError(self._uri, "disk", what) from problem

    def finish(self) -> None:
        """Everything is on disk when this returns."""
        os.fsync(self._handle)
        os.close(self._handle)
        self._handle = -1

    def discard(self) -> None:
        """Close and delete; may be called more than once."""
        if self._handle >= 0:
            os.close(self._handle)
            self._handle = -1
        self.path.unlink(missing_ok=True)
        self._area.give_back(self.size)
        self.size = 0


def _folders(path: Path) -> Iterator[Path]:
    with os.scandir(path) as entries:
        yield from [Path(entry.path) for entry in entries if entry.is_dir(follow_symlinks=False)]


def _files(path: Path) -> Iterator["os.DirEntry[str]"]:
    """Every regular file below; links are neither followed nor given."""
    with os.scandir(path) as found:
        entries = list(found)
    for entry in entries:
        if entry.is_dir(follow_symlinks=False):
            yield from _files(Path(entry.path))
        elif entry.is_file(follow_symlinks=False):
            yield entry


def _remove_if_empty(path: Path) -> None:
    try:
        path.rmdir()
    except OSError as problem:
        if problem.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOENT):
            _log.warning("the folder of uploads '%s' could not be removed: %s", path, problem)
