"""Questions and an index of their texts → what a reranker learns from: for each question the passage that answers it
and those its own search finds instead, without what may be right too. It trains nothing.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from adapt.encoders.pair_recipe import Negatives
from adapt.encoders.questions import is_held_out
from eval.data.datasets import RetrievalDataset
from eval.search.indexed import indexed
from retrieval.passages import Hit, Passage, Scores, Source
from retrieval.reranking.pairs import passage_text

if TYPE_CHECKING:
    from retrieval.collection import Collection
    from retrieval.embedding.embedder import Embedder

Progress = Callable[[str, int, int], None]
POSITIVES = 3
"""Texts that answer one question, at most: more would say the same again."""
JUDGED = 10
"""Texts that were judged not to, at most."""


@dataclass(frozen=True, slots=True)
class Group:
    """A question, one passage that answers it, and those to tell from it, nearest first."""

    question: str
    positive: str
    negatives: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Candidate:
    """A passage that a search found: its text's name, what a reranker reads of it, and the scores it was found with."""

    document: str
    text: str
    dense: float | None
    lexical: float | None
    fused: float | None

    def as_hit(self) -> Hit:
        """As a reranker is given it."""
        passage = Passage(0, 0, 0, 0, len(self.text), None, (), self.text, 0)
        source = Source(0, self.document, "", "", "", {})
        return Hit(0, 0.0, passage, source, Scores(self.dense, self.lexical, self.fused))


@dataclass(frozen=True, slots=True)
class Ranking:
    """A held-out question as a search found it, best first, and the grades of the texts that were judged for it."""

    question: str
    candidates: tuple[Candidate, ...]
    grades: Mapping[str, int]


@dataclass(frozen=True)
class Mined:
    """Of one source: groups to learn from, rankings to measure and calibrate on, and what was left out, by reason."""

    groups: list[Group]
    rankings: list[Ranking]
    dropped: Mapping[str, int]


def mine(
    dataset: RetrievalDataset,
    negatives: Negatives,
    *,
    held_out: float,
    depth: int,
    embedder: "Embedder",
    cache: Path,
    progress: Progress,
) -> Mined:
    """Search every question in an index of its own texts, kept under `cache`; of held-out ones keep `depth` hits.

    Raises what the index raises.
    """
    dropped = dict.fromkeys(("judged relevant", "above the positive", "like the positive", "positive not found"), 0)
    groups: list[Group] = []
    rankings: list[Ranking] = []
    with indexed(dataset, embedder, cache, progress=lambda _, done, total: progress("indexing", done, total)) as found:
        vectors = _Vectors(found)
        for number, (question, text) in enumerate(dataset.queries.items(), 1):
            progress("mining", number, len(dataset.queries))
            grades = dataset.qrels[question]
            hits = found.search(text, k=max(negatives.last + 10, depth)).hits
            if is_held_out(dataset, question, held_out):
                candidates = tuple(
                    Candidate(hit.source.uri, passage_text(hit), hit.scores.dense, hit.scores.lexical, hit.scores.fused)
                    for hit in hits[:depth]
                )
                rankings.append(Ranking(text, candidates, dict(grades)))
                continue
            groups += _groups(text, grades, hits, negatives, found, vectors, dropped)
    return Mined(groups, rankings, dropped)


def _groups(
    text: str,
    grades: Mapping[str, int],
    hits: tuple[Hit, ...],
    settings: Negatives,
    collection: "Collection",
    vectors: "_Vectors",
    dropped: dict[str, int],
) -> Iterator[Group]:
    relevant = [document for document, grade in grades.items() if grade > 0][:POSITIVES]
    others = [hit for hit in hits if grades.get(hit.source.uri, 0) <= 0]
    dropped["judged relevant"] += len(hits) - len(others)
    others = others[settings.first - 1 : settings.last]
    query = collection.embedder().embed_queries([text])[0]
    # What somebody judged to be wrong needs no doubt and comes first.
    judged = [document for document, grade in grades.items() if grade <= 0][:JUDGED]
    wrong = [found[0] for found in (_meant(document, hits, query, collection, vectors) for document in judged) if found]
    for document in relevant:
        positive = _meant(document, hits, query, collection, vectors)
        if positive is None:
            dropped["positive not found"] += 1
            continue
        words, vector = positive
        against_query, against_positive = vectors.of(others) @ query, vectors.of(others) @ vector
        own = float(vector @ query)
        kept = dict.fromkeys(wrong)
        for hit, to_query, to_positive in zip(others, against_query, against_positive, strict=True):
            if to_query > own + settings.margin:
                dropped["above the positive"] += 1
            elif to_positive >= settings.likeness:
                dropped["like the positive"] += 1
            else:
                kept[passage_text(hit)] = None
        kept.pop(words, None)
        if kept:
            yield Group(text, words, tuple(kept))


def _meant(
    document: str, hits: tuple[Hit, ...], query: np.ndarray, collection: "Collection", vectors: "_Vectors"
) -> tuple[str, np.ndarray] | None:
    """The passage of a document that is meant: the best found, else the one nearest to the question; its vector."""
    for hit in hits:
        if hit.source.uri == document:
            return passage_text(hit), vectors.of([hit])[0]
    known = collection.catalogue.document_id(document, collection.owner)
    if known is None:
        return None
    source = collection.source(known)
    passages = collection.passages_of(known)
    if not passages:
        return None
    as_hits = [Hit(0, 0.0, passage, source, Scores()) for passage in passages]
    found = vectors.of(as_hits)
    best = int((found @ query).argmax())
    return passage_text(as_hits[best]), found[best]


class _Vectors:
    """All vectors of a collection in memory: 1.5 KB a passage."""

    def __init__(self, collection: "Collection") -> None:
        ids, _, vectors = collection.catalogue.vectors(1, collection.catalogue.last_passage())
        self._rows = {int(key): row for row, key in enumerate(ids)}
        self._vectors = np.asarray(vectors, dtype=np.float32)

    def of(self, hits: "tuple[Hit, ...] | list[Hit]") -> np.ndarray:
        """(hits, dimension)."""
        return self._vectors[[self._rows[hit.passage.id] for hit in hits]]
