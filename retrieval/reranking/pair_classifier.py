"""A claim and passages → for each the probability of every class, by a pair encoder with several outputs.

The support checker that `fathom adapt run` trains is one: support, refute, neutral.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from retrieval.errors import DamagedError, FathomError
from retrieval.reranking.cross_encoder import network_facts
from retrieval.reranking.pair_conversion import LoadedNetwork, scorer_of
from retrieval.reranking.pair_folder import SUPPORT, judge_pair_folder, load_network
from retrieval.reranking.pairs import PairTokenizer, batches
from retrieval.reranking.scoring import Scorer


class PairClassifier:
    """`labels` in the order of every row; `temperature` was fitted on held-out pairs, so that probabilities hold."""

    def __init__(
        self, scorer: Scorer, tokens: PairTokenizer, name: str, labels: tuple[str, ...], temperature: float = 1.0
    ) -> None:
        self.name, self.labels, self.temperature = name, labels, temperature
        self._scorer, self._tokens = scorer, tokens

    def __call__(self, claim: str, passages: Sequence[str]) -> list[dict[str, float]]:
        """Probability by label for each passage. Raises FathomError where the model fails."""
        if not passages:
            return []
        scaled = self.logits(claim, passages) / self.temperature
        chances = np.exp(scaled - scaled.max(1, keepdims=True))
        chances /= chances.sum(1, keepdims=True)
        return [dict(zip(self.labels, map(float, row), strict=True)) for row in chances]

    def logits(self, claim: str, passages: Sequence[str]) -> np.ndarray:
        """(passages, labels) float32. Raises FathomError where the model fails."""
        found = np.zeros((len(passages), len(self.labels)), dtype=np.float32)
        try:
            pairs = self._tokens(claim, passages)
            for places, batch in batches(pairs, self._tokens.pad_id, self._scorer.tokens_per_batch):
                found[places] = self._scorer(*batch)
        except (RuntimeError, ValueError, IndexError) as error:
            raise FathomError(f"the checker '{self.name}' failed ({error})") from error
        return found


def load_pair_classifier(
    folder: Path, *, role: str = SUPPORT, device: str = "cpu", threads: int = 0, cache: Path
) -> PairClassifier:
    """The classifier in a folder of `fathom adapt run`. Raises MissingError, UsageError, MismatchError or
    DamagedError."""
    found = judge_pair_folder(folder, role=role, cache=cache)

    def load() -> LoadedNetwork:
        return LoadedNetwork(load_network(found), network_facts(found.trunk, found.facts.max_tokens))

    scorer, facts = scorer_of(found.name, found.weights, load, device=device, threads=threads, cache=cache)
    temperature = (found.facts.calibration or {}).get("temperature", 1.0)
    if not isinstance(temperature, int | float) or not 0.01 < temperature < 100:
        raise DamagedError(f"'{found.name}' has a calibration beyond all sense; copy or train it again")
    return PairClassifier(scorer, facts.tokens(), found.name, found.facts.labels, float(temperature))
