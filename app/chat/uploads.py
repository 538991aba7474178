"""Files added on the page in, documents of a collection out: jobs with their progress, file by file.

Files are read and indexed as `fathom index add` does it. Knows no HTTP; where the bytes lie is upload_area.py's.
"""

import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from app import build
from app.chat.document_words import DocumentWords
from app.chat.upload_area import ArrivingFile, JobFolder, UploadArea, clean_name
from app.upload_limits import UploadLimits
from app.workspace import collection_name
from retrieval.collection import CATALOGUE, Collection
from retrieval.errors import BusyError, FathomError, MissingError, ReadingError, UsageError
from retrieval.intake import Incoming
from retrieval.passages import Document
from retrieval.reading.folder import load, source_file, unsupported
from retrieval.reading.formats import format_of
from retrieval.reading.limits import MIB
from retrieval.reading.reader import Reader
from retrieval.storage.catalogue import Catalogue
from retrieval.storage.file_memory import path_key, paths_outside_folders

if TYPE_CHECKING:
    from app.settings import Settings
    from retrieval.embedding.embedder import Embedder

_log = logging.getLogger(__name__)

PREFIX = "uploads/"
"""Before the name of each document that was added on the page: it cannot be taken for one of a synced folder."""
KEPT_JOBS = 50

FileState = Literal["sending", "queued", "reading", "read", "indexed", "refused", "cancelled"]
JobState = Literal["receiving", "queued", "working", "busy", "done", "failed", "cancelled"]
_OPEN: frozenset[JobState] = frozenset({"receiving", "queued", "working", "busy"})


class _StoppedError(Exception):
    """The person stopped the job."""


@dataclass
class UploadedFile:
    """One file of a job. `replaces` is the path of the file that this one takes the place of."""

    name: str
    state: FileState = "sending"
    size: int = 0
    passages: int = 0
    reason: str = ""
    message: str = ""
    path: Path | None = None
    replaces: str = ""

    @property
    def uri(self) -> str:
        return PREFIX + self.name

    def refuse(self, error: ReadingError) -> None:
        self.state, self.reason, self.message = "refused", error.reason, error.message


@dataclass
class Job:
    """Files on their way into one collection."""

    id: str
    collection: str
    folder: JobFolder
    state: JobState = "receiving"
    message: str = ""
    new: bool = False
    """Whether the collection was made by this job."""
    files: list[UploadedFile] = field(default_factory=list)
    stage: tuple[str, int, int] = ("", 0, 0)
    touched: float = field(default_factory=time.monotonic)
    stop: threading.Event = field(default_factory=threading.Event)

    def shown(self, words: DocumentWords) -> dict[str, Any]:
        """The job as the page shows it."""
        states = [file.state for file in self.files]
        indexed, refused = states.count("indexed"), states.count("refused")
        return {
            "id": self.id,
            "collection": self.collection,
            "state": self.state,
            "open": self.state in _OPEN,
            "message": words.busy if self.state == "busy" else self.message,
            "new": self.new,
            "stage": self.stage,
            "indexed": indexed,
            "refused": refused,
            "left": len(states) - indexed - refused,
            "files": [
                {
                    "name": file.name,
                    "size": file.size,
                    "state": file.state,
                    "passages": file.passages,
                    "reason": file.reason,
                    "message": words.reasons.get(file.reason) or file.message,
                }
                for file in self.files
            ],
        }


class Uploads:
    """The jobs of one workspace. One is indexed at a time; `load` gives the embedding model that the page uses too."""

    def __init__(
        self,
        settings: "Settings",
        load: "Callable[[], Embedder]",
        limits: UploadLimits = UploadLimits(),  # noqa: B008 - frozen
    ) -> None:
        self.limits = limits
        self.area = UploadArea(settings.workspace / "uploads", limits)
        self.pool = ThreadPoolExecutor(4, thread_name_prefix="upload")
        self._settings = settings
        self._load = load
        self._jobs: OrderedDict[str, Job] = OrderedDict()
        self._guard = threading.Lock()
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="indexing")
        self._worker.submit(self._clean)

    def close(self) -> None:
        """Stop every job. What was committed stays; files that were not indexed are deleted."""
        for job in list(self._jobs.values()):
            self.cancel(job)
        self.pool.shutdown(wait=False, cancel_futures=True)
        self._worker.shutdown(wait=True)

    def collections(self) -> list[str]:
        """Names of the collections that files can be added to."""
        return build.collection_names(self._settings)

    @property
    def file_mb(self) -> int:
        """Largest file, in MB."""
        return min(self.limits.file_mb, self._settings.reading.max_file_mb)

    # -- receiving -------------------------------------------------------------------------------------------------

    def begin(self, collection: str) -> Job:
        """A new job. Raises UsageError for a name that cannot be one, BusyError where too many are open."""
        name = collection_name(collection)
        with self._guard:
            for old in [job for job in self._jobs.values() if job.state in ("receiving", "busy")]:
                if time.monotonic() - old.touched > self.limits.idle_seconds:
                    self._drop(old)
            if sum(job.state in _OPEN for job in self._jobs.values()) >= self.limits.jobs:
                raise BusyError("many documents are being added right now; try again when they are done")
            folder = self.area.open(name)
            job = Job(folder.path.name, name, folder)
            self._jobs[job.id] = job
            for old in list(self._jobs.values())[:-KEPT_JOBS]:
                if old.state not in _OPEN:
                    del self._jobs[old.id]
        return job

    def job(self, job_id: str) -> Job:
        """Raises MissingError."""
        found = self._jobs.get(job_id)
        if found is None:
            raise MissingError("there is no such job")
        return found

    def announce(self, job: Job, name: str) -> tuple[UploadedFile, ArrivingFile | None]:
        """A file that is about to arrive, and what to write it to; None where it is refused by its name already.

        Raises UsageError where the job takes no more files.
        """
        with self._guard:
            return self._announced(job, name)

    def _announced(self, job: Job, name: str) -> tuple[UploadedFile, ArrivingFile | None]:
        if job.state != "receiving":
            raise UsageError("this job has begun; add further files with a new one")
        if len(job.files) >= self.limits.files:
            raise UsageError(
                f"up to {self.limits.files:,} files can be added at once; start another job for the others"
            )
        job.touched = time.monotonic()
        try:
            file = UploadedFile(clean_name(name))
        except ReadingError as error:
            file = UploadedFile("…")
            file.refuse(error)
        else:
            for other in job.files:
                if other.name == file.name and other.state != "refused":
                    other.refuse(ReadingError(other.name, "twice", "another file of this name came after it."))
            if format_of(file.name) is None:
                file.refuse(unsupported(file.name, file.name))
        job.files.append(file)
        return file, None if file.state == "refused" else job.folder.create(file.uri)

    def arrived(self, job: Job, file: UploadedFile, arriving: ArrivingFile) -> None:
        """The last byte is here."""
        arriving.finish()
        file.path, file.size = arriving.path, arriving.size
        job.touched = time.monotonic()
        if file.state == "sending":
            file.state = "queued"

    # -- indexing --------------------------------------------------------------------------------------------------

    def start(self, job: Job) -> None:
        """Index what has arrived. A job that found its collection busy may be started again."""
        with self._guard:
            if job.state not in ("receiving", "busy"):
                raise UsageError("this job has begun already")
            for file in job.files:
                if file.state == "sending":
                    file.refuse(ReadingError(file.name, "incomplete", "did not arrive whole; add it again."))
            job.state, job.touched = "queued", time.monotonic()
            self._worker.submit(self._index, job)

    def cancel(self, job: Job) -> None:
        """Stop a job. Documents that are in the collection already stay."""
        job.stop.set()
        with self._guard:
            if job.state in ("receiving", "busy"):
                self._drop(job)

    def _drop(self, job: Job) -> None:
        job.stop.set()
        self._end(job, "cancelled")

    def _index(self, job: Job) -> None:
        if job.stop.is_set():
            self._end(job, "cancelled")
            return
        job.state = "working"
        try:
            with build.reader(self._settings) as reader:
                self._fill(job, reader)
        except BusyError:
            for file in job.files:
                if file.state in ("reading", "read"):
                    file.state = "queued"
            job.state, job.touched = "busy", time.monotonic()
            return
        except _StoppedError:
            self._end(job, "cancelled")
            return
        except FathomError as error:
            job.message = str(error)
        except Exception as error:
            _log.exception("adding documents failed")
            job.message = type(error).__name__
        self._end(job, "failed" if job.message else "done")

    def _fill(self, job: Job, reader: Reader) -> None:
        read = self._read(job, reader)
        first = next(read, None)
        if first is None:  # a collection is not made for nothing
            return
        job.new = not build.collection_exists(self._settings, job.collection)
        doing = "documents added on the page"
        with build.open_or_create(
            self._settings, job.collection, wait=self.limits.busy_seconds, doing=doing, load=self._load
        ) as collection:
            collection.add(
                self._incoming(chain([first], read), collection),
                total=len(job.files),
                progress=lambda *stage: self._progress(job, stage),
                saved=lambda uris: self._saved(job, collection, uris),
            )

    def _read(self, job: Job, reader: Reader) -> Iterator[tuple[UploadedFile, Document]]:
        for file in job.files:
            if file.state != "queued" or file.path is None:
                continue
            file.state = "reading"
            try:
                loaded = load(source_file(file.path, file.uri), self.file_mb * MIB)
                document = reader.parse(loaded, job.stop)
            except ReadingError as error:
                if job.stop.is_set():
                    raise _StoppedError from error
                file.refuse(error)
                continue
            file.state = "read"
            yield file, document

    def _incoming(self, read: Iterator[tuple[UploadedFile, Document]], collection: Collection) -> Iterator[Incoming]:
        for file, document in read:
            known = collection.catalogue.document_id(document.uri, collection.owner)
            rows = collection.catalogue.rows(id_=known) if known is not None else []
            if rows and (rows[0].root or not self.area.owns(rows[0].path)):
                file.refuse(ReadingError(file.name, "taken", "has the name of a document from a folder; rename it."))
                continue
            file.replaces = rows[0].path if rows else ""
            yield Incoming(document, "", path_key(Path(str(file.path))))

    def _progress(self, job: Job, stage: tuple[str, int, int]) -> None:
        job.stage = stage
        if job.stop.is_set():
            raise _StoppedError

    def _saved(self, job: Job, collection: Collection, uris: Sequence[str]) -> None:
        """These documents are on disk and searchable."""
        for file in job.files:
            if file.state == "read" and file.uri in uris:
                known = collection.catalogue.document_id(file.uri, collection.owner)
                rows = collection.catalogue.rows(id_=known) if known is not None else []
                file.passages = rows[0].passages if rows else 0
                file.state = "indexed"
                if file.replaces and file.replaces != path_key(Path(str(file.path))):
                    Path(file.replaces).unlink(missing_ok=True)

    def _end(self, job: Job, state: JobState) -> None:
        for file in job.files:
            if file.state not in ("indexed", "refused"):
                file.state = "cancelled"
        try:
            job.folder.close({path_key(Path(str(file.path))) for file in job.files if file.state == "indexed"})
        except OSError:
            _log.exception("files of a job could not be deleted; the next start tries again")
        job.new = job.new and build.collection_exists(self._settings, job.collection)
        job.state = state

    def _clean(self) -> None:
        """Leftovers of a process that was killed, and files of documents that were removed."""

        def wanted(name: str) -> set[str] | None:
            try:
                folder = self._settings.collection_folder(name)
                if not (folder / CATALOGUE).is_file():
                    return set()
                catalogue = Catalogue(folder / CATALOGUE)
                try:
                    return paths_outside_folders(catalogue)
                finally:
                    catalogue.close()
            except FathomError as error:
                _log.warning("files added to '%s' were not looked through: %s", name, error)
                return None

        try:
            self.area.clean(wanted)
        except (FathomError, OSError) as error:
            _log.warning("leftovers of added files were not deleted: %s", error)
