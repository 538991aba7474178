"""The passages of a corpus nearest to a task's own texts, spread over topics, without repetitions: what task-adaptive
pretraining reads when a task has few texts of its own (kNN-TAPT, Gururangan et al. 2020, arXiv:2004.10964).

It knows no language model: tokens are counted by a function that it is given.
"""

import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from adapt.corpus.passage_vectors import passage_vectors
from adapt.corpus.sealed_folder import read_manifest, write_folder
from adapt.corpus.texts import TrainingText
from adapt.recipe import Selection
from eval.data.texts import storable
from eval.runs.parts import Progress
from retrieval.errors import UsageError
from retrieval.passages import Document
from retrieval.splitting import SplitSettings, split

if TYPE_CHECKING:
    from retrieval.embedding.embedder import Embedder

KIND = "selected texts"
TEXTS = "selected.jsonl"
SPLITTING = SplitSettings(overlap_tokens=0, context_tokens=0)
"""How documents are cut into passages: no sentence stands in two."""
NEAR_DUPLICATE = 0.8
"""Jaccard similarity of word 5-grams from which on the less similar of two passages is dropped."""
_LIKE = 0.85
"""Cosine below which two passages are not compared word by word."""
_COMPARED = 20
"""Nearest other passages that each is compared with."""
_GRAM = 5
_QUERIES = 1024
_EXAMPLES = 5
_SHOWN = 300
_HAN = "\u3400-\u9fff"
_WORD = re.compile(rf"[{_HAN}]|[^\W{_HAN}]+")

Count = Callable[[Sequence[str]], list[int]]
"""Texts → tokens of each for the model that will be trained."""


@dataclass(frozen=True, slots=True)
class _Passage:
    """A stretch of a document; `document` counts documents as they came."""

    document: int
    start: int
    end: int
    text: str


class Selected:
    """What was selected, on disk. `report` is for people and reports: counts, similarities, clusters, examples."""

    def __init__(self, folder: Path, manifest: Mapping[str, Any]) -> None:
        """Use `open`, which checks what is there."""
        self.folder, self.sha256 = folder, str(manifest["sha256"])
        self.report: Mapping[str, Any] = manifest["facts"]
        self.file = folder / TEXTS
        """Lines of {"id", "title", "text", "similarity", "cluster"}."""

    @classmethod
    def open(cls, folder: Path) -> "Selected":
        """Check the hashes of all files. Raises MissingError, DamagedError."""
        return cls(folder, read_manifest(folder, KIND))

    def texts(self) -> Iterator[TrainingText]:
        """The selected texts in the order of the corpus; passages that touch in a document are one text."""
        with self.file.open(encoding="utf-8") as lines:
            for line in lines:
                row = json.loads(line)
                yield TrainingText(row["id"], row["text"], row["title"])


def select(
    corpus_texts: Iterable[TrainingText],
    gold_texts: Iterable[TrainingText],
    settings: Selection,
    *,
    embedder: "Embedder",
    seed: int,
    folder: Path,
    progress: Progress,
    cache: Path,
    count: Count | None = None,
) -> Selected:
    """Cut both into passages of the embedder's size, take the `settings.neighbours` passages of the corpus nearest to
    each gold passage (inner product, exact), drop near-duplicates, and keep `settings.tokens` tokens of them: in turn
    the nearest of each of `settings.clusters` clusters, so that no topic takes it all.

    Vectors are kept in `cache` by the content of the passages: what was interrupted goes on, and other settings cost
    nothing. `count` None counts with the embedder's tokenizer. Raises UsageError where either side has no text.
    """
    documents, passages = _cut(corpus_texts, embedder, progress, "cut corpus")
    _, gold = _cut(gold_texts, embedder, progress, "cut task")
    for what, cut in (("corpus to select from", passages), ("task that texts are to be found for", gold)):
        if not cut:
            raise UsageError(f"the {what} has no text")
    vectors = passage_vectors([p.text for p in passages], embedder, cache, progress, "embed corpus")
    wanted = passage_vectors([p.text for p in gold], embedder, cache, progress, "embed task")
    similarity, hits = _nearest(vectors, wanted, settings.neighbours, progress)
    found = np.flatnonzero(hits)
    found = found[np.lexsort((found, -similarity[found]))]  # the nearest first
    kept = _without_near_duplicates(found, vectors, passages)
    clusters = _clusters(vectors[kept], settings.clusters, seed)
    tokens = np.array((count or embedder.count)([passages[number].text for number in kept]), dtype=np.int64)
    taken = _in_turn(clusters, tokens, settings.tokens)
    chosen = kept[taken]
    rows = list(_joined(documents, passages, chosen, similarity, dict(zip(kept.tolist(), clusters, strict=True))))

    def fill(new: Path) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
        with (new / TEXTS).open("w", encoding="utf-8") as stream:
            for row in rows:
                stream.write(json.dumps(row, ensure_ascii=False) + "\n")
        facts = {
            "settings": settings.model_dump(),
            "seed": seed,
            "embedder": embedder.fingerprint.to_json(),
            "documents": len(documents),
            "passages": len(passages),
            "gold_passages": len(gold),
            "found": len(found),
            "near_duplicates": len(found) - len(kept),
            "passages_selected": len(chosen),
            "texts": len(rows),
            "documents_selected": len({passages[number].document for number in chosen}),
            "tokens": int(tokens[taken].sum()),
            "tokens_found": int(tokens.sum()),
            "similarity": {
                "selected": _spread(similarity[chosen]),
                "found": _spread(similarity[found]),
                "corpus": _spread(_best(vectors, wanted)),
            },
            "clusters": _told(clusters, tokens, taken, kept, passages, similarity),
            "examples": _examples(rows),
        }
        return facts, {}

    write_folder(folder, KIND, fill)
    return Selected.open(folder)


def _cut(
    texts: Iterable[TrainingText], embedder: "Embedder", progress: Progress, stage: str
) -> tuple[list[TrainingText], list[_Passage]]:
    """Documents and their passages; those that are word for word another's are left out."""
    documents: list[TrainingText] = []
    passages: list[_Passage] = []
    seen: set[str] = set()
    for text in texts:
        whole = storable(text.text)
        for span in split(Document(text.id, whole, text.title), embedder, SPLITTING):
            piece = whole[span.start : span.end]
            if piece not in seen:
                seen.add(piece)
                passages.append(_Passage(len(documents), span.start, span.end, piece))
        documents.append(TrainingText(text.id, whole, text.title))
        progress(stage, len(documents), 0)
    return documents, passages


def _nearest(
    vectors: np.ndarray, wanted: np.ndarray, neighbours: int, progress: Progress
) -> tuple[np.ndarray, np.ndarray]:
    """For every passage: its largest similarity to a gold passage that it is a neighbour of, and of how many it is."""
    import faiss

    index = faiss.IndexFlatIP(vectors.shape[1])
    index.add(vectors)
    similarity = np.full(len(vectors), -np.inf, dtype=np.float32)
    hits = np.zeros(len(vectors), dtype=np.int64)
    for at in range(0, len(wanted), _QUERIES):
        scores, numbers = index.search(wanted[at : at + _QUERIES], min(neighbours, len(vectors)))
        np.maximum.at(similarity, numbers.ravel(), scores.ravel())
        np.add.at(hits, numbers.ravel(), 1)
        progress("find", min(at + _QUERIES, len(wanted)), len(wanted))
    return similarity, hits


def _best(vectors: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """float32 (passages,): the largest similarity of each passage to any gold passage."""
    import faiss

    index = faiss.IndexFlatIP(wanted.shape[1])
    index.add(wanted)
    return index.search(vectors, 1)[0][:, 0]


def _without_near_duplicates(found: np.ndarray, vectors: np.ndarray, passages: Sequence[_Passage]) -> np.ndarray:
    """`found`, nearest first, without those that share most of their words with one before."""
    import faiss

    index = faiss.IndexFlatIP(vectors.shape[1])
    index.add(vectors[found])
    scores, others = index.search(vectors[found], min(_COMPARED, len(found)))
    grams: dict[int, frozenset[str]] = {}
    gone = np.zeros(len(found), dtype=bool)
    for place in range(len(found)):
        for score, other in zip(scores[place], others[place], strict=True):
            if other >= place or gone[other] or score < _LIKE:
                continue
            for number in (place, int(other)):
                if number not in grams:
                    grams[number] = _grams(passages[found[number]].text)
            if _jaccard(grams[place], grams[int(other)]) >= NEAR_DUPLICATE:
                gone[place] = True
                break
    return found[~gone]


def _grams(text: str) -> frozenset[str]:
    words = [match[0].lower() for match in _WORD.finditer(text)]
    return frozenset(" ".join(words[at : at + _GRAM]) for at in range(max(1, len(words) - _GRAM + 1)))


def _jaccard(one: frozenset[str], other: frozenset[str]) -> float:
    return len(one & other) / max(1, len(one | other))


def _clusters(vectors: np.ndarray, wanted: int, seed: int) -> np.ndarray:
    """int64: the cluster of each passage, by spherical k-means; all 0 where none are wanted."""
    if wanted < 2 or len(vectors) <= wanted:
        return np.zeros(len(vectors), dtype=np.int64) if wanted < 2 else np.arange(len(vectors))
    import faiss

    means = faiss.Kmeans(
        vectors.shape[1], wanted, niter=20, seed=seed, spherical=True, min_points_per_centroid=1, verbose=False
    )
    means.train(vectors)
    return means.index.search(vectors, 1)[1][:, 0]


def _in_turn(clusters: np.ndarray, tokens: np.ndarray, limit: int | None) -> np.ndarray:
    """Places of what is taken: always the next of the cluster with the fewest tokens so far, up to `limit` tokens.

    So clusters get equal parts, and what a small one leaves over goes to the others. At least one is taken.
    """
    if limit is None or int(tokens.sum()) <= limit:
        return np.arange(len(clusters))
    waiting = {int(c): list(np.flatnonzero(clusters == c)[::-1]) for c in np.unique(clusters)}
    used = Counter(dict.fromkeys(waiting, 0))
    taken: list[int] = []
    total = 0
    while waiting:
        cluster = min(waiting, key=lambda c: (used[c], -len(waiting[c]), c))
        place = waiting[cluster].pop()
        if not waiting[cluster]:
            del waiting[cluster]
        size = int(tokens[place])
        if total + size > limit and taken:
            continue
        taken.append(int(place))
        used[cluster] += size
        total += size
    return np.sort(np.array(taken, dtype=np.int64))


def _joined(
    documents: Sequence[TrainingText],
    passages: Sequence[_Passage],
    chosen: np.ndarray,
    similarity: np.ndarray,
    clusters: Mapping[int, int],
) -> Iterator[dict[str, Any]]:
    """Chosen passages in the order of the corpus; those with nothing but white space between them are one text."""
    groups: list[list[int]] = []
    for number in sorted(chosen.tolist()):
        last = passages[groups[-1][-1]] if groups else None
        this = passages[number]
        touching = last is not None and last.document == this.document and last.end <= this.start
        if touching and last and not documents[this.document].text[last.end : this.start].strip():
            groups[-1].append(number)
        else:
            groups.append([number])
    for group in groups:
        first, last = passages[group[0]], passages[group[-1]]
        document = documents[first.document]
        best = max(group, key=lambda number: similarity[number])
        yield {
            "id": f"{document.id}#{first.start}-{last.end}",
            "title": storable(document.title),
            "text": document.text[first.start : last.end],
            "similarity": round(float(similarity[best]), 4),
            "cluster": int(clusters[best]),
        }


def _spread(similarities: np.ndarray) -> dict[str, float]:
    """Quantiles."""
    names = ("least", "tenth", "quarter", "median", "three_quarters", "nine_tenths", "most")
    values = np.quantile(similarities, (0, 0.1, 0.25, 0.5, 0.75, 0.9, 1)) if len(similarities) else np.zeros(7)
    return {name: round(float(value), 4) for name, value in zip(names, values, strict=True)}


def _told(
    clusters: np.ndarray,
    tokens: np.ndarray,
    taken: np.ndarray,
    kept: np.ndarray,
    passages: Sequence[_Passage],
    similarity: np.ndarray,
) -> list[dict[str, Any]]:
    """Each cluster: what was found and taken of it, and its nearest passage."""
    selected = np.zeros(len(clusters), dtype=bool)
    selected[taken] = True
    told = []
    for cluster in np.unique(clusters):
        mine = clusters == cluster
        best = int(np.flatnonzero(mine)[0])  # the nearest come first
        told.append(
            {
                "cluster": int(cluster),
                "found": int(mine.sum()),
                "found_tokens": int(tokens[mine].sum()),
                "selected": int((mine & selected).sum()),
                "selected_tokens": int(tokens[mine & selected].sum()),
                "similarity": round(float(similarity[kept[best]]), 4),
                "example": passages[kept[best]].text[:_SHOWN],
            }
        )
    return told


def _examples(rows: Sequence[Mapping[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """The nearest and the least near of what was selected."""
    order = sorted(rows, key=lambda row: -row["similarity"])
    shown = [{**row, "text": row["text"][:_SHOWN]} for row in (*order[:_EXAMPLES], *order[-_EXAMPLES:])]
    return {"nearest": shown[:_EXAMPLES], "furthest": shown[-_EXAMPLES:]}
