"""A folder of tantivy files → what is wrong with its bytes, in words.

tantivy ends every file of a segment with a checksum that it writes and never reads back. This file reads it. It knows
nothing of queries or of what the index means.
"""

import json
import re
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

META = "meta.json"

_MAGIC = 1337
_PARTS = ("fast", "fieldnorm", "idx", "pos", "store", "term")
_CHUNK = 1 << 20
_LARGEST_FOOTER = 4096


def read_meta(folder: Path) -> dict[str, Any]:
    """tantivy's list of the segments of the last commit. OSError or ValueError where there is none to be read."""
    meta = json.loads((folder / META).read_bytes())
    if not isinstance(meta, dict) or not isinstance(meta.get("segments"), list):
        raise ValueError(f"{META} does not list segments")
    return meta


def segment_files(meta: dict[str, Any]) -> Iterator[str]:
    """Names of all files that the segments in `meta` consist of. ValueError where an entry is malformed."""
    for segment in meta["segments"]:
        try:
            name = str(segment["segment_id"]).replace("-", "")
            deletes = segment.get("deletes")
            stamp = None if deletes is None else int(deletes["opstamp"])
        except (TypeError, KeyError, AttributeError) as error:
            raise ValueError(f"{META} holds a malformed segment") from error
        if len(name) != 32 or not name.isalnum():
            raise ValueError(f"{META} holds a malformed segment name")
        yield from (f"{name}.{part}" for part in _PARTS)
        if stamp is not None:
            yield f"{name}.{stamp}.del"


def is_segment_file(name: str) -> bool:
    """Whether tantivy gives such a name to a segment's file or to one it has not finished."""
    return re.fullmatch(r"[0-9a-f]{32}\..+|\.tmp\w+", name) is not None


def count_problem(folder: Path, meta: dict[str, Any]) -> str | None:
    """Whether meta.json, which has no checksum, states another number of entries than the files hold.

    A segment keeps one byte of length per entry and text field (ours: one) in its .fieldnorm file: the bytes, a table
    of fields, u32 length of that table, footer (tantivy's directory/composite_file.rs).
    """
    for segment in meta["segments"]:
        path = folder / f"{str(segment['segment_id']).replace('-', '')}.fieldnorm"
        try:
            with path.open("rb") as file:
                size = file.seek(0, 2)
                file.seek(size - 8)
                (footer,) = struct.unpack("<I", file.read(4))
                file.seek(size - 8 - footer - 4)
                (table,) = struct.unpack("<I", file.read(4))
            deleted = int((segment.get("deletes") or {"num_deleted_docs": 0})["num_deleted_docs"])
            held, stated = size - 8 - footer - 4 - table, int(segment["max_doc"])
        except (OSError, ValueError, KeyError, TypeError, struct.error) as error:
            return f"{path.name} cannot be counted ({error})"
        if held != stated or not 0 <= deleted <= held:
            return f"{META} states {stated} entries with {deleted} deleted where {path.name} holds {held}"
    return None


def file_problem(path: Path) -> str | None:
    """What is wrong with one segment file, None where its bytes are the ones written.

    A file is body, footer (JSON with the CRC-32 of the body), length of the footer, magic number; both u32, little
    endian (tantivy's directory/footer.rs).
    """
    try:
        with path.open("rb") as file:
            size = file.seek(0, 2)
            if size < 8:
                return f"{path.name} is cut short: {size} bytes"
            file.seek(size - 8)
            length, magic = struct.unpack("<II", file.read(8))
            if magic != _MAGIC or length > min(_LARGEST_FOOTER, size - 8):
                return f"{path.name} does not end in tantivy's footer"
            body = size - 8 - length
            file.seek(body)
            try:
                stated = int(json.loads(file.read(length))["crc"])
            except (ValueError, KeyError, TypeError):
                return f"{path.name} has an unreadable footer"
            file.seek(0)
            crc, left = 0, body
            while left:
                chunk = file.read(min(_CHUNK, left))
                if not chunk:
                    return f"{path.name} was cut short while it was read"
                crc, left = zlib.crc32(chunk, crc), left - len(chunk)
    except FileNotFoundError:
        return f"{path.name} is missing"
    except OSError as error:
        return f"{path.name} cannot be read: {error.strerror}"
    return None if crc == stated else f"{path.name} does not match its checksum"
