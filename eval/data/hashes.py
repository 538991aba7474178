"""Files and folders of data → the SHA-256 of each file, by which runs on different data are told apart."""

import hashlib
from pathlib import Path

from retrieval.errors import ReadingError

_DATA = (".jsonl", ".json", ".tsv", ".txt", ".gz")


def hashes_of(*paths: Path | None) -> dict[str, str]:
    """Path → SHA-256 of each file, and of the data files at any depth of each folder. None is left out.

    Raises ReadingError for what cannot be read.
    """
    found: dict[str, str] = {}
    for path in paths:
        if path is None:
            continue
        files = [path]
        if path.is_dir():
            files = sorted(file for file in path.rglob("*") if file.is_file() and file.suffix in _DATA)
        for file in files:
            try:
                with file.open("rb") as stream:
                    found[str(file)] = hashlib.file_digest(stream, "sha256").hexdigest()
            except OSError as error:
                raise ReadingError(str(file), "unreadable", f"cannot be read: {error.strerror or error}.") from error
    return found
