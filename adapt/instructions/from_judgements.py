"""Queries with judged documents → examples of judging one passage, with hard negatives mined from the index of the same
documents and denoised.

The prompt is that of serving (retrieval.llm_reranking.judging). Negatives are what our own search ranks high, since
that is what a reranker is shown; those that look as relevant as the positive are dropped (as NV-Retriever does, Moreira
et al. 2024, arXiv:2407.15831: of hard negatives the nearest are mostly relevant ones that nobody judged).
"""

import random
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from adapt.instructions.example import Example, Message, Origin
from adapt.instructions.importing import Imported
from adapt.instructions.judged_sets import JudgedSet
from eval.runs.parts import Progress
from eval.search.indexed import indexed
from retrieval.errors import UsageError
from retrieval.llm_reranking.judging import JUDGE_VERSION, VERDICTS, judge_messages
from retrieval.passages import Hit
from retrieval.splitting import SplitSettings
from retrieval.support import content_tokens

if TYPE_CHECKING:
    from retrieval.collection import Collection
    from retrieval.embedding.embedder import Embedder

NOT_FOUND, WITHOUT_NEGATIVE = "relevant passage not found", "without a negative"
HELD_OUT = "held out"
TOO_NEAR = 0.9
"""Of the way from the lowest cosine similarity found to the positive's. The paper's 95 % of the similarity itself
leaves no hard negative where all similarities lie close together, as an English model's do for Chinese passages."""
SAME_QUESTION = 0.6
"""Jaccard similarity of two queries' telling words from which they are taken to ask for the same."""
NEAR = 15
"""Ranks from which two of three mined negatives are drawn; the third is drawn from all that was found."""
FEW = 2
"""Passages of relevant documents that a query teaches, at most: claims with ten abstracts must not outweigh others."""


@dataclass(frozen=True)
class Judging:
    """`share` of the examples are relevant ones. Passages have at most `passage_tokens` tokens of the embedding model,
    since a training step costs by the token; negatives come from the first `depth` passages that a search finds."""

    share: float = 0.4
    passage_tokens: int = 112
    depth: int = 50
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0.0 < self.share < 1.0:
            raise UsageError(f"the share of relevant examples is {self.share}; it lies between 0 and 1")
        if self.depth < 2:
            raise UsageError(f"depth is {self.depth}; it must be 2 or more")

    @property
    def splitting(self) -> SplitSettings:
        """How the documents are cut."""
        return SplitSettings(passage_tokens=self.passage_tokens, overlap_tokens=min(24, self.passage_tokens // 4))


def examples_from_judgements(
    judged: JudgedSet,
    making: Judging,
    into: Imported,
    *,
    embedder: "Embedder",
    cache: Path,
    licence: str = "",
    progress: Progress = lambda *_: None,
) -> Iterator[Example]:
    """For each query an example "yes" for the best passage of each relevant document that a search finds, and examples
    "no".

    `labels.group` is the first relevant document, so that queries about one document stand on one side of a split; what
    is shown beside them may stand on both. The index is kept under `cache`. Raises what reading, embedding and
    searching raise.
    """
    dataset = judged.dataset
    asks: dict[str, list[frozenset[str]]] = {}
    for query, text in dataset.queries.items():
        for document, grade in dataset.qrels[query].items():
            if grade > 0:
                asks.setdefault(document, []).append(content_tokens(text))
    for query in judged.held_out:
        into.rows += 1
        into.left_out.add(HELD_OUT, f"{dataset.name}#{query}", "asks for a document that is held out")
    with indexed(dataset, embedder, cache, splitting=making.splitting, progress=progress) as collection:
        for number, query in enumerate(dataset.queries, 1):
            into.rows += 1
            progress("making examples", number, len(dataset.queries))
            for example in _of_query(query, judged, making, into, collection, asks, licence):
                into.examples += 1
                yield example


def _of_query(
    query: str,
    judged: JudgedSet,
    making: Judging,
    into: Imported,
    collection: "Collection",
    asks: dict[str, list[frozenset[str]]],
    licence: str,
) -> Iterator[Example]:
    dataset, text = judged.dataset, judged.dataset.queries[query]
    source = f"{dataset.name}#{query}"
    grades = dataset.qrels[query]
    hits = list(_best_of_each(collection.search(text, k=making.depth).hits))
    positives = [hit for hit in hits if grades.get(hit.source.uri, 0) > 0][:FEW]
    if not positives:
        into.left_out.add(NOT_FOUND, source, f"finds no relevant passage among the first {making.depth}")
        return
    draw = random.Random(f"{making.seed} judge {source}")
    wanted = len(positives) * (1.0 - making.share) / making.share
    count = int(wanted) + (draw.random() < wanted % 1)
    similar = [hit.scores.dense for hit in hits if hit.scores.dense is not None]
    lowest = min(similar, default=0.0)
    allowed = [hit for hit in hits if _may_be_shown(hit, text, positives, lowest, judged, query, asks)]
    rejected = set(judged.rejected.get(query, ()))
    known = [hit for hit in allowed if hit.source.uri in rejected]
    negatives = _drawn([hit for hit in allowed if hit not in known], count - min(count, len(known)), draw)
    negatives += known[:count]
    if count and not negatives:
        into.left_out.add(WITHOUT_NEGATIVE, source, "has no passage beside it that is surely not relevant")
        return
    group = f"{dataset.name}#{next(document for document, grade in grades.items() if grade > 0)}"
    for hit, verdict in [*((hit, VERDICTS[0]) for hit in positives), *((hit, VERDICTS[1]) for hit in negatives)]:
        asked = [Message(one.role, one.text) for one in judge_messages(text, hit)]
        yield Example.of(
            [*asked, Message("assistant", verdict)],
            origin=Origin("judged", f"{source}@{hit.source.uri}"[:2000], JUDGE_VERSION, licence),
            labels={"group": group, "task": "judge", "relevant": verdict == VERDICTS[0], "rank": hit.rank},
        )


def _best_of_each(hits: Iterable[Hit]) -> Iterator[Hit]:
    """The first hit of each document."""
    seen: set[int] = set()
    for hit in hits:
        if hit.source.id not in seen:
            seen.add(hit.source.id)
            yield hit


def _may_be_shown(
    hit: Hit,
    text: str,
    positives: list[Hit],
    lowest: float,
    judged: JudgedSet,
    query: str,
    asks: dict[str, list[frozenset[str]]],
) -> bool:
    """Whether a hit may stand as not relevant; `lowest` is the lowest similarity found."""
    document = hit.source.uri
    if judged.dataset.qrels[query].get(document, 0) > 0 or document in judged.held_out_documents:
        return False
    if document in judged.rejected.get(query, ()):
        return True  # somebody looked
    plain = " ".join(hit.passage.text.split())
    for positive in positives:
        if " ".join(positive.passage.text.split()) == plain:
            return False
        near, limit = hit.scores.dense, positive.scores.dense
        if near is not None and limit is not None and near - lowest > TOO_NEAR * (limit - lowest):
            return False
    words = content_tokens(text)
    return not any(len(words & other) >= SAME_QUESTION * len(words | other) for other in asks.get(document, ()))


def _drawn(hits: list[Hit], count: int, draw: random.Random) -> list[Hit]:
    """`count` of them, two of three from the first ranks."""
    near = [hit for hit in hits if hit.rank <= NEAR]
    close = draw.sample(near, min(len(near), round(count * 2 / 3 + draw.uniform(-0.3, 0.3))))
    rest = [hit for hit in hits if hit not in close]
    return close + draw.sample(rest, min(len(rest), count - len(close)))
