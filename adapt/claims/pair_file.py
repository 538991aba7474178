"""Pairs of claim and passage → a .jsonl file, whole or not at all. `eval.data.claim_pairs` reads it."""

import gzip
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import IO

from eval.data.claim_pairs import ClaimPair
from eval.data.texts import storable
from retrieval.errors import FathomError
from retrieval.storage.durable import sync_to_disk


def write_pairs(path: Path, pairs: Sequence[ClaimPair]) -> None:
    """Write a .jsonl or .jsonl.gz file. Raises FathomError where it cannot be written; then an old one is as it was."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.new")
    try:
        with temporary.open("wb") as raw:
            if path.suffix == ".gz":
                with gzip.GzipFile("", "wb", fileobj=raw, mtime=0) as packed:
                    _lines(packed, pairs)
            else:
                _lines(raw, pairs)
        sync_to_disk(temporary)
        os.replace(temporary, path)
    except OSError as error:
        raise FathomError(f"'{path}' cannot be written ({error.strerror or error}); name another place") from error
    finally:
        temporary.unlink(missing_ok=True)
    sync_to_disk(path.parent)


def _lines(out: IO[bytes] | gzip.GzipFile, pairs: Sequence[ClaimPair]) -> None:
    for pair in pairs:
        line = storable(json.dumps(pair.as_json(), ensure_ascii=False, allow_nan=False)) + "\n"
        out.write(line.encode("utf-8"))
