"""Instructions that are there → the one that a new instruction repeats, by ROUGE-L. It knows no other rule.

Exact, and fast enough for thousands: only those that share enough words, in whatever order, are compared word by word.
"""

from array import array

import numpy as np

from eval.figures.answer_metrics import common_subsequence, rouge_tokens

NEAR = 0.7
"""ROUGE-L from which on an instruction repeats another (Wang et al. 2023, arXiv:2212.10560)."""


class Pool:
    """Texts by number, in the order of `add`."""

    def __init__(self) -> None:
        self.texts: list[str] = []
        self._tokens: list[list[str]] = []
        self._lengths = array("i")
        # The second "the" of a text is another entry than the first: shared entries are then shared words.
        self._holders: dict[tuple[str, int], array[int]] = {}

    def __len__(self) -> int:
        return len(self.texts)

    def add(self, text: str) -> None:
        """Take a text."""
        number = len(self.texts)
        tokens = rouge_tokens(text)
        self.texts.append(text)
        self._tokens.append(tokens)
        self._lengths.append(len(tokens))
        for entry in _entries(tokens):
            self._holders.setdefault(entry, array("i")).append(number)

    def nearest(self, text: str, least: float = NEAR) -> tuple[int, float] | None:
        """(number, ROUGE-L) of the text it is most like, the first of several; None where none reaches `least`.

        F1 of the longest common subsequence, as `eval.figures.answer_metrics.rouge_l`. Texts without a word are alike.
        """
        if not self.texts:
            return None
        tokens = rouge_tokens(text)
        lengths = np.array(self._lengths, np.int64)
        if not tokens:
            empty = np.flatnonzero(lengths == 0)
            return (int(empty[0]), 1.0) if len(empty) else None
        held = [np.array(self._holders[entry], np.int64) for entry in _entries(tokens) if entry in self._holders]
        if not held:
            return None
        shared = np.bincount(np.concatenate(held), minlength=len(self.texts))
        most = 2 * shared / (lengths + len(tokens))  # a subsequence is no longer than what is shared
        best: tuple[int, float] | None = None
        candidates = np.flatnonzero(most >= least)
        for number in candidates[np.argsort(-most[candidates], kind="stable")].tolist():
            if best is not None and most[number] < best[1]:
                break
            theirs = self._tokens[number]
            likeness = 2 * common_subsequence(tokens, theirs) / (len(tokens) + len(theirs))
            if likeness >= least and (best is None or (likeness, -number) > (best[1], -best[0])):
                best = (number, likeness)
        return best


def _entries(tokens: list[str]) -> list[tuple[str, int]]:
    counts: dict[str, int] = {}
    found = []
    for token in tokens:
        counts[token] = counts.get(token, 0) + 1
        found.append((token, counts[token]))
    return found
