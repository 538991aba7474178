"""What a collection remembers of the files and folders it was synced from, so that the next sync reads only changes.

Rows of the catalogue; writing happens inside a transaction of it.
"""

import os
from collections.abc import Mapping
from dataclasses import astuple, dataclass
from pathlib import Path

from retrieval.storage.catalogue import Catalogue
from retrieval.storage.sealing import seal


@dataclass(frozen=True, slots=True)
class FileState:
    """What was seen of a file at its last sync: sizes in bytes, times in ns. `reason` is set where reading failed."""

    path: str
    root: str
    uri: str
    size: int
    mtime_ns: int
    ctime_ns: int
    inode: int
    checked_ns: int
    content_hash: str
    reason: str = ""
    message: str = ""


def put_file_state(catalogue: Catalogue, state: FileState) -> None:
    """Remember what a file looked like."""
    fields = astuple(state)
    catalogue.execute(f"INSERT OR REPLACE INTO stats VALUES ({'?,' * 11}?)", (*fields, seal(*fields)))


def forget_file_state(catalogue: Catalogue, path: str) -> None:
    """The file is gone."""
    catalogue.execute("DELETE FROM stats WHERE source = ?", (path,))


def forget_file_states_of(catalogue: Catalogue, uri: str) -> None:
    """Make the next sync read this file again."""
    catalogue.execute("DELETE FROM stats WHERE uri = ?", (uri,))


def file_states(catalogue: Catalogue, root: str) -> dict[str, FileState]:
    """What is remembered of a synced folder, by path; damaged rows are left out and so read anew."""
    rows = catalogue.select("SELECT * FROM stats WHERE root = ?", (root,))
    return {row[0]: FileState(*row[:11]) for row in rows if row[11] == seal(*row[:11])}


def put_root(catalogue: Catalogue, path: str, prefix: str) -> None:
    """Remember a synced folder and the prefix its documents' uris have."""
    catalogue.execute("INSERT INTO roots VALUES (?,?,?)", (path, prefix, seal(path, prefix)))


def roots(catalogue: Catalogue) -> Mapping[str, str]:
    """Synced folders and the prefixes of their uris."""
    return {str(row[0]): str(row[1]) for row in catalogue.select("SELECT path, prefix FROM roots")}


def path_key(path: Path) -> str:
    """A path as text that SQLite takes: names that are not UTF-8 keep their bytes as escapes."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def paths_outside_folders(catalogue: Catalogue) -> set[str]:
    """Files of the documents that were added one by one, outside any synced folder."""
    return {str(row[0]) for row in catalogue.select("SELECT source FROM documents WHERE root = '' AND source <> ''")}
