"""A text → its units (words; single characters where a script writes no spaces) and hashes of runs of n of them.

Compares texts by content: case, punctuation, spacing and the width of letters do not count. It knows no document.
"""

import hashlib
import re
import unicodedata
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

Hashes = npt.NDArray[np.uint64]

# Han, kana, Bopomofo, Thai, Lao, Myanmar, Khmer: a word cannot be told by its spaces, so a character is the unit.
_SINGLE = (
    "\u3005-\u3007\u3041-\u3096\u30a1-\u30fa\u3105-\u312f\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
    "\U00020000-\U0003ffff\u0e01-\u0e3a\u0e40-\u0e5b\u0e81-\u0edf\u1000-\u109f\u1780-\u17ff"
)
_UNIT = re.compile(rf"[{_SINGLE}]|[^\W{_SINGLE}]+")
_KNOWN_WORDS = 1 << 20
_FACTOR = np.uint64(0x9E3779B97F4A7C15)


def plain(text: str) -> str:
    """The text as it is compared: compatibility forms unified (NFKC), lower case."""
    if not text.isascii():
        text = unicodedata.normalize("NFKC", text)
    return text.lower()


def units(text: str) -> list[str]:
    """Words and single characters of `plain(text)`, in order."""
    return _UNIT.findall(plain(text))


def spans(text: str) -> list[tuple[int, int]]:
    """Where the units stand in `plain(text)`, half-open."""
    return [match.span() for match in _UNIT.finditer(plain(text))]


class Hashing:
    """Units → 64-bit hashes that are the same on every machine. Remembers the last million or so words it met."""

    def __init__(self) -> None:
        self._known: dict[str, int] = {}

    def of(self, text: str) -> Hashes:
        """One hash for each unit of the text, in order."""
        found = units(text)
        known = self._known
        if len(known) > _KNOWN_WORDS:
            known.clear()
        for word in [word for word in set(found) if word not in known]:
            known[word] = int.from_bytes(hashlib.blake2b(word.encode(), digest_size=8).digest(), "little")
        return np.fromiter((known[word] for word in found), np.uint64, len(found))


def growing_runs(hashes: Hashes, longest: int) -> Iterator[tuple[int, Hashes]]:
    """(length, hashes of all runs of so many units, in order) for every length from 1 on. Order counts."""
    whole = np.zeros(len(hashes), np.uint64)
    for length in range(1, min(longest, len(hashes)) + 1):
        count = len(hashes) - length + 1
        # A polynomial modulo 2^64 alone would leave the low bits weak: each step is mixed before the next.
        whole = (whole[:count] + hashes[length - 1 :]) * _FACTOR
        whole ^= whole >> np.uint64(29)
        yield length, whole


def runs(hashes: Hashes, length: int) -> Hashes:
    """Hashes of all runs of `length` units, in order; a shorter text is one run, an empty one none."""
    if not len(hashes):
        return hashes
    *_, (_, found) = growing_runs(hashes, length)
    return found
