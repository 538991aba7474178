"""Questions with and without an answer in their documents → the confidence below which a question is refused. No model.

The confidence is that of `retrieval.answerability`. Fitted on some documents' questions, measured on those of others.
"""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from eval.data.datasets import RetrievalDataset
from eval.data.questions import Question, QuestionSet, read_questions
from eval.figures.statistics import Value, estimates, paired
from eval.runs.parts import Progress
from retrieval.answering import PASSAGES, AnswerSettings, Searched, answer_stream, threshold
from retrieval.collection import Collection
from retrieval.errors import UsageError
from retrieval.filters import Filter

SLACK = 0.005
"""Of balanced accuracy: a threshold that is so much worse than the best, but nearer to the one in use, is kept."""


class Signal(NamedTuple):
    """How sure a search is that the documents answer a question, and whether they do."""

    confidence: float
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
        """Threshold in use and best, with refusal recall and over-refusal of both on the questions not fitted on."""
        now = threshold(collection, settings or AnswerSettings())
        asked = [*self.dev, *self.test]
        signals: list[Signal] = []
        for number, question in enumerate(asked, 1):
            signals.append(signal(question, collection))
            progress("refusals", number, len(asked))
        fitted = fit(signals[: len(self.dev)], now)
        rest = signals[len(self.dev) :]
        compared = _compared(rest, self.test, [now] * len(rest), [fitted] * len(rest), seed)
        return {
            "now": now,
            "best": fitted,
            "fitted_on": len(self.dev),
            "measured_on": len(self.test),
            **compared,
            "adopt": fitted != now and _is_better(compared),
        }


def left_out(questions: Sequence[Question], signals: Sequence[Signal], now: float, seed: int) -> dict[str, Any]:
    """As `RefusalQuestions.tune` for a handful: the threshold is fitted on all, and measured on the questions of each
    document in turn as it is fitted without them. Both kinds are there, each at least twice."""
    groups = [question.source or f"\0{question.id}" for question in questions]
    without: dict[str, float] = {}
    for group in dict.fromkeys(groups):
        others = [found for found, own in zip(signals, groups, strict=True) if own != group]
        without[group] = fit(others, now) if len({found.answerable for found in others}) == 2 else now
    best = fit(signals, now)
    compared = _compared(signals, questions, [now] * len(signals), [without[group] for group in groups], seed)
    return {
        "now": now,
        "best": best,
        "fitted_on": len(signals),
        "measured_on": len(signals),
        **compared,
        "adopt": best != now and _is_better(compared),
    }


def _compared(
    signals: Sequence[Signal], questions: Sequence[Question], now: Sequence[float], best: Sequence[float], seed: int
) -> dict[str, Any]:
    """Shares refused and balanced accuracy with two thresholds a question, paired."""
    names = [question.id for question in questions]
    clusters = {question.id: question.source for question in questions if question.source}
    sides = [_table(signals, names, chosen) for chosen in (now, best)]
    found = paired(sides[0], sides[1], clusters=clusters, seed=seed)["right"]
    figures = [estimates(side, clusters=clusters, seed=seed) for side in sides]
    return {
        **{
            side: {
                name: {"value": estimate.value, "low": estimate.low, "high": estimate.high}
                for name, estimate in by.items()
            }
            for side, by in zip(("figures_now", "figures_best"), figures, strict=True)
        },
        "difference": {
            "value": found.difference.value,
            "low": found.difference.low,
            "high": found.difference.high,
            "p": found.p,
        },
    }


def _is_better(compared: Mapping[str, Any]) -> bool:
    low = compared["difference"]["low"]
    return low is not None and low > 0


def signal(question: Question, collection: Collection, k: int = PASSAGES) -> Signal:
    """Search as the chat does and look at the nearest passages."""
    filters = [Filter("document", "=", question.within)] if question.within else []
    events = answer_stream(
        question.text, collection=collection, mode="quote", k=k, filters=filters, history=question.history
    )
    searched = next(event for event in events if isinstance(event, Searched))
    return Signal(searched.confidence, question.answerable)


def fit(signals: Sequence[Signal], now: float) -> float:
    """The threshold with the highest balanced accuracy: mean of the share refused of the unanswerable and the share
    answered of the answerable questions (Brodersen et al. 2010), so that it does not matter how many there are of each.

    Of nearly equal ones the one nearest to `now`.
    """
    sure = np.array([found.confidence for found in signals])
    answerable = np.array([found.answerable for found in signals])
    between = np.unique(np.round(sure, 4))
    tried = sorted({now, *between.tolist(), *((between[1:] + between[:-1]) / 2).round(4).tolist()})
    scored = []
    for least in tried:
        answered = sure >= least
        accuracy = float(answered[answerable].mean() + (~answered[~answerable]).mean()) / 2
        scored.append((accuracy, abs(least - now), least))
    most = max(accuracy for accuracy, *_ in scored)
    return min((row for row in scored if row[0] >= most - SLACK), key=lambda row: (row[1], -row[0]))[2]


def _table(signals: Sequence[Signal], names: Sequence[str], least: Sequence[float]) -> dict[str, dict[str, Value]]:
    table: dict[str, dict[str, Value]] = {"right": {}, "refusal_recall": {}, "over_refusal": {}}
    counts = {kind: sum(found.answerable is kind for found in signals) for kind in (True, False)}
    for name, found, limit in zip(names, signals, least, strict=True):
        refused = found.confidence < limit
        # Weighted so that both kinds count half: the mean is the balanced accuracy.
        weight = len(signals) / (2 * counts[found.answerable])
        table["right"][name] = weight * float(refused != found.answerable)
        table["over_refusal" if found.answerable else "refusal_recall"][name] = float(refused)
    return table


def fitted(path: Path, collection: Collection, now: float, progress: Progress) -> dict[str, Any]:
    """The best threshold for a collection by a question file of its own, with what it and `now` refuse of them. Counted
    on the questions that it was fitted on. Raises UsageError where either kind of question is missing."""
    questions = read_questions(path, collection=collection).questions
    kinds = {question.answerable for question in questions}
    if len(kinds) < 2:
        lacking = "answers" if True not in kinds else "does not answer"
        raise UsageError(
            f"{path} has no question that the collection {lacking}; a threshold can only be fitted to both kinds"
        )
    signals = []
    for number, question in enumerate(questions, 1):
        signals.append(signal(question, collection))
        progress("asking", number, len(questions))
    best = fit(signals, now)
    return {
        "threshold": best,
        "answerable": sum(found.answerable for found in signals),
        "unanswerable": sum(not found.answerable for found in signals),
        "before": _shares(signals, now),
        "after": _shares(signals, best),
    }


def _shares(signals: Sequence[Signal], least: float) -> dict[str, float]:
    refused = {
        kind: [found.confidence < least for found in signals if found.answerable is kind] for kind in (True, False)
    }
    return {
        "refused": round(float(np.mean(refused[False])), 4),
        "over_refused": round(float(np.mean(refused[True])), 4),
    }
