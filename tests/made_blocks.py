"""Blocks with rows of given lengths, without a text or a tokenizer: token i of a source is i."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from adapt.corpus.packing import KIND, ORIGINS, PIECES, ROWS, TOKENS, Blocks
from adapt.corpus.sealed_folder import write_folder


def made_blocks(folder: Path, lengths: Sequence[int], block: int) -> Blocks:
    """Each row is one whole document."""

    def fill(new: Path) -> tuple[dict, dict]:
        tokens, rows = sum(lengths), len(lengths)
        np.arange(tokens, dtype="<i4").tofile(new / TOKENS)
        np.save(new / ROWS, np.arange(rows + 1))
        np.save(new / PIECES, np.array(lengths, dtype=np.int32))
        np.save(new / ORIGINS, np.stack([np.arange(rows), np.zeros(rows, dtype=np.int64)], axis=1))
        return {"block": block, "rows": rows, "tokens": tokens, "largest_id": tokens - 1}, {}

    write_folder(folder, KIND, fill)
    return Blocks.open(folder)
