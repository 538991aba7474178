"""Question and passage → the token ids of one pair, and pairs → padded batches. Knows a tokenizer, no model."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from tokenizers import Tokenizer

from retrieval.passages import Hit
from retrieval.splitting import embedding_text

PAD_TO = 16
"""Widths are multiples of it: OpenVINO prepares anew for each new shape."""
MOST_CHARACTERS = 16
"""Characters a token that are looked at: of a question of a million characters the rest is never tokenised."""
_SURROGATE = re.compile("[\ud800-\udfff]")

Batch = tuple[np.ndarray, np.ndarray, np.ndarray]
"""ids, mask (1 text, 0 padding on the right) and sides (0 question, 1 passage), each (batch, tokens) int64."""


@dataclass(frozen=True, slots=True)
class Pair:
    """Token ids with special tokens, and for each the side it belongs to."""

    ids: list[int]
    sides: list[int]


class PairTokenizer:
    """A model's own tokenizer for pairs. What is longer than `max_tokens` is cut at the end of the longer side, and a
    question keeps at least a quarter of the room, a passage half."""

    def __init__(self, definition: str, *, max_tokens: int, pad_id: int) -> None:
        """`definition`: the text of a tokenizer.json, whose template for pairs is used."""
        self._tokenizer = Tokenizer.from_str(definition)
        self._tokenizer.no_padding()
        self._tokenizer.enable_truncation(max_tokens, strategy="longest_first")
        self.max_tokens = max_tokens
        self.pad_id = pad_id

    def __call__(self, question: str, passages: Sequence[str]) -> list[Pair]:
        """One pair for each passage."""
        most = self.max_tokens * MOST_CHARACTERS
        first = _valid(question[:most])
        encodings = self._tokenizer.encode_batch([(first, _valid(passage[:most])) for passage in passages])
        return [Pair(encoding.ids, [min(side or 0, 1) for side in _sides(encoding)]) for encoding in encodings]


def _sides(encoding: object) -> list[int | None]:
    """Which sequence each token is of. Special tokens count to the one before them."""
    found: list[int | None] = []
    side: int | None = 0
    for place in encoding.sequence_ids:  # type: ignore[attr-defined]
        side = side if place is None else place
        found.append(side)
    return found


def batches(pairs: Sequence[Pair], pad_id: int, tokens_per_batch: int) -> Iterator[tuple[list[int], Batch]]:
    """Places in `pairs` and their padded batch, pairs of like length together, the longest first."""
    order = sorted(range(len(pairs)), key=lambda place: -len(pairs[place].ids))
    start = 0
    while start < len(order):
        width = -(-len(pairs[order[start]].ids) // PAD_TO) * PAD_TO
        chosen = order[start : start + max(1, tokens_per_batch // width)]
        start += len(chosen)
        yield chosen, padded([pairs[place] for place in chosen], pad_id, width)


def padded(pairs: Sequence[Pair], pad_id: int, width: int = 0) -> Batch:
    """Pairs → one batch; the width is the longest's or more."""
    shape = (len(pairs), max(width, *(len(pair.ids) for pair in pairs)))
    ids = np.full(shape, pad_id, dtype=np.int64)
    mask, sides = np.zeros(shape, dtype=np.int64), np.zeros(shape, dtype=np.int64)
    for row, pair in enumerate(pairs):
        ids[row, : len(pair.ids)] = pair.ids
        mask[row, : len(pair.ids)] = 1
        sides[row, : len(pair.ids)] = pair.sides
    return ids, mask, sides


def passage_text(hit: Hit) -> str:
    """What a reranker reads of a hit: its title and headings in one line, then its text, as the embedder does."""
    return embedding_text(" › ".join(hit.names), hit.passage.text)


def _valid(text: str) -> str:
    """Lone surrogates (from undecodable bytes on a command line) as U+FFFD: tokenizers refuses them."""
    return text if text.isascii() else _SURROGATE.sub("\ufffd", text)
