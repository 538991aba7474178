"""Documents, one after the other → which of them repeat an earlier one, exactly or nearly. It knows no file.

Near duplicates are found by MinHash (Broder 1997) and locality-sensitive hashing, and then judged by their real Jaccard
similarity, so that nothing is dropped for a chance likeness of its hashes.
"""

import hashlib
import re
import unicodedata
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt

from adapt.corpus.units import Hashes, Hashing, runs
from eval.runs.parts import Progress
from retrieval.errors import UsageError

SHINGLE = 5
"""Units (words, or Chinese characters) of a shingle."""
PERMUTATIONS = 128
LEAST_THRESHOLD = 0.3
_SEED = 1  # of the permutations: the same corpus for every seed of a recipe, so that seeds differ in training alone
_RECALL = 0.95
_MOST_COMPARED = 64
_REMEMBERED_SHINGLES = 32 << 20  # hashes of 8 bytes
_SPACES = re.compile(r"\s+")


def content_key(text: str) -> bytes:
    """16 bytes, equal for texts that differ in nothing but spaces, line breaks and Unicode's composed forms."""
    plain = _SPACES.sub(" ", unicodedata.normalize("NFC", text)).strip()
    return hashlib.blake2b(plain.encode(), digest_size=16).digest()


def bands(threshold: float) -> tuple[int, int]:
    """(bands, rows of each): as few false candidates as possible, while a pair at the threshold is met with at least
    95 % probability, and a more similar pair with more."""
    best = (PERMUTATIONS, 1)
    for rows in range(1, 33):
        count = PERMUTATIONS // rows
        if 1 - (1 - threshold**rows) ** count >= _RECALL:
            best = (count, rows)
    return best


def jaccard(one: Hashes, other: Hashes) -> float:
    """Similarity of two sorted sets of hashes without repetitions: shared / all. Two empty sets are 0."""
    shared = len(np.intersect1d(one, other, assume_unique=True))
    return shared / max(len(one) + len(other) - shared, 1)


class NearDuplicates:
    """Collects documents in order, then tells which repeat an earlier kept one.

    A document in memory costs the disk `bands` numbers of 8 bytes, in a file of `folder`; memory is used for those
    alone that share a band with another.
    """

    def __init__(self, threshold: float, folder: Path) -> None:
        """Raises UsageError for a threshold at which texts that merely share a subject would be dropped."""
        if threshold < LEAST_THRESHOLD:
            raise UsageError(
                f"near_duplicates is {threshold:g}; texts that share less than {LEAST_THRESHOLD:g} of their "
                "5-grams are no duplicates: give a number between 0.3 and 1, or null to keep all"
            )
        from datasketch import MinHash

        self.threshold = threshold
        self._bands, self._rows = bands(threshold)
        self._path = folder / "bands.bin"
        self._file = self._path.open("wb")
        self._count = 0
        self._hashing = Hashing()
        self._empty = MinHash(PERMUTATIONS, seed=_SEED, hashfunc=int)
        self._weights = np.random.Generator(np.random.PCG64(_SEED)).integers(
            1, 1 << 63, (self._bands, self._rows), dtype=np.uint64
        ) | np.uint64(1)

    def __len__(self) -> int:
        return self._count

    def shingles(self, text: str) -> Hashes:
        """The set of a text's shingles: hashes, sorted, each once."""
        return np.unique(runs(self._hashing.of(text), SHINGLE))

    def add(self, text: str) -> None:
        """Take the next document. One without a word or letter is like no other."""
        found = self.shingles(text)
        if len(found):
            sketch = self._empty.copy()
            sketch.update_batch((found >> np.uint64(32)).tolist())
            values = sketch.hashvalues[: self._bands * self._rows].reshape(self._bands, self._rows)
            keys = (values.astype(np.uint64) * self._weights).sum(axis=1, dtype=np.uint64)
        else:
            own = hashlib.blake2b(self._count.to_bytes(8, "little"), digest_size=64).digest()
            keys = np.resize(np.frombuffer(own, np.uint64), self._bands)
        self._file.write(keys.astype("<u8").tobytes())
        self._count += 1

    def find(self, text_of: Callable[[int], str], progress: Progress) -> dict[int, tuple[int, float]]:
        """Which documents repeat an earlier one that is kept: number → (that one's number, similarity).

        `text_of` gives a document's text again by its number, in the order of `add`. The first of each group is kept.
        """
        self._file.flush()
        if self._count < 2:
            return {}
        table = np.memmap(self._path, "<u8", "r", shape=(self._count, self._bands))
        candidates = _sharing(table)
        buckets: dict[tuple[int, int], list[int]] = {}
        found: dict[int, tuple[int, float]] = {}
        remembered = _Remembered(lambda number: self.shingles(text_of(number)))
        for done, number in enumerate(candidates.tolist()):
            if done % 256 == 0:
                progress("near duplicates", done, len(candidates))
            keys = list(enumerate(table[number].tolist()))
            likeness = Counter(other for key in keys for other in buckets.get(key, ()))
            own: Hashes | None = None
            # Those with the most bands in common first; texts of one template may share a bucket by thousands.
            for other, _ in sorted(likeness.items(), key=lambda item: (-item[1], item[0]))[:_MOST_COMPARED]:
                own = self.shingles(text_of(number)) if own is None else own
                theirs = remembered.get(other)
                if min(len(own), len(theirs)) < self.threshold * max(len(own), len(theirs)):
                    continue
                similarity = jaccard(own, theirs)
                if similarity >= self.threshold:
                    found[number] = (other, similarity)
                    break
            if number not in found:
                for key in keys:
                    buckets.setdefault(key, []).append(number)
        return found

    def close(self) -> None:
        """Remove the file."""
        self._file.close()
        self._path.unlink(missing_ok=True)


def _sharing(table: npt.NDArray[np.uint64]) -> npt.NDArray[np.int64]:
    """Numbers of the documents that share a band's key with another, ascending. One band is in memory at a time."""
    shared = np.zeros(len(table), bool)
    for band in range(table.shape[1]):
        keys = np.asarray(table[:, band])
        order = np.argsort(keys, kind="stable")
        same = keys[order][1:] == keys[order][:-1]
        shared[order[1:][same]] = True
        shared[order[:-1][same]] = True
    return np.flatnonzero(shared)


class _Remembered:
    """Shingles of the documents that were compared last, as many as fit."""

    def __init__(self, make: Callable[[int], Hashes]) -> None:
        self._make = make
        self._kept: OrderedDict[int, Hashes] = OrderedDict()
        self._size = 0

    def get(self, number: int) -> Hashes:
        if number in self._kept:
            self._kept.move_to_end(number)
            return self._kept[number]
        made = self._make(number)
        self._kept[number] = made
        self._size += len(made)
        for old in self._oldest():
            self._size -= len(self._kept.pop(old))
        return made

    def _oldest(self) -> Iterator[int]:
        while self._size > _REMEMBERED_SHINGLES and len(self._kept) > 1:
            yield next(iter(self._kept))
