"""Files of an evaluation → what must not be trained on; a document → the question it holds, and where.

An n-gram that a document shares with a question gives it away (Brown et al. 2020, arXiv:2005.14165, appendix C); of a
question shorter than n, all of it must be there. It knows no corpus.
"""

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from adapt.corpus.cutting import pieces
from adapt.corpus.opening import is_rows, open_text
from adapt.corpus.rows import numbered_rows
from adapt.corpus.units import Hashes, Hashing, growing_runs, plain, runs, spans, units
from retrieval.errors import ReadingError, UsageError

LEAST = 5
"""Words below which a question is not looked for: "What is BRCA1?" stands in many a text that gives nothing away."""
CHARACTER = 0.625
"""How much of a word a Chinese character counts for in `LEAST`: eight characters are five words."""
QUESTIONS = frozenset("question query text prompt instruction input claim sentence goal ctx stem turns".split())
"""Keys under which a text shorter than n counts too; elsewhere it does if it ends as a question does."""
NOT_LOOKED_FOR = frozenset(
    "id _id qid uid pid context_id doc_id document documents doc docs source sources url group category split kind "
    "type span spans evidence gold history context contexts passage passages quote quotes table metadata".split()
)
"""Keys of a question's bookkeeping and of the texts it is asked about: to have read those is not to know the answer."""
_SHOWN = 160


@dataclass(frozen=True, slots=True)
class Overlap:
    """What a document shares with an evaluation. `text` is the shared run of words as it was compared."""

    file: str
    item: str
    question: str
    text: str


class Evaluations:
    """The n-grams of evaluation files. `files` is name → SHA-256, `items` how many texts are looked for."""

    def __init__(self, files: Sequence[Path], words: int) -> None:
        """Read the files: JSON lines or JSON (every string in them counts, but for `NOT_LOOKED_FOR`), or texts.

        `words` is n, in words or Chinese characters. Raises UsageError for a file that is not there or n below 5,
        ReadingError for one that cannot be read or holds nothing to look for.
        """
        if words < LEAST:
            raise UsageError(f"decontaminate: n-grams of {words} words stand in every text; give at least {LEAST}")
        self.words = words
        self._hashing = Hashing()
        self._items: list[tuple[str, str, str]] = []
        self.too_short = 0
        grams: dict[int, list[tuple[Hashes, int]]] = {}
        for path in files:
            before = len(self._items)
            for item, key, text in _texts(path):
                self._take(path.name, item, key, text, grams)
            if len(self._items) == before:
                raise ReadingError(str(path), "empty", f"holds no text of {LEAST} words or more to look for.")
        self._grams = {length: _sorted(found) for length, found in grams.items()}

    @property
    def items(self) -> int:
        """Texts that are looked for."""
        return len(self._items)

    def overlap(self, text: str) -> Overlap | None:
        """The first thing in a document that stands in an evaluation, or None."""
        if not self._items:
            return None
        hashes = self._hashing.of(text)
        for length, own in growing_runs(hashes, self.words):
            if length not in self._grams:
                continue
            known, owners = self._grams[length]
            places = np.searchsorted(known, own)
            places[places == len(known)] = 0
            hits = np.flatnonzero(known[places] == own)
            if len(hits):
                return self._shown(text, hits, length, int(owners[places[hits[0]]]))
        return None

    def _take(self, file: str, item: str, key: str, text: str, grams: dict[int, list[tuple[Hashes, int]]]) -> None:
        hashes = self._hashing.of(text)
        length = min(len(hashes), self.words)
        if length < self.words and sum(CHARACTER if len(unit) == 1 else 1 for unit in units(text)) < LEAST:
            self.too_short += 1
            return
        if length < self.words and key not in QUESTIONS and not text.rstrip().endswith(("?", "？")):
            return
        grams.setdefault(length, []).append((runs(hashes, length), len(self._items)))
        self._items.append((file, item, " ".join(text[: _SHOWN * 2].split())[:_SHOWN]))

    def _shown(self, text: str, hits: np.ndarray, length: int, owner: int) -> Overlap:
        """The hit with the run of hits that goes on from it."""
        places = spans(text)
        last = int(hits[0])
        for hit in hits[1:].tolist():
            if hit != last + 1:
                break
            last = hit
        shared = plain(text)[places[int(hits[0])][0] : places[last + length - 1][1]]
        return Overlap(*self._items[owner], " ".join(shared[: _SHOWN * 4].split())[:_SHOWN])


def _sorted(found: list[tuple[Hashes, int]]) -> tuple[Hashes, np.ndarray]:
    """All hashes of one length, ascending, and beside each the number of the item it comes from (its first)."""
    hashes = np.concatenate([part for part, _ in found])
    owners = np.concatenate([np.full(len(part), owner) for part, owner in found])
    known, first = np.unique(hashes, return_index=True)
    return known, owners[first]


def _texts(path: Path) -> Iterator[tuple[str, str, str]]:
    """(item, key, text) of everything in the file that counts."""
    path = Path(os.path.realpath(path))
    if path.is_dir():
        raise UsageError(f"decontaminate: '{path}' is a folder; name the files of questions in it")
    if not path.is_file():
        raise UsageError(f"decontaminate: there is no file '{path}'; name a file of questions")
    if is_rows(path):
        for number, row in numbered_rows(path):
            yield from _strings(row, _name(row, f"line {number}"))
        return
    with open_text(path) as opened:
        if path.suffix.lower() == ".json":
            try:
                value = json.loads("".join(opened.lines()))
            except (ValueError, RecursionError) as error:
                raise ReadingError(str(path), "json", f"is not JSON ({error}).") from error
            for number, row in enumerate(value if isinstance(value, list) else [value], 1):
                yield from _strings(row, _name(row, f"entry {number}"))
            return
        for number, part in enumerate(pieces("".join(opened.lines())), 1):
            yield f"part {number}", "text", part


def _name(row: Any, otherwise: str) -> str:
    if not isinstance(row, Mapping):
        return otherwise
    return next((str(row[key])[:80] for key in ("_id", "id") if isinstance(row.get(key), str | int)), otherwise)


def _strings(value: Any, item: str) -> Iterator[tuple[str, str, str]]:
    """Every string below a value with the key it stands under. A stack of its own: depth costs nothing."""
    stack: list[tuple[str, Any]] = [("", value)]
    while stack:
        key, found = stack.pop()
        if isinstance(found, str):
            yield item, key, found
        elif isinstance(found, list):
            stack += [(key, below) for below in reversed(found)]
        elif isinstance(found, Mapping):
            names = [(str(name).lower(), below) for name, below in found.items()]
            stack += [pair for pair in reversed(names) if pair[0] not in NOT_LOOKED_FOR]
