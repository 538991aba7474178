"""Blocks of text in, one normalised text with exact heading and page offsets out; also rows in, Markdown tables out.

Every parser of a format without a plain-text source builds its document here. Knows no format.
"""

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from retrieval.passages import Heading, Scalar
from retrieval.reading.normalising import normalise, one_line

_SPACES = re.compile(r"[^\S\n]+")
_MANY_BREAKS = re.compile(r"\n{3,}")
_CJK = "\u2e80-\u303f\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff\uff00-\uffef"
_CJK_BREAK = re.compile(f"(?<=[{_CJK}])[ \t\r\f]*\n\\s*(?=[{_CJK}])")
_ANY_SPACE = re.compile(r"[ \t\r\n\f\u00a0]+")

# Short rows are filled up to the longest one's cells while that is at most so many: not 10,000 rows of 10,000 cells
# each because of one long row.
MAX_FILLED = 500


@dataclass(slots=True)
class Parsed:
    """What a parser makes of a file: a Document (retrieval/passages.py) without its name and hash.

    `removed` counts invisible characters by kind; worker.py turns the counts into warnings.
    """

    text: str
    format: str
    title: str = ""
    page_starts: list[int] = field(default_factory=list)
    headings: list[Heading] = field(default_factory=list)
    metadata: dict[str, Scalar] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    removed: Counter[str] = field(default_factory=Counter)


class Builder:
    """Appends blocks, normalising each, and keeps the offsets of headings and pages true to the joined text.

    `removed` counts the invisible characters that went; give one to share or continue a count.
    """

    def __init__(self, removed: Counter[str] | None = None) -> None:
        self._parts: list[str] = []
        self._length = 0
        self._pending_pages = 0
        self._pages: list[int] = []
        self._headings: list[Heading] = []
        self.removed: Counter[str] = removed if removed is not None else Counter()
        self.warnings: list[str] = []

    def block(self, text: str, *, heading: int | None = None, tight: bool = False) -> None:
        """Append a paragraph, list item or table after an empty line (`tight`: after a line break).

        `heading` makes it a heading of that level, on one line. Nothing visible is nothing.
        """
        text = normalise(text, self.removed)
        text = one_line(text, 1000) if heading is not None else _MANY_BREAKS.sub("\n\n", text).strip("\n").rstrip()
        if not text.strip():
            return
        if self._parts:
            gap = "\n" if tight else "\n\n"
            self._parts.append(gap)
            self._length += len(gap)
        self._pages += [self._length] * self._pending_pages
        self._pending_pages = 0
        if heading is not None:
            self._headings.append(Heading(self._length, max(1, heading), one_line(text)))
        self._parts.append(text)
        self._length += len(text)

    def page(self) -> None:
        """The next block begins a new page. A page without text begins where the next one does."""
        self._pending_pages += 1

    def include(self, parsed: Parsed) -> None:
        """Append another document's text with its headings: a mail's HTML part, a chapter, a notebook's cell."""
        if not parsed.text.strip():
            return
        if self._parts:
            self._parts.append("\n\n")
            self._length += 2
        self._headings += [Heading(self._length + h.start, h.level, h.title) for h in parsed.headings]
        self._parts.append(parsed.text)
        self._length += len(parsed.text)
        self.warnings += parsed.warnings
        self.removed.update(parsed.removed)

    def table(self, rows: Iterable[Sequence[str]]) -> None:
        """Append rows as a Markdown table; a single row has no header."""
        cells = [[normalise(cell, self.removed) for cell in row] for row in rows]
        self.block(markdown_table(cells, header=len(cells) > 1))

    def build(self, format_name: str, title: str = "", metadata: dict[str, Scalar] | None = None) -> Parsed:
        """The document so far."""
        text = "".join(self._parts)
        pages = self._pages + [self._length] * self._pending_pages
        if not title and self._headings:
            title = self._headings[0].title
        return Parsed(text, format_name, title, pages, self._headings, metadata or {}, self.warnings, self.removed)


def flowing(text: str) -> str:
    """Text in which line breaks mean nothing (HTML): spaces joined, none between two ideographs at a line break."""
    return _ANY_SPACE.sub(" ", _CJK_BREAK.sub("", text)).strip()


def markdown_table(rows: Iterable[Sequence[str]], *, header: bool = True) -> str:
    """Rows of cells as a Markdown pipe table; the first row is the header unless `header` is False.

    Short rows are filled up, columns without any content dropped; "|" is escaped and line breaks become <br>.
    """
    cells = [[_cell(cell) for cell in row] for row in rows]
    cells = [row for row in cells if any(row)]
    width = max((len(row) for row in cells), default=0)
    used = sorted({column for row in cells for column, cell in enumerate(row) if cell})
    if not used:
        return ""
    if len(used) < width:
        cells = [[row[column] for column in used if column < len(row)] for row in cells]
    if not header:
        cells.insert(0, [""] * len(used))
    width = len(used) if len(used) <= MAX_FILLED else 0
    lines = [_line(row, width) for row in cells]
    lines.insert(1, "|" + " --- |" * len(used))
    return "\n".join(lines)


def _line(row: Sequence[str], width: int) -> str:
    return "| " + " | ".join([*row, *[""] * (width - len(row))]) + " |"


def _cell(text: str) -> str:
    text = normalise(text).strip()
    if "|" in text:
        text = text.replace("|", "\\|")
    return "<br>".join(_SPACES.sub(" ", line).strip() for line in text.split("\n")) if "\n" in text else text
