"""What every kind of measurement shares: a checked part, its folder of records, and the tools it may ask for.

A part is one measurement of a run (a set through one pipeline, a question file through one engine). Each finished item
is one line of `records.jsonl`, written and flushed at once, so that a killed run loses at most the item in the making.
It knows no metric and no model.
"""

import json
import math
import os
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from retrieval.errors import DamagedError

if TYPE_CHECKING:
    from llama_index.core.llms import LLM

    from eval.language_models import LanguageModel
    from retrieval.answering import AnswerSettings
    from retrieval.collection import Collection, SearchSettings
    from retrieval.embedding.embedder import Embedder
    from retrieval.passages import Hit
    from retrieval.prompts import Message
    from retrieval.splitting import SplitSettings

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


class Reranker(Protocol):
    """Scores of hits for a query, one each, higher is better, on the reranker's own scale."""

    def __call__(self, query: str, hits: "list[Hit]") -> list[float]: ...


class Rewriter(Protocol):
    """A question and the messages before it → a question that stands alone."""

    def __call__(self, question: str, history: "list[Message]") -> str: ...


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
    reranker: Callable[[str | None], Reranker] = _absent
    rewriter: Callable[[str | None], Rewriter] = _absent
    collection: Callable[[str], "Collection"] = _absent
    search: "SearchSettings | None" = None
    splitting: "SplitSettings | None" = None
    answer: "AnswerSettings | None" = None


@dataclass(frozen=True)
class Prepared:
    """A part that has been checked and can run.

    `items` is how many there are to do, `data` names each file that was read with its SHA-256 (or, for what is no file,
    a hash of its content), and `described` says for people what will be done. `run` does all items that the folder's
    `done()` does not hold yet, appends a record for each, and returns what is no per-item figure (curves, tables,
    versions of models and prompts), ready for JSON. It is handed done items again through `done()` only.
    """

    items: int
    data: Mapping[str, str]
    described: str
    run: Callable[["PartFolder", Progress], Mapping[str, Any]]


class Part(Protocol):
    """The settings of one kind of part: a frozen dataclass whose fields are the keys of its entry in a suite.

    Paths are absolute by the time `prepare` is called. `prepare` reads and checks everything that can be checked before
    any work begins. Raises UsageError, ReadingError, MissingError.
    """

    def prepare(self, tools: Tools) -> Prepared: ...


class PartFolder:
    """`records.jsonl` and the files beside it. Appending is safe from several threads."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.mkdir(parents=True, exist_ok=True)
        self._lock = threading.Lock()
        self._records = path / "records.jsonl"
        self._done = self._read()

    def _read(self) -> dict[str, Record]:
        """The records so far; half a line at the end, which a kill leaves, is cut off."""
        try:
            data = self._records.read_bytes()
        except FileNotFoundError:
            return {}
        whole = data.rfind(b"\n") + 1
        if whole < len(data):
            os.truncate(self._records, whole)
        done: dict[str, Record] = {}
        for number, line in enumerate(data[:whole].splitlines(), 1):
            try:
                record = json.loads(line)
                done[record["id"]] = record
            except (ValueError, KeyError, TypeError) as error:
                raise DamagedError(
                    f"{self._records}, line {number}: not a record; remove the run or the line"
                ) from error
        return done

    def done(self) -> dict[str, Record]:
        """Finished records by id, in the order they were finished; a later line with an id replaces an earlier one."""
        with self._lock:
            return {key: record for key, record in self._done.items() if not record.get("error")}

    def all(self) -> dict[str, Record]:
        """As `done`, with the items that ended in an error."""
        with self._lock:
            return dict(self._done)

    def append(self, record: Record) -> None:
        """Write one record. NaN and infinities become None, which JSON can hold and readers count."""
        line = json.dumps(_finite(record), ensure_ascii=False, allow_nan=False)
        # Line separators that are no newline to JSON but are to str.splitlines would break a reader's count.
        data = (
            line.replace("\u2028", "\\u2028").replace("\u2029", "\\u2029").replace("\x85", "\\u0085") + "\n"
        ).encode()
        with self._lock:
            with self._records.open("ab") as stream:
                stream.write(data)
            self._done[record["id"]] = json.loads(data)


def _finite(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Mapping):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    if hasattr(value, "tolist"):  # NumPy scalars and arrays
        return _finite(value.tolist())
    return value
