"""An order of packed rows → micro-batches of tensors in exactly that order, shared out between processes, with what
counts in each step. Documents in one row see neither each other nor each other's positions.

It knows no model. A row that has fewer tokens than its neighbours is filled up with places nobody looks at.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from retrieval.errors import UsageError

IGNORED = -100
"""Target of a place that has none: torch's and transformers' own."""


class PackedRow(Protocol):
    """See adapt/corpus/packing.py."""

    @property
    def ids(self) -> np.ndarray: ...
    @property
    def pieces(self) -> np.ndarray: ...
    @property
    def source(self) -> int: ...
    @property
    def learned(self) -> np.ndarray | None: ...


class RowOrder(Protocol):
    """See adapt/corpus/mixing.py."""

    @property
    def sha256(self) -> str: ...
    @property
    def sources(self) -> tuple[str, ...]: ...
    @property
    def tokens(self) -> int: ...
    def row(self, number: int) -> PackedRow: ...
    def __len__(self) -> int: ...


@dataclass(frozen=True, slots=True)
class StepCounts:
    """Of one step of the optimizer, over all processes: tokens read, places with a target (their next token is of the
    same document and learned), the same of the rows whose distance from the older model is kept, tokens by source."""

    tokens: int
    targets: int
    kept: int
    by_source: tuple[int, ...]


@dataclass(frozen=True)
class Batches:
    """Which rows make which micro-batch: at most `step_rows` rows a step over all processes, `micro_rows` at once on a
    device.

    What does not divide is spread over all steps, whose sizes differ by a row: left to the last step it could be a
    single row, whose gradient is mostly noise and whose step is as long as any. A process that has no row in a
    micro-batch gets an empty one (-1), so that all take part in the same number of reductions.
    """

    rows: int
    step_rows: int
    micro_rows: int
    processes: int = 1
    rank: int = 0

    @property
    def accumulation(self) -> int:
        return self.step_rows // (self.micro_rows * self.processes)

    @property
    def steps(self) -> int:
        return -(-self.rows // self.step_rows)

    def __len__(self) -> int:
        return self.steps * self.accumulation

    def __iter__(self) -> Iterator[list[int]]:
        for step in range(self.steps):
            rows = self.of_step(step)
            for micro in range(self.accumulation):
                mine = _part(len(rows), micro * self.processes + self.rank, self.accumulation * self.processes)
                yield list(rows[mine.start : mine.stop]) or [-1]

    def of_step(self, step: int) -> range:
        """Rows of a step, of all processes."""
        return _part(self.rows, step, self.steps)


def _part(length: int, number: int, parts: int) -> range:
    """Of so many parts of 0 … length that differ by one in size, the one with this number."""
    return range(length * number // parts, length * (number + 1) // parts)


def batches(rows: int, *, block: int, batch_tokens: int, micro_tokens: int, processes: int, rank: int) -> Batches:
    """Share rows out. Raises UsageError where a step has fewer rows than there are processes, or no row is there."""
    if rows < 1:
        raise UsageError("there is no row to train on; the corpus is empty")
    each = batch_tokens // block // processes
    if each < 1:
        raise UsageError(
            f"batch_tokens ({batch_tokens}) holds fewer than one block ({block}) for each of {processes} "
            f"process(es); set batch_tokens to {block * processes} or more"
        )
    at_most = max(1, micro_tokens // block)
    micro = max(size for size in range(1, each + 1) if each % size == 0 and size <= at_most)
    return Batches(rows, each * processes, micro, processes, rank)


@dataclass
class OrderRows:
    """A map-style data set over an order; index -1 is an empty row."""

    order: RowOrder
    kept_sources: frozenset[int] = frozenset()
    _counts: tuple[range, StepCounts] | None = field(default=None, repr=False)

    def __len__(self) -> int:
        return len(self.order)

    def __getitem__(self, number: int) -> tuple[int, PackedRow | None]:
        return number, self.order.row(number) if number >= 0 else None

    def counts(self, rows: range) -> StepCounts:
        """What one step holds; every process counts for all, which costs no communication."""
        if self._counts is None or self._counts[0] != rows:
            tokens = targets = kept = 0
            by_source = [0] * len(self.order.sources)
            for number in rows:
                row = self.order.row(number)
                places = int((targets_of(np.asarray(row.ids), row.pieces, row.learned) != IGNORED).sum())
                tokens += len(row.ids)
                targets += places
                kept += places * (row.source in self.kept_sources)
                by_source[row.source] += len(row.ids)
            self._counts = (rows, StepCounts(tokens, targets, kept, tuple(by_source)))
        return self._counts[1]


def positions(pieces: Sequence[int] | np.ndarray) -> np.ndarray:
    """Place of each token in its own document's part: 0 1 2 0 1 for pieces of 3 and 2."""
    lengths = np.asarray(pieces, dtype=np.int64)
    starts = np.cumsum(lengths) - lengths
    return np.arange(int(lengths.sum()), dtype=np.int64) - np.repeat(starts, lengths)


def targets_of(ids: np.ndarray, pieces: Sequence[int] | np.ndarray, learned: np.ndarray | None = None) -> np.ndarray:
    """The token that follows each; IGNORED at the end of each document's part and before a token that is not
    `learned`."""
    following = np.full(len(ids), IGNORED, dtype=np.int64)
    following[:-1] = ids[1:] if learned is None else np.where(learned[1:], ids[1:], IGNORED)
    ends = np.cumsum(np.asarray(pieces, dtype=np.int64)) - 1
    following[ends[ends >= 0]] = IGNORED
    return following


@dataclass(frozen=True)
class Collator:
    """Rows → input_ids, position_ids, targets (rows × longest), numbers and sources of the rows.

    `flat` lays all rows one after the other without any filling and says where documents begin (`cu_seq_lens_q` and
    so on): what attention kernels for sequences of varying length want. Otherwise each row is a row of the batch, and
    transformers reads the documents off the positions: attention over rows of b tokens costs b², over a flat batch of
    n rows (n b)².
    """

    flat: bool = False

    def __call__(self, rows: Sequence[tuple[int, PackedRow | None]]) -> dict[str, Any]:
        import torch

        numbers = torch.tensor([number for number, _ in rows])
        sources = torch.tensor([-1 if row is None else row.source for _, row in rows])
        if self.flat:
            return {**self._flat([row for _, row in rows if row is not None]), "rows": numbers, "sources": sources}
        longest = max([1, *(len(row.ids) for _, row in rows if row is not None)])
        ids = np.zeros((len(rows), longest), dtype=np.int64)
        places = np.tile(np.arange(longest, dtype=np.int64), (len(rows), 1))
        targets = np.full((len(rows), longest), IGNORED, dtype=np.int64)
        for line, (_, row) in enumerate(rows):
            if row is not None:
                length = len(row.ids)
                ids[line, :length] = row.ids
                places[line, :length] = positions(row.pieces)
                places[line, length:] = np.arange(longest - length)  # a document of its own
                targets[line, :length] = targets_of(np.asarray(row.ids), row.pieces, row.learned)
        return {
            "input_ids": torch.from_numpy(ids),
            "position_ids": torch.from_numpy(places),
            "targets": torch.from_numpy(targets),
            "rows": numbers,
            "sources": sources,
        }

    @staticmethod
    def _flat(rows: Sequence[PackedRow]) -> dict[str, Any]:
        import torch

        ids = [np.asarray(row.ids, dtype=np.int64) for row in rows] or [np.zeros(1, dtype=np.int64)]
        pieces = np.concatenate([np.asarray(row.pieces) for row in rows]) if rows else np.ones(1)
        pieces = pieces[pieces > 0].astype(np.int64)
        targets = [targets_of(np.asarray(row.ids), row.pieces, row.learned) for row in rows] or [np.full(1, IGNORED)]
        ends = torch.from_numpy(np.concatenate([[0], np.cumsum(pieces)]).astype(np.int32))
        longest = int(pieces.max())
        return {
            "input_ids": torch.from_numpy(np.concatenate(ids))[None],
            "position_ids": torch.from_numpy(positions(pieces))[None],
            "targets": torch.from_numpy(np.concatenate(targets).astype(np.int64))[None],
            "cu_seq_lens_q": ends,
            "cu_seq_lens_k": ends,
            "max_length_q": longest,
            "max_length_k": longest,
        }
