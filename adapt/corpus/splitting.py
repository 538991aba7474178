"""Documents → those that are trained on and those that are held out, by the hash of their content.

A document stays on its side when others are added, and on the same side in every corpus. It knows no file.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

from eval.data.texts import FEW, block_ends

BY_DOCUMENT = "documents"
BY_PART = "parts"


@dataclass(frozen=True, slots=True)
class Split:
    """How a corpus is split: by which unit, with which of their numbers held out, and what is to be said about it."""

    by: str
    held_out: frozenset[int]
    note: str = ""


def place(content: bytes) -> float:
    """Where a text stands between 0 and 1, by its content's key; those below the share are held out."""
    digest = hashlib.blake2b(content, digest_size=8, person=b"held out").digest()
    return int.from_bytes(digest, "little") / 2**64


def choose(places: Sequence[float], share: float) -> frozenset[int]:
    """The numbers held out of those that stand at `places`: at least one if any shall be, and not all unless all shall
    be; a single one cannot be split and is trained on."""
    if share <= 0.0 or not places:
        return frozenset()
    if share >= 1.0:
        return frozenset(range(len(places)))
    if len(places) == 1:
        return frozenset()
    order = sorted(range(len(places)), key=lambda number: (places[number], number))
    count = sum(found < share for found in places)
    return frozenset(order[: min(max(count, 1), len(places) - 1)])


def by_document(places: Sequence[float], share: float) -> Split | None:
    """A split by whole documents, or None where they are too few to stand for each other."""
    if len(places) < FEW and 0.0 < share < 1.0:
        return None
    return Split(BY_DOCUMENT, choose(places, share))


def blocks(text: str) -> list[str]:
    """A text in parts of about 4,000 characters, cut after paragraphs where there are any: put together, the text."""
    ends = block_ends(text)
    return [text[start:end] for start, end in zip((0, *ends), ends, strict=False)]


def rejoined(parts: Sequence[str], held_out: Sequence[bool]) -> list[tuple[bool, int, str]]:
    """Neighbours on the same side put together again: (held out, number of the first from 1, text)."""
    found: list[tuple[bool, int, list[str]]] = []
    for number, (part, out) in enumerate(zip(parts, held_out, strict=True), 1):
        if found and found[-1][0] == out:
            found[-1][2].append(part)
        else:
            found.append((out, number, [part]))
    return [(out, number, "".join(texts)) for out, number, texts in found]
