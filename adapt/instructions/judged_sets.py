"""Test collections, questions with answers, and pairs of query and passages → queries with judged documents to learn
from, some of them held out. It knows no index and no prompt.
"""

import hashlib
import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from eval.data.corpora import CorpusDocument, numbered_jsonl
from eval.data.datasets import RetrievalDataset, available_splits, load_dataset
from eval.data.hashes import hashes_of
from eval.data.texts import storable
from retrieval.errors import ReadingError, UsageError

TRAIN = "train"
_MEASURED = frozenset({"test", "dev", "val", "valid", "validation"})


@dataclass(frozen=True)
class JudgedSet:
    """Queries to learn from, with the collection they are judged in.

    `rejected[query]` are documents known not to be relevant. No query of `held_out` is in `dataset.queries`, and no
    document that one of them asks for may be shown.
    """

    dataset: RetrievalDataset
    rejected: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    held_out: Mapping[str, str] = field(default_factory=dict)
    held_out_documents: frozenset[str] = frozenset()

    def held_out_rows(self) -> Iterator[dict[str, Any]]:
        """The held-out queries as rows of a question file, which `fathom eval retrieval` reads."""
        for query, text in self.held_out.items():
            relevant = [document for document, grade in self.dataset.qrels[query].items() if grade > 0]
            yield {"id": query, "question": text, "documents": relevant}


def judged_set(word: str) -> JudgedSet:
    """The queries behind `PATH` or `PATH#SPLIT`: a test collection's folder, a folder with qa.jsonl, a pairs file.

    Of a collection with several splits "train" is taken where none is named. A pairs file is JSON lines of {"query",
    "positive": text or texts, "negatives": texts}. Raises UsageError for what is none of them and for a collection
    that has nothing but a split to measure on, ReadingError for a malformed file.
    """
    path, split = _named(word)
    if path.is_file():
        if split is not None:
            raise UsageError(f"{path} is a file of pairs and has no split '{split}'; leave it out")
        return _pairs(path)
    if split is None and (splits := available_splits(path)):
        if TRAIN not in splits and _MEASURED.issuperset(splits):
            raise UsageError(
                f"{path} has only judgements to measure with ({', '.join(splits)}); to train on them all the same, "
                f"name the split: {path}#{splits[0]}"
            )
        split = TRAIN if TRAIN in splits else splits[0] if len(splits) == 1 else None
    dataset = load_dataset(path, split=split)
    rejected = {
        query: tuple(document for document, grade in grades.items() if grade <= 0)
        for query, grades in dataset.qrels.items()
    }
    return JudgedSet(dataset, rejected)


def _named(word: str) -> tuple[Path, str | None]:
    path = Path(word).expanduser()
    if path.exists() or "#" not in word:
        found: tuple[Path, str | None] = path, None
    else:
        name, _, split = word.rpartition("#")
        found = Path(name).expanduser(), split or None
    if not found[0].exists():
        raise UsageError(f"there is no '{found[0]}'; name a test collection's folder or a file of pairs")
    return found[0].resolve(), found[1]


def held_out(judged: JudgedSet, share: float) -> JudgedSet:
    """With the queries left out that ask for one of the last documents of the corpus that any query asks for, about the
    share `share` of them."""
    dataset = judged.dataset
    asked = {document for grades in dataset.qrels.values() for document, grade in grades.items() if grade > 0}
    order = [document.id for document in dataset.documents if document.id in asked]
    away = frozenset(order[len(order) - round(share * len(order)) :])
    out = {
        query: text
        for query, text in dataset.queries.items()
        if any(document in away for document, grade in dataset.qrels[query].items() if grade > 0)
    }
    kept = {query: text for query, text in dataset.queries.items() if query not in out}
    if not kept:
        raise UsageError(f"nothing is left of {dataset.name} to learn from when {share:.0%} is held out; hold out less")
    return replace(judged, dataset=replace(dataset, queries=kept), held_out=out, held_out_documents=away)


def drawn(judged: JudgedSet, *, queries: int | None, documents: int | None, seed: int) -> JudgedSet:
    """At most so many queries to learn from; and of the documents those judged for them and others drawn at random, so
    many in all, none of them held out."""
    dataset = judged.dataset
    names = sorted(dataset.queries)
    chosen = set(names if queries is None else random.Random(seed).sample(names, min(queries, len(names))))
    kept = {query: text for query, text in dataset.queries.items() if query in chosen}
    if documents is not None:
        needed = {document for query in kept for document in dataset.qrels[query]}
        others = [
            document.id
            for document in dataset.documents
            if document.id not in needed and document.id not in judged.held_out_documents
        ]
        room = max(0, documents - len(needed))
        needed |= set(random.Random(seed).sample(others, min(room, len(others))))
        dataset = replace(dataset, documents=tuple(document for document in dataset.documents if document.id in needed))
    return replace(judged, dataset=replace(dataset, queries=kept))


def _pairs(path: Path) -> JudgedSet:
    documents: dict[str, CorpusDocument] = {}
    queries: dict[str, str] = {}
    qrels: dict[str, dict[str, int]] = {}
    rejected: dict[str, list[str]] = {}
    for line, row in numbered_jsonl(path):
        query = row.get("query")
        if not isinstance(query, str) or not query.strip():
            has = ", ".join(map(str, row))[:80] or "nothing"
            raise ReadingError(str(path), "field", f'line {line} has no text under "query"; it has {has}.')
        found = {name: _texts(row, name, path, line) for name in ("positive", "negatives")}
        if not found["positive"]:
            raise ReadingError(str(path), "field", f'line {line} has no text under "positive".')
        key = "q-" + _short(query.strip())
        queries[key] = storable(query.strip())
        grades, refused = qrels.setdefault(key, {}), rejected.setdefault(key, [])
        for name, texts in found.items():
            for text in texts:
                document = documents.setdefault(_short(text), CorpusDocument("d-" + _short(text), "", text)).id
                if name == "positive":
                    grades[document] = 1
                elif document not in grades:
                    grades[document] = 0
                    refused.append(document)
    if not queries:
        raise ReadingError(str(path), "empty", "holds no pair.")
    name = path.name.partition(".")[0]
    dataset = RetrievalDataset(name, "pairs", "all", tuple(documents.values()), queries, qrels, data=hashes_of(path))
    return JudgedSet(dataset, {key: tuple(document for document in refused if qrels[key][document] <= 0)
                               for key, refused in rejected.items()})  # fmt: skip


def _texts(row: Mapping[str, Any], name: str, path: Path, line: int) -> list[str]:
    value = row.get(name, [])
    texts = [value] if isinstance(value, str) else value
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise ReadingError(str(path), "field", f'line {line}: "{name}" is a text or a list of texts.')
    return [storable(text.strip()) for text in texts if text.strip()]


def _short(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "replace")).hexdigest()[:16]
