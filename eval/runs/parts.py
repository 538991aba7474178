"""What every kind of measurement shares: a checked part, its folder of records, and the tools it may ask for.

A part is one measurement of a run (a set through one pipeline, a question file through one engine). Each finished item
is one line of `records.jsonl`, written and flushed at once, so that a killed run loses at most the item in the making.
It knows no metric and no model.
"""

import json
import math
import os
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import orjson

from retrieval.errors import DamagedError

if TYPE_CHECKING:
    from llama_index.core.llms import LLM

    from eval.models.language_models import LanguageModel
    from eval.speed.adapters import Adapted
    from retrieval.answering import AnswerSettings
    from retrieval.collection import Collection, SearchSettings
    from retrieval.embedding.embedder import Embedder
    from retrieval.finding import FindSettings
    from retrieval.reranking.load import Reranker
    from retrieval.rewriting.plans import Planner
    from retrieval.rewriting.rules import Rewriter
    from retrieval.splitting import SplitSettings
    from retrieval.supporting.checker import SupportChecker

Progress = Callable[[str, int, int], None]
"""(stage, done, total); total 0 is unknown."""
Record = dict[str, Any]
"""One finished item as it stands in records.jsonl.

id        str, unique in the part
text      str, what was asked, for people
cluster   str or None: items that share one (a source document) are resampled together
metrics   {name: number, [numerator, denominator] or None}; a pair is summed before it is divided (bits per byte,
          precision over all answers); None is "could not be told" (a judge that returned prose) and is counted
timings   {name: milliseconds}
error     str or None: why the item has no result; its metrics are then empty and a resumed run tries it again
and whatever else the kind of part wants to show: ranking, answer, citations, passages …
"""


def _absent(name: str | None) -> Any:
    raise NotImplementedError(f"no tool makes {name!r} here")


@dataclass(frozen=True)
class Tools:
    """What a part may ask for. Above this floor it is known which class stands behind which word.

    Every function raises UsageError for a word it does not know and MissingError for what is not installed, and loads
    at the first call only. `name` None is what the settings say.
    """

    cache: Path
    embedder: Callable[[], "Embedder"] = field(default=lambda: _absent("embedder"))
    llm: Callable[[str | None], "LLM"] = _absent
    language_model: Callable[[str | None], "LanguageModel"] = _absent
    reranker: Callable[[str | None], "Reranker"] = _absent
    rewriter: Callable[[str | None], "Rewriter"] = _absent
    collection: Callable[[str], "Collection"] = _absent
    checker: Callable[[str, str | None], "SupportChecker"] = field(default=lambda *words: _absent("checker"))
    """(word of a support checker, engine behind "llm")."""
    planner: Callable[[str, "LLM | None"], "Planner"] = field(default=lambda *words: _absent("planner"))
    """(word of a rewriter, engine that answers)."""
    adapters: Callable[[], Mapping[str, Path]] = field(default=lambda: _absent("adapters"))
    """Folders of the adapters there are, by role."""
    adapted: Callable[[str | None, Sequence[str]], "AbstractContextManager[Adapted]"] = field(
        default=lambda *words: _absent("adapted")
    )
    """(engine, roles) → a fresh engine with those adapters and no others, and its processes."""
    search: "SearchSettings | None" = None
    splitting: "SplitSettings | None" = None
    answer: "AnswerSettings | None" = None
    assist: "FindSettings | None" = None
    identity: Callable[..., Any] = field(default=lambda topic, *words: None)
    """(topic, words of the part) → what decides results there, with hashes of the models behind words, ready for JSON.

    A run is continued only where all of it is as it was. Topics are those of `eval.runs.plans.TOPICS`.
    """


@dataclass(frozen=True)
class Prepared:
    """A part that has been checked and can run.

    `items` is how many there are to do, `data` names each file that was read with its SHA-256 (or, for what is no file,
    a hash of its content), and `described` says for people what will be done. `run` does all items that the folder's
    `done()` does not hold yet, appends a record for each, and returns what is no per-item figure (curves, tables,
    versions of models and prompts), ready for JSON. It is handed done items again through `done()` only.
    `relies_on` names topics of `Tools.identity`; None is what `eval.runs.suites.KINDS` says of the kind. `follows` is
    an earlier part of the same run whose records are this part's items, `most` of them where that is not None.
    """

    items: int
    data: Mapping[str, str]
    described: str
    run: Callable[["PartFolder", Progress], Mapping[str, Any]]
    relies_on: tuple[str, ...] | None = None
    follows: str | None = None
    most: int | None = None


class Part(Protocol):
    """The settings of one kind of part: a frozen dataclass whose fields are the keys of its entry in a suite.

    Paths are absolute by the time `prepare` is called. `prepare` reads and checks everything that can be checked before
    any work begins. Raises UsageError, ReadingError, MissingError.
    """

    def prepare(self, tools: Tools) -> Prepared: ...


class PartFolder:
    """`records.jsonl` and the files beside it. Appending is safe from several threads of the one process that writes.

    Raises DamagedError for a line that is no record.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        path.mkdir(parents=True, exist_ok=True)
        self._lock = threading.Lock()
        self._file = path / "records.jsonl"
        self._records, self._size = _read(self._file)
        # Read back at the first question only: encoding is what an item costs, decoding would double it.
        self._unread: dict[str, bytes] = {}
        self._descriptor = -1

    def done(self) -> dict[str, Record]:
        """Finished records by id, in the order they were finished; a later line with an id replaces an earlier one."""
        return {key: record for key, record in self.all().items() if not record.get("error")}

    def all(self) -> dict[str, Record]:
        """As `done`, with the items that ended in an error."""
        with self._lock:
            for key, line in self._unread.items():
                self._records.pop(key, None)
                self._records[key] = _decoded(line)
            self._unread.clear()
            return dict(self._records)

    def append(self, record: Record) -> None:
        """Write one record. NaN and infinities become None, which JSON can hold and readers count.

        Raises OSError when it cannot be written; what was written before stays whole.
        """
        data = _encoded(record)
        with self._lock:
            if self._descriptor < 0:
                self._descriptor = os.open(self._file, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o666)
            # At the end of the last whole line: half a line, left by a kill or a full disk, is cut off first.
            if os.fstat(self._descriptor).st_size != self._size:
                os.ftruncate(self._descriptor, self._size)
            written = 0
            while written < len(data):
                written += os.pwrite(self._descriptor, data[written:], self._size + written)
            self._size += len(data)
            self._unread.pop(record["id"], None)
            self._unread[record["id"]] = data

    def close(self) -> None:
        """Make what was written durable. The folder may be used again."""
        with self._lock:
            if self._descriptor >= 0:
                os.fsync(self._descriptor)
                os.close(self._descriptor)
                self._descriptor = -1

    def __del__(self) -> None:
        if getattr(self, "_descriptor", -1) >= 0:
            os.close(self._descriptor)


def read_records(path: Path) -> dict[str, Record]:
    """Records of a part's folder by id, those with errors included, without touching it: it may be written to now.

    Raises DamagedError.
    """
    return _read(path / "records.jsonl")[0]


def _read(file: Path) -> tuple[dict[str, Record], int]:
    """The records and how many bytes their lines take; a last line without its end, which a kill leaves, is none."""
    records: dict[str, Record] = {}
    size = 0
    try:
        stream = file.open("rb")
    except FileNotFoundError:
        return records, size
    with stream:
        for number, line in enumerate(stream, 1):
            if not line.endswith(b"\n"):
                break
            try:
                record = _decoded(line)
                key = record["id"]
                records.pop(key, None)
                records[key] = record
            except (ValueError, KeyError, TypeError, RecursionError) as error:
                raise DamagedError(f"{file}, line {number}: not a record; remove the line or the run") from error
            size += len(line)
    return records, size


def _encoded(record: Record) -> bytes:
    try:
        # A record holds rankings of hundreds of scores: json.dumps would cost as much as a search by words.
        line = orjson.dumps(record, option=orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_NON_STR_KEYS)
    except TypeError:  # half a surrogate pair, out of a file name or a model, is no UTF-8 but can be escaped
        line = json.dumps(finite(record)).encode()
    # Line separators that are no newline to JSON but are to str.splitlines would break a reader's count.
    for separator in ("\u2028", "\u2029", "\x85"):
        line = line.replace(separator.encode(), f"\\u{ord(separator):04x}".encode())
    return line + b"\n"


def _decoded(line: bytes) -> Record:
    try:
        return orjson.loads(line)
    except orjson.JSONDecodeError:  # an escaped half of a surrogate pair is too strange for orjson; json says the rest
        return json.loads(line)


def finite(value: Any) -> Any:
    """`value` as JSON can hold it: NaN and infinities are None, arrays and tuples lists, keys texts."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Mapping):
        return {str(key): finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    if hasattr(value, "tolist"):  # NumPy scalars and arrays
        return finite(value.tolist())
    return value
