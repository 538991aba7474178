"""Loaded files in, Documents or reasons out, by a pool of limited child processes. Knows no format."""

import queue
import threading
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Any

from retrieval.errors import FathomError, ReadingError
from retrieval.passages import Document, Heading, Scalar
from retrieval.reading.child import Child
from retrieval.reading.folder import Loaded
from retrieval.reading.limits import MIB
from retrieval.reading.limits import ReadingLimits as ReadingLimits
from retrieval.reading.refusal import Refusal

# Changes whenever the same bytes give another document, so that an index reads its files anew.
READER_VERSION = "1"

# Read-ahead of parse_many: so many files per process, and so many bytes in all (one larger file goes alone).
_AHEAD_FILES = 3
_AHEAD_BYTES = 256 * MIB


class Reader:
    """Parses files in child processes: each file within `limits`, a dead process costing that one file only.

    `parse` may be called from any thread; at most `workers` files are parsed at a time, further callers wait.
    Processes start when they are first needed and end with `close`, with the `with` block, or with this process.
    """

    def __init__(self, limits: ReadingLimits = ReadingLimits(), workers: int = 1) -> None:  # noqa: B008 - frozen
        if workers < 1:
            raise ValueError(f"workers must be at least 1, not {workers}")
        self.limits = limits
        self.workers = workers
        self._closed = False
        # Last in, first out: one caller at a time keeps one process warm and never starts the others.
        self._slots: queue.LifoQueue[Child | None] = queue.LifoQueue()
        for _ in range(workers):
            self._slots.put(None)

    def __enter__(self) -> "Reader":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, problem: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the processes that are idle now, and each busy one when its file is done."""
        self._closed = True
        idle: list[None] = []
        while True:
            try:
                child = self._slots.get_nowait()
            except queue.Empty:
                break
            idle.append(None)
            if child is not None:
                child.close()
        for slot in idle:
            self._slots.put(slot)

    def parse(self, loaded: Loaded, stop: threading.Event | None = None) -> Document:
        """One file as a Document. Setting `stop` ends the work in the middle of the file ("cancelled").

        Raises ReadingError with one of the reasons "empty", "binary", "encoding", "encrypted", "corrupt", "no-text",
        "unsupported", "too-large", "bomb", "memory", "time", "crash"; FathomError if no process can be started.
        """
        return self._parse(loaded, stop)

    def parse_many(self, loaded: Iterable[Loaded]) -> Iterator[tuple[Loaded, Document | ReadingError]]:
        """Every file with its Document or the reason there is none, in the order they came.

        Keeps all processes busy with a bounded read-ahead. Stopped early (Ctrl-C, `break`), it stops the processes in
        the middle of their files.
        """
        stop = threading.Event()
        pool = ThreadPoolExecutor(self.workers, thread_name_prefix="reading")
        waiting: deque[tuple[Loaded, Future[Document | ReadingError]]] = deque()
        ahead = 0
        try:
            for file in loaded:
                while waiting and (
                    len(waiting) >= self.workers * _AHEAD_FILES or ahead + len(file.data) > _AHEAD_BYTES
                ):
                    done, future = waiting.popleft()
                    ahead -= len(done.data)
                    yield done, future.result()
                waiting.append((file, pool.submit(self._outcome, file, stop)))
                ahead += len(file.data)
            while waiting:
                done, future = waiting.popleft()
                yield done, future.result()
        finally:
            stop.set()
            pool.shutdown(wait=True, cancel_futures=True)

    def _outcome(self, loaded: Loaded, stop: threading.Event) -> Document | ReadingError:
        try:
            return self._parse(loaded, stop)
        except ReadingError as problem:
            return problem

    def _parse(self, loaded: Loaded, stop: threading.Event | None) -> Document:
        uri = loaded.file.uri
        if not loaded.data:
            raise ReadingError(uri, "empty", "is empty; nothing to index.")
        if len(loaded.data) > self.limits.max_file_mb * MIB:
            size = len(loaded.data) / MIB
            raise ReadingError(
                uri, "too-large", f"is {size:,.0f} MB, more than the limit of {self.limits.max_file_mb:,} MB; split it."
            )
        child = self._slots.get()
        try:
            if self._closed:
                raise FathomError("This reader is closed; open another one.")
            if child is not None and not child.usable():
                child.close()
                child = None
            if child is None:
                child = Child(self.limits)
            reply, text = child.ask(uri, loaded.data, stop)
            if reply.get("spent"):  # what is left of its memory after a MemoryError is not worth trusting
                child.close()
        except Refusal as refusal:
            raise ReadingError(uri, refusal.reason, refusal.message) from refusal
        finally:
            if self._closed and child is not None:
                child.close()
            self._slots.put(child if child is not None and child.usable() else self._ended(child))
        if "reason" in reply:
            raise ReadingError(uri, str(reply["reason"]), str(reply["message"]))
        try:
            return _document(loaded, reply, text)
        except (KeyError, TypeError, ValueError) as problem:
            message = "made its parser answer nonsense; it is damaged or hostile, leave it out."
            raise ReadingError(uri, "crash", message) from problem

    @staticmethod
    def _ended(child: Child | None) -> None:
        if child is not None:
            child.close()


def _document(loaded: Loaded, reply: dict[str, Any], raw: bytes) -> Document:
    """The worker's answer as a Document, believed only where it is consistent. Raises ValueError or the like."""
    text = raw.decode("utf-8")
    headings = tuple(Heading(int(start), int(level), str(title)) for start, level, title in reply["headings"])
    pages = tuple(int(start) for start in reply["page_starts"])
    starts = [heading.start for heading in headings]
    if starts != sorted(set(starts)) or (starts and not 0 <= starts[0] <= starts[-1] < len(text)):
        raise ValueError("headings out of order")
    if list(pages) != sorted(pages) or (pages and not 0 <= pages[0] <= pages[-1] <= len(text)):
        raise ValueError("pages out of order")
    metadata: dict[str, Scalar] = {}
    for key, value in reply["metadata"].items():
        if not isinstance(value, str | int | float | bool):
            raise ValueError("metadata is no scalar")
        metadata[str(key)] = value
    return Document(
        uri=loaded.file.uri,
        text=text,
        title=str(reply["title"]),
        format=str(reply["format"]),
        page_starts=pages,
        headings=headings,
        metadata=metadata,
        content_hash=loaded.content_hash,
        warnings=tuple(str(warning) for warning in reply["warnings"]),
    )
