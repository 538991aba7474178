"""A file of queries with their passages, one JSON object a line (.jsonl, .jsonl.gz) → records that are sound, and back.

It knows the form of a pair, not where it comes from nor what is done with it.
"""

import gzip
import json
import os
import random
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from eval.data.corpora import numbered_jsonl
from retrieval.errors import FathomError, ReadingError, UsageError
from retrieval.storage.durable import sync_to_disk

KINDS = ("title", "heading", "half", "cloze", "faq", "code", "question")
"""Where a query comes from: the document's title, a heading, the first half of a passage, one of its sentences, a
heading that asks, the first line that a piece of code says of itself, a model that was asked for questions."""
LONGEST = 20_000
"""Characters of a text: no embedding model reads more."""
MOST_NEGATIVES = 64
_FIELDS = ("query", "positive", "document", "kind", "negatives")
_SURROGATES = re.compile("[\ud800-\udfff]")


@dataclass(frozen=True, slots=True)
class QueryPair:
    """`positive` is what the embedding model reads of the passage that answers `query`, `negatives` passages that do
    not; `document` names the document of the positive, so that its other passages are never taken for wrong."""

    query: str
    positive: str
    document: str
    kind: str
    negatives: tuple[str, ...] = ()

    def as_json(self) -> dict[str, Any]:
        """As a line of the file holds it."""
        row: dict[str, Any] = {name: getattr(self, name) for name in _FIELDS[:4]}
        return {**row, "negatives": list(self.negatives)} if self.negatives else row


def read_pairs(path: Path) -> list[QueryPair]:
    """All pairs of a file. Raises ReadingError that names the line which is none, UsageError where there is no pair."""
    if not path.is_file():
        raise UsageError(f"there is no file '{path}' with pairs; 'fathom data queries' makes one")
    pairs = [_pair(row, path, line) for line, row in numbered_jsonl(path)]
    if not pairs:
        raise UsageError(f"'{path}' holds no pairs; 'fathom data queries' makes them")
    return pairs


def write_pairs(path: Path, pairs: Iterable[QueryPair]) -> int:
    """Write whole or not at all; how many there were. Raises FathomError."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.new")
    count = 0
    try:
        packed = path.suffix == ".gz"
        with gzip.open(temporary, "wt", encoding="utf-8") if packed else temporary.open("w", encoding="utf-8") as file:
            for pair in pairs:
                file.write(json.dumps(pair.as_json(), ensure_ascii=False) + "\n")
                count += 1
        sync_to_disk(temporary)
        os.replace(temporary, path)
        sync_to_disk(path.absolute().parent)
    except OSError as error:
        raise FathomError(f"'{path}' cannot be written ({error.strerror or error}); name another place") from error
    finally:
        temporary.unlink(missing_ok=True)
    return count


def split_by_document(
    pairs: Sequence[QueryPair], share: float, most: int, seed: int
) -> tuple[list[QueryPair], list[QueryPair]]:
    """(to train on, held out): whole documents, drawn with the seed, until `share` of the pairs or `most` are held out.

    What is held out has no document, and no positive, in common with what is trained on.
    """
    documents = sorted({pair.document for pair in pairs})
    random.Random(seed).shuffle(documents)
    of: dict[str, list[QueryPair]] = {}
    for pair in pairs:
        of.setdefault(pair.document, []).append(pair)
    held: list[QueryPair] = []
    wanted = min(most, int(len(pairs) * share))
    names = set()
    for document in documents:
        if len(held) >= wanted:
            break
        held += of[document]
        names.add(document)
    texts = {pair.positive for pair in held}
    rest = [pair for pair in pairs if pair.document not in names and pair.positive not in texts]
    return rest, held[:most]


def _pair(row: Mapping[str, Any], path: Path, line: int) -> QueryPair:
    unknown = sorted(set(row) - set(_FIELDS))
    if unknown:
        raise ReadingError(str(path), "field", f"line {line} has {unknown[0][:40]!r}; a pair has {', '.join(_FIELDS)}.")
    texts = {name: _text(row.get(name), name, path, line) for name in _FIELDS[:4]}
    negatives = row.get("negatives", [])
    if not isinstance(negatives, list) or len(negatives) > MOST_NEGATIVES:
        message = f"line {line}: 'negatives' is no list of at most {MOST_NEGATIVES} texts."
        raise ReadingError(str(path), "field", message)
    wrong = tuple(_text(text, "negatives", path, line) for text in negatives)
    return QueryPair(texts["query"], texts["positive"], texts["document"], texts["kind"], wrong)


def _text(value: Any, name: str, path: Path, line: int) -> str:
    if not isinstance(value, str) or not value.strip() or len(value) > LONGEST:
        found = f"a text of {len(value):,} characters" if isinstance(value, str) and value.strip() else repr(value)[:40]
        message = f"line {line}: {name!r} is {found}; it must be a text of 1 to {LONGEST:,} characters."
        raise ReadingError(str(path), "field", message)
    if _SURROGATES.search(value):
        raise ReadingError(str(path), "field", f"line {line}: {name!r} holds half a character (a lone surrogate).")
    return value
