"""The header of a GGUF file → the few facts an engine needs: name, context length, chat template, kinds of weights.

The file is hostile until proven otherwise: every length is checked against what is left of the header's budget.
Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

import struct
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from retrieval.errors import DamagedError, MissingError

MAX_HEADER_BYTES = 256 * 1024 * 1024
"""More than any vocabulary needs (SmolLM2: 1.7 MB, Qwen 2.5: 6 MB)."""
_MAX_KEPT_TEXT = 1024 * 1024
_STRING, _ARRAY = 8, 9
_MOST_DIMENSIONS = 8
_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}

Value = str | int | float | bool


@dataclass(frozen=True, slots=True)
class GgufHeader:
    """`metadata` holds the scalar keys, arrays (the vocabulary) not. `context_length` is in tokens, 0 unknown. `kinds`
    are the numbers (ggml_type) of the forms that the weights have."""

    architecture: str
    name: str
    context_length: int
    chat_template: str
    metadata: dict[str, Value]
    kinds: frozenset[int] = frozenset()


class _Reader:
    def __init__(self, stream: BinaryIO, path: Path, size: int) -> None:
        self._stream = stream
        self._path = path
        self._left = min(size, MAX_HEADER_BYTES)

    def bytes(self, count: int) -> bytes:
        if count > self._left:
            raise self.damaged("its header ends too early")
        self._left -= count
        data = self._stream.read(count)
        if len(data) != count:
            raise self.damaged("its header ends too early")
        return data

    def skip(self, count: int) -> None:
        if count > self._left:
            raise self.damaged("its header ends too early")
        self._left -= count
        self._stream.seek(count, 1)

    def number(self, form: str) -> int:
        return int(self.scalar(form))

    def scalar(self, form: str) -> int | float | bool:
        return struct.unpack("<" + form, self.bytes(struct.calcsize(form)))[0]

    def text(self, keep: bool = True) -> str:
        length = self.number("Q")
        if not keep:
            self.skip(length)
            return ""
        if length > _MAX_KEPT_TEXT:
            raise self.damaged(f"a text in its header claims {length:,} bytes")
        return self.bytes(length).decode("utf-8", "replace")

    def skip_array(self) -> None:
        kind, count = self.number("I"), self.number("Q")
        if kind in _SCALARS:
            self.skip(struct.calcsize(_SCALARS[kind]) * count)
        elif kind == _STRING:
            # Each text costs at least 8 bytes, so a forged count runs out of budget at once.
            for _ in range(count):
                self.text(keep=False)
        else:
            raise self.damaged(f"its header holds an array of unknown type {kind}")

    def damaged(self, what: str) -> DamagedError:
        return DamagedError(f"{self._path} is not a readable GGUF model: {what}; fetch the file again")


def read_header(path: Path) -> GgufHeader:
    """Raises MissingError where there is no file, DamagedError where it is no GGUF version 2 or 3."""
    try:
        stream = path.open("rb")
    except OSError as error:
        raise MissingError(
            f"the model {path} cannot be opened ({error.strerror}); give the path of a GGUF file"
        ) from error
    with stream:
        reader = _Reader(stream, path, path.stat().st_size)
        if reader.bytes(4) != b"GGUF":
            raise reader.damaged("it does not begin with 'GGUF'")
        version = reader.number("I")
        if version not in (2, 3):
            raise reader.damaged(f"it has format version {version}, and 2 and 3 are known")
        tensors = reader.number("Q")
        metadata: dict[str, Value] = {}
        for _ in range(reader.number("Q")):
            key = reader.text()
            kind = reader.number("I")
            if kind == _STRING:
                metadata[key] = reader.text()
            elif kind == _ARRAY:
                reader.skip_array()
            elif kind in _SCALARS:
                metadata[key] = reader.scalar(_SCALARS[kind])
            else:
                raise reader.damaged(f"'{key}' has the unknown type {kind}")
        kinds = set()
        for _ in range(tensors):  # each costs at least 24 bytes, so a forged count runs out of budget
            reader.text(keep=False)
            dimensions = reader.number("I")
            if dimensions > _MOST_DIMENSIONS:
                raise reader.damaged(f"a tensor claims {dimensions:,} dimensions")
            reader.skip(8 * dimensions)
            kinds.add(reader.number("I"))
            reader.skip(8)
    architecture = str(metadata.get("general.architecture", ""))
    context = metadata.get(f"{architecture}.context_length", 0)
    return GgufHeader(
        architecture=architecture,
        name=str(metadata.get("general.name", "")),
        context_length=int(context) if isinstance(context, int | float) else 0,
        chat_template=str(metadata.get("tokenizer.chat_template", "")),
        metadata=metadata,
        kinds=frozenset(kinds),
    )
