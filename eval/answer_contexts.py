"""A question → what may be searched for it: the whole index, its gold passages alone, or gold among distractors.

Each is a `Searchable`, so that the answering pipeline of the chat runs unchanged over all of them.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal

from eval.data.questions import Question
from eval.figures.citation_metrics import overlaps
from retrieval.answerability import MeaningScale
from retrieval.answering import PASSAGES, Searchable
from retrieval.collection import Collection, SearchResult
from retrieval.filters import Filter
from retrieval.passages import Document, Hit, Mode, Scores

Context = Literal["retrieved", "gold", "distractors", "closed-book"]


class Shown:
    """Finds the same hits whatever is asked: what one question is to be answered from."""

    def __init__(self, collection: Collection, hits: Sequence[Hit]) -> None:
        self._collection = collection
        self.hits = tuple(replace(hit, rank=rank) for rank, hit in enumerate(hits, 1))

    def search(
        self,
        query: str,
        *,
        mode: Mode = "hybrid",
        k: int = PASSAGES,
        filters: Sequence[Filter] = (),
        owners: frozenset[str] | None = None,
    ) -> SearchResult:
        return SearchResult(self.hits[:k])

    def document(self, document_id: int) -> Document:
        return self._collection.document(document_id)

    @property
    def meaning_scale(self) -> MeaningScale:
        """As of the collection."""
        return self._collection.meaning_scale

    @property
    def refusal_threshold(self) -> float | None:
        """As of the collection."""
        return self._collection.refusal_threshold


@dataclass(frozen=True)
class Contexts:
    """Makes what a question is answered from. `k` passages at most of each document, `distractors` beside the gold."""

    collection: Collection
    context: Context
    mode: Mode
    k: int
    distractors: int
    seed: int

    @cached_property
    def _ids(self) -> dict[str, int]:
        return {row.source.uri: row.source.id for row in self.collection.documents()}

    def of(self, question: Question) -> tuple[Searchable, int, list[Filter]]:
        """(what to search, how many hits, filters) for one question."""
        if self.context == "retrieved":
            return self.collection, self.k, _filters(question.within)
        hits = self._gold(question)
        if self.context == "distractors":
            hits = self._among_others(question, hits)
        return Shown(self.collection, hits), max(1, len(hits)), []

    def _gold(self, question: Question) -> list[Hit]:
        """The passages with gold spans. Without spans a short document whole, of a long one the best passages; for an
        unanswerable question the best of the document it was asked of, else what a search finds."""
        if not question.documents:
            return list(self._search(question, self.k, question.within))
        hits: list[Hit] = []
        for uri in question.documents:
            passages = self.collection.passages_of(self._ids[uri])
            # The same scores as in a search, so that the same decision to refuse is made on them.
            found = {hit.passage.id: hit for hit in self._search(question, len(passages), uri)}
            source = self.collection.source(self._ids[uri])
            every = [found.get(p.id, Hit(1, 0.0, p, source, Scores())) for p in passages]
            gold = [hit for hit in every if _holds_gold(hit, question)]
            if gold:
                hits += sorted(gold, key=lambda hit: -hit.score)[: self.k]
            elif not question.spans:
                best = sorted(every, key=lambda hit: -hit.score)[: self.k]
                hits += [hit for hit in every if hit in best]
        return hits

    def _among_others(self, question: Question, gold: Sequence[Hit]) -> list[Hit]:
        """Gold and the nearest passages that are none, in an order drawn for this question."""
        shown = {hit.passage.id for hit in gold}
        wrong = [
            hit
            for hit in self._search(question, self.distractors + len(gold) + self.k, question.within)
            if hit.passage.id not in shown and not is_gold(hit, question)
        ]
        hits = [*gold, *wrong[: self.distractors]]
        random.Random(f"{self.seed} {question.id}").shuffle(hits)
        return hits

    def _search(self, question: Question, k: int, within: str) -> tuple[Hit, ...]:
        return self.collection.search(question.text, mode=self.mode, k=k, filters=_filters(within)).hits


def _filters(within: str) -> list[Filter]:
    return [Filter("document", "=", within)] if within else []


def _holds_gold(hit: Hit, question: Question) -> bool:
    passage = hit.passage
    return any(overlaps(hit.source.uri, passage.start, passage.end, span) for span in question.spans)


def is_gold(hit: Hit, question: Question) -> bool:
    """Whether a passage holds a gold span; where none are known, whether it is of a gold document."""
    return _holds_gold(hit, question) if question.spans else hit.source.uri in question.documents
