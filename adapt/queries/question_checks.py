"""A question that a model wrote about a passage → the rank at which it finds that passage, or why it is not kept.

Form, copying, invention, repetition, and the round trip: asked of the whole collection, the question must find its own
passage among the first (Alberti et al. 2019, arXiv:1906.05416; as a filter of queries Bonifacio et al. 2022,
arXiv:2202.05144). It knows no model that writes.
"""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from adapt.instructions.writing.pair_checks import (
    ALIKE,
    DUPLICATE,
    LOST,
    NEAR,
    Rejected,
    copied_from,
    invented,
    plain,
    question_fault,
)
from adapt.queries.pieces import Paper, Piece
from eval.figures.answer_metrics import rouge_l
from retrieval.passages import Passage
from retrieval.prompts import language_of

if TYPE_CHECKING:
    from retrieval.collection import Collection

SAME = 0.5
"""Share of the shorter of two passages that both have, from which on either is the one that was asked about."""


@dataclass
class QuestionChecks:
    """Looks at questions in their order; the first of several alike is kept. `top` is the rank down to which a question
    must find its passage in the hybrid search of the collection, which holds all passages asked about."""

    collection: "Collection"
    top: int
    _asked: set[str] = field(default_factory=set)
    _of_document: dict[str, list[str]] = field(default_factory=dict)

    def look_at(self, question: str, piece: Piece, paper: Paper) -> int | Rejected:
        """Its rank, and it is remembered; or why it is none. Raises what the search raises."""
        if fault := question_fault(question, language_of(piece.hit.passage.text)):
            return fault
        if fault := copied_from(question, piece.hit) or invented(question, piece.hit, paper.text):
            return fault
        if plain(question) in self._asked:
            return Rejected(DUPLICATE, f"'{question}'")
        for other in self._of_document.get(paper.uri, ()):
            if rouge_l(question, [other]) >= ALIKE:
                return Rejected(NEAR, f"'{question}' after '{other}'")
        rank = self._rank(question, piece)
        if rank is None:
            return Rejected(LOST, f"'{question}' does not find it among the first {self.top}")
        self._asked.add(plain(question))
        self._of_document.setdefault(paper.uri, []).append(question)
        return rank

    def _rank(self, question: str, piece: Piece) -> int | None:
        for found in self.collection.search(question, k=self.top).hits:
            if found.source.uri == piece.document and _share(found.passage, piece.hit.passage) >= SAME:
                return found.rank
        return None


def _share(one: Passage, other: Passage) -> float:
    """Of the shorter one's characters; passages overlap by whole sentences."""
    shared = min(one.end, other.end) - max(one.start, other.start)
    return max(0, shared) / max(1, min(one.end - one.start, other.end - other.start))
