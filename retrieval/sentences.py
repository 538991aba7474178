"""Text → spans of its sentences, English and Chinese, at the boundaries that the splitter cuts at too.

A table row, a list item or a line of code is a sentence of its own; a wrapped line is not. Linear in the text.
"""

import numpy as np

from retrieval.boundaries import find_boundaries

MAX_SENTENCE = 500
"""Characters. A longer one (text without full stops) is cut at its last clause, else at its last space before that."""


def sentence_spans(text: str) -> list[tuple[int, int]]:
    """Half-open spans of the sentences in `text`, in order, disjoint, without surrounding white space; stretches
    without a letter or digit (rules, table lines, markers) are left out."""
    if not text.strip():
        return []
    found = find_boundaries(text)
    cuts = np.unique(np.concatenate([found.blocks, found.rows, found.sentences])).astype(np.int64).tolist()
    spans: list[tuple[int, int]] = []
    for start, end in zip([0, *cuts], [*cuts, len(text)], strict=True):
        while end - start > MAX_SENTENCE:
            cut = _last_between(found.clauses, start, start + MAX_SENTENCE) or _last_between(
                found.words, start, start + MAX_SENTENCE
            )
            _add(text, start, cut or start + MAX_SENTENCE, spans)
            start = cut or start + MAX_SENTENCE
        _add(text, start, end, spans)
    return spans


def _last_between(cuts: np.ndarray, start: int, end: int) -> int:
    """The last cut in (start, end], 0 if there is none."""
    position = int(np.searchsorted(cuts, end, side="right")) - 1
    return int(cuts[position]) if position >= 0 and cuts[position] > start else 0


def _add(text: str, start: int, end: int, spans: list[tuple[int, int]]) -> None:
    piece = text[start:end]
    if not any(character.isalnum() for character in piece):
        return
    spans.append((start + len(piece) - len(piece.lstrip()), end - (len(piece) - len(piece.rstrip()))))
