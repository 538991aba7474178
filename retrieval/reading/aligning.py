"""Stretches of a page's stored text in, the same letters among those that stand on the page out, or nothing.

A stretch is placed only where its letters are the page's letters, all of them and in order: what cannot be placed
beyond doubt is not placed, for a mark on other words would be a false citation.
"""

import unicodedata
from collections.abc import Iterable, Sequence
from functools import lru_cache

# Reading joins lines, hyphens and table cells (layout.py, building.py): these differ between the page and its text.
_ADDED_OR_DROPPED = frozenset("-\u2010\u2011|\\")
# Letters of the surroundings that tell two equal stretches apart, tried in turn.
_CONTEXTS = ((0, 0), (24, 24), (24, 0), (0, 24), (120, 120), (120, 0), (0, 120))


@lru_cache(maxsize=20_000)
def _letters_of(character: str) -> str:
    """What a character is compared as: ligatures and composed letters taken apart, nothing that cannot be seen."""
    return "".join(
        part
        for part in unicodedata.normalize("NFKD", character)
        if part not in _ADDED_OR_DROPPED and unicodedata.category(part)[0] not in "CZ"
    )


def letters(characters: Iterable[tuple[int, str]]) -> tuple[str, list[int]]:
    """The letters to compare by, and for each of them the number its character came with."""
    found: list[str] = []
    numbers: list[int] = []
    for number, character in characters:
        for letter in _letters_of(character):
            found.append(letter)
            numbers.append(number)
    return "".join(found), numbers


def align(page: Iterable[tuple[int, str]], text: str, spans: Sequence[tuple[int, int]]) -> list[tuple[int, int] | None]:
    """For each span of `text` the first and last number of its characters on the `page`; None where that is not sure.

    `page` gives (number, character) in reading order, `text` is what was stored of the same page.
    """
    shown, numbers = letters(page)
    stored, offsets = letters(enumerate(text))
    found: list[tuple[int, int] | None] = []
    for start, end in spans:
        first, last = _first(offsets, start), _first(offsets, end) - 1
        at = None
        if first <= last:  # there is something to see in it
            at = first if shown == stored else _only_place(shown, stored, first, last + 1)
        found.append(None if at is None else (numbers[at], numbers[at + last - first]))
    return found


def _first(offsets: Sequence[int], start: int) -> int:
    """The first letter whose character stands at `start` or later."""
    low, high = 0, len(offsets)
    while low < high:
        middle = (low + high) // 2
        low, high = (middle + 1, high) if offsets[middle] < start else (low, middle)
    return low


def _only_place(shown: str, stored: str, first: int, end: int) -> int | None:
    """Where `stored[first:end]` stands in `shown`, if it, or it with what surrounds it, occurs once in both."""
    for before, after in _CONTEXTS:
        left = max(0, first - before)
        probe = stored[left : end + after]
        if shown.count(probe) == 1 and stored.count(probe) == 1:
            return shown.index(probe) + first - left
    return None
