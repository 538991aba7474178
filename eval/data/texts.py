"""Files that hold text → documents, and the blocks of them that figures are kept for. It knows no model.

Plain text, folders of whatever Fathom reads, and JSON lines with a text in each.
"""

import hashlib
import random
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from eval.data.corpora import numbered_jsonl
from retrieval.embedding.stored import file_hash
from retrieval.errors import ReadingError, UsageError
from retrieval.reading.folder import SourceFile, load, source_file, walk
from retrieval.reading.reader import Reader

FEW = 20
"""Fewer documents than this are cut into blocks, because an interval over so few says next to nothing."""
BLOCK = 4_000
"""Characters of a block, about: a thousand tokens, so that neighbours hardly depend on each other."""
LEAST = 200
"""Bytes below which it is not worth filling a limit with the beginning of another document."""
FIELD = "text"
_LABEL = re.compile(r"[\w.\-]{1,40}")
_BREAKS = ("\n\n", "\n", "。", ". ", " ")
_SURROGATES = re.compile("[\ud800-\udfff]")
_BLANK_LINE = re.compile(r"\n[ \t]+(?=\n)")


@dataclass(frozen=True, slots=True)
class Text:
    """A document. `ends[i]` is the character at which block i ends; the last is the document's."""

    id: str
    text: str
    ends: tuple[int, ...]


@dataclass(frozen=True)
class Texts:
    """The documents of one path. `sha256` is of the bytes they were read from, `left_out` why files gave none."""

    documents: tuple[Text, ...]
    sha256: str
    left_out: tuple[str, ...] = ()

    @property
    def in_blocks(self) -> bool:
        """Whether figures are kept for blocks, as there are few documents."""
        return len(self.documents) < FEW

    @property
    def blocks(self) -> int:
        """How many figures there will be."""
        return sum(len(document.ends) for document in self.documents)

    @property
    def bytes(self) -> int:
        """UTF-8 bytes of all documents."""
        return sum(len(document.text.encode()) for document in self.documents)


def labelled(texts: Mapping[str, Path] | tuple[Path, ...]) -> dict[str, Path]:
    """Paths by label; those that were given none are called after their file. Raises UsageError."""
    if not texts:
        raise UsageError("no text is named to measure on; give at least one file or folder")
    if isinstance(texts, Mapping):
        for label in texts:
            if not _LABEL.fullmatch(str(label)):
                raise UsageError(f"'{str(label)[:60]}' cannot be a label; use letters, digits, '-', '_', '.'")
        return {str(label): Path(path) for label, path in texts.items()}
    found: dict[str, Path] = {}
    for path in map(Path, texts):
        stem = re.sub(r"[^\w.\-]+", "-", path.name.partition(".")[0])[:32].strip("-") or "text"
        label, number = stem, 1
        while label in found:
            number += 1
            label = f"{stem}-{number}"
        found[label] = path
    return found


def read_texts(path: Path, *, limit_bytes: int | None = None, seed: int = 0) -> Texts:
    """The documents of a file, a folder, or `file.jsonl.gz#field` (each row's field, "text" if none is named).

    With `limit_bytes`, documents in an order drawn with `seed` until so many bytes are reached: of each its beginning,
    a twentieth of the limit or 4,000 bytes, up to the end of a paragraph; of a single document as much as is wanted.
    Raises UsageError for a path that is not there, ReadingError for a file that cannot be read (in a folder they are
    left out) or where no text is found.
    """
    file, field = _split_field(path)
    if _is_jsonl(file):
        found = Texts(tuple(_of_rows(file, field)), file_hash(file))
        order = list(found.documents)
        if limit_bytes is not None:
            found = replace(found, documents=_limited(_shuffled(order, seed), limit_bytes, order))
    elif field is not None:
        raise UsageError(f"'{path}' names a field, which only .jsonl and .jsonl.gz files have")
    else:
        found = _of_files(file, limit_bytes, seed)
    if not found.documents:
        why = f" ({found.left_out[0]})" if found.left_out else ""
        raise ReadingError(str(path), "empty", f"holds no text to measure on{why}.")
    if found.in_blocks:
        return replace(found, documents=tuple(replace(text, ends=block_ends(text.text)) for text in found.documents))
    return found


def block_ends(text: str) -> tuple[int, ...]:
    """Where to cut a document into blocks of about `BLOCK` characters: after a paragraph, a line, a sentence, a word,
    whichever is found first in the second half of a block."""
    # A blank line may hold spaces; of the same length, so that places stay what they are.
    plain = _BLANK_LINE.sub(lambda match: "\n" * len(match[0]), text)
    ends = []
    start = 0
    while len(text) - start > BLOCK * 3 // 2:
        end = start + BLOCK
        for mark in _BREAKS:
            place = plain.rfind(mark, start + BLOCK // 2, start + BLOCK)
            if place >= 0:
                end = place + len(mark)
                break
        ends.append(end)
        start = end
    return (*ends, len(text))


def _split_field(path: Path) -> tuple[Path, str | None]:
    """`file.jsonl#field` → file and field; a file whose name really holds a # is one."""
    if not path.exists() and "#" in path.name:
        name, _, field = path.name.rpartition("#")
        path, wanted = path.with_name(name), field or None
    else:
        wanted = None
    if not path.exists():
        raise UsageError(f"there is no file or folder '{path}'; name a text to measure on")
    return path, wanted


def _is_jsonl(path: Path) -> bool:
    return path.is_file() and path.name.lower().endswith((".jsonl", ".jsonl.gz", ".ndjson"))


def _of_rows(path: Path, field: str | None) -> Iterator[Text]:
    name = field or FIELD
    seen: set[str] = set()
    for number, row in numbered_jsonl(path):
        if name not in row:
            sizes = {str(key): len(text) for key, value in row.items() if (text := _plain(value))}
            likely = max(sizes, key=lambda key: sizes[key], default="field")
            raise ReadingError(
                str(path),
                "field",
                f"line {number} has no field '{name}'; it has {', '.join(list(sizes)[:12]) or 'no text at all'}: name "
                f"one, as in '{path.name}#{likely}'.",
            )
        text = _plain(row[name])
        if text is None:
            kind = type(row[name]).__name__
            raise ReadingError(str(path), "field", f"line {number}: '{name}' holds a {kind}, not text.")
        if not text.strip():
            continue
        key = str(row.get("_id", row.get("id", number)))
        if key in seen:
            key = f"{key}:{number}"
        seen.add(key)
        yield Text(key, text, (len(text),))


def _plain(value: Any) -> str | None:
    """A text, or a list of texts as paragraphs."""
    if isinstance(value, list) and all(isinstance(item, str) for item in value):
        value = "\n\n".join(value)
    if not isinstance(value, str):
        return None
    return storable(value)


def storable(text: str) -> str:
    """Half a character (a lone surrogate), which JSON can write and UTF-8 cannot, becomes U+FFFD."""
    return _SURROGATES.sub("\ufffd", text)


def _of_files(path: Path, limit_bytes: int | None, seed: int) -> Texts:
    """Documents of a file or folder through the reader, in its limited processes."""
    left_out: list[str] = []
    if path.is_dir():
        entries = list(walk(path))
        left_out += [str(entry) for entry in entries if isinstance(entry, ReadingError)]
        files = [entry for entry in entries if isinstance(entry, SourceFile)]
        if not files:
            more = f": {left_out[0]}" if left_out else ""
            raise ReadingError(str(path), "empty", f"holds no file that Fathom reads{more}")
    else:
        files = [source_file(path)]
    whole = hashlib.sha256()
    budget, share = limit_bytes, _share(limit_bytes or 0, len(files))
    order: dict[str, Text] = {}
    hashes: dict[str, str] = {}
    with Reader() as reader:
        for file in _shuffled(files, seed) if limit_bytes is not None else files:
            if budget is not None and budget < (LEAST if order else 1):
                break
            try:
                loaded = load(file)
                text = reader.parse(loaded).text
            except ReadingError as error:
                if not path.is_dir():
                    raise
                left_out.append(str(error))
                continue
            hashes[file.uri] = hashlib.sha256(loaded.data).hexdigest()
            if budget is not None:
                text = _beginning(text, min(budget, share))
                budget -= len(text.encode())
            if text.strip():
                order[file.uri] = Text(file.uri, text, (len(text),))
    if not path.is_dir():
        return Texts(tuple(order.values()), next(iter(hashes.values())), tuple(left_out))
    for uri, digest in sorted(hashes.items()):
        whole.update(f"{uri}\0{digest}\n".encode("utf-8", "surrogateescape"))
    documents = tuple(order[file.uri] for file in files if file.uri in order)
    if not documents and left_out:
        raise ReadingError(str(path), "empty", f"none of its files could be read; the first: {left_out[0]}")
    return Texts(documents, whole.hexdigest(), tuple(left_out))


def _shuffled(items: list[Any], seed: int) -> list[Any]:
    order = list(items)
    random.Random(seed).shuffle(order)
    return order


def _limited(drawn: list[Text], limit_bytes: int, order: list[Text]) -> tuple[Text, ...]:
    """The first of `drawn` that fit, put back into `order`."""
    kept: dict[str, Text] = {}
    budget, share = limit_bytes, _share(limit_bytes, len(drawn))
    for document in drawn:
        if budget < (LEAST if kept else 1):
            break
        text = _beginning(document.text, min(budget, share))
        budget -= len(text.encode())
        if text.strip():
            kept[document.id] = Text(document.id, text, (len(text),))
    return tuple(kept[document.id] for document in order if document.id in kept)


def _share(limit_bytes: int, documents: int) -> int:
    """Bytes that one document may give to a limit, so that one long one does not stand for all."""
    return limit_bytes if documents == 1 else max(limit_bytes // FEW, BLOCK)


def _beginning(text: str, limit_bytes: int) -> str:
    """At most so many bytes of a text, ended after a paragraph or a line where one ends in the second half."""
    data = text.encode()
    if len(data) <= limit_bytes:
        return text
    cut = data[:limit_bytes].decode("utf-8", "ignore")
    for mark in ("\n\n", "\n"):
        place = cut.rfind(mark, len(cut) // 2)
        if place >= 0:
            return cut[: place + len(mark)]
    return cut
