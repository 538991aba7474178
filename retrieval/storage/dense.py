"""Vectors in, nearest passages out: FAISS over float16 codes, exact when small, inverted lists when large.

A cache: everything here can be made again from the catalogue. Knows passage ids, document ids and vectors; knows no
SQLite, no files other than the snapshot it is told to write or read.
"""

import os
from collections.abc import Collection as AbstractCollection
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import faiss
import numpy as np

# Up to here a flat scan is exact and quick (100,000 passages: 4 ms on one core; 300,000: about 12 ms). Above, inverted
# lists: at 1,000,000 they cost 2 ms against 37 ms. HNSW brought nothing here and cannot delete (docs/log.md).
FLAT_LIMIT = 300_000
# recall@10 against the flat scan that the number of probed lists must reach in the self-test. A little above the .98 we
# promise, because its queries are made from stored vectors.
RECALL_TARGET = 0.985
# Below this share of the collection, scoring the allowed rows one by one beats scanning with a bitmap.
EXACT_SHARE = 0.05
# Up to this many deleted rows are skipped by asking for that many more; beyond, a bitmap is cheaper.
OVERFETCH = 64


@dataclass(frozen=True, slots=True)
class DenseShape:
    """How the vectors are organised. `lists` and `probes` are 0 for a flat scan; `trained_on` counts passages."""

    kind: str = "flat"
    lists: int = 0
    probes: int = 0
    trained_on: int = 0
    recall: float = 1.0


class DenseIndex:
    """Inner product over L2-normalised float16 vectors.

    Rows are positions 0…n−1 in the order of ascending passage ids, so that an id is found by binary search and a
    filter is a bitmap of n bits. Not thread-safe: the collection holds a lock around every call.
    """

    def __init__(self, dimension: int) -> None:
        self.dimension = dimension
        self.shape = DenseShape()
        self.sequence = 0
        self._index = _flat(dimension)
        self._ids = np.empty(0, dtype=np.int64)
        self._documents = np.empty(0, dtype=np.int64)
        self._dead = np.empty(0, dtype=bool)
        self._count = 0
        self._dead_count = 0
        self._gpu: faiss.Index | None = None

    def __len__(self) -> int:
        return self._count - self._dead_count

    def __contains__(self, passage_id: int) -> bool:
        position = int(np.searchsorted(self._ids[: self._count], passage_id))
        return position < self._count and self._ids[position] == passage_id and not self._dead[position]

    @property
    def dead(self) -> int:
        """Rows that are deleted but still take room."""
        return self._dead_count

    @property
    def ids(self) -> np.ndarray:
        """Live passage ids, ascending, int64."""
        return self._ids[: self._count][~self._dead[: self._count]]

    # -- changing --------------------------------------------------------------------------------------------------

    def add(self, ids: np.ndarray, documents: np.ndarray, vectors: np.ndarray) -> None:
        """Append rows. `ids` (n,) ascending and above every id so far; `vectors` (n, dimension) of any float type."""
        if len(ids) == 0:
            return
        if vectors.shape != (len(ids), self.dimension):
            raise ValueError(f"vectors of shape {vectors.shape}, expected {(len(ids), self.dimension)}")
        if np.any(np.diff(ids) <= 0) or (self._count and ids[0] <= self._ids[self._count - 1]):
            raise ValueError("passage ids must ascend: ids are never reused")
        self._reserve(self._count + len(ids))
        rows = slice(self._count, self._count + len(ids))
        self._ids[rows], self._documents[rows], self._dead[rows] = ids, documents, False
        single = np.ascontiguousarray(vectors, dtype=np.float32)
        self._index.add(single)
        if self._gpu is not None:
            self._gpu.add(single)
        self._count += len(ids)

    def _reserve(self, size: int) -> None:
        if size <= len(self._ids):
            return
        # Growing by a quarter keeps appending linear and wastes little memory at a million rows.
        capacity = max(size, len(self._ids) * 5 // 4, 1024)
        for name in ("_ids", "_documents", "_dead"):
            old = getattr(self, name)
            new = np.zeros(capacity, dtype=old.dtype)
            new[: self._count] = old[: self._count]
            setattr(self, name, new)

    def remove(self, first: int, last: int) -> None:
        """Hide the passages [first, last] at once; their room is freed when the collection is optimised."""
        low, high = np.searchsorted(self._ids[: self._count], [first, last + 1])
        self._dead_count += int(np.count_nonzero(~self._dead[low:high]))
        self._dead[low:high] = True

    # -- searching -------------------------------------------------------------------------------------------------

    def search(
        self, query: np.ndarray, k: int, documents: AbstractCollection[int] | None = None
    ) -> list[tuple[int, float]]:
        """The k passages nearest to `query` (dimension,), as (passage id, cosine), best first.

        `documents` limits the search to passages of these documents; the limit is inside the search, so k hits come
        back whenever k allowed passages exist.
        """
        k = min(k, len(self))
        if k <= 0:
            return []
        row = np.ascontiguousarray(query, dtype=np.float32).reshape(1, self.dimension)
        live = ~self._dead[: self._count]
        if documents is None:
            if self._dead_count <= OVERFETCH:
                return self._unfiltered(row, k)
            return self._masked(row, k, live)
        allowed = live & _member(self._documents[: self._count], documents)
        found = int(np.count_nonzero(allowed))
        if found == 0:
            return []
        if found <= max(2_000, EXACT_SHARE * self._count):
            return self._exact(row, min(k, found), np.flatnonzero(allowed))
        return self._masked(row, min(k, found), allowed)

    def _unfiltered(self, row: np.ndarray, k: int) -> list[tuple[int, float]]:
        parameters = self._parameters(None)
        index = self._gpu if self._gpu is not None else self._index
        faiss.omp_set_num_threads(1)
        scores, positions = (
            index.search(row, k + self._dead_count)
            if self._gpu is not None
            else index.search(row, k + self._dead_count, params=parameters)
        )
        keep = (positions[0] >= 0) & ~self._dead[positions[0]]
        return self._named(positions[0][keep][:k], scores[0][keep][:k])

    def _masked(self, row: np.ndarray, k: int, allowed: np.ndarray) -> list[tuple[int, float]]:
        bits = np.packbits(allowed, bitorder="little")
        selector = faiss.IDSelectorBitmap(bits)
        faiss.omp_set_num_threads(1)
        parameters = self._parameters(selector)
        if self.shape.kind == "ivf":
            # The fewer rows a filter allows, the more lists must be looked at for the same recall.
            share = max(1e-6, float(np.count_nonzero(allowed)) / self._count)
            parameters.nprobe = min(self.shape.lists, int(np.ceil(self.shape.probes / share)))
        scores, positions = self._index.search(row, k, params=parameters)
        keep = positions[0] >= 0
        if np.count_nonzero(keep) < k:
            return self._exact(row, k, np.flatnonzero(allowed))
        return self._named(positions[0][keep], scores[0][keep])

    def _exact(self, row: np.ndarray, k: int, positions: np.ndarray) -> list[tuple[int, float]]:
        scores = self._vectors(positions) @ row[0]
        best = np.argsort(-scores, kind="stable")[:k]
        return self._named(positions[best], scores[best])

    def score(self, query: np.ndarray, ids: Sequence[int]) -> dict[int, float]:
        """Exact cosine of the given passages; unknown and deleted ids are left out."""
        wanted = np.asarray(sorted(set(ids)), dtype=np.int64)
        positions = np.searchsorted(self._ids[: self._count], wanted)
        positions = positions[positions < self._count]
        keep = np.isin(self._ids[positions], wanted) & ~self._dead[positions]
        positions = positions[keep]
        if len(positions) == 0:
            return {}
        scores = self._vectors(positions) @ np.asarray(query, dtype=np.float32).reshape(-1)
        return dict(self._named(positions, scores))

    def _named(self, positions: np.ndarray, scores: np.ndarray) -> list[tuple[int, float]]:
        return [(int(i), float(s)) for i, s in zip(self._ids[positions], scores, strict=True)]

    def _parameters(self, selector: Any) -> Any:
        if self.shape.kind == "ivf":
            return faiss.SearchParametersIVF(sel=selector, nprobe=self.shape.probes)
        return faiss.SearchParameters(sel=selector) if selector is not None else None

    def _vectors(self, positions: np.ndarray) -> np.ndarray:
        if len(positions) == 0:
            return np.empty((0, self.dimension), dtype=np.float32)
        if self.shape.kind == "flat":
            size = self._index.code_size
            codes = faiss.rev_swig_ptr(self._index.codes.data(), self._count * size)
            return codes.view(np.float16).reshape(self._count, -1)[positions].astype(np.float32)
        return self._index.reconstruct_batch(np.ascontiguousarray(positions, dtype=np.int64))

    # -- organising ------------------------------------------------------------------------------------------------

    def needs_training(self) -> bool:
        """Whether the collection outgrew its organisation: above the flat limit, or doubled since the last training."""
        return len(self) > FLAT_LIMIT and (self.shape.kind == "flat" or len(self) > 2 * self.shape.trained_on)

    def compact(self, *, seed: int = 7, flat_limit: int = FLAT_LIMIT) -> "DenseIndex":
        """A new index without deleted rows; with inverted lists when it is above `flat_limit`.

        The number of probed lists is the smallest tried that reaches RECALL_TARGET against the flat scan on 200
        queries made for it (`_held_out_queries`).
        """
        new = DenseIndex(self.dimension)
        new.sequence = self.sequence
        positions = np.flatnonzero(~self._dead[: self._count])
        large = len(positions) > flat_limit
        if large:
            new._index, lists = self._train(positions, seed)
            new.shape = DenseShape("ivf", lists, 1, len(positions))
        for part in np.array_split(positions, max(1, len(positions) // 20_000)):
            new.add(self._ids[part], self._documents[part], self._vectors(part))
        if large:
            new._index.make_direct_map()
            new._choose_probes(self, positions, seed)
        return new

    def _train(self, positions: np.ndarray, seed: int) -> tuple[faiss.Index, int]:
        lists = max(16, int(4 * np.sqrt(len(positions))))
        sample = np.random.default_rng(seed).choice(positions, min(len(positions), 40 * lists), replace=False)
        quantizer = faiss.IndexFlatIP(self.dimension)
        index = faiss.IndexIVFScalarQuantizer(
            quantizer, self.dimension, lists, faiss.ScalarQuantizer.QT_fp16, faiss.METRIC_INNER_PRODUCT, False
        )
        # The quantizer must outlive the Python variable.
        index.own_fields = True
        quantizer.this.disown()
        index.cp.niter = 10
        index.cp.seed = seed
        index.cp.max_points_per_centroid = 40
        faiss.omp_set_num_threads(os.cpu_count() or 1)
        index.train(self._vectors(np.sort(sample)))
        return index, lists

    def _choose_probes(self, exact: "DenseIndex", positions: np.ndarray, seed: int) -> None:
        queries = _held_out_queries(exact, positions, np.random.default_rng(seed + 1))
        faiss.omp_set_num_threads(os.cpu_count() or 1)
        truth = [set(row) for row in _flat_search(exact, positions, queries, 10)]
        probes, recall = 1, 0.0
        while True:
            parameters = faiss.SearchParametersIVF(nprobe=probes)
            found = self._ids[self._index.search(queries, 10, params=parameters)[1]]
            recall = float(np.mean([len(t & set(f)) / len(t) for t, f in zip(truth, found, strict=True)]))
            if recall >= RECALL_TARGET or probes >= self.shape.lists:
                break
            probes = min(self.shape.lists, max(probes + 1, probes * 5 // 4))
        self.shape = DenseShape("ivf", self.shape.lists, probes, self.shape.trained_on, recall)

    def use_gpu(self) -> bool:
        """Search on the GPU where a GPU build of FAISS finds one: an exact flat scan in float16, so the same results.

        Filters stay on the CPU (GPU indexes take no selectors).
        """
        if getattr(faiss, "get_num_gpus", lambda: 0)() < 1 or not hasattr(faiss, "GpuIndexFlatIP"):
            return False
        config = faiss.GpuIndexFlatConfig()
        config.useFloat16 = True
        self._gpu = faiss.GpuIndexFlatIP(faiss.StandardGpuResources(), self.dimension, config)
        for part in np.array_split(np.arange(self._count), max(1, self._count // 100_000)):
            self._gpu.add(self._vectors(part))
        return True

    # -- snapshots -------------------------------------------------------------------------------------------------

    def arrays(self) -> dict[str, np.ndarray]:
        """What a snapshot holds besides the FAISS index."""
        return {
            "ids": self._ids[: self._count],
            "documents": self._documents[: self._count],
            "dead": self._dead[: self._count],
        }

    def write_faiss(self, path: str) -> None:
        """Write the FAISS part. The caller renames and hashes: FAISS writes in place and without a checksum."""
        faiss.write_index(self._index, path)

    @classmethod
    def restore(
        cls, dimension: int, faiss_path: str, arrays: dict[str, np.ndarray], shape: DenseShape, sequence: int
    ) -> "DenseIndex":
        """From a snapshot whose hash was checked. Raises ValueError where the parts do not fit each other."""
        new = cls(dimension)
        new._index = faiss.read_index(faiss_path)
        count = new._index.ntotal
        if new._index.d != dimension or any(len(array) != count for array in arrays.values()):
            raise ValueError("the snapshot's parts do not fit each other")
        new._ids, new._documents = arrays["ids"].astype(np.int64), arrays["documents"].astype(np.int64)
        new._dead = arrays["dead"].astype(bool)
        new._count, new._dead_count = count, int(np.count_nonzero(new._dead))
        new.shape, new.sequence = shape, sequence
        return new


def _flat(dimension: int) -> faiss.Index:
    return faiss.IndexScalarQuantizer(dimension, faiss.ScalarQuantizer.QT_fp16, faiss.METRIC_INNER_PRODUCT)


def _held_out_queries(index: DenseIndex, positions: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """200 unit vectors as far from stored ones as questions are: cosine .45 to .9 to a stored vector, the rest in the
    direction of two others.

    Queries next to stored vectors flatter an index: mixtures of two stored vectors promised a recall of .99 with 10
    probed lists of 4,000 where real questions got .82. These gave .73, .93 and .98 with 10, 64 and 192 lists where real
    ones gave .82, .95 and .98 (1,000,000 passages).
    """
    count = min(200, len(positions))
    near = index._vectors(random.choice(positions, count))
    away = index._vectors(random.choice(positions, count)) + index._vectors(random.choice(positions, count))
    away -= np.sum(away * near, axis=1, keepdims=True) * near
    away /= np.maximum(np.linalg.norm(away, axis=1, keepdims=True), 1e-6)
    cosine = random.uniform(0.45, 0.9, size=(count, 1)).astype(np.float32)
    return cosine * near + np.sqrt(1.0 - cosine**2) * away


def _flat_search(index: DenseIndex, positions: np.ndarray, queries: np.ndarray, k: int) -> np.ndarray:
    """Exact top k in blocks, so that a million rows never stand in memory as float32."""
    best_scores = np.full((len(queries), k), -np.inf, dtype=np.float32)
    best_ids = np.zeros((len(queries), k), dtype=np.int64)
    for part in np.array_split(positions, max(1, len(positions) // 50_000)):
        scores = np.hstack([best_scores, queries @ index._vectors(part).T])
        ids = np.hstack([best_ids, np.broadcast_to(index._ids[part], (len(queries), len(part)))])
        top = np.argpartition(-scores, k - 1, axis=1)[:, :k]
        best_scores, best_ids = np.take_along_axis(scores, top, 1), np.take_along_axis(ids, top, 1)
    return best_ids


def _member(documents: np.ndarray, wanted: AbstractCollection[int]) -> np.ndarray:
    """Which rows belong to a wanted document; a lookup table beats np.isin while ids are dense."""
    if len(documents) == 0 or not wanted:
        return np.zeros(len(documents), dtype=bool)
    highest = int(documents.max())
    table = np.zeros(highest + 1, dtype=bool)
    inside = np.fromiter((i for i in wanted if 0 <= i <= highest), dtype=np.int64)
    table[inside] = True
    return table[documents]
