"""JSON values ↔ length-prefixed bytes on a pipe: what a parent and its engine's child say to each other. No pickle: a
value that arrives can be wrong, never code."""

import json
import struct
from typing import IO, Any

MAX_FRAME_BYTES = 64 << 20
"""More than any prompt that a window takes."""
_HEAD = struct.Struct(">I")


class NotAFrameError(Exception):
    """The other side sent what is none."""


def packed(value: dict[str, Any]) -> bytes:
    """One frame. A lone surrogate (half an emoji, an undecodable file name) becomes "?": runtimes take UTF-8, which has
    none."""
    data = json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace")
    if len(data) > MAX_FRAME_BYTES:
        raise NotAFrameError(f"{len(data):,} bytes are more than a frame holds")
    return _HEAD.pack(len(data)) + data


def read_frame(stream: IO[bytes]) -> dict[str, Any] | None:
    """The next frame; None at the end. Raises NotAFrameError."""
    head = stream.read(_HEAD.size)
    if len(head) < _HEAD.size:
        return None
    (length,) = _HEAD.unpack(head)
    if length > MAX_FRAME_BYTES:
        raise NotAFrameError(f"a frame claims {length:,} bytes")
    data = stream.read(length)
    if len(data) < length:
        return None
    try:
        value = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise NotAFrameError(f"a frame is no JSON ({error})") from error
    if not isinstance(value, dict):
        raise NotAFrameError("a frame is no JSON object")
    return value
