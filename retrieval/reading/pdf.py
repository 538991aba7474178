"""PDF in, text by pages with paragraphs, headings and plain tables out, from pdfium's characters and their places.

pdfium gives characters in reading order with boxes; lines, paragraphs (layout.py) and tables are worked out from them.
Knows nothing of other formats; reads no picture: a scanned page is reported as having no text.
"""

import ctypes
import re
from collections import Counter
from itertools import zip_longest

import pypdfium2
import pypdfium2.raw as pdfium

from retrieval.passages import Scalar
from retrieval.reading.building import Builder, Parsed
from retrieval.reading.layout import Line, blocks
from retrieval.reading.normalising import one_line
from retrieval.reading.refusal import Refusal

_ERRORS = {
    pdfium.FPDF_ERR_PASSWORD: ("encrypted", "is protected by a password; save a copy without one."),
    pdfium.FPDF_ERR_SECURITY: ("encrypted", "is protected in a way that cannot be opened; save a copy without it."),
}
_DAMAGED = ("corrupt", "is a damaged PDF that cannot be opened; download or export it again.")
_JUNK_TITLE = re.compile(
    r"untitled|microsoft (word|powerpoint|excel)|\.(docx?|pdf|tex|dvi|indd|qxd|pptx?)$|^\W*$", re.I
)
_DATE = re.compile(r"(?:D:)?(\d{4})(\d{2})?(\d{2})?")
_HYPHEN = "\ufffe"  # what pdfium gives for a hyphen at the end of a line
_MAX_OUTLINE = 5_000


def open_pdf(data: bytes) -> "pypdfium2.PdfDocument":
    """The PDF, opened without a password. Raises Refusal: "encrypted", "corrupt"."""
    try:
        return pypdfium2.PdfDocument(data)
    except pypdfium2.PdfiumError as problem:
        reason, message = _ERRORS.get(getattr(problem, "err_code", 0) or 0, _DAMAGED)
        raise Refusal(reason, message) from problem


def parse_pdf(data: bytes) -> Parsed:
    """Text of every page, page offsets, headings (from the outline, else from type size), metadata.

    Raises Refusal: "encrypted", "corrupt", "no-text".
    """
    document = open_pdf(data)
    if len(document) == 0:
        raise Refusal("no-text", "is a PDF without pages; export it again.")
    pages: list[list[Line]] = []
    broken: list[int] = []
    unmapped = 0
    for number in range(len(document)):
        try:
            lines, bad = _page_lines(document, number)
        except pypdfium2.PdfiumError:
            lines, bad = [], 0
            broken.append(number + 1)
        pages.append(lines)
        unmapped += bad
    if not any(pages):
        raise Refusal(
            "no-text" if len(broken) < len(pages) else "corrupt",
            f"has no text on its {len(pages):,} pages (scanned pictures?); run OCR on it first."
            if len(broken) < len(pages)
            else "is a damaged PDF: none of its pages can be read; download or export it again.",
        )
    return _assemble(document, pages, broken, unmapped)


def _assemble(document: "pypdfium2.PdfDocument", pages: list[list[Line]], broken: list[int], unmapped: int) -> Parsed:
    _join_hyphens(pages)
    outline = _outline(document)
    out = Builder()
    for page in blocks(pages, outline):
        out.page()
        for block in page:
            out.block(block.text, heading=block.heading)
    empty = [i + 1 for i, lines in enumerate(pages) if not lines and i + 1 not in broken]
    if broken:
        out.warnings.append(f"could not read {_numbers(broken)}: damaged")
    if empty:
        out.warnings.append(f"no text on {_numbers(empty)}: pictures or empty")
    if unmapped:
        out.warnings.append(f"{unmapped:,} characters have no Unicode value in the file's fonts and may be wrong")
    info = document.get_metadata_dict(skip_empty=True)
    metadata: dict[str, Scalar] = {}
    for key in ("Author", "Subject", "Keywords"):
        value = one_line(info.get(key, ""))
        if value:
            metadata[key.lower()] = value
    date = _DATE.match(info.get("CreationDate", "") or info.get("ModDate", ""))
    if date:
        metadata["date"] = "-".join(part for part in date.groups() if part)
    metadata["pages"] = len(pages)
    title = one_line(info.get("Title", ""))
    parsed = out.build("pdf", "" if _JUNK_TITLE.search(title) else title, metadata)
    if not parsed.text.strip():
        raise Refusal("no-text", f"has no visible text on its {len(pages):,} pages; run OCR on it first.")
    return parsed


def _page_lines(document: "pypdfium2.PdfDocument", number: int) -> tuple[list[Line], int]:
    """The page's lines in reading order, and how many characters its fonts do not explain."""
    page = document[number]
    try:
        text_page = page.get_textpage()
        try:
            return _read_lines(text_page)
        finally:
            text_page.close()
    finally:
        page.close()


def _read_lines(text_page: "pypdfium2.PdfTextPage") -> tuple[list[Line], int]:
    count = text_page.count_chars()
    if count <= 0:
        return [], 0
    text = text_page.get_text_range(0, count)
    if len(text) != count:  # characters beyond the basic plane, or dropped ones: take them one by one
        text = "".join(chr(pdfium.FPDFText_GetUnicode(text_page, i) or 32) for i in range(count))
    box = _Boxes(text_page)
    lines: list[Line] = []
    unmapped = 0
    for match in re.finditer(r"[^\r\n\x00]+", text):
        raw = match.group()
        first = match.start() + len(raw) - len(raw.lstrip())
        raw = raw.strip()
        if not raw:
            continue
        last = first + len(raw) - 1
        middle = (first + last) // 2
        unmapped += _unmapped(text_page, first, last)
        left, bottom, right, top = box.span(first, last)
        size = max(pdfium.FPDFText_GetFontSize(text_page, first), pdfium.FPDFText_GetFontSize(text_page, middle))
        height = top - bottom
        if size <= 1.5:  # some writers scale a font of size 1 by the text matrix
            size = height
        weight = min(pdfium.FPDFText_GetFontWeight(text_page, i) for i in (first, last))
        cells = _cells(raw, first, box, size)
        raw = _bmp(raw).replace("\xa0", " ")
        lines.append(Line(raw, left, right, top, bottom, round(size * 2) / 2, weight >= 600, cells))
    return lines, unmapped


class _Boxes:
    """Character boxes of one page, in points from its lower left corner."""

    def __init__(self, text_page: "pypdfium2.PdfTextPage") -> None:
        self._page = text_page
        self._edges = tuple(ctypes.c_double() for _ in range(4))

    def of(self, index: int) -> tuple[float, float, float, float]:
        """(left, bottom, right, top)."""
        left, right, bottom, top = self._edges
        pdfium.FPDFText_GetCharBox(self._page, index, left, right, bottom, top)
        return left.value, bottom.value, right.value, top.value

    def span(self, first: int, last: int) -> tuple[float, float, float, float]:
        """Box around the first, middle and last of a line's characters: three suffice, and cost a tenth of all."""
        found = [self.of(index) for index in sorted({first, (first + last) // 2, last})]
        return (
            min(box[0] for box in found),
            min(box[1] for box in found),
            max(box[2] for box in found),
            max(box[3] for box in found),
        )


def _cells(raw: str, first: int, box: _Boxes, size: float) -> tuple[tuple[float, float, str], ...]:
    """The line cut where a gap is wider than one and a half times the type: (left, right, text) per piece."""
    cuts = [0]
    edges: list[float] = []
    for match in re.finditer(r"[ \xa0]+", raw):
        before, after = box.of(first + match.start() - 1), box.of(first + match.end())
        if after[0] - before[2] > 1.5 * max(size, 4) or after[2] < before[0] - size:
            cuts.append(match.end())
            edges += [before[2], after[0]]
    if len(cuts) == 1:
        return ()
    left, right = box.of(first)[0], box.of(first + len(raw) - 1)[2]
    bounds = [left, *edges, right]
    ends = [*cuts[1:], len(raw)]
    pieces = zip(cuts, ends, strict=True)
    return tuple(
        (bounds[2 * i], bounds[2 * i + 1], _bmp(raw[a:b]).replace("\xa0", " ").strip())
        for i, (a, b) in enumerate(pieces)
    )


def _unmapped(text_page: "pypdfium2.PdfTextPage", first: int, last: int) -> int:
    """Characters without a Unicode value; judged by a sample, since broken fonts break most of their letters."""
    step = max(1, (last - first) // 4)
    return sum(pdfium.FPDFText_HasUnicodeMapError(text_page, i) == 1 for i in range(first, last + 1, step))


def _bmp(text: str) -> str:
    """Joins the surrogate halves that pdfium gives one by one."""
    if any("\ud800" <= letter <= "\udfff" for letter in text):
        return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return text


def _join_hyphens(pages: list[list[Line]]) -> None:
    """Give each line-end hyphen back, or join the word, as the rest of the document writes it."""
    vocabulary: Counter[str] | None = None
    for lines in pages:
        for line, following in zip_longest(lines, lines[1:]):
            if line is None or _HYPHEN not in line.text:
                continue
            if vocabulary is None:
                vocabulary = Counter(w.lower() for page in pages for ln in page for w in re.findall(r"[\w-]+", ln.text))
            head = re.search(r"(\w+)\ufffe$", line.text)
            tail = re.match(r"\w+", following.text) if following is not None else None
            line.hyphen = False
            if head and tail and tail[0][0].islower():
                compound = f"{head[1]}-{tail[0]}".lower()
                line.hyphen = vocabulary[compound] <= vocabulary[compound.replace("-", "")]
            line.text = line.text.replace(_HYPHEN, "" if line.hyphen else "-")
            line.cells = tuple((left, right, text.replace(_HYPHEN, "-")) for left, right, text in line.cells)


def _outline(document: "pypdfium2.PdfDocument") -> dict[int, list[tuple[int, str]]]:
    """Bookmarks as page index -> [(level, title)]; empty if there are too few to be a table of contents."""
    found: dict[int, list[tuple[int, str]]] = {}
    count = 0
    try:
        for bookmark in document.get_toc(max_depth=6):
            destination = bookmark.get_dest()
            index = destination.get_index() if destination is not None else None
            title = one_line(bookmark.get_title() or "")
            if index is not None and index >= 0 and title:
                found.setdefault(index, []).append((bookmark.level + 1, title))
                count += 1
            if count >= _MAX_OUTLINE:
                break
    except (pypdfium2.PdfiumError, RecursionError, ValueError):
        return {}  # a broken outline is not worth the document: headings are then found by their type
    return found if count >= 3 else {}


def _numbers(pages: list[int]) -> str:
    """Page numbers in words: "page 3", "pages 3, 5–9 and 12 more"."""
    runs: list[list[int]] = []
    for page in pages:
        if runs and runs[-1][1] == page - 1:
            runs[-1][1] = page
        else:
            runs.append([page, page])
    names = [str(a) if a == b else f"{a}–{b}" for a, b in runs]
    more = len(names) - 12
    text = ", ".join(names[:12]) + (f" and {more:,} more places" if more > 0 else "")
    return ("page " if len(pages) == 1 else "pages ") + text
