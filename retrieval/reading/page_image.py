"""A PDF and a page number in, the page's pixels and the places of quoted words on it out; for the confined child.

Draws no form fields and runs no script of the document; knows nothing of PNG or of who asks.
"""

import ctypes
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pypdfium2
import pypdfium2.raw as pdfium

from retrieval.reading.aligning import align
from retrieval.reading.pdf import open_pdf
from retrieval.reading.refusal import Refusal

Box = tuple[float, float, float, float]
_FINE = 10  # device units per point while places are worked out
_MOST_BOXES = 400
_MOST_EDGE = 8_000  # pixels: browsers draw no longer ones
_MOST_POINTS = 200_000.0  # per edge; a genuine page has at most 14,400 (PDF 32000-1, annex C)


def page_image(data: bytes, wanted: Mapping[str, Any]) -> tuple[dict[str, Any], bytes]:
    """(facts, RGB pixels) of page `wanted["page"]` (from 1), `width` pixels wide; with width 0 no pixels.

    `text` is the page's stored text and `spans` are stretches of it; facts["marks"] has, for each, its boxes as
    fractions of the page (left, top, right, bottom), or None where it could not be found beyond doubt.
    """
    document = open_pdf(data)
    number = int(wanted["page"])
    if not 1 <= number <= len(document):
        raise Refusal("page", f"has {len(document):,} pages; there is no page {number:,}.")
    try:
        page = document[number - 1]
        facts = {"pages": len(document), "marks": _marks(page, str(wanted["text"]), wanted["spans"])}
        width, height = page.get_size()
        if not (0 < width < _MOST_POINTS and 0 < height < _MOST_POINTS):
            raise Refusal("corrupt", "has a page without a sensible size; it cannot be drawn.")
        facts |= {"ratio": width / height, "width": 0, "height": 0}
        if not wanted["width"]:
            return facts, b""
        scale = min(
            wanted["width"] / width, math.sqrt(wanted["pixels"] / (width * height)), _MOST_EDGE / max(width, height)
        )
        bitmap = page.render(scale=scale, rev_byteorder=True, may_draw_forms=False)
        facts |= {"width": bitmap.width, "height": bitmap.height}
        return facts, _pixels(bitmap)
    except pypdfium2.PdfiumError as problem:
        raise Refusal("corrupt", "has a damaged page that cannot be drawn; download or export it again.") from problem


def _pixels(bitmap: "pypdfium2.PdfBitmap") -> bytes:
    """The rows as red, green, blue, without the padding between them."""
    raw, channels = bytes(bitmap.buffer), bitmap.n_channels
    rows = (raw[y * bitmap.stride : y * bitmap.stride + bitmap.width * channels] for y in range(bitmap.height))
    packed = bytearray(b"".join(rows))
    if channels == 4:
        del packed[3::4]
    elif channels == 1:
        packed = bytearray(value for value in packed for _ in range(3))
    return bytes(packed)


def _marks(page: "pypdfium2.PdfPage", text: str, spans: Sequence[Sequence[int]]) -> list[list[Box] | None]:
    if not spans:
        return []
    text_page = page.get_textpage()
    try:
        found = align(_characters(text_page), text, [(int(start), int(end)) for start, end in spans])
        return [None if place is None else _boxes(page, text_page, *place) or None for place in found]
    finally:
        text_page.close()


def _characters(text_page: "pypdfium2.PdfTextPage") -> Iterator[tuple[int, str]]:
    """(index, character) in reading order; characters beyond the basic plane come from pdfium in halves."""
    half = 0
    for index in range(max(0, text_page.count_chars())):
        code = pdfium.FPDFText_GetUnicode(text_page, index)
        if 0xD800 <= code < 0xDC00:
            half = code
            continue
        if 0xDC00 <= code < 0xE000:
            code, half = (0x10000 + ((half - 0xD800) << 10) + (code - 0xDC00) if half else 0), 0
        if code:
            yield index, chr(code)


def _boxes(page: "pypdfium2.PdfPage", text_page: "pypdfium2.PdfTextPage", first: int, last: int) -> list[Box]:
    """One box per line of the characters from `first` to `last`, as fractions of the page as it is drawn."""
    width, height = (max(1, round(edge * _FINE)) for edge in page.get_size())
    lines: list[list[int]] = []
    for index in range(first, last + 1):
        box = _box(page, text_page, index, width, height)
        if box is None:
            continue
        line = lines[-1] if lines else None
        if line is not None and _goes_on(line, box):
            line[:] = [min(line[0], box[0]), min(line[1], box[1]), max(line[2], box[2]), max(line[3], box[3])]
        elif len(lines) < _MOST_BOXES:
            lines.append(list(box))
    return [(a / width, b / height, c / width, d / height) for a, b, c, d in lines]


def _box(
    page: "pypdfium2.PdfPage", text_page: "pypdfium2.PdfTextPage", index: int, width: int, height: int
) -> tuple[int, int, int, int] | None:
    """A character's place on the drawn page (rotation and crop applied); None where it has none there."""
    if chr(pdfium.FPDFText_GetUnicode(text_page, index) or 32).isspace():
        return None
    left, right, bottom, top = (ctypes.c_double() for _ in range(4))
    if not pdfium.FPDFText_GetCharBox(text_page, index, left, right, bottom, top):
        return None
    x, y = ctypes.c_int(), ctypes.c_int()
    corners = []
    for across, up in ((left, bottom), (right, top)):
        pdfium.FPDF_PageToDevice(page, 0, 0, width, height, 0, across, up, x, y)
        corners.append((min(max(x.value, 0), width), min(max(y.value, 0), height)))
    (x0, x1), (y0, y1) = (sorted(values) for values in zip(*corners, strict=True))
    return (x0, y0, x1, y1) if x1 > x0 and y1 > y0 else None


def _goes_on(line: Sequence[int], box: Sequence[int]) -> bool:
    """Whether `box` stands in the line, right after it."""
    height = max(line[3] - line[1], box[3] - box[1])
    overlap = min(line[3], box[3]) - max(line[1], box[1])
    # A comma or an underscore hangs below the letters and still is of their line.
    return overlap > -0.15 * height and -height < box[0] - line[2] < 2 * height
