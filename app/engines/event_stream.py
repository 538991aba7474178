"""Bytes of a server-sent event stream → the data of its events, whatever way they were cut. It knows no protocol above.

Format: https://html.spec.whatwg.org/multipage/server-sent-events.html#event-stream-interpretation
"""

import re
from collections.abc import Iterator

MAX_EVENT_BYTES = 1 << 20
"""No event of a language model comes near; a server that sends more has gone wrong."""
_LINE_END = re.compile(rb"\r\n|\n|\r")


class NotAnEvent(ValueError):
    """What arrived cannot be part of an event stream; says why in a few words."""


class EventStream:
    """Feed bytes as they arrive, get the data of each event that is complete."""

    def __init__(self) -> None:
        self._rest = bytearray()
        self._data: list[str] = []
        self._size = 0

    def feed(self, received: bytes) -> Iterator[str]:
        """Raises NotAnEvent for a line that is too long or not UTF-8."""
        self._rest += received
        # A CR at the very end may be half of a CRLF: it waits for the next byte.
        end = len(self._rest) - self._rest.endswith(b"\r")
        start = 0
        for match in _LINE_END.finditer(self._rest, 0, end):
            line = bytes(self._rest[start : match.start()])
            start = match.end()
            yield from self._take(line)
        del self._rest[:start]
        if len(self._rest) > MAX_EVENT_BYTES:
            raise NotAnEvent(f"a line of more than {MAX_EVENT_BYTES:,} bytes")

    def end(self) -> Iterator[str]:
        """What the last event lacks is an empty line, which not every server sends."""
        yield from self._take(bytes(self._rest.rstrip(b"\r")))
        yield from self._take(b"")
        self._rest.clear()

    def _take(self, line: bytes) -> Iterator[str]:
        if not line:
            if self._data:
                data, self._data, self._size = "\n".join(self._data), [], 0
                yield data
            return
        name, _, value = line.partition(b":")
        if name != b"data":  # a comment (": ping"), an event's name or id
            return
        self._size += len(value)
        if self._size > MAX_EVENT_BYTES:
            raise NotAnEvent(f"an event of more than {MAX_EVENT_BYTES:,} bytes")
        try:
            self._data.append(value.removeprefix(b" ").decode("utf-8"))
        except UnicodeDecodeError as error:
            raise NotAnEvent(f"bytes that are not UTF-8 ({error.object[error.start : error.end].hex()})") from error
