"""A table (.jsonl, .ndjson, .csv, .tsv, gzipped or not; .parquet; .json with a list) → its rows, numbered from 1.

What is no row is told by reason and number. It knows no column and no conversation.
"""

import csv
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson

from adapt.corpus.opening import is_rows, open_text
from adapt.corpus.rows import Problem, numbered_rows
from retrieval.errors import ReadingError, UsageError
from retrieval.reading.folder import shown

LONGEST_JSON = 512 << 20
"""Characters of a .json file, which must be held whole; lines need not."""
LONGEST_CELL = 4 << 20
MOST_COLUMNS = 2_000
_DELIMITERS = (",", "\t", ";", "|")
SUFFIXES = (".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".parquet")


def rows_of(path: Path, problem: Problem, lossy: Problem | None = None) -> Iterator[tuple[int, dict[str, Any]]]:
    """The rows of a file. `problem` hears of what is none; `lossy`, else `problem`, once of bytes that are no text.

    A row of a .csv is counted without its heading. Raises UsageError for another kind of file or none, ReadingError
    where it cannot be read.
    """
    real = Path(os.path.realpath(path))
    if not real.is_file():
        raise UsageError(f"there is no file '{shown(str(path))}'; name a {', '.join(SUFFIXES)} file")
    kind = kind_of(path)
    tell = lossy or problem

    def bytes_lost(places: int) -> None:
        tell(0, "lossy", f"{places:,} places are no characters of its encoding and became U+FFFD")

    if kind in (".csv", ".tsv"):
        yield from _csv(real, problem, bytes_lost)
    elif kind == ".json":
        yield from _json(real, problem, bytes_lost)
    else:
        named = real if is_rows(real) else path
        yield from numbered_rows(named, None, problem, bytes_lost)


def kind_of(path: Path) -> str:
    """The suffix that says how a file is read. Raises UsageError for one that is no table."""
    name = path.name.lower().removesuffix(".gz")
    for suffix in SUFFIXES:
        if name.endswith(suffix):
            return suffix
    raise UsageError(f"'{shown(path.name)}' is no table that Fathom reads ({', '.join(SUFFIXES)}, also .gz)")


def _csv(path: Path, problem: Problem, lossy: Any) -> Iterator[tuple[int, dict[str, Any]]]:
    with open_text(path) as opened:
        lines = opened.lines()
        heading = next(lines, "")
        if not heading.strip():
            raise ReadingError(shown(str(path)), "empty", "has no first line that names its columns.")
        delimiter = max(_DELIMITERS, key=heading.count)
        before = csv.field_size_limit(LONGEST_CELL)
        try:
            reader = csv.reader(_chained(heading, lines), delimiter=delimiter, strict=True)
            names = [name.strip() for name in next(reader)]
            if len(names) > MOST_COLUMNS or len(set(names)) < len(names) or not all(names):
                raise ReadingError(
                    shown(str(path)),
                    "columns",
                    "names its columns in the first line, each once; some are empty or twice.",
                )
            for number, cells in enumerate(reader, 1):
                if not any(cells):
                    continue
                if len(cells) != len(names):
                    problem(number, "columns", f"has {len(cells):,} cells where the heading has {len(names):,}")
                    continue
                yield number, dict(zip(names, cells, strict=True))
        except csv.Error as error:
            raise ReadingError(shown(str(path)), "csv", f"line {reader.line_num} is no CSV ({error}).") from error
        finally:
            csv.field_size_limit(before)
        if opened.lossy:
            lossy(opened.lossy)


def _chained(first: str, rest: Iterator[str]) -> Iterator[str]:
    yield first
    yield from rest


def _json(path: Path, problem: Problem, lossy: Any) -> Iterator[tuple[int, dict[str, Any]]]:
    """A list of objects, or one object that is the only row."""
    held: list[str] = []
    size = 0
    with open_text(path) as opened:
        for line in opened.lines():
            size += len(line)
            if size > LONGEST_JSON:
                raise ReadingError(
                    shown(str(path)), "too-large", "is too large to be read as one value; write it as .jsonl."
                )
            held.append(line)
        if opened.lossy:
            lossy(opened.lossy)
    try:
        value = orjson.loads("".join(held))
    except (orjson.JSONDecodeError, UnicodeEncodeError) as error:
        raise ReadingError(shown(str(path)), "json", f"is not JSON ({str(error)[:200]}).") from error
    for number, row in enumerate(value if isinstance(value, list) else [value], 1):
        if isinstance(row, dict):
            yield number, row
        else:
            problem(number, "json", f"holds a {type(row).__name__}, not an object")
