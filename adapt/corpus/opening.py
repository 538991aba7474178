"""A file of text, gzipped or not, in whichever encoding → its lines, within limits. It knows no form of rows.

Plain text needs no parser and therefore no process of its own; what is packed is measured while it is unpacked.
"""

import codecs
import gzip
import io
import os
import re
import stat
import zlib
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

from retrieval.errors import ReadingError
from retrieval.reading.encodings import decode
from retrieval.reading.folder import shown
from retrieval.reading.refusal import Refusal

LONGEST_LINE = 32 << 20
"""Characters of a line that are held at once."""
RATIO = 200
"""Unpacked to packed size from which on a gzip file is a bomb; texts pack 2 to 20 times."""
RATIO_FROM = 64 << 20
"""Bytes from which on the ratio counts."""
_SAMPLE = 1 << 20
_ESCAPED = re.compile("[\udc80-\udcff]+")


def is_rows(path: Path) -> bool:
    """Whether the name is that of a file of rows: .jsonl, .ndjson (gzipped or not), .parquet."""
    return path.name.lower().endswith((".jsonl", ".jsonl.gz", ".ndjson", ".ndjson.gz", ".parquet"))


class OpenText:
    """An open file. `encoding` is what was found; `lossy` counts places that were no characters of it so far."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.lossy = 0
        self._unpacked = 0
        try:
            handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except (OSError, ValueError) as error:
            raise _unreadable(path, error) from error
        self._raw: BinaryIO = os.fdopen(handle, "rb")
        try:
            if not stat.S_ISREG(os.fstat(handle).st_mode):
                raise ReadingError(shown(str(path)), "not-a-file", "is not a regular file.")
            packed = self._raw.read(2) == b"\x1f\x8b"
            self._raw.seek(0)
            stream: BinaryIO = gzip.GzipFile(fileobj=self._raw) if packed else self._raw  # type: ignore[assignment]
            self._packed = packed
            sample = _read(path, stream, _SAMPLE)
            self.encoding = _encoding(path, sample)
            stream.seek(0)
            errors = "surrogateescape" if self.encoding == "utf-8" else "replace"
            self._text = io.TextIOWrapper(stream, encoding=self.encoding, errors=errors, newline="\n")
        except BaseException:
            self._raw.close()
            raise

    def __enter__(self) -> "OpenText":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, problem: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._text.close()
        self._raw.close()

    def lines(self) -> Iterator[str]:
        """Lines with their "\\n". One longer than `LONGEST_LINE` comes in parts, of which only the last has it.

        Bytes that are no characters become U+FFFD. Raises ReadingError: "gzip" (damaged), "bomb", "io".
        """
        first = True
        while True:
            try:
                line = self._text.readline(LONGEST_LINE)
            except (EOFError, gzip.BadGzipFile, zlib.error) as error:
                raise ReadingError(shown(str(self.path)), "gzip", f"its gzip stream is damaged ({error}).") from error
            except OSError as error:
                raise _unreadable(self.path, error) from error
            if not line:
                return
            if first:
                line, first = line.removeprefix("\ufeff"), False
            self._measure(line)
            yield self._repaired(line)

    def _measure(self, line: str) -> None:
        self._unpacked += len(line)
        if self._packed and self._unpacked > RATIO_FROM and self._unpacked > RATIO * max(self._raw.tell(), 1):
            raise ReadingError(
                shown(str(self.path)),
                "bomb",
                f"unpacks to more than {RATIO} times its size, as no text does; unpack it yourself if it is one.",
            )

    def _repaired(self, line: str) -> str:
        if line.isascii():
            return line
        if self.encoding == "utf-8":
            line, count = _ESCAPED.subn("\ufffd", line)
            self.lossy += count
        else:
            self.lossy += line.count("\ufffd")
        return line


def open_text(path: Path) -> OpenText:
    """Open for reading. Raises ReadingError: "vanished", "permission", "binary", "encoding", "gzip", "not-a-file"."""
    return OpenText(path)


def _read(path: Path, stream: BinaryIO, size: int) -> bytes:
    try:
        return stream.read(size)
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise ReadingError(shown(str(path)), "gzip", f"its gzip stream is damaged ({error}).") from error
    except OSError as error:
        raise _unreadable(path, error) from error


def _encoding(path: Path, sample: bytes) -> str:
    try:
        codecs.getincrementaldecoder("utf-8")().decode(sample, final=len(sample) < _SAMPLE)
        if b"\0" not in sample:
            return "utf-8"
    except UnicodeDecodeError:
        pass
    if len(sample) == _SAMPLE:  # not in the middle of a character: UTF-16 and UTF-32 are cut by fours already
        end = sample.rfind(b"\n")
        sample = sample[: end + 1] if end > 0 and b"\0" not in sample else sample
    try:
        return decode(sample).encoding
    except Refusal as refusal:
        raise ReadingError(shown(str(path)), refusal.reason, refusal.message) from refusal


def _unreadable(path: Path, error: OSError | ValueError) -> ReadingError:
    reason = {2: "vanished", 13: "permission"}.get(getattr(error, "errno", 0) or 0, "io")
    return ReadingError(shown(str(path)), reason, f"cannot be read: {getattr(error, 'strerror', None) or error}.")
