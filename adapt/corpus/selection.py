"""A corpus and sentences of a task → the passages of the corpus that are nearest to the task, for TAPT.

kNN-TAPT of Gururangan et al. 2020 (arXiv:2004.10964, section 4.2), with clusters that share the room so that no one
topic takes it all. It knows vectors and texts; no tokenizer and no model that is trained.
"""

import hashlib
import json
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from adapt.corpus.sealed_folder import MANIFEST, read_array, read_manifest, write_folder
from adapt.corpus.texts import TrainingText
from adapt.recipe import Selection
from eval.runs.parts import Progress
from retrieval.embedding.stored import keep
from retrieval.errors import DamagedError, UsageError

if TYPE_CHECKING:
    from retrieval.embedding.embedder import Embedder

KIND = "a selection"
TEXTS, VECTORS = "texts.jsonl", "vectors.npy"
PASSAGE = 1_200
"""Characters of a passage at most: about 250 tokens, what an embedding model of 256 reads whole."""
LEAST = 120
"""Characters below which a passage says too little to be near anything but by chance."""
BATCH = 512
"""Passages embedded between two saves."""
ALIKE = 0.97
"""Cosine from which on a passage says what one chosen before it says (boilerplate that documents share)."""
EXAMPLES = 5
_BLANK_LINES = re.compile(r"\n\s*\n")
_SENTENCES = re.compile(r"(?<=[.!?])\s+|(?<=[。！？])")


@dataclass(frozen=True)
class Selected:
    """Passages that were chosen, neighbours of one document joined. `report` says how many there are and how near."""

    folder: Path
    sha256: str
    report: Mapping[str, Any]

    def texts(self) -> Iterator[TrainingText]:
        """In the order of the corpus."""
        with (self.folder / TEXTS).open(encoding="utf-8") as stream:
            for line in stream:
                row = json.loads(line)
                yield TrainingText(row["id"], row["text"], row["title"])

    @classmethod
    def open(cls, folder: Path) -> "Selected":
        """Raises MissingError, DamagedError."""
        manifest = read_manifest(folder, KIND)
        return cls(folder, manifest["sha256"], manifest["more"])


@dataclass(frozen=True, slots=True)
class _Passage:
    """Part `number` of text `place` of the corpus."""

    place: int
    number: int
    text: str


def select(
    texts: Iterable[TrainingText],
    gold: Iterable[TrainingText],
    settings: Selection,
    *,
    embedder: "Embedder",
    seed: int,
    folder: Path,
    progress: Progress,
    count: Callable[[str], int] | None = None,
) -> Selected:
    """Passages among the `neighbours` nearest of any sentence of `gold`, into `folder`.

    Each of `clusters` (k-means over the passages found) gives its nearest in turn until `tokens` are reached, as
    `count` counts them (None: a quarter of the bytes); what is said twice is taken once. Vectors that were made before
    a kill are not made again. Raises UsageError where there is nothing to choose from or to be near to.
    """
    if (folder / MANIFEST).is_file():
        return Selected.open(folder)
    sources = list(texts)
    passages = [_Passage(place, n, part) for place, text in enumerate(sources) for n, part in enumerate(cut(text.text))]
    wanted = list(dict.fromkeys(text.text.strip() for text in gold if text.text.strip()))
    if not wanted:
        raise UsageError(f"'{settings.near}' has no sentence that text could be near to; give some of the task")
    if not passages:
        raise UsageError(f"'{settings.source}' has no passage of {LEAST} characters to choose from; give it more text")
    vectors = _embedded([p.text for p in passages], embedder, folder.with_name(folder.name + "-vectors"), progress)
    found = _nearest(vectors, embedder.embed_passages(wanted), settings.neighbours)
    progress("choosing texts", 0, 0)
    labels = _clusters(vectors[list(found)], settings.clusters, seed)
    size = count or (lambda text: max(1, len(text.encode()) // 4))
    chosen = _chosen(passages, vectors, found, labels, settings.tokens, size)
    joined = _joined([passages[index] for index in sorted(chosen)], sources)

    def fill(new: Path) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
        with (new / TEXTS).open("w", encoding="utf-8") as stream:
            for text in joined:
                stream.write(json.dumps({"id": text.id, "title": text.title, "text": text.text}) + "\n")
        facts = {"settings": settings.model_dump(mode="json"), "seed": seed, "embedder": embedder.fingerprint.weights}
        return facts, _report(passages, found, labels, chosen, joined, wanted, size)

    write_folder(folder, KIND, fill)
    return Selected.open(folder)


def cut(text: str) -> list[str]:
    """Paragraphs joined up to `PASSAGE` characters, longer ones cut at the ends of sentences; nothing under `LEAST`."""
    parts: list[str] = []
    for paragraph in _BLANK_LINES.split(text):
        paragraph = paragraph.strip("\n").rstrip()
        if not paragraph.strip():
            continue
        pieces = [paragraph] if len(paragraph) <= PASSAGE else list(_pieces(paragraph))
        for piece in pieces:
            if parts and len(parts[-1]) + len(piece) + 2 <= PASSAGE and len(parts[-1]) < PASSAGE // 2:
                parts[-1] += "\n\n" + piece
            else:
                parts.append(piece)
    return [part for part in parts if len(part) >= LEAST]


def _pieces(paragraph: str) -> Iterator[str]:
    held = ""
    for sentence in filter(None, _SENTENCES.split(paragraph)):
        while len(sentence) > PASSAGE:  # a line without an end
            yield sentence[:PASSAGE]
            sentence = sentence[PASSAGE:]
        between = "" if held.endswith(("。", "！", "？")) else " "
        if held and len(held) + len(sentence) + 1 > PASSAGE:
            yield held
            held = sentence
        else:
            held = held + between + sentence if held else sentence
    if held:
        yield held


def _embedded(texts: Sequence[str], embedder: "Embedder", folder: Path, progress: Progress) -> np.ndarray:
    """(passages, dimension) float32, made in batches that are kept under the hash of what they are of."""
    made = []
    for start in range(0, len(texts), BATCH):
        batch = texts[start : start + BATCH]
        said = "\0".join((embedder.fingerprint.weights, *batch)).encode("utf-8", "surrogatepass")
        place = folder / hashlib.sha256(said).hexdigest()[:32]
        vectors = _kept(place)
        if vectors is None or vectors.shape != (len(batch), embedder.dimension):
            vectors = np.asarray(embedder.embed_passages(batch), dtype=np.float32)
            keep(place, lambda new, vectors=vectors: np.save(new / VECTORS, vectors, allow_pickle=False))  # type: ignore[misc]
        made.append(vectors)
        progress("embedding the corpus", min(start + BATCH, len(texts)), len(texts))
    return np.concatenate(made)


def _kept(place: Path) -> np.ndarray | None:
    if not (place / VECTORS).is_file():
        return None
    try:
        return read_array(place / VECTORS)
    except DamagedError:
        return None  # it is made again


def _nearest(vectors: np.ndarray, gold: np.ndarray, neighbours: int) -> dict[int, float]:
    """Number of each passage among the neighbours of any gold sentence → its greatest cosine, the nearest first."""
    import faiss

    index = faiss.IndexFlatIP(vectors.shape[1])
    index.add(np.ascontiguousarray(vectors, dtype=np.float32))
    cosines, numbers = index.search(np.ascontiguousarray(gold, dtype=np.float32), min(neighbours, len(vectors)))
    best: dict[int, float] = {}
    for row, near in zip(numbers, cosines, strict=True):
        for number, cosine in zip(row.tolist(), near.tolist(), strict=True):
            if number >= 0 and cosine > best.get(number, -2.0):
                best[number] = cosine
    return dict(sorted(best.items(), key=lambda pair: (-pair[1], pair[0])))


def _clusters(vectors: np.ndarray, clusters: int, seed: int) -> list[int]:
    """The cluster of each vector; all in one where there are too few to tell apart (faiss wants 39 for each)."""
    number = min(clusters, len(vectors) // 39)
    if number < 2:
        return [0] * len(vectors)
    import faiss

    means = faiss.Kmeans(vectors.shape[1], number, niter=20, seed=seed + 1, spherical=True, verbose=False)
    means.train(np.ascontiguousarray(vectors, dtype=np.float32))
    _, labels = means.index.search(np.ascontiguousarray(vectors, dtype=np.float32), 1)
    return [int(label) for label in labels[:, 0]]


def _chosen(
    passages: Sequence[_Passage],
    vectors: np.ndarray,
    found: Mapping[int, float],
    labels: Sequence[int],
    tokens: int | None,
    size: Callable[[str], int],
) -> dict[int, int]:
    """Numbers of the passages that are taken → their clusters: one of each cluster in turn, the nearest first."""
    waiting: dict[int, list[int]] = defaultdict(list)
    for number, label in zip(found, labels, strict=True):
        waiting[label].append(number)
    room = tokens if tokens is not None else None
    taken: dict[int, int] = {}
    rows = np.empty((0, vectors.shape[1]), dtype=np.float32)
    while waiting:
        for label in sorted(waiting):
            number = waiting[label].pop(0)
            if not waiting[label]:
                del waiting[label]
            if len(rows) and float((rows @ vectors[number]).max()) >= ALIKE:
                continue
            cost = size(passages[number].text)
            if room is not None:
                if cost > room:
                    continue  # a shorter one of this or another cluster may still fit
                room -= cost
            taken[number] = label
            rows = np.concatenate([rows, vectors[number][None]])
    return taken


def _joined(passages: Sequence[_Passage], sources: Sequence[TrainingText]) -> list[TrainingText]:
    """Passages that follow each other in a document as one text."""
    texts: list[TrainingText] = []
    last: _Passage | None = None
    for passage in passages:
        source = sources[passage.place]
        if last is not None and (last.place, last.number + 1) == (passage.place, passage.number):
            texts[-1] = TrainingText(texts[-1].id, f"{texts[-1].text}\n\n{passage.text}", source.title)
        else:
            texts.append(TrainingText(f"{source.id}#{passage.number}", passage.text, source.title))
        last = passage
    return texts


def _report(
    passages: Sequence[_Passage],
    found: Mapping[int, float],
    labels: Sequence[int],
    chosen: Mapping[int, int],
    joined: Sequence[TrainingText],
    wanted: Sequence[str],
    size: Callable[[str], int],
) -> dict[str, Any]:
    cosines = np.array([found[number] for number in chosen]) if chosen else np.zeros(1)
    sizes: dict[int, int] = defaultdict(int)
    for label in chosen.values():
        sizes[label] += 1
    return {
        "sentences": len(wanted),
        "passages": len(passages),
        "near": len(found),
        "chosen": len(chosen),
        "texts": len(joined),
        "tokens": sum(size(passages[number].text) for number in chosen),
        "clusters": len(set(labels)),
        "passages_by_cluster": [sizes[label] for label in sorted(sizes)],
        "cosine": {
            name: round(float(np.quantile(cosines, share)), 4)
            for name, share in (("lowest", 0.0), ("median", 0.5), ("highest", 1.0))
        },
        "examples": [passages[number].text[:160] for number in list(chosen)[:EXAMPLES]],
    }
