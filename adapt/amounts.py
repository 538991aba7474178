"""A recipe's source, unread → about how many documents, bytes and tokens it has: from a sample, in seconds.

What filters will drop, and what is held back, only preparing the corpus can tell. It knows no stage.
"""

import hashlib
import json
import os
import random
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from adapt.corpus.opening import is_rows
from adapt.corpus.preparing import Corpus
from adapt.corpus.sources import NOTHING_READ, OpenSource
from adapt.recipe import Source
from retrieval.embedding.stored import read_sealed, write_sealed
from retrieval.errors import DamagedError, MissingError, ReadingError
from retrieval.reading.folder import SourceFile, load, walk
from retrieval.reading.reader import Reader

SAMPLE_DOCUMENTS = 60
SAMPLE_CHARACTERS = 4_000
"""Of each document, from a place that is drawn: 240 kB tell tokens per byte within a per cent or two."""
SAMPLE_FILES = 12
COUNTED_BYTES = 128 << 20
"""Text of one file that is counted; what comes after is only known to be there."""

Tokenize = Callable[[list[str]], int]
"""Texts → tokens of all of them."""


@dataclass(frozen=True, slots=True)
class Amount:
    """What one source has to train on. `exact` is of a prepared corpus; `least` says that there is more of it."""

    documents: int
    bytes: int
    tokens: int
    exact: bool = False
    least: bool = False

    def as_json(self) -> dict[str, Any]:
        return asdict(self)

    def said(self) -> str:
        """For people: "about 3,912,000"."""
        word = "" if self.exact else "at least " if self.least else "about "
        return f"{word}{self.tokens if self.exact else rounded(self.tokens):,}"


def amount_of_prepared(corpus: Corpus, tokenize: Tokenize, *, tokenizer: str, cache: Path) -> Amount:
    """The exact amount of a corpus. Its tokens are counted once for a tokenizer (its hash) and remembered in `cache`.

    Raises DamagedError.
    """
    key = hashlib.sha256(f"{corpus.sha256}\0{tokenizer}".encode()).hexdigest()
    remembered = cache / "hashes" / f"tokens-{key}"
    known = read_sealed(remembered)
    if known is None:
        tokens, batch = 0, []
        for text in corpus.texts():
            batch.append(text.whole)
            if len(batch) == 64:
                tokens += tokenize(batch)
                batch = []
        tokens += tokenize(batch) + corpus.count("train")
        known = str(tokens).encode()
        write_sealed(remembered, known)
    return Amount(corpus.count("train"), corpus.bytes("train"), int(known), exact=True)


def rounded(number: float) -> int:
    """To three figures: an estimate is not known better."""
    number = round(number)
    step = 10 ** max(0, len(str(abs(number))) - 3)
    return round(number / step) * step


def amount_of(source: Source, root: Path, tokenize: Tokenize, *, seed: int = 0) -> Amount | None:
    """What `source` has for training, held-out documents not counted; None where only fetching it would tell (a data
    set of the hub). Raises MissingError, UsageError, ReadingError."""
    if source.synthetic is not None:
        tokens = source.synthetic.tokens
        return Amount(max(1, tokens // source.synthetic.length), 4 * tokens, tokens)
    if source.path.startswith("hub:"):
        return None
    path = root / os.path.expanduser(source.path)
    if not path.exists():
        raise MissingError(f"there is no file or folder '{path}'; correct the path, or the recipe's root (--root)")
    found = _of_folder(path, source, tokenize, seed) if path.is_dir() else _of_file(path, source, tokenize, seed)
    if source.limit is not None and source.limit < found.documents:
        share = source.limit / found.documents
        found = Amount(source.limit, round(found.bytes * share), round(found.tokens * share))
    trained = 1 - source.held_out
    return Amount(
        max(1, round(found.documents * trained)),
        round(found.bytes * trained),
        round(found.tokens * trained),
        least=found.least,
    )


def _of_file(path: Path, source: Source, tokenize: Tokenize, seed: int) -> Amount:
    """Every document is counted, and some are drawn to be tokenised (reservoir sampling)."""
    draw = random.Random(seed)
    sample: list[str] = []
    documents = size = 0
    opened = OpenSource(source.model_copy(update={"path": str(path)}), path.parent)
    for text in opened.texts(lambda *_: None):
        documents += 1
        size += len(text.whole.encode("utf-8", "replace"))
        if len(sample) < SAMPLE_DOCUMENTS:
            sample.append(_piece(text.whole, draw))
        elif (place := draw.randrange(documents)) < SAMPLE_DOCUMENTS:
            sample[place] = _piece(text.whole, draw)
        if size > COUNTED_BYTES:
            return _counted(sample, documents, size, tokenize, least=True)
    if not documents:
        first = opened.left_out.first()
        named = "; the source's 'field' names the column" if "field" in opened.left_out.counts else ""
        raise ReadingError(str(path), "empty", f"holds no text to train on{f' ({first})' if first else ''}{named}.")
    return _counted(sample, documents, size, tokenize)


def _of_folder(folder: Path, source: Source, tokenize: Tokenize, seed: int) -> Amount:
    """A few files, drawn, are read whole; what text they hold for their size stands for the rest. Files of rows are
    counted each."""
    files: list[SourceFile] = []
    rows: list[Path] = []
    for entry in walk(folder):
        if isinstance(entry, SourceFile):
            if is_rows(entry.path):
                rows.append(entry.path)
            else:
                files.append(entry)
        elif entry.reason == "unsupported" and is_rows(Path(entry.path)):
            rows.append(folder / entry.path)
    amounts = [_of_file(path, source, tokenize, seed) for path in rows]
    if files:
        amounts.append(_of_files(files, tokenize, seed))
    if not amounts:
        raise ReadingError(str(folder), "empty", f"{NOTHING_READ}.")
    return Amount(
        sum(amount.documents for amount in amounts),
        sum(amount.bytes for amount in amounts),
        sum(amount.tokens for amount in amounts),
        least=any(amount.least for amount in amounts),
    )


def _of_files(files: list[SourceFile], tokenize: Tokenize, seed: int) -> Amount:
    draw = random.Random(seed)
    drawn = draw.sample(files, min(len(files), SAMPLE_FILES))
    pieces = SAMPLE_DOCUMENTS // len(drawn)
    sample: list[str] = []
    of_files = of_text = 0
    first: ReadingError | None = None
    with Reader() as reader:
        for file in drawn:
            try:
                text = reader.parse(load(file)).text
            except ReadingError as error:
                first = first or error
                continue
            of_files += file.size
            of_text += len(text.encode())
            # A long file is sampled at several places, a short one once.
            sample += [_piece(text, draw) for _ in range(min(pieces, len(text) // SAMPLE_CHARACTERS + 1))]
    if not of_text:
        raise first or ReadingError(files[0].uri, "empty", "holds no text to train on.")
    size = sum(file.size for file in files) * of_text / max(1, of_files)
    return _counted(sample, len(files), round(size), tokenize)


def _piece(text: str, draw: random.Random) -> str:
    start = draw.randrange(max(1, len(text) - SAMPLE_CHARACTERS))
    return text[start : start + SAMPLE_CHARACTERS]


def _counted(sample: list[str], documents: int, size: int, tokenize: Tokenize, *, least: bool = False) -> Amount:
    tokens = tokenize(sample) / max(1, sum(len(text.encode("utf-8", "replace")) for text in sample))
    # One more after each document, which ends with EOS.
    return Amount(documents, size, round(size * tokens) + documents, least=least)


def tokenizer_of(folder: Path) -> tuple[Tokenize, int]:
    """The counting function of a model folder's tokenizer and its size, special tokens included.

    Raises MissingError or DamagedError.
    """
    file = folder / "tokenizer.json"
    if not file.is_file():
        raise MissingError(
            f"the model '{folder.name}' has no tokenizer.json; save its fast tokenizer beside the weights"
        )
    from tokenizers import Tokenizer

    try:
        tokenizer = Tokenizer.from_file(str(file))
    except Exception as error:  # the library's only exception is Exception itself
        raise DamagedError(f"{file} is no tokenizer ({str(error)[:200]}); fetch the model again") from error
    tokenizer.no_truncation()
    tokenizer.no_padding()

    def count(texts: list[str]) -> int:
        return sum(len(found.ids) for found in tokenizer.encode_batch_fast(texts, add_special_tokens=False))

    return count, tokenizer.get_vocab_size(with_added_tokens=True)


def json_file(file: Path) -> dict[str, Any]:
    """The object in a model's JSON file. Raises DamagedError."""
    try:
        value = json.loads(file.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise DamagedError(f"{file} cannot be read ({str(error)[:100]}); fetch the model again") from error
    if not isinstance(value, dict):
        raise DamagedError(f"{file} is not what a model has; fetch it again")
    return value
