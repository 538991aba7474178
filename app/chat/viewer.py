"""Documents of open collections in, what the viewer shows out: windows of text, pages as images, places of quotes.

Every text leaves as JSON data, every picture as PNG. It knows no layout; the script is viewer.js.
"""

import asyncio
import bisect
import logging
import re
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

from fastapi import FastAPI, Request
from starlette.responses import JSONResponse, Response

from app.chat.document_words import as_json, document_words_for
from app.chat.sources import unwrapped
from retrieval.collection import Collection
from retrieval.errors import BusyError, FathomError, MissingError, ReadingError, UsageError
from retrieval.originals import original
from retrieval.passages import Document
from retrieval.reading.limits import MIB, ReadingLimits
from retrieval.reading.pictures import Pictures

_log = logging.getLogger(__name__)
T = TypeVar("T")

_SPANS = re.compile(r"\d{1,10}-\d{1,10}(?:,\d{1,10}-\d{1,10})*")
# Controls, and marks that hide or reorder text. One character for one, so that every offset stays right.
_UNSEEN = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b\u202a-\u202e\u2060-\u2069\ufeff\ufff9-\ufffb\U000e0000-\U000e007f]"
)
PROSE = frozenset({"txt", "md", "rst"})
"""Formats whose lines may have been broken by a width: they are shown as paragraphs."""
NO_STORE = {"cache-control": "private, no-store"}


@dataclass(frozen=True, slots=True)
class ViewLimits:
    """How much one request of the viewer may get."""

    around: int = 3_000
    """Characters of text before and after the passage at first."""
    window: int = 20_000
    """Characters of text in one answer."""
    spans: int = 60
    workers: int = 4


class Documents:
    """What the viewer asks for. `collection` gives an open collection by name and may raise FathomError.

    Its threads live on between requests because a collection keeps one database connection per thread.
    """

    def __init__(
        self,
        collection: Callable[[str], Collection],
        reading: ReadingLimits = ReadingLimits(),  # noqa: B008 - frozen
        limits: ViewLimits = ViewLimits(),  # noqa: B008 - frozen
    ) -> None:
        self.limits = limits
        self.pool = ThreadPoolExecutor(limits.workers, thread_name_prefix="viewer")
        self._collection = collection
        self._max_bytes = reading.max_file_mb * MIB
        self._pictures = Pictures(reading)

    def close(self) -> None:
        """End the threads and the drawing processes."""
        self.pool.shutdown(wait=False, cancel_futures=True)
        self._pictures.close()

    def text(self, name: str, document_id: int, start: int, end: int, low: int | None, high: int | None) -> Any:
        """The document's text around [start, end), or from `low` to `high`, with what stands in it and where."""
        document = self._collection(name).document(document_id)
        text = document.text
        start, end = _clamped(start, len(text)), _clamped(end, len(text))
        if low is None or high is None:
            low, high = start - self.limits.around, max(start, end) + self.limits.around
            low, high = _line_start(text, low), _line_end(text, high)
        low = _clamped(low, len(text))
        high = min(_clamped(high, len(text)), low + self.limits.window)
        above = [heading for heading in document.headings if heading.start <= start]
        path: list[Any] = []
        for heading in above:
            path = [item for item in path if item.level < heading.level] + [heading]
        return {
            "uri": document.uri,
            "title": document.title,
            "format": document.format,
            "version": document.content_hash[:16],
            "length": len(text),
            "from": low,
            "to": high,
            "text": _UNSEEN.sub("\ufffd", unwrapped(text[low:high]) if document.format in PROSE else text[low:high]),
            "path": [heading.title for heading in path],
            "headings": [[h.start, h.level] for h in document.headings if low <= h.start < high],
            "pages": len(document.page_starts),
            "page": _page_at(document, start),
            "page_starts": [[at, n] for n, at in enumerate(document.page_starts, start=1) if low <= at < high],
        }

    def page(
        self, name: str, document_id: int, page: int, passage: tuple[int, int] | None, quotes: Sequence[tuple[int, int]]
    ) -> Any:
        """Where the passage and the quotes (offsets of the document) stand on a page. Raises ReadingError."""
        collection = self._collection(name)
        document = collection.document(document_id)
        starts = [*document.page_starts, len(document.text)]
        if document.format != "pdf" or not 1 <= page <= len(document.page_starts):
            raise MissingError(f"document {document_id} has no page {page}")
        first, last = starts[page - 1], starts[page]
        spans = [(max(a, first) - first, min(b, last) - first) for a, b in quotes if a < last and b > first]
        shade = [
            (max(a, first) - first, min(b, last) - first) for a, b in [passage or (0, 0)] if a < last and b > first
        ]
        loaded = self._original(collection, document_id)
        found = self._pictures.marks(loaded, page, document.text[first:last], [*shade, *spans])
        placed, quoted = found.marks[: len(shade)], found.marks[len(shade) :]
        return {
            "page": page,
            "pages": found.pages,
            "ratio": found.ratio,
            "passage": [box for boxes in placed for box in boxes or ()],
            "quotes": [box for boxes in quoted for box in boxes or ()],
            "unplaced": sum(boxes is None for boxes in quoted or placed),
        }

    def picture(self, name: str, document_id: int, page: int, width: int) -> bytes:
        """A page as PNG. Raises ReadingError, BusyError, MissingError."""
        collection = self._collection(name)
        rows = collection.catalogue.rows(id_=document_id)
        if not rows or rows[0].source.format != "pdf":
            raise MissingError(f"document {document_id} has no pages to draw")
        kept = self._pictures.kept(rows[0].content_hash, page, width)
        return kept or self._pictures.draw(self._original(collection, document_id), page, width)

    def _original(self, collection: Collection, document_id: int) -> Any:
        rows = collection.catalogue.rows(id_=document_id)
        if not rows:
            raise MissingError(f"document {document_id} is not in the collection any more")
        return original(rows[0], self._max_bytes)


def add_document_routes(api: FastAPI, documents: Documents) -> None:
    """The viewer's routes."""

    async def told(make: Callable[[], Any]) -> Response:
        return await answered(documents.pool, lambda: JSONResponse(make(), headers=NO_STORE))

    @api.get("/documents/words")
    async def words(request: Request) -> Response:
        found = as_json(document_words_for(request.headers.get("accept-language", "")))
        return JSONResponse(found, headers={"cache-control": "private, no-store", "vary": "accept-language"})

    @api.get("/documents/{name}/{document_id}")
    async def text(
        name: str, document_id: int, start: int = 0, end: int = 0, low: int | None = None, high: int | None = None
    ) -> Response:
        return await told(lambda: documents.text(name, document_id, start, end, low, high))

    @api.get("/documents/{name}/{document_id}/pages/{page}.png")
    async def picture(name: str, document_id: int, page: int, width: int = 1_200) -> Response:
        # The address carries the version of the document, so that a copy the browser kept is never another's page.
        headers = {"cache-control": "private, max-age=3600"}
        return await answered(
            documents.pool,
            lambda: Response(
                documents.picture(name, document_id, page, width), media_type="image/png", headers=headers
            ),
        )

    @api.get("/documents/{name}/{document_id}/pages/{page}")
    async def place(name: str, document_id: int, page: int, passage: str = "", quotes: str = "") -> Response:
        shade = _spans(passage, 1)
        return await told(
            lambda: documents.page(
                name, document_id, page, shade[0] if shade else None, _spans(quotes, documents.limits.spans)
            )
        )


async def answered(pool: ThreadPoolExecutor, make: Callable[[], Response]) -> Response:
    """What `make` gives, made on a thread of `pool`; what it raises, as JSON with a sentence and a short reason."""
    try:
        return await asyncio.get_running_loop().run_in_executor(pool, make)
    except ReadingError as error:
        return refused(422, error.message, error.reason)
    except MissingError:
        return refused(404, "there is no such document or page", "gone")
    except BusyError as error:
        return refused(503, str(error), "busy")
    except UsageError as error:
        return refused(400, str(error), "usage")
    except FathomError as error:
        return refused(500, str(error), "failed")
    except OSError as error:
        _log.exception("a file of the page's own could not be read or written")
        return refused(500, f"the disk refused ({error.strerror or type(error).__name__}); check its space", "disk")
    except RuntimeError as error:
        if "shutdown" not in str(error):
            raise
        return refused(503, "the page is closing", "closing")


def refused(status: int, sentence: str, reason: str) -> JSONResponse:
    """A refusal as the scripts read it."""
    return JSONResponse({"error": sentence, "reason": reason}, status_code=status, headers=NO_STORE)


def _spans(text: str, most: int) -> list[tuple[int, int]]:
    """ "3-9,12-40" as pairs; what is no such list is none."""
    if not _SPANS.fullmatch(text):
        return []
    pairs = [tuple(int(number) for number in part.split("-")) for part in text.split(",")[:most]]
    return [(start, end) for start, end in pairs if start < end]


def _clamped(offset: int, length: int) -> int:
    return min(max(offset, 0), length)


def _line_start(text: str, offset: int) -> int:
    """The start of a line a little before `offset`, or `offset` where the line is long."""
    return max(text.rfind("\n", max(0, offset - 400), max(0, offset)) + 1, offset - 400, 0)


def _line_end(text: str, offset: int) -> int:
    found = text.find("\n", offset, offset + 400) if offset < len(text) else -1
    return found if found >= 0 else min(offset, len(text))


def _page_at(document: Document, offset: int) -> int | None:
    """The page that holds the character at `offset`; pages without text begin where the next one does."""
    return bisect.bisect_right(document.page_starts, offset) or None if document.page_starts else None
