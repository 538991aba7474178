"""A loaded PDF and a page number in, the page as a PNG and the places of quoted words out, by limited processes.

Pages that were drawn are kept for a while. Knows no collection; the drawing itself is page_image.py.
"""

import io
import queue
import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from retrieval.errors import BusyError, ReadingError
from retrieval.reading.child import Child
from retrieval.reading.folder import Loaded
from retrieval.reading.limits import MIB, ReadingLimits
from retrieval.reading.refusal import Refusal

Box = tuple[float, float, float, float]
_NONSENSE = "made its parser answer nonsense; it is damaged or hostile, leave it out."


@dataclass(frozen=True, slots=True)
class PictureLimits:
    """What drawing one page may cost, and how many drawn pages are kept."""

    width: int = 2_000  # pixels
    pixels: int = 8_000_000
    memory_mb: int = 1_024  # of the process, as in ReadingLimits
    cpu_seconds: int = 15
    wall_seconds: float = 20.0
    processes: int = 2
    patience: float = 20.0  # seconds in line before a request is turned away
    kept_mb: int = 64

    def of_process(self, reading: ReadingLimits) -> ReadingLimits:
        """The limits of reading with those of drawing where they are tighter."""
        return replace(
            reading,
            memory_mb=min(self.memory_mb, reading.memory_mb),
            cpu_seconds=min(self.cpu_seconds, reading.cpu_seconds),
            wall_seconds=min(self.wall_seconds, reading.wall_seconds),
        )


@dataclass(frozen=True, slots=True)
class PageMarks:
    """Where the spans stand on a page: boxes (left, top, right, bottom) as fractions of it, None where that is not
    sure. `ratio` is the page's width by its height."""

    pages: int
    ratio: float
    marks: tuple[tuple[Box, ...] | None, ...]


class Pictures:
    """Draws pages; for any thread. Processes start when they are first needed; `close` ends them."""

    def __init__(
        self,
        reading: ReadingLimits = ReadingLimits(),  # noqa: B008 - frozen
        limits: PictureLimits = PictureLimits(),  # noqa: B008 - frozen
    ) -> None:
        self.limits = limits
        self._limits = limits.of_process(reading)
        self._slots: queue.LifoQueue[Child | None] = queue.LifoQueue()
        for _ in range(limits.processes):
            self._slots.put(None)
        self._kept: OrderedDict[tuple[str, int, int], bytes] = OrderedDict()
        self._guard = threading.Lock()
        self._closed = False

    def kept(self, content_hash: str, page: int, width: int) -> bytes | None:
        """The PNG of a page that was drawn before."""
        with self._guard:
            found = self._kept.get((content_hash, page, width))
            if found is not None:
                self._kept.move_to_end((content_hash, page, width))
            return found

    def draw(self, loaded: Loaded, page: int, width: int) -> bytes:
        """The page as a PNG, at most `width` pixels wide. Raises ReadingError, BusyError."""
        width = max(1, min(width, self.limits.width))
        png = self.kept(loaded.content_hash, page, width)
        if png is None:
            facts, pixels = self._ask(loaded, page, width, "", ())
            png = _png(loaded.file.uri, facts, pixels, self.limits.pixels)
            self._keep((loaded.content_hash, page, width), png)
        return png

    def marks(self, loaded: Loaded, page: int, text: str, spans: Sequence[tuple[int, int]]) -> PageMarks:
        """Where the `spans` of the page's stored `text` stand on it. Raises ReadingError, BusyError."""
        facts, _ = self._ask(loaded, page, 0, text, spans)
        try:
            marks = tuple(None if item is None else tuple(_box(box) for box in item) for item in facts["marks"])
            pages, ratio = int(facts["pages"]), float(facts["ratio"])
            if len(marks) != len(spans) or not 0 < ratio < 1e6 or pages < page:
                raise ValueError("not what was asked for")
        except (KeyError, TypeError, ValueError) as problem:
            raise ReadingError(loaded.file.uri, "crash", _NONSENSE) from problem
        return PageMarks(pages, ratio, marks)

    def close(self) -> None:
        """End the processes that are idle now, and each busy one when its page is done."""
        self._closed = True
        children = []
        while not self._slots.empty():
            children.append(self._slots.get())
        for child in children:
            if child is not None:
                child.close()
            self._slots.put(None)

    def _ask(
        self, loaded: Loaded, page: int, width: int, text: str, spans: Sequence[tuple[int, int]]
    ) -> tuple[dict[str, Any], bytes]:
        wanted = {"page": page, "width": width, "pixels": self.limits.pixels, "text": text, "spans": list(spans)}
        try:
            child = self._slots.get(timeout=self.limits.patience)
        except queue.Empty:
            raise BusyError("many pages are being drawn right now; try again in a moment") from None
        try:
            if child is None or not child.usable():
                if child is not None:
                    child.close()
                child = Child(self._limits)
            facts, pixels = child.ask(loaded.file.uri, loaded.data, page=wanted)
            if facts.get("spent"):
                child.close()
        except Refusal as refusal:
            raise ReadingError(loaded.file.uri, refusal.reason, refusal.message) from refusal
        finally:
            if child is not None and (self._closed or not child.usable()):
                child.close()
                child = None
            self._slots.put(child)
        if "reason" in facts:
            raise ReadingError(loaded.file.uri, str(facts["reason"]), str(facts["message"]))
        return facts, pixels

    def _keep(self, key: tuple[str, int, int], png: bytes) -> None:
        with self._guard:
            self._kept[key] = png
            while len(self._kept) > 1 and sum(map(len, self._kept.values())) > self.limits.kept_mb * MIB:
                self._kept.popitem(last=False)


def _png(uri: str, facts: dict[str, Any], pixels: bytes, most: int) -> bytes:
    """Packed here and not in the child: a process that a hostile file took over can then only choose colours."""
    from PIL import Image

    try:
        width, height = int(facts["width"]), int(facts["height"])
        # Rounding up by a pixel on each edge may go a little above the limit.
        if width < 1 or height < 1 or width * height > most + width + height + 1 or len(pixels) != 3 * width * height:
            raise ValueError("not an image of that size")
    except (KeyError, TypeError, ValueError) as problem:
        raise ReadingError(uri, "crash", _NONSENSE) from problem
    out = io.BytesIO()
    Image.frombytes("RGB", (width, height), pixels).save(out, "PNG", compress_level=3)
    return out.getvalue()


def _box(values: Sequence[float]) -> Box:
    left, top, right, bottom = (float(value) for value in values)
    if not (0 <= left < right <= 1 and 0 <= top < bottom <= 1):
        raise ValueError("not a place on the page")
    return left, top, right, bottom
