"""Questions with and without an answer in their documents → thresholds below which a question is refused. No model.

The thresholds are those of `retrieval.answering.nearness`: best cosine, and the share of the question's telling words
that one passage has. Fitted on some documents' questions, measured on those of others.
"""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from eval.data.datasets import RetrievalDataset
from eval.data.questions import Question, QuestionSet, read_questions
from eval.figures.statistics import Value, estimates, paired
from eval.runs.parts import Progress
from retrieval.answering import PASSAGES, AnswerSettings
from retrieval.collection import Collection
from retrieval.errors import UsageError
from retrieval.filters import Filter
from retrieval.quoting import best_coverage

STEPS = 60
"""Values of each threshold that are tried: quantiles of what the questions have."""
SLACK = 0.005
"""Of balanced accuracy: thresholds that are so much worse than the best, but nearer to those in use, are kept."""


class Signal(NamedTuple):
    """What a search says of a question, and whether its documents answer it."""

    dense: float
    coverage: float
    answerable: bool


@dataclass(frozen=True)
class RefusalQuestions:
    """A question file cut in two by documents: to fit on, to measure on."""

    found: QuestionSet
    dev: tuple[Question, ...]
    test: tuple[Question, ...]

    @classmethod
    def read(cls, path: Path, share: float, seed: int) -> "RefusalQuestions":
        """Raises UsageError where one side would lack answerable or unanswerable questions."""
        found = read_questions(path)
        clusters: dict[str, list[Question]] = {}
        for question in found.questions:
            clusters.setdefault(question.source or f"\0{question.id}", []).append(question)
        order = sorted(clusters)
        random.Random(seed).shuffle(order)
        dev: list[Question] = []
        test: list[Question] = []
        for name in order:
            members = clusters[name]
            # Each side gets its share of both kinds: a set may have few questions without an answer.
            missing = sum(not question.answerable for question in members)
            lacks = share * sum(not q.answerable for q in [*dev, *test, *members]) - sum(not q.answerable for q in dev)
            behind = len(dev) < share * (len(dev) + len(test) + len(members))
            (dev if (lacks >= missing / 2 if missing else behind) else test).extend(members)
        for side, name in ((dev, "to fit on"), (test, "to measure on")):
            kinds = {question.answerable for question in side}
            if len(kinds) < 2:
                lacking = "answerable" if True not in kinds else "unanswerable"
                raise UsageError(f"{path} leaves no {lacking} questions {name}; refusal cannot be tuned with it")
        return cls(found, tuple(dev), tuple(test))

    @property
    def data(self) -> Mapping[str, str]:
        return self.found.data

    @property
    def dataset(self) -> RetrievalDataset:
        """The documents, to be indexed."""
        return RetrievalDataset(f"{self.found.name}-refusals", self.found.form, "", self.found.documents, {}, {})

    def tune(
        self, collection: Collection, settings: AnswerSettings | None, seed: int, progress: Progress
    ) -> dict[str, Any]:
        """Thresholds in use and best, with refusal recall and over-refusal of both on the questions not fitted on."""
        now = settings or AnswerSettings()
        asked = [*self.dev, *self.test]
        signals: list[Signal] = []
        for number, question in enumerate(asked, 1):
            signals.append(signal(question, collection))
            progress("refusals", number, len(asked))
        fitted = fit(signals[: len(self.dev)], now)
        rest, names = signals[len(self.dev) :], [question.id for question in self.test]
        clusters = {question.id: question.source for question in self.test if question.source}
        sides = [_table(rest, names, chosen) for chosen in (now, fitted)]
        found = paired(sides[0], sides[1], clusters=clusters, seed=seed)
        figures = [estimates(side, clusters=clusters, seed=seed) for side in sides]
        difference = found["right"].difference
        chosen = {"least_dense": fitted.least_dense, "least_coverage": fitted.least_coverage}
        current = {"least_dense": now.least_dense, "least_coverage": now.least_coverage}
        return {
            "now": current,
            "best": chosen,
            "fitted_on": len(self.dev),
            "measured_on": len(self.test),
            **{
                side: {
                    name: {"value": estimate.value, "low": estimate.low, "high": estimate.high}
                    for name, estimate in by.items()
                }
                for side, by in zip(("figures_now", "figures_best"), figures, strict=True)
            },
            "difference": {
                "value": difference.value,
                "low": difference.low,
                "high": difference.high,
                "p": found["right"].p,
            },
            "adopt": chosen != current and difference.low is not None and difference.low > 0,
        }


def signal(question: Question, collection: Collection, k: int = PASSAGES) -> Signal:
    """Search as the chat does and look at the nearest passage."""
    filters = [Filter("document", "=", question.within)] if question.within else []
    hits = collection.search(question.text, k=k, filters=filters).hits
    dense = max((hit.scores.dense or 0.0 for hit in hits), default=0.0)
    return Signal(dense, best_coverage(question.text, hits) if hits else 0.0, question.answerable)


def fit(signals: Sequence[Signal], now: AnswerSettings) -> AnswerSettings:
    """The thresholds with the highest balanced accuracy: mean of the share refused of the unanswerable and the share
    answered of the answerable questions (Brodersen et al. 2010), so that it does not matter how many there are of each.

    Of nearly equal ones those nearest to what is in use.
    """
    dense = np.array([found.dense for found in signals])
    coverage = np.array([found.coverage for found in signals])
    answerable = np.array([found.answerable for found in signals])
    best: list[tuple[float, float, float, float]] = []
    for least_dense in _steps(dense, now.least_dense):
        for least_coverage in _steps(coverage, now.least_coverage):
            answered = (dense >= least_dense) | (coverage >= least_coverage)
            accuracy = float(answered[answerable].mean() + (~answered[~answerable]).mean()) / 2
            away = abs(least_dense - now.least_dense) + abs(least_coverage - now.least_coverage)
            best.append((accuracy, away, least_dense, least_coverage))
    most = max(accuracy for accuracy, *_ in best)
    _, _, least_dense, least_coverage = min(
        (row for row in best if row[0] >= most - SLACK), key=lambda row: (row[1], -row[0])
    )
    return replace(now, least_dense=least_dense, least_coverage=least_coverage)


def _steps(values: np.ndarray, now: float) -> list[float]:
    quantiles = np.quantile(values, np.linspace(0, 1, STEPS))
    return sorted({round(float(value), 3) for value in quantiles} | {now})


def _table(signals: Sequence[Signal], names: Sequence[str], chosen: AnswerSettings) -> dict[str, dict[str, Value]]:
    table: dict[str, dict[str, Value]] = {"right": {}, "refusal_recall": {}, "over_refusal": {}}
    counts = {kind: sum(found.answerable is kind for found in signals) for kind in (True, False)}
    for name, found in zip(names, signals, strict=True):
        refused = not (found.dense >= chosen.least_dense or found.coverage >= chosen.least_coverage)
        # Weighted so that both kinds count half: the mean is the balanced accuracy.
        weight = len(signals) / (2 * counts[found.answerable])
        table["right"][name] = weight * float(refused != found.answerable)
        table["over_refusal" if found.answerable else "refusal_recall"][name] = float(refused)
    return table
