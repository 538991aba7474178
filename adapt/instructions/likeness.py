"""Examples → their vectors, which of them say what an earlier one says, and a sample that covers what all of them ask.

Question and answer are embedded apart: two questions about one passage share most of their words, two answers to one
question may both be worth learning. It knows no rule about single examples.
"""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from adapt.corpus.passage_vectors import passage_vectors
from adapt.instructions.example import Example
from adapt.instructions.filters import questions
from eval.runs.parts import Progress

if TYPE_CHECKING:
    from retrieval.embedding.embedder import Embedder

Sampling = Literal["clusters", "k-centre"]
_BATCH = 1_024
_NEIGHBOURS = 64
"""Most similar earlier questions whose answers are compared; more are one template, which the sample thins out."""
PASSAGE = re.compile(r"<passage number=[^>\n]{0,400}>.{0,200000}?</passage \d{1,4}>", re.DOTALL)
_CHARACTERS_A_TOKEN = 16


@dataclass(frozen=True)
class Vectors:
    """float32 (examples, dimension), L2-normalised: what is asked, and what is answered."""

    asked: np.ndarray
    answered: np.ndarray


def asked(example: Example) -> str:
    """All that the user says, without numbered passages, which are not what is asked."""
    texts = [PASSAGE.sub("", text).strip() for text in questions(example)]
    return "\n\n".join(text for text in texts if text) or "\n\n".join(questions(example))


def answered(example: Example) -> str:
    """The last answer. Of conversations that share their beginning (there are many among trees of replies) it tells
    whether they end alike."""
    return example.messages[-1].content


def vectors_of(examples: Sequence[Example], embedder: "Embedder", cache: Path, progress: Progress) -> Vectors:
    """Kept in `cache` by content: what was interrupted goes on. Of a text longer than the model reads, the end of a
    question (where it is put) and the beginning of an answer are taken."""
    said = [window(asked(example), embedder, from_end=True) for example in examples]
    told = [window(answered(example), embedder) for example in examples]
    return Vectors(
        passage_vectors(said, embedder, cache, progress, "embedding questions"),
        passage_vectors(told, embedder, cache, progress, "embedding answers"),
    )


def window(text: str, embedder: "Embedder", *, from_end: bool = False) -> str:
    """As much of a text as the model reads."""
    most = embedder.max_tokens * _CHARACTERS_A_TOKEN
    text = text[-most:] if from_end else text[:most]
    for _ in range(8):
        over = embedder.count([text])[0] - embedder.max_tokens
        if over <= 0:
            return text
        places = embedder.offsets(text)
        # One token at a cut may be read as two; the loop takes them off again.
        text = text[int(places[over][0]) :] if from_end else text[: int(places[-over - 1][1])]
    return text[: embedder.max_tokens // 4]  # a character is four tokens at most


def similar(vectors: Vectors, threshold: float, progress: Progress) -> dict[int, tuple[int, float]]:
    """Which examples say what an earlier kept one says: number → (that one's, the lower of both cosines).

    Both the questions' cosine and the answers' must reach the threshold. Exact search over inner products (FAISS).
    """
    import faiss

    count, dimension = vectors.asked.shape
    index = faiss.IndexFlatIP(dimension)
    found: dict[int, tuple[int, float]] = {}
    for at in range(0, count, _BATCH):
        batch = vectors.asked[at : at + _BATCH]
        index.add(batch)
        scores, others = index.search(batch, min(_NEIGHBOURS, index.ntotal))
        for place in range(len(batch)):
            number = at + place
            mine = vectors.answered[number]
            best: tuple[float, int] | None = None
            for score, other in zip(scores[place].tolist(), others[place].tolist(), strict=True):
                if score < threshold:
                    break
                if 0 <= other < number and other not in found:
                    both = min(score, float(vectors.answered[other] @ mine))
                    if both >= threshold and (best is None or both > best[0]):
                        best = (both, other)
            if best is not None:
                found[number] = (best[1], best[0])
        progress("similar", min(at + _BATCH, count), count)
    return found


def sampled(vectors: np.ndarray, wanted: int, by: Sampling, progress: Progress) -> list[int]:
    """Numbers of `wanted` examples that cover all, ascending; all of them where there are no more.

    "clusters": spherical k-means, then the next nearest to the centre of each cluster in turn, so that a frequent
    subject does not take it all. "k-centre": each next one is the farthest from those taken (Sener & Savarese 2018,
    arXiv:1708.00489), which covers the rare too, and outliers with it. Nothing is left to chance in either.
    """
    if wanted >= len(vectors):
        return list(range(len(vectors)))
    return sorted(_k_centre(vectors, wanted, progress) if by == "k-centre" else _in_turn(vectors, wanted, progress))


def _k_centre(vectors: np.ndarray, wanted: int, progress: Progress) -> list[int]:
    first = int(np.argmax(vectors @ vectors.mean(axis=0)))
    taken = [first]
    nearest = vectors @ vectors[first]
    nearest[first] = np.inf
    while len(taken) < wanted:
        farthest = int(np.argmin(nearest))
        taken.append(farthest)
        np.maximum(nearest, vectors @ vectors[farthest], out=nearest)
        nearest[farthest] = np.inf
        if len(taken) % 64 == 0:
            progress("sampling", len(taken), wanted)
    return taken


def _in_turn(vectors: np.ndarray, wanted: int, progress: Progress) -> list[int]:
    import faiss

    clusters = min(wanted, max(2, math.isqrt(len(vectors))))
    means = faiss.Kmeans(vectors.shape[1], clusters, niter=20, spherical=True, min_points_per_centroid=1, verbose=False)
    # Centres drawn by chance may all lie in what is frequent, and rare subjects then share a cluster.
    means.train(vectors, init_centroids=vectors[_k_centre(vectors, clusters, progress)])
    scores, owners = means.index.search(vectors, 1)
    order = np.lexsort((np.arange(len(vectors)), -scores[:, 0]))
    waiting: dict[int, list[int]] = {}
    for number in order.tolist():
        waiting.setdefault(int(owners[number, 0]), []).append(number)
    taken: list[int] = []
    rank = 0
    while len(taken) < wanted:
        turn = sorted(members[rank] for members in waiting.values() if rank < len(members))
        taken += turn[: wanted - len(taken)]
        rank += 1
    return taken


def coverage(vectors: np.ndarray, drawn: Sequence[int]) -> tuple[float, float]:
    """Cosine of every vector and the nearest one drawn: (mean, least). 1 is all covered."""
    chosen = vectors[list(drawn)]
    nearest = [float((chosen @ vector).max()) for vector in vectors]
    return float(np.mean(nearest)), min(nearest)
