"""Texts → the pieces their tokenizer cuts them into before any merge, how often each occurs and in which documents.

A byte-level BPE never merges across these pieces, so they are all that a vocabulary is decided by. It knows no merges.
"""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from eval.runs.parts import Progress

LONGEST = 1000
"""Tokens of a piece that are learned from at once: a megabyte without a space is cut, or each merge would walk it."""
DOCUMENTS_KEPT = 1000
"""Numbers of documents remembered of one piece; what is in more is in enough."""


@dataclass(slots=True)
class Piece:
    """One piece that is more than one token: its tokens as the vocabulary writes them, its count, its documents."""

    tokens: tuple[str, ...]
    count: int = 0
    documents: list[int] = field(default_factory=list)


@dataclass(frozen=True)
class Counted:
    """A corpus in pieces. `single` counts occurrences of pieces that are one token (or none) already."""

    pieces: tuple[Piece, ...]
    documents: int
    bytes: int
    tokens: int
    """All of the corpus, without special tokens."""


def count(
    texts: Iterable[str],
    tokenizer: Any,
    *,
    splitter: Any = None,
    progress: Progress = lambda *_: None,
    total: int = 0,
) -> Counted:
    """Read texts once. `tokenizer` is a fast one of transformers, `splitter` a pre-tokenizer in place of its own,
    `total` the documents there are if known."""
    backend = tokenizer.backend_tokenizer
    normalise = backend.normalizer.normalize_str if backend.normalizer is not None else str
    pre_tokenize, tokenize = (splitter or backend.pre_tokenizer).pre_tokenize_str, backend.model.tokenize
    same: dict[str, str] = {}  # one object for each token, as pieces are many
    known: dict[str, Piece | int] = {}  # pieces of one token are only counted, as nothing can be merged in them
    tokens = size = number = 0
    for number, text in enumerate(texts, 1):
        size += len(text.encode("utf-8", "replace"))
        for written, times in Counter(piece for piece, _ in pre_tokenize(normalise(text))).items():
            piece = known.get(written)
            if piece is None:
                split = tuple(same.setdefault(token.value, token.value) for token in tokenize(written))
                piece = known[written] = len(split) if len(split) < 2 else Piece(split)
            if isinstance(piece, int):
                tokens += times * piece
                continue
            tokens += times * len(piece.tokens)
            piece.count += times
            if len(piece.documents) < DOCUMENTS_KEPT:
                piece.documents.append(number)
        if number % 100 == 0:
            progress("counting pieces", number, total)
    progress("counting pieces", number, total)
    return Counted(tuple(piece for piece in known.values() if isinstance(piece, Piece)), number, size, tokens)
