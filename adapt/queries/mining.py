"""Queries with their passages → the same with wrong passages that look right, found in the collection's own index.

Hard negatives from a hybrid search, denoised: a passage of the same document, one that nearly repeats the right one,
and one that the model holds for nearly as good as the right one (more than 95 % of its cosine: Moreira et al. 2024,
arXiv:2407.15831) may answer the query too and are passed over. It knows no trainer.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from adapt.queries.pair_file import QueryPair
from eval.runs.parts import Progress
from retrieval.splitting import embedding_text

if TYPE_CHECKING:
    from retrieval.collection import Collection
    from retrieval.embedding.embedder import Embedder

DEPTH = 30
"""Passages that are looked at for each query."""
MOST_ALIKE = 0.95
"""Share of the right passage's cosine to the query that a wrong one may reach."""
REPEATS = 0.95
"""Cosine of two passages from which on one repeats the other."""
BATCH = 256


def with_negatives(
    pairs: Sequence[QueryPair], collection: "Collection", embedder: "Embedder", count: int, progress: Progress
) -> Iterator[QueryPair]:
    """Each pair with up to `count` hard negatives, the hardest first; with none where all that is found may be right.

    Raises what the search and the model raise.
    """
    contexts = dict(collection.catalogue.select("SELECT id, context FROM passages"))
    for start in range(0, len(pairs), BATCH):
        batch = pairs[start : start + BATCH]
        queries = embedder.embed_queries([pair.query for pair in batch])
        rights = embedder.embed_passages([_fitting(pair.positive, embedder) for pair in batch])
        for number, pair in enumerate(batch):
            progress("mining negatives", start + number, len(pairs))
            hits = [hit for hit in collection.search(pair.query, k=DEPTH).hits if hit.source.uri != pair.document]
            texts = [embedding_text(str(contexts.get(hit.passage.id, "")), hit.passage.text) for hit in hits]
            if not texts:
                yield pair
                continue
            vectors = np.stack([_vector(collection, hit.passage.id) for hit in hits])
            right = float(queries[number] @ rights[number])
            sound = (vectors @ queries[number] <= MOST_ALIKE * right) & (vectors @ rights[number] < REPEATS)
            yield replace(pair, negatives=tuple(text for text, kept in zip(texts, sound, strict=True) if kept)[:count])
    progress("mining negatives", len(pairs), len(pairs))


def _vector(collection: "Collection", passage: int) -> np.ndarray:
    """As it is stored, (dimension,) float32."""
    ((data,),) = collection.catalogue.select("SELECT vector FROM vectors WHERE passage_id = ?", (passage,))
    return np.frombuffer(data, dtype=np.float16).astype(np.float32)


def _fitting(text: str, embedder: "Embedder") -> str:
    """As much of a text from its beginning as the model reads."""
    while embedder.count([text])[0] > embedder.max_tokens:
        spans: np.ndarray = embedder.offsets(text)
        over = embedder.count([text])[0] - embedder.max_tokens
        text = text[: int(spans[max(0, len(spans) - over - 1)][1])]
    return text
