"""JSON lines, Parquet and data sets of the Hugging Face hub → rows; a row → its text, title and id.

It knows no document and no filter. Nothing in a row is run: no pickle, no code of a data set.
"""

import json
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from adapt.corpus.opening import LONGEST_LINE, open_text
from eval.data.texts import storable
from retrieval.errors import MissingError, ReadingError, UsageError
from retrieval.reading.folder import shown
from retrieval.reading.normalising import normalise, one_line

Problem = Callable[[int, str, str], None]
"""(row's number, reason, in words): a row that cannot be read."""
BUILDERS = frozenset({"parquet", "json", "csv", "text", "arrow"})
"""Readers of `datasets` that are let near a data set: those of plain tables. Others unpack archives, run parsers."""
_BATCH = 64
_HIGHEST_CELL = 1 << 30


@dataclass(frozen=True)
class Columns:
    """Which columns make a document. `field` may be `a+b` (joined by a blank line), `a.b` (inside), `a+b.c`."""

    field: str
    title: str | None = None

    def text(self, row: Mapping[str, Any]) -> str:
        """The text of a row, normalised. Raises UsageError that says what the row has instead."""
        parts = [found for name in self._names(row) if (found := _words(_value(row, name), name)).strip()]
        return normalise(storable("\n\n".join(part.strip("\n") for part in parts)))

    def heading(self, row: Mapping[str, Any]) -> str:
        """The title on one line, or nothing."""
        if self.title is None:
            return ""
        found = _value(row, self.title)
        return one_line(storable(found)) if isinstance(found, str) else ""

    def top(self) -> set[str]:
        """Names of the columns that a table must give, of which some may be none."""
        names = {self.field, *self.field.split("+"), *([self.title] if self.title else [])}
        return names | {name.partition(".")[0] for name in names} | {"id", "_id"}

    def _names(self, row: Mapping[str, Any]) -> list[str]:
        names = [self.field] if self.field in row else self.field.split("+")
        missing = [name for name in names if _value(row, name) is None]
        if len(missing) == len(names):
            has = ", ".join(str(key) for key in row if key)[:200] or "nothing"
            raise UsageError(f"has no column '{missing[0]}'; it has {has}")
        return [name for name in names if name not in missing]


def row_id(row: Mapping[str, Any], number: int) -> str:
    """The row's `_id` or `id`, else its number."""
    for key in ("_id", "id"):
        value = row.get(key)
        if isinstance(value, str | int) and not isinstance(value, bool) and str(value).strip():
            return one_line(storable(str(value)), 200)
    return str(number)


def numbered_rows(
    path: Path,
    columns: set[str] | None = None,
    problem: Problem | None = None,
    lossy: Callable[[int], None] | None = None,
) -> Iterator[tuple[int, dict[str, Any]]]:
    """The rows of a .jsonl, .ndjson (gzipped or not) or .parquet file, numbered from 1 as lines or rows are.

    `columns` is all that will be asked for. A row that is none is told to `problem`, or raises where there is no such.
    `lossy` hears how many places of the file were no characters. Raises ReadingError.
    """
    if path.name.lower().endswith(".parquet"):
        yield from _parquet(path, columns)
        return
    with open_text(path) as opened:
        number = 0
        begun: list[str] = []
        for line in opened.lines():
            begun.append(line)
            if not line.endswith("\n") and len(line) >= LONGEST_LINE:
                begun = [""]  # its beginning is let go; what is held is only that there was one
                continue
            number += 1
            held, begun = begun, []
            if len(held) > 1:
                _tell(path, number, "too-large", f"is longer than {LONGEST_LINE:,} characters", problem)
                continue
            if not line.strip():
                continue
            row = _row(line)
            if isinstance(row, str):
                _tell(path, number, "json", row, problem)
            else:
                yield number, row
        if begun:
            _tell(path, number + 1, "too-large", f"is longer than {LONGEST_LINE:,} characters", problem)
        if lossy is not None and opened.lossy:
            lossy(opened.lossy)


def _row(line: str) -> dict[str, Any] | str:
    """The object in a line, or what is wrong with it."""
    try:
        value = orjson.loads(line)
    except orjson.JSONDecodeError:
        try:
            value = json.loads(line)  # takes halves of surrogate pairs and NaN, which orjson does not
        except json.JSONDecodeError as error:
            return f"is not JSON ({error.msg})"
        except (RecursionError, ValueError):
            return "is nested too deeply or holds too long a number"
    return value if isinstance(value, dict) else f"holds a {type(value).__name__}, not an object"


def _tell(path: Path, number: int, reason: str, message: str, problem: Problem | None) -> None:
    if problem is None:
        raise ReadingError(shown(str(path)), reason, f"line {number} {message}.")
    problem(number, reason, message)


def _parquet(path: Path, columns: set[str] | None) -> Iterator[tuple[int, dict[str, Any]]]:
    """Row group by row group. Strings are read as dictionaries, so that one that is repeated by a few bytes of the
    file a million times stands in memory once."""
    import pyarrow
    from pyarrow import parquet

    try:
        with parquet.ParquetFile(path) as file:
            schema = file.schema_arrow
            names = [name for name in schema.names if columns is None or name in columns]
            strings = [name for name in names if pyarrow.types.is_string(schema.field(name).type)]
            for group in range(file.metadata.num_row_groups):
                facts = file.metadata.row_group(group)
                for column in range(facts.num_columns):
                    chunk = facts.column(column)
                    if (
                        chunk.path_in_schema.partition(".")[0] in names
                        and chunk.total_uncompressed_size > _HIGHEST_CELL
                    ):
                        raise ReadingError(
                            shown(str(path)),
                            "too-large",
                            f"row group {group + 1} unpacks to {chunk.total_uncompressed_size / 2**30:.1f} GB; write "
                            "it in smaller row groups.",
                        )
        with parquet.ParquetFile(path, read_dictionary=strings) as file:
            number = 0
            for batch in file.iter_batches(batch_size=_BATCH, columns=names):
                for place in range(batch.num_rows):
                    number += 1
                    yield number, {name: batch.column(at)[place].as_py() for at, name in enumerate(names)}
    except FileNotFoundError as error:
        raise ReadingError(shown(str(path)), "vanished", "no such file.") from error
    except (pyarrow.ArrowException, OSError, UnicodeDecodeError) as error:
        words = " ".join(str(error).split())[:200]
        raise ReadingError(shown(str(path)), "corrupt", f"is no Parquet file that can be read ({words}).") from error


# --- the hub ---------------------------------------------------------------------------------------------------------


class HubRows:
    """A data set by its name on the Hugging Face hub (`OWNER/NAME`, `OWNER/NAME:CONFIG`), or a folder laid out like
    one. `identity` changes with its files."""

    def __init__(self, name: str, split: str, root: Path) -> None:
        """Find it; nothing is read yet. Raises MissingError where it cannot be had, UsageError for what must not be
        read or a split that is not there."""
        os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
        import datasets

        self.name, self.split = name, split
        plain, _, config = name.partition(":")
        local = root / os.path.expanduser(plain)
        if not local.is_dir() and (plain.count("/") != 1 or plain.startswith((".", "/"))):
            raise UsageError(f"'hub:{name}' names no data set; write hub:OWNER/NAME, as in hub:wikimedia/wikipedia")
        try:
            self._builder = datasets.load_dataset_builder(str(local) if local.is_dir() else plain, config or None)
        # Whatever the library raises (no network, no such set, a script, a broken README), nothing was read.
        except Exception as error:
            first = (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
            raise MissingError(
                f"the data set '{plain}' cannot be had ({first}); fetch it where there is a network and name the "
                f"folder or its .parquet files: hf download --repo-type dataset {plain}"
            ) from error
        kind = type(self._builder).__module__.rpartition(".")[2]
        if not type(self._builder).__module__.startswith("datasets.packaged_modules.") or kind not in BUILDERS:
            raise UsageError(
                f"the data set '{plain}' is of the kind '{kind}'; Fathom reads {', '.join(sorted(BUILDERS))}: export "
                "its texts as .parquet or .jsonl"
            )
        splits = {str(key) for key in self._builder.config.data_files or {}}
        if split not in splits:
            raise UsageError(f"the data set '{plain}' has no split '{split}'; it has {', '.join(sorted(splits))}")
        self.identity = f"{plain} {self._builder.config_id} {self._builder.hash} {split}"

    def rows(self, columns: set[str], *, limit: int | None, seed: int) -> Iterator[tuple[int, dict[str, Any]]]:
        """Rows as they come over the network, numbered from 1; with `limit` so many at most, from shards and a window
        of 10,000 rows shuffled with `seed`, so that a sample of a very large set does not fetch it whole."""
        try:
            stream = self._builder.as_streaming_dataset(split=self.split)
            names = [name for name in (stream.column_names or []) if name in columns]
            stream = stream.select_columns(names) if names else stream
            if limit is not None:
                stream = stream.shuffle(seed=seed, buffer_size=10_000).take(limit)
            yield from ((number, dict(row)) for number, row in enumerate(stream, 1))
        except GeneratorExit:
            raise
        except Exception as error:  # as above: any of a dozen libraries may speak here
            first = (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
            raise ReadingError(f"hub:{self.name}", "io", f"broke off while it was read ({first}).") from error


# --- cells -----------------------------------------------------------------------------------------------------------


def _value(row: Mapping[str, Any], name: str) -> Any:
    """The cell `name`, or what lies inside at `a.b`; of a list all that lies inside its entries."""
    if name in row:
        return row[name]
    value: Any = row
    for key in name.split("."):
        if isinstance(value, list):
            value = [entry[key] for entry in value if isinstance(entry, Mapping) and entry.get(key) is not None]
        elif isinstance(value, Mapping):
            value = value.get(key)
        else:
            return None
    return None if value == [] and name not in row else value


def _words(value: Any, name: str) -> str:
    """A text, or a list of texts as paragraphs. Raises UsageError."""
    if isinstance(value, list):
        value = [entry for entry in value if entry is not None]
        if all(isinstance(entry, str) for entry in value):
            return "\n\n".join(entry.strip("\n") for entry in value if entry.strip())
    if not isinstance(value, str):
        raise UsageError(f"holds a {type(value).__name__} in the column '{name}', not text")
    return value
