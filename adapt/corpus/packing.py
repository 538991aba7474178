"""Documents → rows of at most `block` tokens that hold whole documents or parts of long ones, each token once; and
sequences that were tokenised elsewhere, of which only some tokens are learned, never cut.

A row keeps the lengths of its pieces, so that attention and positions can begin anew with each. It knows no mixture
and no model.
"""

import hashlib
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, BinaryIO

import numpy as np

from adapt.corpus.sealed_folder import read_array, read_manifest, write_folder
from adapt.corpus.texts import TrainingText
from eval.data.texts import storable
from eval.runs.parts import Progress
from retrieval.errors import DamagedError, UsageError

KIND = "blocks"
TOKENS, ROWS, PIECES, ORIGINS = "tokens.bin", "rows.npy", "pieces.npy", "origins.npy"
LEARNED = "learned.bin"
"""A byte for each token, 1 where it is learned; the file is there only where not all are."""
LARGEST_BLOCK = 1 << 20
WINDOW = 1 << 16
"""Pieces that are fitted into rows together: drawn at random from all of the text, so that neighbours stay random, and
so many that hardly a row stays open. 736 PEPs fill rows of 512 tokens to 99.97 %, of 4,096 to 99.5 %."""
BATCH_CHARACTERS = 1 << 20
"""Characters tokenised at once: the tokenizer holds about 100 bytes a token while it works."""
_ENDS = ("<|endoftext|>", "<|end_of_text|>", "<｜end▁of▁sentence｜>")
"""What ended a document in pretraining, in models whose `eos_token` became the end of a turn when they learnt to chat
(SmolLM2 and Qwen <|im_end|>, Llama 3 <|eot_id|>): a raw document that ended so would teach the wrong thing."""
_BREAK = re.compile(r"\n(?=\S)")


@dataclass(frozen=True, slots=True)
class Row:
    """`ids` int32 (n,), n ≤ block; `pieces` int32, the lengths of the documents' parts in it, sum n; `source` is the
    number of the source in its order; `learned` bool (n,), the tokens that the model shall write, None for all."""

    ids: np.ndarray
    pieces: np.ndarray
    source: int = 0
    learned: np.ndarray | None = None


def position_ids(pieces: np.ndarray) -> np.ndarray:
    """int64 (n,): positions that begin at 0 with every piece.

    A model of transformers keeps pieces apart (sdpa, eager, flash attention) if it is given these as `position_ids`,
    NO attention mask and `use_cache=False`: with a mask of ones, or with the cache that a model's config switches on by
    default, it attends across pieces, silently (tests/adapt/corpus/test_isolation.py). The first token of a piece has
    nothing before it and must be left out of the loss.
    """
    lengths = np.asarray(pieces, dtype=np.int64)
    starts = np.cumsum(lengths) - lengths
    return np.arange(int(lengths.sum()), dtype=np.int64) - np.repeat(starts, lengths)


def document_text(text: TrainingText) -> str:
    """What is tokenised: the title, a blank line, the text."""
    whole = f"{text.title}\n\n{text.text}" if text.title.strip() else text.text
    return storable(whole)


def marks(tokenizer: Any) -> tuple[int | None, int]:
    """The tokens before and after a document: before it only where the tokenizer opens every text so (Llama, Gemma).

    Raises UsageError for a tokenizer that is no fast one or knows no end of a document.
    """
    if not getattr(tokenizer, "is_fast", False):
        raise UsageError("the model has no fast tokenizer (tokenizer.json); save one beside the weights")
    vocabulary = tokenizer.get_vocab()
    end = next((vocabulary[name] for name in _ENDS if name in vocabulary), tokenizer.eos_token_id)
    if end is None:
        raise UsageError("the tokenizer has no end-of-text token (eos_token); set one and save it with the model")
    begin = tokenizer.bos_token_id
    opens = begin is not None and tokenizer("a")["input_ids"][:1] == [begin] != _encode(tokenizer, ["a"])[0][:1]
    return (begin if opens else None), int(end)


def tokenizer_hash(tokenizer: Any) -> str:
    """SHA-256 (hex) of all that a fast tokenizer does."""
    return hashlib.sha256(tokenizer.backend_tokenizer.to_str().encode("utf-8", "surrogatepass")).hexdigest()


def pack(
    texts: Iterable[TrainingText],
    tokenizer: Any,
    *,
    block: int,
    folder: Path,
    seed: int,
    progress: Progress,
    name: str = "the texts",
    more: Mapping[str, Any] = MappingProxyType({}),
) -> "Blocks":
    """Tokenise documents (title, blank line, text, end mark), cut those longer than `block`, fit the pieces into rows
    (best fit decreasing, in windows of shuffled pieces: Ding et al. 2024, arXiv:2404.10830) and write them to `folder`.

    Special tokens that stand in a text are text. Texts without a character are left out. `name` is what a message
    calls the texts; `more` is kept in the manifest as it is once all of them are read. Raises UsageError for texts that
    hold less than a block or a block that cannot be, FathomError where the disk cannot take it.
    """
    _require_block(block)
    begin, end = marks(tokenizer)

    def fill(new: Path) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
        scratch = new / "documents.bin"
        with scratch.open("wb") as stream:
            written = _write_documents(texts, tokenizer, (begin, end), stream, progress)
        lengths = np.array(written.lengths, dtype=np.int64)
        tokens = int(lengths.sum())
        if tokens < block:
            raise UsageError(
                f"{name}: {len(lengths):,} documents with {tokens:,} tokens, less than one block of {block:,}; give "
                "more text or a smaller block"
            )
        rows = _write_rows(np.memmap(scratch, dtype="<i4", mode="r"), lengths, block, new, seed, progress)
        scratch.unlink()
        facts = {
            "block": block,
            "rows": rows,
            "tokens": tokens,
            "documents": len(lengths),
            "empty": written.empty,
            "bytes": written.bytes,
            "fill": round(tokens / (rows * block), 6),
            "largest_id": written.largest,
            "begin": begin,
            "end": end,
            "tokenizer": tokenizer_hash(tokenizer),
            "seed": seed,
        }
        return facts, more

    write_folder(folder, KIND, fill)
    return Blocks.open(folder)


def pack_sequences(
    sequences: Iterable[tuple[Sequence[int], Sequence[bool]]],
    *,
    block: int,
    folder: Path,
    seed: int,
    progress: Progress,
    facts: Callable[[], Mapping[str, Any]] = dict,
    name: str = "the examples",
) -> "Blocks":
    """As `pack`, of (token ids, which of them are learned): each is one piece and none is cut.

    `facts` is asked when all were read and goes into the manifest, and into the hash. Raises UsageError for a sequence
    longer than `block`, for none at all, or where no token is learned.
    """
    _require_block(block)

    def fill(new: Path) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
        scratch, marked = new / "sequences.bin", new / "marked.bin"
        lengths: list[int] = []
        largest = count = 0
        with scratch.open("wb") as stream, marked.open("wb") as marks_stream:
            for ids, learned in sequences:
                if not 0 < len(ids) <= block or len(ids) != len(learned):
                    raise UsageError(f"{name}: a sequence of {len(ids):,} tokens does not fit a block of {block:,}")
                stream.write(np.asarray(ids, dtype="<i4").tobytes())
                marks_stream.write(np.asarray(learned, dtype=np.uint8).tobytes())
                lengths.append(len(ids))
                largest = max(largest, *ids)
                count += sum(learned[1:])  # nothing predicts the first token of a piece
                progress("tokenise", len(lengths), 0)
        if not count:
            raise UsageError(f"{name}: no token is learned of {len(lengths):,} sequences; give examples with answers")
        size = np.array(lengths, dtype=np.int64)
        tokens = int(size.sum())
        told = np.memmap(marked, dtype=np.uint8, mode="r")
        rows = _write_rows(np.memmap(scratch, dtype="<i4", mode="r"), size, block, new, seed, progress, learned=told)
        scratch.unlink()
        marked.unlink()
        known = {
            "block": block,
            "rows": rows,
            "tokens": tokens,
            "learned": count,
            "documents": len(lengths),
            "fill": round(tokens / (rows * block), 6),
            "largest_id": largest,
            "seed": seed,
        }
        return {**known, **facts()}, {}

    write_folder(folder, KIND, fill)
    return Blocks.open(folder)


def _require_block(block: int) -> None:
    if not 2 <= block <= LARGEST_BLOCK:
        raise UsageError(f"a block has 2 to {LARGEST_BLOCK:,} tokens; {block:,} was given")


class Blocks:
    """Packed rows on disk, read through a memory map. `sha256` is of the tokens, the rows and how they were made."""

    def __init__(self, folder: Path, manifest: Mapping[str, Any]) -> None:
        """Use `open`, which checks what is there."""
        facts = manifest["facts"]
        self.folder, self.sha256 = folder, str(manifest["sha256"])
        self.facts: Mapping[str, Any] = facts
        """`documents`, `empty` (documents left out), `bytes` of text, `fill`, `tokenizer` (hash), `largest_id`, …"""
        self.more: Mapping[str, Any] = manifest["more"]
        self.block, self.rows, self.tokens = int(facts["block"]), int(facts["rows"]), int(facts["tokens"])
        self._rows, self._pieces = read_array(folder / ROWS), read_array(folder / PIECES)
        self._starts = np.concatenate(([0], np.cumsum(self._pieces, dtype=np.int64)))
        self._tokens = np.memmap(folder / TOKENS, dtype="<i4", mode="r", shape=(self.tokens,))
        self._learned: np.ndarray | None = None
        if LEARNED in manifest["files"]:
            self._learned = np.memmap(folder / LEARNED, dtype=np.uint8, mode="r", shape=(self.tokens,))
        widths = np.diff(self._starts[self._rows])
        sound = (
            len(self._rows) == self.rows + 1
            and self._rows[0] == 0
            and self._rows[-1] == len(self._pieces)
            and self._starts[-1] == self.tokens
            and bool((self._pieces > 0).all() and (widths > 0).all() and (widths <= self.block).all())
        )
        if not sound:
            raise DamagedError(f"the rows of {folder} do not fit its tokens; remove the folder and pack again")
        self._origins: np.ndarray | None = None

    @classmethod
    def open(cls, folder: Path) -> "Blocks":
        """Check sizes and the hashes of all but the tokens. Raises MissingError, DamagedError."""
        manifest = read_manifest(folder, KIND, unread=(TOKENS, LEARNED))
        if not {TOKENS, ROWS, PIECES, ORIGINS} <= set(manifest["files"]):
            raise DamagedError(f"{folder} lacks files of {KIND}; remove the folder and pack again")
        if manifest["files"][TOKENS][0] != 4 * manifest["facts"]["tokens"]:
            raise DamagedError(
                f"{folder / TOKENS} does not hold the tokens it should; remove the folder and pack again"
            )
        if manifest["files"].get(LEARNED, [manifest["facts"]["tokens"]])[0] != manifest["facts"]["tokens"]:
            raise DamagedError(f"{folder / LEARNED} does not tell of every token; remove the folder and pack again")
        return cls(folder, manifest)

    def verify(self) -> None:
        """Hash everything, the tokens too. Raises DamagedError."""
        read_manifest(self.folder, KIND)

    def __len__(self) -> int:
        return self.rows

    def row(self, number: int) -> Row:
        """Row `number`, as a copy. Raises IndexError."""
        if not 0 <= number < self.rows:
            raise IndexError(f"row {number} of {self.rows}")
        first, last = int(self._rows[number]), int(self._rows[number + 1])
        part = slice(self._starts[first], self._starts[last])
        return Row(
            np.array(self._tokens[part], dtype=np.int32),
            np.array(self._pieces[first:last], dtype=np.int32),
            learned=None if self._learned is None else np.array(self._learned[part], dtype=bool),
        )

    def lengths(self) -> np.ndarray:
        """int64 (rows,): tokens of each row."""
        return np.diff(self._starts[self._rows])

    def origins(self, number: int) -> np.ndarray:
        """int64 (pieces of the row, 2): the document each piece comes from, counted as they were given without the
        empty ones, and the token of it that the piece begins with."""
        if self._origins is None:
            self._origins = read_array(self.folder / ORIGINS)
        return np.array(self._origins[int(self._rows[number]) : int(self._rows[number + 1])])


@dataclass
class _Written:
    """What the tokenised documents are: tokens of each, and sums."""

    lengths: list[int]
    empty: int = 0
    bytes: int = 0
    largest: int = 0


def _write_documents(
    texts: Iterable[TrainingText], tokenizer: Any, around: tuple[int | None, int], stream: BinaryIO, progress: Progress
) -> _Written:
    """Every document's tokens with its marks, one after the other, little-endian int32."""
    written = _Written([])
    begin = [] if around[0] is None else [around[0]]
    for batch in _batches(texts, written):
        if len(batch) == 1:  # it may be of any size, so part by part
            whole = [np.array(_encode(tokenizer, [part])[0], dtype="<i4") for part in _parts(batch[0])]
            encoded = [np.concatenate(whole)]
        else:
            encoded = [np.array(ids, dtype="<i4") for ids in _encode(tokenizer, batch)]
        for text, tokens in zip(batch, encoded, strict=True):
            ids = np.concatenate([np.array(begin, dtype="<i4"), tokens, np.array([around[1]], dtype="<i4")])
            stream.write(ids.tobytes())
            written.lengths.append(len(ids))
            written.bytes += len(text.encode())
            written.largest = max(written.largest, int(ids.max()))
        progress("tokenise", len(written.lengths), 0)
    return written


def _batches(texts: Iterable[TrainingText], written: _Written) -> Iterator[list[str]]:
    """Documents with text, about `BATCH_CHARACTERS` together; one of more than that alone."""
    batch: list[str] = []
    size = 0
    for text in texts:
        if not text.text.strip():
            written.empty += 1
            continue
        whole = document_text(text)
        if batch and size + len(whole) > BATCH_CHARACTERS:
            yield batch
            batch, size = [], 0
        batch.append(whole)
        size += len(whole)
    if batch:
        yield batch


def _parts(text: str) -> Iterator[str]:
    """A text of millions of characters in parts of one batch, cut before a line where there is one."""
    start = 0
    while len(text) - start > BATCH_CHARACTERS:
        end = start + BATCH_CHARACTERS
        found = [match.end() for match in _BREAK.finditer(text, end - BATCH_CHARACTERS // 8, end)]
        yield text[start : found[-1] if found else end]
        start = found[-1] if found else end
    yield text[start:]


def _encode(tokenizer: Any, texts: Sequence[str]) -> list[list[int]]:
    return tokenizer(
        list(texts),
        add_special_tokens=False,
        split_special_tokens=True,
        return_attention_mask=False,
        return_token_type_ids=False,
        truncation=False,
        verbose=False,
    )["input_ids"]


def _write_rows(
    tokens: np.ndarray,
    lengths: np.ndarray,
    block: int,
    folder: Path,
    seed: int,
    progress: Progress,
    learned: np.ndarray | None = None,
) -> int:
    """Cut documents into pieces, shuffle these, fit each window of them into rows, shuffle those. Returns how many."""
    counts = -(-lengths // block)
    document = np.repeat(np.arange(len(lengths)), counts)
    offset = (np.arange(len(document)) - np.repeat(np.cumsum(counts) - counts, counts)) * block
    size = np.minimum(lengths[document] - offset, block)
    start = (np.cumsum(lengths) - lengths)[document] + offset
    random = np.random.default_rng(seed)
    shuffled = random.permutation(len(document))
    ends: list[int] = []
    order: list[np.ndarray] = []
    done = 0
    with ExitStack() as files:
        stream = files.enter_context((folder / TOKENS).open("wb"))
        told = files.enter_context((folder / LEARNED).open("wb")) if learned is not None else None
        for at in range(0, len(shuffled), WINDOW):
            window = shuffled[at : at + WINDOW]
            rows = best_fit(size[window], block)
            for row in random.permutation(len(rows)):
                pieces = window[rows[row]]
                for piece in pieces:
                    part = slice(start[piece], start[piece] + size[piece])
                    stream.write(np.asarray(tokens[part], dtype="<i4").tobytes())
                    if told is not None and learned is not None:
                        told.write(np.asarray(learned[part], dtype=np.uint8).tobytes())
                order.append(pieces)
                done += len(pieces)
                ends.append(done)
            progress("pack", min(at + WINDOW, len(shuffled)), len(shuffled))
    placed = np.concatenate(order)
    np.save(folder / ROWS, np.array([0, *ends], dtype=np.int64), allow_pickle=False)
    np.save(folder / PIECES, size[placed].astype(np.int32), allow_pickle=False)
    np.save(folder / ORIGINS, np.stack([document[placed], offset[placed]], axis=1), allow_pickle=False)
    return len(ends)


def best_fit(sizes: np.ndarray, block: int) -> list[list[int]]:
    """Numbers of the pieces (1 ≤ size ≤ block) in each row: longest first, each into the row it fills best."""
    rows: list[list[int]] = []
    open_rows: dict[int, list[int]] = {}  # by the room they have left
    rooms = 0  # bit r: some row has room r; the lowest bit from `size` on is the best fit, found without a search
    for piece in np.argsort(-sizes, kind="stable").tolist():
        size = int(sizes[piece])
        fitting = rooms >> size
        if fitting:
            room = size + (fitting & -fitting).bit_length() - 1
            row = open_rows[room].pop()
            if not open_rows[room]:
                rooms ^= 1 << room
        else:
            room, row = block, len(rows)
            rows.append([])
        rows[row].append(piece)
        left = room - size
        if left:
            open_rows.setdefault(left, []).append(row)
            rooms |= 1 << left
    return rows
