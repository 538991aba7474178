"""PDF pages drawn and quotes placed on them, by real child processes; hostile pages cost their own limits only."""

import dataclasses
import io
import random
from collections.abc import Callable, Iterator
from pathlib import Path

import pypdfium2
import pytest
from made_pdfs import lines_of, pdf_of
from PIL import Image

from retrieval.errors import BusyError, ReadingError
from retrieval.passages import Document
from retrieval.reading.folder import Loaded, load, source_file
from retrieval.reading.limits import ReadingLimits
from retrieval.reading.pictures import Box, PictureLimits, Pictures

Make = Callable[[str, bytes], Loaded]
Read = Callable[[str, bytes], Document]
TEXT = ("No line is over 79 characters.", "Docstrings: 72, as the guide says.", "Nothing else is asked of a line.")


@pytest.fixture(scope="module")
def pictures() -> Iterator[Pictures]:
    made = Pictures(ReadingLimits(), PictureLimits(wall_seconds=15, cpu_seconds=2, memory_mb=768))
    yield made
    made.close()


def dark_share(png: bytes, box: Box) -> float:
    """How much of a box is ink."""
    image = Image.open(io.BytesIO(png)).convert("L")
    edges = [round(value * side) for value, side in zip(box, (*image.size, *image.size), strict=True)]
    pixels = image.crop(tuple(edges)).get_flattened_data()
    return sum(value < 128 for value in pixels) / max(1, len(pixels))


@pytest.mark.parametrize(("media", "extra"), [("0 0 612 792", ""), ("0 0 612 792", "/Rotate 90 "),
    ("0 0 612 792", "/Rotate 180 "), ("-40 -30 700 800", "/CropBox [20 400 600 780] ")])  # fmt: skip
def test_a_quote_is_marked_where_its_ink_is_and_nowhere_else(
    pictures: Pictures, loaded: Make, read: Read, media: str, extra: str
) -> None:
    file = loaded("a.pdf", pdf_of(lines_of(*TEXT), media=media, extra=extra))
    text = read("a.pdf", file.data).text
    start = text.index("Docstrings")
    found = pictures.marks(file, 1, text, [(start, start + 14)])
    assert found.pages == 1
    (boxes,) = found.marks
    assert boxes
    png = pictures.draw(file, 1, 1200)
    assert all(dark_share(png, box) > 0.1 for box in boxes)
    # Painted white, the page has lost exactly the marked words: what remains is what is drawn without them.
    image = Image.open(io.BytesIO(png)).convert("L")
    width, height = image.size
    for left, top, right, bottom in boxes:
        image.paste(
            255, (int(left * width) - 1, int(top * height) - 1, int(right * width) + 2, int(bottom * height) + 2)
        )
    others = loaded("b.pdf", pdf_of(_without_second(), media=media, extra=extra))
    rest = Image.open(io.BytesIO(pictures.draw(others, 1, 1200))).convert("L")
    differing = sum(
        abs(a - b) > 128 for a, b in zip(image.get_flattened_data(), rest.get_flattened_data(), strict=True)
    )
    assert differing == 0


def _without_second() -> str:
    """The same page without "Docstrings: 72": the widths of Helvetica's letters give the place of the rest."""
    widths = {"D": 722, "o": 556, "c": 500, "s": 500, "t": 278, "r": 333, "i": 222, "n": 556, "g": 556, ":": 278}
    widths |= {" ": 278, "7": 556, "2": 556}
    shift = sum(widths[letter] for letter in "Docstrings: 72") * 12 / 1000
    return (
        f"BT /F1 12 Tf 72 720 Td ({TEXT[0]}) Tj 0 -16 Td {shift:.3f} 0 Td ({TEXT[1][14:]}) Tj {-shift:.3f} -16 Td "
        f"({TEXT[2]}) Tj ET"
    )


def test_the_picture_keeps_to_its_limits(pictures: Pictures, loaded: Make) -> None:
    file = loaded("a.pdf", pdf_of(lines_of(*TEXT)))
    wide = Image.open(io.BytesIO(pictures.draw(file, 1, 50_000)))
    assert wide.width == 2_000 and wide.mode == "RGB"
    for media in ("0 0 3 14000", "0 0 14000 3", "0 0 14400 14400"):
        odd = Image.open(io.BytesIO(pictures.draw(loaded("b.pdf", pdf_of(lines_of("x"), media=media)), 1, 2_000)))
        assert odd.width <= 2_001 and odd.height <= 8_001 and odd.width * odd.height <= 8_020_000


def test_a_drawn_page_is_kept(pictures: Pictures, loaded: Make) -> None:
    file = loaded("a.pdf", pdf_of(lines_of("kept")))
    assert pictures.kept(file.content_hash, 1, 700) is None
    png = pictures.draw(file, 1, 700)
    assert pictures.kept(file.content_hash, 1, 700) == png
    assert pictures.draw(dataclasses.replace(file, data=b"not read again"), 1, 700) == png


def test_kept_pages_have_a_limit(loaded: Make) -> None:
    small = Pictures(limits=PictureLimits(kept_mb=1))
    small._keep(("a", 1, 1), bytes(700_000))
    small._keep(("b", 1, 1), bytes(700_000))
    assert small.kept("a", 1, 1) is None and small.kept("b", 1, 1) is not None


HOSTILE = {
    "noise": (b"%PDF-1.7\n" + random.Random(3).randbytes(4_000), {"corrupt"}),
    "no PDF": (b"hello", {"corrupt"}),
    "no pages": (pdf_of(), {"corrupt", "page"}),
    "an endless form": (
        pdf_of("q " + "1 0 0 1 0 0 cm 0 0 m 600 700 l S " * 1_500_000),
        {"time", "memory", "crash", "corrupt"},
    ),
    "no size": (pdf_of("", media="0 0 0 0"), {"corrupt", ""}),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_page_is_refused_in_words_and_the_next_is_drawn(pictures: Pictures, loaded: Make, name: str) -> None:
    data, reasons = HOSTILE[name]
    try:
        pictures.draw(loaded("bad.pdf", data), 1, 900)
        assert name in ("an endless form", "no size"), "a machine may be quick enough, and pdfium has a default size"
    except ReadingError as error:
        assert error.reason in reasons and error.message.endswith(".")
    assert pictures.draw(loaded("good.pdf", pdf_of(lines_of("good"))), 1, 300).startswith(b"\x89PNG")


def test_a_page_that_is_not_there_is_said(pictures: Pictures, loaded: Make) -> None:
    for page in (0, 2, 999_999):
        with pytest.raises(ReadingError, match="there is no page"):
            pictures.draw(loaded("a.pdf", pdf_of(lines_of("one"))), page, 300)


def test_a_queue_of_pages_turns_the_last_away(loaded: Make) -> None:
    busy = Pictures(limits=PictureLimits(processes=1, patience=0.05))
    slot = busy._slots.get()
    with pytest.raises(BusyError, match="try again"):
        busy.draw(loaded("a.pdf", pdf_of(lines_of("one"))), 1, 300)
    busy._slots.put(slot)
    busy.close()


@pytest.mark.slow
def test_quotes_of_real_contracts_stand_in_their_boxes(
    pictures: Pictures, shared_data: Callable[[str], Path], read: Read
) -> None:
    """Every stretch of 100 characters of ten contracts: placed, and pdfium finds the same letters inside the boxes."""
    placed = 0
    for path in sorted(shared_data("cuad_pdf_sample").glob("*.pdf"))[:10]:
        file = load(source_file(path, path.name))
        document = read(path.name, file.data)
        ends = [*document.page_starts[1:], len(document.text)]
        pages = [document.text[a:b] for a, b in zip(document.page_starts, ends, strict=True)][:3]
        for number, text in enumerate(pages, start=1):
            spans = [(at, at + 100) for at in range(0, len(text) - 100, 100) if text[at : at + 100].strip()]
            found = pictures.marks(file, number, text, spans)
            with pypdfium2.PdfDocument(file.data) as opened:
                page = opened[number - 1]
                width, height = page.get_size()
                words = page.get_textpage()
                for (start, end), boxes in zip(spans, found.marks, strict=True):
                    assert boxes, (path.name, number, text[start:end])
                    inside = "".join(
                        words.get_text_bounded(
                            a * width - 0.5, (1 - d) * height - 0.5, c * width + 0.5, (1 - b) * height + 0.5
                        )
                        for a, b, c, d in boxes
                    )
                    missing = _letters(text[start:end]) - _letters(inside)
                    assert not missing, (path.name, number, text[start:end], inside)
                    placed += 1
    assert placed > 300


def _letters(text: str) -> set[str]:
    return {letter for letter in text.lower() if letter.isalnum()}
