"""A question and passages that have too little room → what the model reads of each: its most telling sentences, with
their neighbours, in their order, gaps shown as "…". The passages themselves stay as they are.

Extractive compression: RECOMP (Xu et al. 2023, arXiv:2310.04408); that selection keeps more than rewriting or dropping
tokens, Jha et al. 2024 (arXiv:2407.08892). A heading stays with what stands below it, a table keeps its header, a block
of code is never cut.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from retrieval.boundaries import find_boundaries
from retrieval.passages import Hit
from retrieval.quoting import scored_sentences
from retrieval.sentences import sentence_spans
from retrieval.support import HEADING

if TYPE_CHECKING:
    from retrieval.embedding.embedder import Embedder

GAP = "…"
TELLING = 0.5
"""Share of the best sentence's score from which a sentence goes before the neighbours of a better one."""
_FENCE = re.compile(r"^[ \t]*(`{3,}|~{3,})", re.MULTILINE)


@dataclass(slots=True)
class _Unit:
    """A stretch that is kept or left out whole; `with_it` are places of units that it is not understood without, `row`
    whether it is one of a table."""

    start: int
    end: int
    score: float = 0.0
    with_it: tuple[int, ...] = ()
    row: bool = False


def shorten(
    question: str,
    hits: Sequence[Hit],
    *,
    room: int,
    count: Callable[[str], int],
    embedder: "Embedder | None" = None,
) -> list[str]:
    """The text to show of each hit, in order, together at most about `room` tokens by `count`: each keeps its best
    unit, so that very little room is overdrawn. A passage that is kept whole is its own text, to the letter."""
    units = [_units(hit.passage.text) for hit in hits]
    for candidate in scored_sentences(question, hits, embedder=embedder):
        for unit in units[candidate.hit]:
            if unit.start < candidate.end and candidate.start < unit.end:
                unit.score = max(unit.score, candidate.score)
    costs = [
        [count(hit.passage.text[unit.start : unit.end]) for unit in found]
        for hit, found in zip(hits, units, strict=True)
    ]
    kept: list[set[int]] = [set() for _ in hits]
    left = room

    def keep(places: Sequence[tuple[int, int]]) -> None:
        nonlocal left
        for n, u in places:
            new = _closure(u, units[n]) - kept[n]
            cost = sum(costs[n][place] for place in new)
            if cost <= left or not kept[n]:  # each keeps its best, so that none is left with nothing
                kept[n] |= new
                left -= cost

    order = sorted(((n, u) for n, found in enumerate(units) for u in range(len(found))), key=lambda p: _rank(units, p))
    best = {n: next((place for place in order if place[0] == n), None) for n in range(len(hits))}
    keep([place for place in best.values() if place is not None])
    least = TELLING * max((unit.score for found in units for unit in found), default=0.0)
    telling = [(n, u) for n, u in order if units[n][u].score >= max(least, 1e-9)]
    keep(telling)
    # A sentence is understood by those around it; a row of a table by its header, which comes along.
    keep(
        [(n, other) for n, u in telling for other in (u - 1, u + 1) if _prose(n, u, units) and _prose(n, other, units)]
    )
    keep(order)
    return [_shown(hit.passage.text, found, chosen) for hit, found, chosen in zip(hits, units, kept, strict=True)]


def _rank(units: Sequence[Sequence[_Unit]], place: tuple[int, int]) -> tuple[float, int, int]:
    return (-units[place[0]][place[1]].score, *place)


def _prose(n: int, place: int, units: Sequence[Sequence[_Unit]]) -> bool:
    return 0 <= place < len(units[n]) and not units[n][place].row


def _closure(place: int, units: Sequence[_Unit]) -> set[int]:
    """A unit and those that it is not understood without."""
    return {place, *units[place].with_it}


def _units(text: str) -> list[_Unit]:
    """Code blocks, table rows, headings and sentences, covering all ink of the text."""
    solid = _code(text)
    tables = find_boundaries(text).tables
    spans: list[tuple[int, int]] = list(solid)
    for start, end in sentence_spans(text):
        if not any(first < end and start < last for first, last in solid):
            spans.append((start, end))
    spans.sort()
    units = [_Unit(start, end) for start, end in spans]
    heading: list[int] = []
    for place, unit in enumerate(units):
        above = []
        if HEADING.match(text, unit.start):
            heading = [place]
        else:
            above += heading
        for table in tables:
            if table.start <= unit.start < table.end:
                first = next(n for n, other in enumerate(units) if other.start >= table.start)
                above += [first]
                unit.row = True
        unit.with_it = tuple(sorted({n for n in above if n != place}))
    return units


def _code(text: str) -> list[tuple[int, int]]:
    """Spans of fenced blocks, an open one to the end."""
    found: list[tuple[int, int]] = []
    opened: re.Match[str] | None = None
    for match in _FENCE.finditer(text):
        if opened is None:
            opened = match
        elif match[1][0] == opened[1][0] and len(match[1]) >= len(opened[1]):
            line = text.find("\n", match.end())
            found.append((opened.start(), len(text) if line < 0 else line))
            opened = None
    if opened is not None:
        found.append((opened.start(), len(text)))
    return found


def _shown(text: str, units: Sequence[_Unit], kept: set[int]) -> str:
    if len(kept) == len(units):
        return text
    parts: list[str] = []
    position = 0
    last = -1
    for place in sorted(kept):
        unit = units[place]
        between = text[position : unit.start]
        if place == last + 1:
            parts.append(between if parts or not between.strip() else "")
        else:
            # On a line of its own where the text begins a new one there.
            parts.append(f"{chr(10) if parts and chr(10) in between else ' ' if parts else ''}{GAP}")
            parts.append("\n" if "\n" in between else " ")
        parts.append(text[unit.start : unit.end])
        position, last = unit.end, place
    if last + 1 < len(units):
        parts.append(f"{chr(10) if chr(10) in text[position : units[last + 1].start] else ' '}{GAP}")
    return "".join(parts).strip()
