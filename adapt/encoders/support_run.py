"""A recipe for a support checker → an encoder trained to tell whether a passage supports a claim, refutes it or says
nothing on it, and measured on documents it has not seen.
"""

import re
from collections.abc import Sequence

import numpy as np

from adapt.encoders.claims import LABELS, Claim, load_claims
from adapt.encoders.pair_card import card
from adapt.encoders.pair_recipe import GATE
from adapt.encoders.pair_result import set_calibration
from adapt.encoders.pair_run import FINISHED, GATED, RESULT, STOPPED, EncoderResult, PairRun
from adapt.encoders.pair_training import Example
from eval.figures.statistics import bootstrap
from retrieval.errors import UsageError
from retrieval.reranking.pair_folder import SUPPORT

LEAST = 10
"""Held-out claims."""
TEMPERATURES = np.exp(np.linspace(np.log(0.2), np.log(8.0), 60))


class SupportRun(PairRun):
    """See `PairRun`."""

    def go(self) -> EncoderResult:
        """Do what is not done yet. Raises UsageError for data that trains nothing, and what training raises."""
        learned: list[Claim] = []
        held: list[Claim] = []
        counts = {}
        for name, source in self.recipe.data.items():
            ours, theirs = load_claims(name, source, self.recipe.root, self.recipe.held_out, self.recipe.seed)
            learned, held = learned + ours, held + theirs
            counts[name] = {"questions": len(ours), "held_out": len(theirs)}
        self.note(data=counts)
        if len(held) < LEAST:
            raise UsageError(
                f"only {len(held)} claims are held out, and {LEAST} are needed; give more or a larger held_out"
            )
        examples = [Example(one.claim, one.passage, label=one.label) for one in learned]
        if not self.train(examples, SUPPORT, LABELS, 0):
            return self.end(STOPPED)
        return self._measure(held)

    def _measure(self, held: Sequence[Claim]) -> EncoderResult:
        from retrieval.reranking.pair_classifier import load_pair_classifier
        from retrieval.reranking.pair_folder import read_facts

        folder = self.folder / RESULT
        classifier = load_pair_classifier(folder, device="cpu", cache=self.models)
        logits = []
        for number, one in enumerate(held, 1):
            logits.append(classifier.logits(one.claim, [one.passage])[0])
            self.progress("scoring held-out claims", number, len(held))
        table, told = np.array(logits), np.array([one.label for one in held])
        common = int(np.bincount(told, minlength=len(LABELS)).argmax())
        right, base = (table.argmax(1) == told).astype(float), (told == common).astype(float)
        figures = {
            "accuracy base": bootstrap(list(base)),
            "accuracy": bootstrap(list(right)),
            "accuracy gain": bootstrap(list(right - base)),
        }
        temperature = float(min(TEMPERATURES, key=lambda one: _loss(table / one, told)))
        facts = read_facts(folder)
        set_calibration(folder, facts, {"temperature": temperature}, card(self.facts, figures))
        failed = [gate for gate in self.recipe.gates if not _passes(gate, float(right.mean()), float(base.mean()))]
        return self.end(GATED if failed else FINISHED, figures, failed)


def _loss(logits: np.ndarray, told: np.ndarray) -> float:
    """Mean −ln P of what is right."""
    shifted = logits - logits.max(1, keepdims=True)
    chances = shifted - np.log(np.exp(shifted).sum(1, keepdims=True))
    return float(-chances[np.arange(len(told)), told].mean())


def _passes(gate: str, accuracy: float, base: float) -> bool:
    match = re.fullmatch(GATE, gate)
    assert match is not None  # checked with the recipe
    return accuracy >= (base if match[2] == "base" else float(match[2]))
