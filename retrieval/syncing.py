"""A folder in, a collection that mirrors it out: new files added, changed ones replaced, vanished ones removed.

Files whose size, times and inode are as remembered are not even opened; the rest is hashed, and only what really
changed is parsed. Everything saved before an interruption stays.
"""

import dataclasses
import json
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from retrieval.collection import Collection
from retrieval.errors import ReadingError, UsageError
from retrieval.intake import Incoming
from retrieval.passages import Scalar
from retrieval.reading.folder import Loaded, SourceFile, load, source_file, walk
from retrieval.reading.reader import READER_VERSION, Reader
from retrieval.storage.catalogue import DocumentRow
from retrieval.storage.file_memory import (
    FileState,
    file_states,
    forget_file_state,
    path_key,
    put_file_state,
    put_root,
    roots,
)

# A file changed within this time of our look may change again without its times showing it ("racy clean" in git).
RACY_NS = 2_000_000_000
# Reasons that may be gone next time; other failures of the same bytes are remembered and not tried again.
PASSING = frozenset({"changed", "vanished", "permission", "io"})
REMOVE_STEP = 500

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True, slots=True)
class SyncPlan:
    """What a sync would do, by uri. `known` counts the documents that this folder has in the collection."""

    add: tuple[str, ...] = ()
    update: tuple[str, ...] = ()
    remove: tuple[str, ...] = ()
    unchanged: int = 0
    failed: tuple[ReadingError, ...] = ()
    known: int = 0


@dataclass(slots=True)
class SyncReport:
    """What a sync did. `kept` are documents whose file could not be read this time: the version before stays."""

    added: list[str] = field(default_factory=list)
    updated: list[str] = field(default_factory=list)
    removed: list[str] = field(default_factory=list)
    kept: list[str] = field(default_factory=list)
    failed: list[ReadingError] = field(default_factory=list)
    unchanged: int = 0
    passages: int = 0
    embedded: int = 0
    seconds: float = 0.0


class _Look:
    """One look at a folder against what the collection remembers of it."""

    def __init__(self, collection: Collection, folder: Path, metadata: Mapping[str, Scalar], *, retry: bool) -> None:
        if not folder.is_dir():
            found = "a file" if folder.is_file() else "nothing"
            raise UsageError(
                f"'{folder}' is not a folder (found {found}); name the folder whose files you want indexed"
            )
        self.collection = collection
        self.root = path_key(folder.resolve())
        known_prefix = roots(collection.catalogue).get(self.root)
        self.new_root = known_prefix is None
        self.prefix = _new_prefix(collection, folder) if known_prefix is None else known_prefix
        self.states = file_states(collection.catalogue, self.root)
        self.known = {row.source.uri: row for row in collection.documents() if row.root == self.root}
        self._settings = json.dumps([READER_VERSION, sorted(metadata.items())], ensure_ascii=False)
        # Another reader or other metadata: bytes that are unchanged may still give another document.
        self.fresh = retry or collection.catalogue.setting(f"sync:{self.root}") not in (None, self._settings)
        self.failed: list[ReadingError] = []
        self.seen: set[str] = set()
        self.shielded: list[str] = []
        self.unchanged = 0
        self.candidates: list[SourceFile] = []
        self._walk(folder)

    def _walk(self, folder: Path) -> None:
        for item in walk(folder):
            if isinstance(item, ReadingError):
                self.fail(ReadingError(self.prefix + item.path, item.reason, item.message))
                continue
            file = dataclasses.replace(item, uri=f"{self.prefix}{item.uri}")
            self.seen.add(file.uri)
            state = self.states.get(path_key(file.path))
            if not self.fresh and state is not None and _same(file, state):
                self.settle(file.uri, state)
            else:
                self.candidates.append(file)

    def settle(self, uri: str, state: FileState) -> None:
        """The bytes are those of the last look: so is the outcome."""
        if state.reason:
            self.failed.append(ReadingError(uri, state.reason, state.message))
        elif uri in self.known:
            self.unchanged += 1

    def fail(self, error: ReadingError) -> None:
        self.failed.append(error)
        if error.reason == "vanished":
            self.seen.discard(error.path)
        else:
            # Also shields what lies below a folder that cannot be listed right now.
            self.shielded.append(error.path)

    def gone(self) -> list[str]:
        shields = tuple(f"{path}/" for path in self.shielded)
        kept = set(self.shielded)
        return [
            u for u in self.known if u not in self.seen and u not in kept and not (shields and u.startswith(shields))
        ]

    def changed(self, max_bytes: int) -> Iterator[Loaded]:
        """Candidates whose bytes are new, loaded; outcomes of the others are settled on the way."""
        for file in self.candidates:
            try:
                loaded = load(file, max_bytes)
            except ReadingError as error:
                self.fail(ReadingError(file.uri, error.reason, error.message))
                continue
            state = self.states.get(path_key(file.path))
            as_before = state is not None and state.content_hash == loaded.content_hash and state.uri == file.uri
            if as_before and not self.fresh and state is not None and (state.reason or file.uri in self.known):
                self.settle(file.uri, state)
                self.touched(dataclasses.replace(self.state_of(loaded), reason=state.reason, message=state.message))
                continue
            yield loaded

    def touched(self, state: FileState) -> None:
        """Times changed, bytes did not; `sync` stores it, a dry run does not."""

    def state_of(self, loaded: Loaded) -> FileState:
        file = loaded.file
        return FileState(
            path=path_key(file.path),
            root=self.root,
            uri=file.uri,
            size=file.size,
            mtime_ns=file.mtime_ns,
            ctime_ns=file.ctime_ns,
            inode=file.inode,
            checked_ns=time.time_ns(),
            content_hash=loaded.content_hash,
        )

    def settings(self) -> tuple[str, str]:
        return f"sync:{self.root}", self._settings


class _Sync(_Look):
    """A look that also remembers."""

    def touched(self, state: FileState) -> None:
        with self.collection.catalogue.transaction():
            put_file_state(self.collection.catalogue, state)


def plan_sync(
    collection: Collection,
    folder: Path,
    *,
    max_bytes: int,
    metadata: Mapping[str, Scalar] | None = None,
    retry: bool = False,
) -> SyncPlan:
    """What `sync` would do. Hashes files, parses nothing, writes nothing; files that would fail to parse count as add.

    Raises UsageError where `folder` is not one.
    """
    look = _Look(collection, folder, metadata or {}, retry=retry)
    add, update = [], []
    for loaded in look.changed(max_bytes):
        row = look.known.get(loaded.file.uri)
        if row is None:
            add.append(loaded.file.uri)
        elif row.content_hash != loaded.content_hash:
            update.append(loaded.file.uri)
        else:
            look.unchanged += 1
    return SyncPlan(
        tuple(add), tuple(update), tuple(sorted(look.gone())), look.unchanged, tuple(look.failed), len(look.known)
    )


def sync(
    collection: Collection,
    folder: Path,
    reader: Reader,
    *,
    metadata: Mapping[str, Scalar] | None = None,
    retry: bool = False,
    progress: Progress | None = None,
    saved: Callable[[Sequence[str]], None] | None = None,
) -> SyncReport:
    """Make the collection mirror `folder`. `metadata` is added to every document of the folder.

    Additions come before removals, so that a moved file finds its vectors still there. A file that cannot be read
    keeps the version that was indexed before and is reported; nothing stops the others. `retry` tries files again
    that failed before with the same bytes.
    """
    started = time.monotonic()
    look = _Sync(collection, folder, metadata or {}, retry=retry)
    report = SyncReport()
    catalogue = collection.catalogue
    if look.new_root:
        with catalogue.transaction():
            put_root(catalogue, look.root, look.prefix)
            # From the start, so that an interrupted first sync resumes instead of reading everything again.
            catalogue.set_setting(*look.settings())

    def note(uris: Sequence[str]) -> None:
        for uri in uris:
            row = look.known.get(uri)
            if row is None:
                report.added.append(uri)
            elif catalogue.document_id(uri, collection.owner) != row.source.id:
                report.updated.append(uri)
            else:
                look.unchanged += 1
        if saved is not None:
            saved(uris)

    def arriving() -> Iterator[Incoming]:
        done = 0
        for loaded, outcome in reader.parse_many(look.changed(reader.limits.max_file_mb * 2**20)):
            done += 1
            state = look.state_of(loaded)
            if isinstance(outcome, ReadingError):
                error = ReadingError(loaded.file.uri, outcome.reason, outcome.message)
                look.fail(error)
                if error.reason not in PASSING:
                    look.touched(dataclasses.replace(state, reason=error.reason, message=error.message))
            else:
                document = outcome
                if metadata:
                    document = dataclasses.replace(document, metadata={**document.metadata, **metadata})
                yield Incoming(document, look.root, state.path, state)
            if progress is not None:
                progress("files", done, len(look.candidates))

    added = collection.add(arriving(), total=len(look.candidates), progress=progress, saved=note)
    gone = sorted(look.gone())
    for start in range(0, len(gone), REMOVE_STEP):
        report.removed.extend(collection.remove(gone[start : start + REMOVE_STEP]))
    with catalogue.transaction():
        catalogue.set_setting(*look.settings())
        for path, state in look.states.items():
            if state.uri not in look.seen and state.uri not in look.shielded:
                forget_file_state(catalogue, path)
    report.failed = look.failed
    report.kept = sorted(error.path for error in look.failed if error.path in look.known)
    report.unchanged = look.unchanged
    report.passages, report.embedded = added.passages, added.embedded
    report.seconds = time.monotonic() - started
    return report


def add_files(
    collection: Collection,
    paths: Iterable[Path],
    reader: Reader,
    *,
    metadata: Mapping[str, Scalar] | None = None,
    progress: Progress | None = None,
) -> SyncReport:
    """Add or update single files, outside any synced folder. A file that cannot be read is reported."""
    started = time.monotonic()
    report = SyncReport()
    paths = list(paths)
    known = {row.source.uri: row for row in collection.documents()}
    sources: dict[str, str] = {}

    def loading() -> Iterator[Loaded]:
        for path in paths:
            try:
                file = source_file(path)
                uri = _free_uri(file.path, known)
                sources[uri] = path_key(file.path)
                yield load(dataclasses.replace(file, uri=uri), reader.limits.max_file_mb * 2**20)
            except ReadingError as error:
                report.failed.append(error)

    def arriving() -> Iterator[Incoming]:
        for done, (loaded, outcome) in enumerate(reader.parse_many(loading()), start=1):
            if isinstance(outcome, ReadingError):
                report.failed.append(ReadingError(loaded.file.uri, outcome.reason, outcome.message))
            else:
                document = dataclasses.replace(outcome, metadata={**outcome.metadata, **(metadata or {})})
                row = known.get(document.uri)
                yield Incoming(document, row.root if row else "", sources[document.uri])
            if progress is not None:
                progress("files", done, len(paths))

    def note(uris: Sequence[str]) -> None:
        for uri in uris:
            row = known.get(uri)
            if row is None:
                report.added.append(uri)
            elif collection.catalogue.document_id(uri, collection.owner) != row.source.id:
                report.updated.append(uri)
            else:
                report.unchanged += 1

    added = collection.add(arriving(), total=len(paths), progress=progress, saved=note)
    report.passages, report.embedded = added.passages, added.embedded
    report.seconds = time.monotonic() - started
    return report


def _same(file: SourceFile, state: FileState) -> bool:
    as_remembered = (file.uri, file.size, file.mtime_ns, file.ctime_ns, file.inode) == (
        state.uri,
        state.size,
        state.mtime_ns,
        state.ctime_ns,
        state.inode,
    )
    return as_remembered and max(file.mtime_ns, file.ctime_ns) + RACY_NS < state.checked_ns


def _new_prefix(collection: Collection, folder: Path) -> str:
    """The first folder of an empty collection gives bare names; further ones put their own name before them."""
    taken = set(roots(collection.catalogue).values())
    if not taken and collection.catalogue.counts()[0] == 0:
        return ""
    name = path_key(Path(folder.resolve().name or "root"))
    number, prefix = 1, f"{name}/"
    while prefix in taken or any(row.source.uri.startswith(prefix) for row in collection.documents()):
        number += 1
        prefix = f"{name}-{number}/"
    return prefix


def _free_uri(path: Path, known: Mapping[str, DocumentRow]) -> str:
    """A short name for a file; its whole path where another file has the short one."""
    name, whole = path_key(Path(path.name)), path_key(path).lstrip("/")
    for uri, row in known.items():
        if row.path == path_key(path):
            return uri
    return whole if name in known else name
