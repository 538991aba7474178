"""The dense index against plain numpy: searching, deleting, filtering, inverted lists, snapshots."""

from pathlib import Path

import numpy as np
import pytest

from retrieval.errors import DamagedError
from retrieval.storage import snapshots
from retrieval.storage.dense import RECALL_TARGET, DenseIndex

DIMENSION = 32


def clustered(count: int, seed: int = 3) -> np.ndarray:
    random = np.random.default_rng(seed)
    centres = random.normal(size=(60, DIMENSION))
    rows = centres[random.integers(0, 60, count)] + 0.6 * random.normal(size=(count, DIMENSION))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float16)


@pytest.fixture
def filled() -> tuple[DenseIndex, np.ndarray, np.ndarray, np.ndarray]:
    """(index, ids, documents, vectors): 4,000 rows, ids 10, 13, 16…, 10 passages a document."""
    vectors = clustered(4000)
    ids = np.arange(4000) * 3 + 10
    documents = np.arange(4000) // 10 + 1
    index = DenseIndex(DIMENSION)
    for part in np.array_split(np.arange(4000), 7):
        index.add(ids[part], documents[part], vectors[part])
    return index, ids, documents, vectors


def exact(vectors: np.ndarray, ids: np.ndarray, query: np.ndarray, k: int, allowed: np.ndarray) -> list[int]:
    scores = vectors.astype(np.float32) @ query
    order = [i for i in np.argsort(-scores, kind="stable") if allowed[i]]
    return [int(ids[i]) for i in order[:k]]


def query_of(vectors: np.ndarray, row: int) -> np.ndarray:
    mixed = vectors[row].astype(np.float32) + 0.3 * vectors[row + 1].astype(np.float32)
    return mixed / np.linalg.norm(mixed)


def test_search_is_exact_and_scores_are_cosines(filled) -> None:  # type: ignore[no-untyped-def]
    index, ids, _, vectors = filled
    query = query_of(vectors, 42)
    hits = index.search(query, 10)
    assert [i for i, _ in hits] == exact(vectors, ids, query, 10, np.ones(4000, bool))
    assert hits[0][1] == pytest.approx(float(vectors[(hits[0][0] - 10) // 3].astype(np.float32) @ query), abs=1e-3)


@pytest.mark.parametrize("dead", [3, 900])
def test_deleted_rows_are_hidden_at_once(filled, dead: int) -> None:  # type: ignore[no-untyped-def]
    index, ids, _, vectors = filled
    query = query_of(vectors, 42)
    gone = set(exact(vectors, ids, query, dead, np.ones(4000, bool)))
    for identity in gone:
        index.remove(identity, identity)
    allowed = np.array([i not in gone for i in ids])
    assert [i for i, _ in index.search(query, 10)] == exact(vectors, ids, query, 10, allowed)
    assert len(index) == 4000 - dead and index.dead == dead
    assert not gone & set(index.score(query, sorted(gone)))


@pytest.mark.parametrize("documents_allowed", [range(1, 3), range(1, 150), range(5, 401), [], [99999]])
def test_filter_is_inside_the_search(filled, documents_allowed) -> None:  # type: ignore[no-untyped-def]
    index, ids, documents, vectors = filled
    query = query_of(vectors, 2000)
    wanted = set(documents_allowed)
    allowed = np.isin(documents, list(wanted))
    expected = exact(vectors, ids, query, 10, allowed)
    assert [i for i, _ in index.search(query, 10, wanted)] == expected
    assert len(expected) == min(10, int(allowed.sum()))


def test_ids_must_ascend() -> None:
    index = DenseIndex(DIMENSION)
    index.add(np.array([5]), np.array([1]), clustered(1))
    with pytest.raises(ValueError, match="never reused"):
        index.add(np.array([5]), np.array([2]), clustered(1))


def test_inverted_lists_reach_the_recall_they_promise(filled) -> None:  # type: ignore[no-untyped-def]
    index, _, documents, vectors = filled
    index.remove(10, 40)
    large = index.compact(flat_limit=1000)
    assert large.shape.kind == "ivf" and large.shape.recall >= RECALL_TARGET and large.dead == 0
    found = total = 0
    for row in range(100, 200):
        query = query_of(vectors, row)
        truth = {i for i, _ in index.search(query, 10)}
        found += len(truth & {i for i, _ in large.search(query, 10)})
        total += 10
    assert found / total >= 0.95
    # Filters still give k hits although few lists are probed.
    assert len(large.search(query_of(vectors, 5), 10, set(range(100, 140)))) == 10
    query = query_of(vectors, 77)
    best, score = large.search(query, 1)[0]
    assert large.score(query, [best])[best] == pytest.approx(score, abs=1e-5)


def test_snapshot_returns_the_same_index(filled, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    index, _, _, vectors = filled
    index.remove(10, 100)
    index.sequence = 17
    for shape in (index, index.compact(flat_limit=1000)):
        manifest = snapshots.save(shape, tmp_path)
        again = snapshots.load(tmp_path, manifest)
        query = query_of(vectors, 9)
        assert again.search(query, 10) == shape.search(query, 10)
        assert again.sequence == 17 and len(again) == len(shape)
        again.add(np.array([99999]), np.array([999]), clustered(1, seed=8))
        assert again.search(clustered(1, seed=8)[0], 1)[0][0] == 99999


def test_every_flipped_bit_of_a_snapshot_is_refused(filled, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    manifest = snapshots.save(filled[0], tmp_path)
    random = np.random.default_rng(5)
    for name in (manifest.index, manifest.arrays):
        path = tmp_path / name
        good = path.read_bytes()
        for position in random.integers(0, len(good), 15):
            flipped = bytearray(good)
            flipped[position] ^= 1 << int(random.integers(0, 8))
            path.write_bytes(flipped)
            with pytest.raises(DamagedError, match="not what was written"):
                snapshots.load(tmp_path, manifest)
        path.write_bytes(good)
    snapshots.load(tmp_path, manifest)


def test_sweep_leaves_only_what_the_manifest_names(filled, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    manifest = snapshots.save(filled[0], tmp_path)
    (tmp_path / "writing-abc.faiss").write_bytes(b"left by a killed writer")
    snapshots.sweep(tmp_path, manifest)
    assert {p.name for p in tmp_path.iterdir()} == {manifest.index, manifest.arrays}
