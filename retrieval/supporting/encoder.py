"""Support by a trained encoder that reads claim and passage together: support, refute or neither (`fathom adapt run` of
a recipe `encoder: support`).

A passage longer than it reads goes through it in windows of whole sentences. What it was not made to read, Chinese
with the packaged English base, is left to shared words.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from retrieval.errors import MissingError
from retrieval.prompts import Language, language_of
from retrieval.sentences import sentence_spans
from retrieval.supporting.checker import Odds
from retrieval.supporting.lexical import LexicalChecker

SUPPORT, REFUTE = "support", "refute"
SHIPPED = Path(__file__).resolve().parents[2] / "data" / "adapters" / "support"
READ_AT_ONCE = 3
"""Characters of a passage for each token of the encoder's limit: a claim beside it still has its quarter."""

Classify = Callable[[str, Sequence[str]], Sequence[Mapping[str, float]]]
"""(claim, passages) → probability by label for each passage, as `retrieval.reranking.pair_classifier` gives it."""


class EncoderChecker:
    """`languages` are those it may be asked in; `weights` names what decides its verdicts."""

    def __init__(
        self,
        classify: Classify,
        *,
        name: str,
        weights: str = "",
        max_tokens: int = 256,
        languages: frozenset[Language] = frozenset(("en", "zh")),
    ) -> None:
        self._classify = classify
        self._lexical = LexicalChecker()
        self._window = max_tokens * READ_AT_ONCE
        self.languages = languages
        self.name = name
        self.described: Mapping[str, Any] = {"checker": "encoder", "model": name, "weights": weights}

    def __call__(self, pairs: Sequence[tuple[str, str]]) -> list[Odds]:
        """Raises FathomError where the model fails."""
        found: list[Odds | None] = [None] * len(pairs)
        by_claim: dict[str, list[int]] = {}
        for place, (claim, passage) in enumerate(pairs):
            if language_of(claim) in self.languages:
                by_claim.setdefault(claim, []).append(place)
            else:
                found[place] = self._lexical([(claim, passage)])[0]
        for claim, places in by_claim.items():
            windows = [windows_of(pairs[place][1], self._most(pairs[place][1])) for place in places]
            told = iter(self._classify(claim, [window for each in windows for window in each]))
            for place, each in zip(places, windows, strict=True):
                found[place] = _of([next(told) for _ in each])
        return [odds for odds in found if odds is not None]

    def _most(self, passage: str) -> int:
        """Characters that are read at once: a token is about four of an English text, and one of a Chinese one."""
        return self._window if language_of(passage) == "en" else self._window // 4


def _of(told: Sequence[Mapping[str, float]]) -> Odds:
    """Of several windows the one that bears most out; one that contradicts counts as far as none does."""
    supported = max((one[SUPPORT] for one in told), default=0.0)
    contradicted = max((one[REFUTE] for one in told), default=0.0)
    return Odds(supported, min(contradicted, 1.0 - supported))


def windows_of(passage: str, most: int) -> list[str]:
    """A passage whole, or in stretches of whole sentences of at most `most` characters, each with the last sentence of
    the one before."""
    if len(passage) <= most:
        return [passage]
    found: list[str] = []
    spans = sentence_spans(passage)
    first = 0
    for place in range(len(spans)):
        if spans[place][1] - spans[first][0] > most and place > first:
            found.append(passage[spans[first][0] : spans[place - 1][1]])
            first = place - 1 if spans[place][1] - spans[place - 1][0] <= most and place - 1 > first else place
    if spans:
        found.append(passage[spans[first][0] : spans[-1][1]])
    return found or [passage[:most]]


def load_encoder_checker(
    folder: Path, *, device: str = "cpu", threads: int = 0, cache: Path | None = None
) -> EncoderChecker:
    """The checker in a folder of `fathom adapt run`; its first use is converted for this machine, which takes seconds.

    Raises MissingError, UsageError (no checker), MismatchError (made for another base), DamagedError.
    """
    from retrieval.embedding.load import EmbeddingSettings
    from retrieval.reranking.pair_classifier import load_pair_classifier
    from retrieval.reranking.pair_folder import PACKAGED_BASE, judge_pair_folder
    from retrieval.reranking.pair_folder import SUPPORT as ROLE

    if not folder.is_dir():
        raise MissingError(f"there is no support checker in {folder}; train one with 'fathom adapt run'")
    cache = cache or EmbeddingSettings().cache_folder()
    classifier = load_pair_classifier(folder, device=device, threads=threads, cache=cache)
    judged = judge_pair_folder(folder, role=ROLE, cache=cache)
    english = judged.facts.base == PACKAGED_BASE
    return EncoderChecker(
        classifier,
        name=classifier.name,
        weights=judged.weights,
        max_tokens=judged.facts.max_tokens,
        languages=frozenset(("en",)) if english else frozenset(("en", "zh")),
    )
