"""A question and its nearest passages → the estimated probability that the documents answer it. No model is asked.

Three signals: how near the best passage is in meaning, the share of the question's telling words that one passage has,
and whether a name in the question stands in none of them. They are joined by logistic regression, fitted by `python -m
eval.search.answerability` on public sets: questions with their answer in the collection, the same questions with that
document taken out, and questions about other things.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

import numpy as np

from retrieval.embedding.probes import PROBES
from retrieval.flagging import unknown_names
from retrieval.prompts import Language, language_of
from retrieval.quoting import best_coverage

if TYPE_CHECKING:
    from retrieval.passages import Hit

THRESHOLD = 0.205
"""Confidence below which a question is refused where neither settings nor collection say otherwise. On the public sets
any value from .2 to .25 refuses the same few answerable questions; within that range the handbook's questions chose."""


@dataclass(frozen=True, slots=True)
class Weights:
    """Of a logistic regression over (meaning, words, a name is missing)."""

    bias: float
    meaning: float
    words: float
    missing: float

    def odds(self, meaning: float, words: float, missing: bool) -> float:
        """Logarithm of the odds."""
        return self.bias + self.meaning * meaning + self.words * words + self.missing * missing


WITH_MEANING = Weights(bias=-4.29, meaning=8.0, words=0.99, missing=-1.71)
"""Where the embedding model understands the question's language."""
WORDS_ALONE = Weights(bias=-2.02, meaning=0.0, words=5.78, missing=-1.72)
"""Where it does not, or where passages were searched by words alone."""

_CHINESE = next(n for n, text in enumerate(PROBES) if language_of(text) == "zh")
"""Probes before it are English; the first Chinese ones are translations of the first English ones."""
_TRANSLATED = 2


@dataclass(frozen=True, slots=True)
class MeaningScale:
    """What cosines of one embedding model are worth, read off the probe texts that every collection keeps.

    `unrelated` is the mean cosine of texts that have nothing to do with each other (all-MiniLM-L6-v2: English .01,
    Chinese .62, which it does not read). `chinese` is how far it understands Chinese, 0 to 1: the cosine of a sentence
    and its translation, above that of unrelated ones.
    """

    unrelated: dict[Language, float]
    chinese: float

    @classmethod
    def of(cls, probes: np.ndarray) -> Self:
        """`probes` are the vectors of `probe_vectors`: (2 × probes, dimension), passages before queries."""
        count = len(PROBES)
        cosines = probes[count:] @ probes[:count].T
        parts: dict[Language, slice] = {"en": slice(0, _CHINESE), "zh": slice(_CHINESE, count)}
        unrelated: dict[Language, float] = {}
        for language, part in parts.items():
            block = cosines[part, part]
            others = block[~np.eye(len(block), dtype=bool)]
            unrelated[language] = float(others.mean())
        pairs = [cosines[n, _CHINESE + n] for n in range(_TRANSLATED)]
        pairs += [cosines[_CHINESE + n, n] for n in range(_TRANSLATED)]
        base = unrelated["en"]
        return cls(unrelated, float(np.clip((np.mean(pairs) - base) / max(1e-6, 1 - base), 0, 1)))

    def meaning(self, cosine: float, language: Language) -> float:
        """0 for what is as far as unrelated texts, 1 for the same text."""
        base = self.unrelated[language]
        return max(0.0, (cosine - base) / max(1e-6, 1 - base))

    def trust(self, language: Language) -> float:
        """How far cosines of this language say anything, 0 to 1."""
        return self.chinese if language == "zh" else 1.0


@dataclass(frozen=True, slots=True)
class Signals:
    """`meaning` and `words` of the nearest passages, each 0 to 1; `missing`: a name of the question stands in none of
    them; `trust` is how far `meaning` counts."""

    meaning: float
    words: float
    missing: bool
    trust: float

    @property
    def confidence(self) -> float:
        """Probability that the documents answer the question."""
        odds = self.trust * WITH_MEANING.odds(self.meaning, self.words, self.missing)
        odds += (1 - self.trust) * WORDS_ALONE.odds(0.0, self.words, self.missing)
        return 1 / (1 + math.exp(-odds))


def signals(question: str, hits: Sequence["Hit"], scale: MeaningScale | None) -> Signals:
    """What the nearest passages say of the question. Fused scores cannot tell: the best of them is always near 1."""
    language = language_of(question)
    cosines = [hit.scores.dense for hit in hits if hit.scores.dense is not None]
    words = best_coverage(question, hits) if hits else 0.0
    missing = bool(unknown_names(question, hits))
    if scale is None or not cosines:
        return Signals(0.0, words, missing, 0.0)
    return Signals(scale.meaning(max(cosines), language), words, missing, scale.trust(language))


def confidence(question: str, hits: Sequence["Hit"], scale: MeaningScale | None) -> float:
    """Estimated probability that the documents answer the question; 0 where nothing was found."""
    return signals(question, hits, scale).confidence if hits else 0.0
