"""A text → the places where it may be cut, strongest kind first: blocks, rows, sentences, lines, clauses, words.

Everything is arrays over the code points of the whole text, so the cost is linear whatever the text is. It knows no
token and no budget.
"""

import re
from dataclasses import dataclass

import numpy as np

_NEWLINES = (0x0A, 0x0B, 0x0C, 0x0D, 0x1C, 0x1D, 0x1E, 0x85, 0x2028, 0x2029)
_SPACES = (*range(0x09, 0x0E), *range(0x1C, 0x21), 0x85, 0xA0, 0x1680, *range(0x2000, 0x200B), 0x2028, 0x2029, 0x202F,
           0x205F, 0x3000)  # exactly where str.isspace() holds  # fmt: skip
_ENDS = "。！？｡…‥।॥؟۔።"  # end a sentence wherever they stand
_ENDS_BEFORE_SPACE = ".!?"  # end one only before a space
_CLOSERS = "\"')]}”’»」』）】》〉〕］"
_CLAUSES = "，、；：；،؛—–"
_CLAUSES_BEFORE_SPACE = ",;:"
_FURTHEST_BACK = 24  # characters looked at for an abbreviation

_ABBREVIATIONS = frozenset(
    "mr mrs ms dr prof st sr jr rev gen col capt lt sgt hon gov sen rep vs etc e.g i.e cf viz ca approx al fig figs eq "
    "eqs sec secs ch chap vol vols no nos p pp ed eds par art inc ltd co corp dept univ est u.s u.k u.n a.m p.m ph.d "
    "jan feb mar apr jun jul aug sep sept oct nov dec op cit ibid resp incl ref refs ex".split()
)
# Ends a sentence at least as often as it abbreviates where the next word is capitalised.
_AMBIGUOUS = frozenset("etc al no co inc ltd corp ex art par a.m p.m u.s u.k u.n".split())
_LIST_ITEM = re.compile(
    r"(?:[-*+•·‣◦]|\d{1,4}[.)])[ \t\u3000]"
    r"|[(（][a-zA-Z0-9一二三四五六七八九十]{1,3}[)）]|[一二三四五六七八九十\d]{1,3}、"
)
_FENCE = re.compile(r"`{3,}|~{3,}")
_TABLE_RULE = re.compile(r"[|:\-+\s]+")


@dataclass(frozen=True, slots=True)
class Table:
    """A Markdown table in the text, `header` its first row's cells joined; rows are the lines of [start, end)."""

    start: int
    end: int
    header: str


@dataclass(frozen=True, slots=True)
class Boundaries:
    """Ascending offsets at which a new piece may start, by kind. `next_ink[i]` is the first non-space at or after i
    (length if none), `last_ink[i]` one past the last non-space before i (0 if none); both have length + 1 entries."""

    blocks: np.ndarray
    rows: np.ndarray
    sentences: np.ndarray
    lines: np.ndarray
    clauses: np.ndarray
    words: np.ndarray
    tables: tuple[Table, ...]
    next_ink: np.ndarray
    last_ink: np.ndarray


def code_points(text: str) -> np.ndarray:
    """uint32 (n,): one entry per character, lone surrogates included."""
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype=np.uint32)


def _among(codes: np.ndarray, characters: str | tuple[int, ...]) -> np.ndarray:
    wanted = characters if isinstance(characters, tuple) else tuple(map(ord, characters))
    # A table of the plane where all these characters live: np.isin sorts, which costs ten times as much.
    table = np.zeros(0x10000, dtype=bool)
    table[list(wanted)] = True
    return table[np.minimum(codes, 0xFFFF)] & (codes < 0x10000)


def find_boundaries(text: str) -> Boundaries:
    """All places where `text` may be cut. Fenced code and tables are cut between lines, never at sentences."""
    codes = code_points(text)
    length = len(codes)
    space = _among(codes, _SPACES)
    positions = np.arange(length)
    next_ink = np.full(length + 1, length)
    next_ink[:length] = np.where(space, length, positions)
    next_ink = np.minimum.accumulate(next_ink[::-1])[::-1]
    last_ink = np.zeros(length + 1, dtype=np.int64)
    last_ink[1:] = np.maximum.accumulate(np.where(space, 0, positions + 1))

    line_starts = _line_starts(text, codes, next_ink)
    blocks, rows, tables, solid = _structure(text, line_starts, next_ink, last_ink)
    sentences = _sentences(text, codes, space, next_ink)
    sentences = next_ink[sentences[~solid[np.maximum(sentences - 1, 0)]]] if len(sentences) else sentences

    before = np.zeros(length, dtype=bool)
    before[1:] = _among(codes[:-1], _CLAUSES) | (_among(codes[:-1], _CLAUSES_BEFORE_SPACE) & space[1:])
    clauses = next_ink[np.flatnonzero(before)]
    before[1:] = space[:-1] & ~space[1:]
    words = np.flatnonzero(before)
    return Boundaries(
        blocks=blocks,
        rows=rows,
        sentences=sentences,
        lines=line_starts[1:],
        clauses=clauses,
        words=words,
        tables=tables,
        next_ink=next_ink,
        last_ink=last_ink,
    )


def _line_starts(text: str, codes: np.ndarray, next_ink: np.ndarray) -> np.ndarray:
    """Offsets of all lines that are not blank."""
    starts = np.concatenate(([0], np.flatnonzero(_among(codes, _NEWLINES)) + 1))
    starts = starts[starts < len(codes)]
    if not len(starts):
        return starts
    ends = np.append(starts[1:], len(codes))
    return starts[next_ink[starts] < ends]


def _structure(
    text: str, starts: np.ndarray, next_ink: np.ndarray, last_ink: np.ndarray
) -> tuple[np.ndarray, np.ndarray, tuple[Table, ...], np.ndarray]:
    """Line by line: starts of blocks, starts of rows (table rows, list items, code lines), the tables, and a mask of
    the characters inside tables and fences."""
    solid = np.zeros(len(text) + 1, dtype=bool)
    if not len(starts):
        empty = np.zeros(0, dtype=np.int64)
        return empty, empty, (), solid
    inks = next_ink[starts]
    stops = last_ink[np.append(starts[1:], len(text))]
    # A blank line lies between two lines where the text between them holds two newlines; "\r\n" is one.
    after_blank = np.zeros(len(starts), dtype=bool)
    gaps = zip(stops[:-1].tolist(), starts[1:].tolist(), strict=True)
    after_blank[1:] = [end - stop > 1 and _newlines(text, stop, end) > 1 for stop, end in gaps]

    blocks: list[int] = []
    rows: list[int] = []
    tables: list[Table] = []
    fence = ""
    table: list[int] = []
    fenced_from = 0
    lines = zip(starts.tolist(), inks.tolist(), stops.tolist(), after_blank.tolist(), strict=True)
    for start, ink, stop, blank in lines:
        first = text[ink]
        if fence:
            rows.append(start)
            mark = _FENCE.match(text, ink) if first == fence[0] else None
            if mark and len(mark.group()) >= len(fence) and mark.end() >= stop:
                solid[fenced_from:stop] = True
                fence = ""
                blocks.append(stop)
            continue
        in_table = first == "|"
        if table and not in_table:
            _close_table(text, table, tables, solid)
            blocks.append(start)
        if in_table:
            (rows if table else blocks).append(start)
            table = [table[0], table[1], stop] if table else [start, stop, stop]
            continue
        mark = _FENCE.match(text, ink) if first in "`~" else None
        if mark:
            fence, fenced_from = mark.group(), start
            blocks.append(start)
        elif blank:
            blocks.append(start)
        elif _LIST_ITEM.match(text, ink, min(ink + 8, stop)):
            rows.append(start)
    if table:
        _close_table(text, table, tables, solid)
    if fence:
        solid[fenced_from:] = True
    return np.array(blocks, dtype=np.int64), np.array(rows, dtype=np.int64), tuple(tables), solid


def _newlines(text: str, start: int, end: int) -> int:
    """Line ends in a stretch of white space, counted up to two."""
    gap = text[start : min(end, start + 4096)].replace("\r\n", "\n")
    return sum(ord(character) in _NEWLINES for character in gap[:2048])


def _close_table(text: str, table: list[int], tables: list[Table], solid: np.ndarray) -> None:
    start, header_end, end = table
    solid[start:end] = True
    rest = text[header_end : min(end, header_end + 2000)].strip().split("\n", 1)[0]
    header = ""
    if "-" in rest and _TABLE_RULE.fullmatch(rest):
        cells = [" ".join(cell.split()) for cell in text[start : min(header_end, start + 2000)].split("|")]
        header = " | ".join(cell for cell in cells if cell)
    tables.append(Table(start, end, header))


def _sentences(text: str, codes: np.ndarray, space: np.ndarray, next_ink: np.ndarray) -> np.ndarray:
    """Starts of sentences: after a run of end marks and closing quotes that holds an end mark. A run of Western marks
    counts only before a space, not after an abbreviation or an initial, and not before a small letter."""
    if len(codes) < 2:
        return np.zeros(0, dtype=np.int64)
    positions = np.arange(len(codes))
    hard, soft, closing = _among(codes, _ENDS), _among(codes, _ENDS_BEFORE_SPACE), _among(codes, _CLOSERS)
    run = hard | soft | closing
    last_plain = np.maximum.accumulate(np.where(run, -1, positions))
    last_hard = np.maximum.accumulate(np.where(hard, positions, -1))
    last_soft = np.maximum.accumulate(np.where(soft, positions, -1))
    here = np.flatnonzero(run[:-1] & ~run[1:])  # last character of each run
    sure = last_hard[here] > last_plain[here]
    likely = ~sure & (last_soft[here] > last_plain[here]) & space[here + 1]
    certain = here[sure] + 1
    candidates = here[likely]
    marks = last_plain[candidates]  # the character before the run
    kept = [
        end + 1
        for end, before, after in zip(
            candidates.tolist(), marks.tolist(), next_ink[candidates + 1].tolist(), strict=True
        )
        if _ends_sentence(text, before, after)
    ]
    return np.union1d(certain, np.array(kept, dtype=np.int64))


def _ends_sentence(text: str, before: int, after: int) -> bool:
    """Whether the marks after the character at `before` end a sentence, given that the text goes on at `after`."""
    if after >= len(text) or text[after].islower():
        return False
    if before < 0 or text[before + 1] != ".":
        return True
    window = text[max(0, before + 1 - _FURTHEST_BACK) : before + 1]
    words = window.split()
    if not words or window[-1].isspace():
        return True
    word = words[-1].lstrip("([\"'“‘").lower()
    if word in _ABBREVIATIONS:
        return word in _AMBIGUOUS and text[after].isupper()
    return not (len(word) == 1 and word.isalpha() and words[-1][-1].isupper())
