"""A pipeline's name and a query → the ranking of every stage, from one search. It knows no judgements.

Passages are found, documents are ranked: a document ranks where its best passage does (max-passage aggregation).
"""

import math
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import cast, get_args

from eval.data.corpora import CorpusDocument, as_document
from retrieval.collection import Collection, SearchResult
from retrieval.errors import FathomError, UsageError
from retrieval.finding import reranked
from retrieval.passages import Hit, Mode
from retrieval.prompts import Message
from retrieval.reranking.load import Reranker
from retrieval.rewriting.rules import Rewriter

DEEPER = 8
"""How much deeper a second search goes where the first found fewer documents than asked (several passages of one)."""
_MILLISECONDS = {"embed": "embed", "lexical": "lexical", "dense": "dense", "fuse": "fusion", "fetch": "fetch"}
"""The search's own names of its stages → ours."""


@dataclass(frozen=True, slots=True)
class Pipeline:
    """`[rewrite+](lexical|dense|hybrid)[+rerank]`."""

    search: Mode
    rewrite: bool = False
    rerank: bool = False

    @classmethod
    def parse(cls, name: str) -> "Pipeline":
        """Raises UsageError that says how a pipeline is written."""
        words = [word.strip().lower() for word in name.split("+")]
        middle = words[words[0] == "rewrite" : len(words) - (words[-1] == "rerank")]
        if len(middle) != 1 or middle[0] not in get_args(Mode):
            raise UsageError(
                f"There is no pipeline {name!r}; write one search ({', '.join(get_args(Mode))}), if wanted with "
                "'rewrite+' before it and '+rerank' after it: hybrid, or rewrite+hybrid+rerank."
            )
        return cls(cast(Mode, middle[0]), words[0] == "rewrite", words[-1] == "rerank")

    def __str__(self) -> str:
        return f"{'rewrite+' * self.rewrite}{self.search}{'+rerank' * self.rerank}"

    @property
    def stages(self) -> tuple[str, ...]:
        """Rankings there will be, the final one last."""
        first = ("lexical", "dense", "fused") if self.search == "hybrid" else (self.search,)
        return (*first, "rerank") if self.rerank else first


@dataclass(slots=True)
class Searched:
    """What one query gave: passages (id, score) and documents by stage, best first; the final hits; milliseconds."""

    query: str
    stages: dict[str, list[tuple[int, float]]]
    hits: tuple[Hit, ...]
    timings: dict[str, float]
    documents: dict[str, list[tuple[str, float]]] = field(default_factory=dict)
    reranking: dict[str, float | str] = field(default_factory=dict)
    """What the reranker says of its own costs, and what it left out."""


class Searcher:
    """Runs one pipeline on one collection. `k` documents are wanted, `rerank_depth` passages reranked."""

    def __init__(
        self,
        collection: Collection,
        pipeline: Pipeline,
        *,
        k: int,
        rerank_depth: int,
        reranker: Reranker | None = None,
        rewriter: Rewriter | None = None,
    ) -> None:
        self.collection = collection
        self.pipeline = pipeline
        self.k = k
        self.rerank_depth = rerank_depth
        self.reranker = reranker
        self.rewriter = rewriter
        # Where every passage lies: asking the catalogue for each list of a leg cost 2 ms a query.
        self._places = collection.catalogue.places()
        self._size = len({document for document, _, _ in self._places.values()})

    def warm_up(self) -> None:
        """Open models and accelerators, which the first search would otherwise pay for."""
        hits = self.collection.search("ready", mode=self.pipeline.search, k=self.k).hits
        if self.pipeline.rerank and self.reranker is not None and hits:
            self.reranker("ready", list(hits[:1]))

    def __call__(self, query: str, history: Sequence[Message] = ()) -> Searched:
        """Rankings of passages and of documents by stage. Raises FathomError for a score that is no number."""
        began = time.perf_counter()
        timings: dict[str, float] = {}
        asked = query
        if self.pipeline.rewrite and self.rewriter is not None:
            asked = self.rewriter(query, list(history))
            timings["rewrite"] = (time.perf_counter() - began) * 1e3
            if not asked.strip():
                raise FathomError("the rewriter gave no question back")
        result = self.collection.search(asked, mode=self.pipeline.search, k=max(self.k, self.rerank_depth))
        for name, own in _MILLISECONDS.items():
            if name in result.timings:
                timings[own] = result.timings[name]
        hits = result.hits
        told: dict[str, float | str] = {}
        if self.pipeline.rerank and self.reranker is not None:
            start = time.perf_counter()
            hits, outcome = reranked(asked, hits, self.reranker, self.rerank_depth)
            if hasattr(self.reranker, "rerank"):  # any other has counted nothing
                told = outcome.costs() | ({"note": outcome.note} if outcome.note else {})
            timings["rerank"] = (time.perf_counter() - start) * 1e3
        timings["total"] = (time.perf_counter() - began) * 1e3
        stages = {stage: self._ranking(result, stage) for stage in self.pipeline.stages}
        if self.pipeline.rerank:
            stages["rerank"] = [(hit.passage.id, hit.score) for hit in hits]
        searched = Searched(asked, stages, hits, timings, reranking=told)
        for stage, ranking in stages.items():
            if not all(math.isfinite(score) for _, score in ranking):
                raise FathomError(f"the {stage} stage gave a score that is not finite")
            self._extend(searched.documents.setdefault(stage, []), ranking)
        self._fill_up(asked, result, searched)
        return searched

    def places(self, ranking: Iterable[tuple[int, float]]) -> list[tuple[str, int, int]]:
        """Passages as (document, start, end)."""
        return [self._places[key] for key, _ in ranking if key in self._places]

    def _ranking(self, result: SearchResult, stage: str) -> list[tuple[int, float]]:
        """What a search found by stage; a reranker's place is taken by the ranking it was given.

        In a leg's own list equal scores go to the smaller id, as in the ranking a user gets.
        """
        if self.pipeline.search == "hybrid" and stage in result.legs:
            return sorted(result.legs[stage], key=lambda item: (-item[1], item[0]))
        return result.ranking

    def _fill_up(self, asked: str, result: SearchResult, searched: Searched) -> None:
        """More documents for rankings that several passages of one document made short.

        The first ranks stay those of the search a user gets; a deeper one only fills up the rest, outside the timings.
        """
        wanted = min(self.k, self._size)
        depth = asked_for = max(self.k, self.rerank_depth)
        while depth < asked_for * DEEPER:
            found = min(len(documents) for documents in searched.documents.values())
            # A list that is not full held all there is: nothing is gained by looking deeper.
            full = any(len(leg) >= depth for leg in (*result.legs.values(), result.ranking))
            if found >= wanted or not full:
                return
            # As deep as documents have come so far, and a half more.
            depth = min(asked_for * DEEPER, max(2 * depth, int(1.5 * depth * wanted / max(found, 1))))
            result = self.collection.search(asked, mode=self.pipeline.search, k=depth, fetch=False)
            for stage, documents in searched.documents.items():
                self._extend(documents, self._ranking(result, stage))

    def _extend(self, documents: list[tuple[str, float]], ranking: Iterable[tuple[int, float]]) -> None:
        """Add the documents of passages, each where its best one stands, until there are `k`."""
        known = {document for document, _ in documents}
        for key, score in ranking:
            if len(documents) >= self.k:
                return
            document = self._places[key][0] if key in self._places else None
            if document is not None and document not in known:
                known.add(document)
                documents.append((document, score))


def without_itself(
    documents: Sequence[tuple[str, float]], query: str, text: str, corpus: Mapping[str, CorpusDocument]
) -> list[tuple[str, float]]:
    """Drops the document that is the query (ArguAna's arguments are in its corpus).

    BEIR drops any document whose id equals the query's; in Cranfield query 1 and document 1 have nothing in common,
    so here the texts must agree too.
    """
    same = corpus.get(query)
    if same is None or text.strip() not in as_document(same).text:
        return list(documents)
    return [item for item in documents if item[0] != query]
