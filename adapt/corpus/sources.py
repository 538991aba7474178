"""A source of a recipe → its documents, the SHA-256 of all it is read from, and what could not be read and why.

Folders and files of any format go through Fathom's reader, in its limited processes; rows and plain text are read here,
line by line. It knows no filter, and leaves nothing out without saying so.
"""

import hashlib
import os
import stat
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from adapt.corpus.cutting import articles, without_heading
from adapt.corpus.opening import is_rows, open_text
from adapt.corpus.rows import Columns, HubRows, numbered_rows, row_id
from adapt.corpus.texts import TrainingText
from adapt.recipe import Source
from eval.runs.parts import Progress
from retrieval.embedding.stored import file_hash, read_sealed, write_sealed
from retrieval.errors import ReadingError, UsageError
from retrieval.reading.folder import SourceFile, load, shown, source_file, walk
from retrieval.reading.normalising import normalise
from retrieval.reading.reader import READER_VERSION, Reader

HUB = "hub:"
EXAMPLES = 5
NOTHING_READ = "holds no file that Fathom reads (.md, .txt, .html, .pdf, .docx, .jsonl, .parquet and more)"
_PLAIN = (".txt", ".text", ".log", ".txt.gz")
_SEVERAL = 2
"""Documents read of each that is wanted of a data set of the hub with a `limit`, since some are dropped."""


@dataclass
class LeftOut:
    """What gave no document: counted by reason, with a few examples each."""

    counts: Counter[str] = field(default_factory=Counter)
    examples: dict[str, list[str]] = field(default_factory=dict)

    def add(self, reason: str, where: str, why: str) -> None:
        """`where` is a file or a row, `why` goes on from it to a sentence."""
        self.counts[reason] += 1
        known = self.examples.setdefault(reason, [])
        if len(known) < EXAMPLES:
            known.append(f"{where}: {why}"[:400])

    @property
    def total(self) -> int:
        return sum(self.counts.values())

    def first(self) -> str:
        """One example, for an error."""
        return next((lines[0] for lines in self.examples.values() if lines), "")


class OpenSource:
    """A source that was found and can be read once. `left_out` and `warnings` fill while it is read."""

    def __init__(self, source: Source, root: Path) -> None:
        """Find and list the files. Raises UsageError, ReadingError or MissingError where there is nothing to read."""
        self.source = source
        self.left_out = LeftOut()
        self.warnings = LeftOut()
        self.columns = Columns(source.field, source.title)
        self._hub: HubRows | None = None
        self._files: list[SourceFile] = []
        self._refused: list[ReadingError] = []
        if not source.path.strip():
            raise UsageError("a source has an empty path; name a folder, a file or hub:OWNER/NAME")
        if source.path.startswith(HUB):
            self._hub = HubRows(source.path.removeprefix(HUB), source.split, root)
            self.place = source.path
            return
        path = root / os.path.expanduser(source.path)
        self.place = shown(str(path))
        if path.is_dir():
            self._list(path)
        elif _is_own(path):
            self._files = [_described(path)]
        elif not os.path.lexists(path):
            raise UsageError(f"there is no file or folder '{self.place}'; name one, or hub:OWNER/NAME")
        else:
            self._files = [source_file(path, shown(path.name))]
        self._single = not path.is_dir()

    def _list(self, folder: Path) -> None:
        for entry in walk(folder):
            if isinstance(entry, SourceFile):
                self._files.append(entry)
            elif entry.reason == "unsupported" and is_rows(Path(entry.path)):
                try:
                    self._files.append(_described(Path(os.path.realpath(folder), entry.path), entry.path))
                except ReadingError as error:  # its name has bytes that are no text
                    self._refused.append(error)
            else:
                self._refused.append(entry)
        self._files.sort(key=lambda file: file.uri)
        if not self._files:
            first = f"; the first of {len(self._refused):,}: {self._refused[0]}" if self._refused else ""
            raise ReadingError(self.place, "empty", f"{NOTHING_READ}{first}.")

    @property
    def size(self) -> int:
        """Bytes of the files, packed as they are; 0 for a data set of the hub."""
        return sum(file.size for file in self._files)

    def sha256(self, cache: Path) -> str:
        """Of all that will be read: names and bytes of the files. Remembered in `cache` by what the file system tells
        of them (size, times, inode), since corpora may be gigabytes. Raises ReadingError."""
        if self._hub is not None:
            return hashlib.sha256(self._hub.identity.encode()).hexdigest()
        state = hashlib.sha256(self.place.encode("utf-8", "surrogateescape"))
        for file in self._files:
            state.update(repr(_state(file)).encode())
        remembered = cache / "hashes" / f"corpus-{state.hexdigest()}"
        known = read_sealed(remembered)
        if known is not None:
            return known.decode("ascii")
        whole = hashlib.sha256()
        for file in self._files:
            try:
                digest = file_hash(file.path)
            except OSError:  # it will be left out and said so when it is read
                digest = "unreadable"
            name = file.uri if not self._single else "file"
            whole.update(f"{name}\0{digest}\n".encode("utf-8", "surrogateescape"))
        write_sealed(remembered, whole.hexdigest().encode("ascii"))
        return whole.hexdigest()

    def texts(self, progress: Progress, *, seed: int = 0) -> Iterator[TrainingText]:
        """The documents in the order of the files, each id once.

        Raises ReadingError where the one file cannot be read, or changed since it was listed.
        """
        used: set[bytes] = set()
        for count, text in enumerate(self._read(progress, seed)):
            if count % 256 == 0 and len(self._files) < 2:
                progress("reading", count, 0)
            name = text.id
            key = hashlib.blake2b(name.encode(), digest_size=8).digest()
            again = 1
            while key in used:
                again += 1
                name = f"{text.id}~{again}"
                key = hashlib.blake2b(name.encode(), digest_size=8).digest()
            used.add(key)
            yield text if name == text.id else TrainingText(name, text.text, text.title)

    def _read(self, progress: Progress, seed: int) -> Iterator[TrainingText]:
        for refused in self._refused:
            self.left_out.add(refused.reason, refused.path, refused.message)
        if self._hub is not None:
            limit = self.source.limit * _SEVERAL if self.source.limit is not None else None
            yield from self._rows(self._hub.rows(self.columns.top(), limit=limit, seed=seed), "row ")
            return
        with Reader() as reader:
            for done, file in enumerate(self._files):
                if len(self._files) > 1:
                    progress("reading", done, len(self._files))
                own = is_rows(file.path) or (self._single and _is_plain(file.path))
                yield from self._own(file) if own else self._parsed(file, reader)

    def _own(self, file: SourceFile) -> Iterator[TrainingText]:
        """Rows or plain text, read here. In a folder, a file that cannot be read is left out."""
        try:
            if is_rows(file.path):
                prefix = "" if self._single else f"{file.uri}#"
                rows = numbered_rows(
                    file.path,
                    self.columns.top(),
                    lambda number, reason, why: self.left_out.add(reason, f"{file.uri} line {number}", why),
                    lambda places: self._lossy(file.uri, places),
                )
                yield from self._rows(rows, f"{file.uri} line ", prefix)
            else:
                yield from self._plain(file)
            _unchanged(file)
        except ReadingError as error:
            if self._single or error.reason == "changed":
                raise
            self.left_out.add(error.reason, file.uri, error.message)

    def _rows(self, rows: Iterator[tuple[int, dict]], where: str, prefix: str = "") -> Iterator[TrainingText]:
        for number, row in rows:
            try:
                text = self.columns.text(row)
            except UsageError as error:
                self.left_out.add("field", f"{where}{number}", str(error))
                continue
            if not text.strip():
                self.left_out.add("empty", f"{where}{number}", f"nothing stands in '{self.columns.field}'")
                continue
            yield TrainingText(prefix + row_id(row, number), text, self.columns.heading(row))

    def _plain(self, file: SourceFile) -> Iterator[TrainingText]:
        """One text file: its articles, or parts of it."""
        with open_text(file.path) as opened:
            for number, (title, raw) in enumerate(articles(opened.lines()), 1):
                text = normalise(raw)
                if not text.strip():
                    continue
                if self.source.title is None or not title:
                    title = ""
                else:
                    text = without_heading(title, text)
                yield TrainingText(f"{file.uri}#{number}", text, normalise(title))
            if opened.lossy:
                self._lossy(file.uri, opened.lossy)

    def _parsed(self, file: SourceFile, reader: Reader) -> Iterator[TrainingText]:
        """One file of any format through the reader. In a folder, one that cannot be read is left out."""
        try:
            loaded = load(file)
            if _state(loaded.file) != _state(file):
                raise _changed(file)
            document = reader.parse(loaded)
        except ReadingError as error:
            if self._single or error.reason == "changed":
                raise
            self.left_out.add(error.reason, error.path, error.message)
            return
        for warning in document.warnings:
            self.warnings.add("lossy" if warning.startswith("lossy") else "reader", file.uri, warning)
        if not document.text.strip():
            self.left_out.add("empty", file.uri, "holds no text")
            return
        title = document.title if self.source.title is not None else ""
        yield TrainingText(file.uri, without_heading(title, document.text) if title else document.text, title)

    def _lossy(self, uri: str, places: int) -> None:
        were = "place was no character" if places == 1 else "places were no characters"
        self.warnings.add("lossy", uri, f"lossy decode: {places:,} {were} and became U+FFFD")


def reader_version() -> str:
    """Changes when the same bytes may give other texts."""
    return f"reader {READER_VERSION}"


def _is_plain(path: Path) -> bool:
    return path.name.lower().endswith(_PLAIN)


def _is_own(path: Path) -> bool:
    return path.is_file() and (is_rows(path) or _is_plain(path))


def _described(path: Path, uri: str | None = None) -> SourceFile:
    """As `source_file`, for names that the reader does not know."""
    real = Path(os.path.realpath(path)) if uri is None else path
    try:
        found = os.lstat(real)
    except OSError as error:
        raise ReadingError(shown(str(path)), "vanished", f"cannot be read: {error.strerror}.") from error
    if not stat.S_ISREG(found.st_mode):
        raise ReadingError(shown(str(path)), "not-a-file", "is not a regular file.")
    return SourceFile(real, uri or shown(path.name), found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino)


def _state(file: SourceFile) -> tuple[str, int, int, int, int]:
    return (file.uri, file.size, file.mtime_ns, file.ctime_ns, file.inode)


def _unchanged(file: SourceFile) -> None:
    if _state(_described(file.path, file.uri)) != _state(file):
        raise _changed(file)


def _changed(file: SourceFile) -> ReadingError:
    return ReadingError(file.uri, "changed", "was changed by another program while it was read; try again.")
