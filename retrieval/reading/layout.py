"""Lines of a page with their places in, paragraphs, headings and tables out. Knows geometry, not PDF.

Every rule is linear in the number of lines: a page may hold a hundred thousand.
"""

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from retrieval.reading.building import markdown_table

_CJK = re.compile("[\u2e80-\u303f\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff\uff00-\uffef]")
_MARKER = re.compile(r"(?:[•●○▪■–—*·-]|\(?\w{1,4}[.)、:]|\(\w{1,4}\)|\d+(?:\.\d+)*|第.{1,4}[条章节條節])")
_NUMBER = re.compile(r"(\d{1,2}(?:\.\d{1,2}){0,4})[.)]?\s+\S")
_LETTERS = re.compile(r"[^\W\d_]")


@dataclass(slots=True)
class Line:
    """One visual line. Edges and type size in points; `cells` are its pieces (left, right, text) where wide gaps cut
    it, empty if none does; `hyphen`: its last word goes on in the next line."""

    text: str
    left: float
    right: float
    top: float
    bottom: float
    size: float
    bold: bool
    cells: tuple[tuple[float, float, str], ...] = ()
    hyphen: bool = False


@dataclass(frozen=True, slots=True)
class Block:
    """A paragraph, a table or (with a level) a heading."""

    text: str
    heading: int | None = None


def blocks(pages: list[list[Line]], outline: dict[int, list[tuple[int, str]]]) -> Iterator[list[Block]]:
    """Each page's blocks. `outline`: page index -> [(level, title)]; where it is empty, type size makes headings."""
    style = _Style(pages)
    for number, lines in enumerate(pages):
        wanted = {_key(title): level for level, title in outline.get(number, [])}
        page: list[Block] = []
        rows = _merge_rows(lines)
        margin = _right_margins(rows)
        for group in _groups(rows):
            if isinstance(group, str):
                page.append(Block(group))
                continue
            page += _paragraph_or_heading(group, wanted, style if not outline else None, margin)
        yield page


class _Style:
    """What the document's type tells: its body size, the sizes above it, and the lines that repeat on every page."""

    def __init__(self, pages: list[list[Line]]) -> None:
        sizes: Counter[float] = Counter()
        bold = total = 0
        repeated: Counter[str] = Counter()
        for lines in pages:
            for line in lines:
                sizes[line.size] += len(line.text)
                total += len(line.text)
                bold += len(line.text) if line.bold else 0
            edge = lines[:3] + lines[-3:]
            repeated.update({_running(line.text) for line in edge})
        self.body = sizes.most_common(1)[0][0] if sizes else 10.0
        larger = sorted((size for size in sizes if size >= self.body * 1.12), reverse=True)
        self.level = {size: min(rank, 5) for rank, size in enumerate(larger, start=1)}
        self.bold_counts = bold < total * 0.3
        self.lowest = min(len(larger) + 1, 6)
        often = max(3, len(pages) // 2)
        self.running = {text for text, count in repeated.items() if count >= often}

    def heading_level(self, lines: list[Line]) -> int | None:
        text = " ".join(line.text for line in lines)
        if len(lines) > 3 or not 2 <= len(text) <= 160 or len(_LETTERS.findall(text)) < max(2, len(text) * 0.4):
            return None
        if text.endswith((",", ";", "。", "，", "；")) or _running(lines[0].text) in self.running:
            return None
        if text.endswith(".") and not text.isupper() and len(text) > 60:
            return None
        size = min(line.size for line in lines)
        if size in self.level:
            return self.level[size]
        number = _NUMBER.match(text)
        if self.bold_counts and all(line.bold for line in lines) and size >= self.body * 0.95:
            return min(self.lowest + (number[1].count(".") if number else 0), 6)
        if len(lines) == 1 and text.isupper() and len(text) <= 80 and size >= self.body * 0.95 and " " in text:
            return self.lowest
        return None


def _running(text: str) -> str:
    return re.sub(r"\d+", "#", text).strip().lower()


def _key(text: str) -> str:
    return "".join(text.split()).lower()


def _merge_rows(lines: list[Line]) -> list[Line]:
    """Neighbours on one baseline become one line with cells: a table's row may come cell by cell."""
    merged: list[Line] = []
    for line in lines:
        last = merged[-1] if merged else None
        if last is None or not _same_row(last, line) or line.left < last.right:
            merged.append(line)
            continue
        cells = (last.cells or ((last.left, last.right, last.text),)) + (
            line.cells or ((line.left, line.right, line.text),)
        )
        text = f"{last.text} {line.text}"
        top, bottom = max(last.top, line.top), min(last.bottom, line.bottom)
        wide_gap = line.left - last.right > 1.5 * last.size
        merged[-1] = Line(
            text,
            last.left,
            line.right,
            top,
            bottom,
            last.size,
            last.bold and line.bold,
            cells if wide_gap else last.cells,
        )
    return merged


def _same_row(one: Line, two: Line) -> bool:
    overlap = min(one.top, two.top) - max(one.bottom, two.bottom)
    return overlap > 0.6 * min(one.top - one.bottom, two.top - two.bottom) > 0


def _groups(rows: list[Line]) -> Iterator[list[Line] | str]:
    """Runs of lines that belong together, in order; a table comes as its Markdown."""
    group: list[Line] = []
    index = 0
    while index < len(rows):
        end = index
        while end < len(rows) and len(rows[end].cells) > 1 and (end == index or _near(rows[end - 1], rows[end])):
            end += 1
        table = _table(rows[index:end]) if end - index >= 2 else ""
        if table:
            if group:
                yield group
                group = []
            yield table
            index = end
            continue
        for row in rows[index : max(end, index + 1)]:
            if group and _breaks(group, row):
                yield group
                group = []
            group.append(row)
        index = max(end, index + 1)
    if group:
        yield group


def _near(above: Line, below: Line) -> bool:
    return 0 <= above.top - below.top < 4 * max(above.size, below.size, 4)


def _table(rows: list[Line]) -> str:
    """The rows as a Markdown table if their pieces stand in columns, else ""."""
    spans = sorted((left, right) for row in rows for left, right, _ in row.cells)
    columns: list[list[float]] = []
    for left, right in spans:
        if columns and left <= columns[-1][1]:
            columns[-1][1] = max(columns[-1][1], right)
        else:
            columns.append([left, right])
    if len(columns) < 2 or len(columns) > 40 or len(rows) + len(columns) < 5:
        return ""
    widest = max(len(row.cells) for row in rows)
    if len(columns) < widest * 0.6:
        return ""
    marked = sum(all(_MARKER.fullmatch(text) for _, _, text in row.cells[:-1]) for row in rows)
    prose = sum(len(text) for row in rows for _, _, text in row.cells) / sum(len(row.cells) for row in rows)
    if marked > len(rows) / 2 or (len(columns) == 2 and prose > 45):
        return ""  # a numbered list, or two columns of prose
    table: list[list[str]] = []
    for row in rows:
        cells = [""] * len(columns)
        at = 0
        for left, _, text in row.cells:
            while at + 1 < len(columns) and left > columns[at][1]:
                at += 1
            cells[at] = f"{cells[at]} {text}".strip()
        table.append(cells)
    return markdown_table(table)


def _breaks(group: list[Line], line: Line) -> bool:
    """Whether `line` begins a new paragraph after `group`."""
    last = group[-1]
    drop = last.top - line.top
    size = max(last.size, line.size, 4)
    if len(group) == 1 and (_capitals(last.text) and not _capitals(line.text) or last.text.isdecimal()):
        return True  # a heading in capitals, a page number
    if _capitals(line.text) and not _capitals(last.text):
        return True
    if abs(last.size - line.size) > 0.12 * size or last.bold != line.bold and (last.bold or len(group) == 1):
        return True
    if drop < -size * 0.5 or drop > 1.9 * size:  # a new column, or more than a line's distance
        return True
    if len(group) >= 2:
        usual = group[-2].top - last.top
        if usual > 0 and drop > 1.35 * usual:
            return True
    indent = line.left - last.left
    if indent > 1.2 * size and len(group) >= 2 and abs(last.left - group[-2].left) < 0.5 * size:
        return True
    return bool(_MARKER.match(line.text)) and line.text[:1] in "•●○▪■–—"


def _capitals(text: str) -> bool:
    return text.isupper() and 4 <= len(text) <= 80 and " " in text and text[-1] not in ",;"


def _right_margins(rows: list[Line]) -> dict[int, float]:
    """Where lines that begin at about one place (20 points) usually end."""
    ends: dict[int, list[float]] = {}
    for row in rows:
        ends.setdefault(round(row.left / 20), []).append(row.right)
    return {place: sorted(found)[int(0.9 * (len(found) - 1))] for place, found in ends.items()}


def _paragraph_or_heading(
    group: list[Line], wanted: dict[str, int], style: "_Style | None", margin: dict[int, float]
) -> list[Block]:
    if style is not None:
        level = style.heading_level(group)
        return [Block(_joined(group, margin), level)]
    found: list[Block] = []
    rest: list[Line] = []
    index = 0
    while index < len(group):
        taken, level = _outline_heading(group, index, wanted)
        if taken:
            if rest:
                found.append(Block(_joined(rest, margin)))
                rest = []
            found.append(Block(" ".join(line.text for line in group[index : index + taken]), level))
        else:
            rest.append(group[index])
        index += taken or 1
    if rest:
        found.append(Block(_joined(rest, margin)))
    return found


def _outline_heading(group: list[Line], index: int, wanted: dict[str, int]) -> tuple[int, int]:
    """(lines taken, level) if the next one to three lines are a title of the outline, with or without its number."""
    text = ""
    for taken, line in enumerate(group[index : index + 3], start=1):
        text += _key(line.text)
        for key in (text, re.sub(r"^(?:chapter|section|part)?[\divx.]+[.:)]?", "", text)):
            if key and key in wanted:
                return taken, wanted.pop(key)
    return 0, 0


def _joined(lines: list[Line], margin: dict[int, float]) -> str:
    """A paragraph's lines: a full line runs on into the next, a short one ends."""
    text = lines[0].text
    for line, following in zip(lines, lines[1:], strict=False):
        edge = margin.get(round(line.left / 20), line.right)
        full = line.right >= edge - 0.2 * max(edge - line.left, 1)
        if line.hyphen:
            joint = ""
        elif not full:
            joint = "\n"
        elif _CJK.match(text[-1:]) and _CJK.match(following.text[:1]):
            joint = ""
        else:
            joint = "" if text.endswith("-") else " "
        text += joint + following.text
    return text
