"""Held-out questions with a reranker's logits → the calibration it is shipped with, and what the order gains by it.

Two steps for each way of searching. How logit and scores of the search weigh against each other: a softmax over each
question's passages (listwise, as in training), weights never negative, so that no score can count against itself. What
the sum means: a logistic regression with one slope over all passages (Platt 1999), which leaves the order as it is.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import get_args

import numpy as np

from adapt.encoders.mining import Ranking
from eval.figures.metrics import figures
from retrieval.errors import UsageError
from retrieval.reranking.calibration import FEATURES, Calibration, Legs, features

PENALTY = 1e-3
"""Of the squared weights: enough that a score which tells nothing gets none."""
FOLDS = 5
MEASURE = "nDCG@10"
LEAST = 10
"""Held-out questions with a right passage among their hits."""


@dataclass(frozen=True, slots=True)
class Scored:
    """A ranking with the reranker's logit of each candidate."""

    ranking: Ranking
    logits: tuple[float, ...]

    @property
    def right(self) -> np.ndarray:
        """(candidates,) 1.0 where its text answers the question."""
        grades = self.ranking.grades
        return np.array([float(grades.get(one.document, 0) > 0) for one in self.ranking.candidates])


def fit(scored: Sequence[Scored]) -> Calibration:
    """The calibration. Raises UsageError for too few questions to fit it to."""
    usable = [one for one in scored if one.ranking.candidates]
    if sum(bool(one.right.any()) for one in usable) < LEAST:
        raise UsageError(
            f"a calibration needs {LEAST} held-out questions whose search finds a right passage, and there are "
            f"{sum(bool(one.right.any()) for one in usable)}; give more data or a larger held_out"
        )
    return Calibration({legs: _fit(usable, legs) for legs in get_args(Legs)})


def ndcg(scored: Sequence[Scored], score: Callable[[Scored], Sequence[float]] | None = None) -> np.ndarray:
    """nDCG@10 of each question, a text where its best passage stands; by the search's own order without `score`."""
    found = []
    for one in scored:
        order = list(range(len(one.ranking.candidates)))
        if score is not None:
            values = score(one)
            order.sort(key=lambda place: -values[place])
        names = dict.fromkeys(one.ranking.candidates[place].document for place in order)
        found.append(figures(list(names), one.ranking.grades, (MEASURE,))[MEASURE])
    return np.array(found)


def crossfitted(scored: Sequence[Scored]) -> np.ndarray:
    """nDCG@10 of each question by a calibration that was fitted to others (5 folds)."""
    found = np.zeros(len(scored))
    for fold in range(FOLDS):
        ours = [place for place in range(len(scored)) if place % FOLDS == fold]
        rest = [scored[place] for place in range(len(scored)) if place % FOLDS != fold]
        calibration = Calibration(dict.fromkeys(get_args(Legs), (0.0,))) if not ours else fit(rest)

        def calibrated(one: Scored, by: Calibration = calibration) -> list[float]:
            return by([candidate.as_hit() for candidate in one.ranking.candidates], one.logits)

        if ours:
            found[ours] = ndcg([scored[place] for place in ours], calibrated)
    return found


def expected_error(scored: Sequence[Scored], calibration: Calibration, bins: int = 10) -> float:
    """Expected calibration error over equal-width bins: |share of right ones − mean probability|, weighted."""
    values, right = [], []
    for one in scored:
        values += calibration([candidate.as_hit() for candidate in one.ranking.candidates], one.logits)
        right += list(one.right)
    given, told = np.array(values), np.array(right)
    places = np.minimum((given * bins).astype(int), bins - 1)
    return float(
        sum(
            (places == place).mean() * abs(told[places == place].mean() - given[places == place].mean())
            for place in np.unique(places)
        )
    )


def _fit(scored: Sequence[Scored], legs: Legs) -> tuple[float, ...]:
    from scipy.optimize import minimize

    tables = [features([one.as_hit() for one in each.ranking.candidates], each.logits, legs) for each in scored]
    told = [each.right for each in scored]
    lists = [(table, right / right.sum()) for table, right in zip(tables, told, strict=True) if right.any()]
    scale = np.concatenate(tables).std(axis=0) + 1e-9  # so that the penalty means the same for every score

    def listwise(weights: np.ndarray) -> tuple[float, np.ndarray]:
        loss, slope = PENALTY * float(weights @ weights), 2 * PENALTY * weights
        for table, wanted in lists:
            scaled = table / scale
            sums = scaled @ weights
            sums -= sums.max()
            chances = np.exp(sums) / np.exp(sums).sum()
            loss -= float(wanted @ np.log(chances + 1e-12)) / len(lists)
            slope = slope - scaled.T @ (wanted - chances) / len(lists)
        return loss, slope

    count = len(FEATURES[legs])
    start = np.full(count, 1.0)
    weights = minimize(listwise, start, jac=True, method="L-BFGS-B", bounds=[(0.0, None)] * count).x / scale
    sums, right = np.concatenate([table @ weights for table in tables]), np.concatenate(told)

    def platt(line: np.ndarray) -> tuple[float, np.ndarray]:
        values = line[0] * sums + line[1]
        chances = 1.0 / (1.0 + np.exp(-np.clip(values, -500, 500)))
        loss = float(np.mean(np.logaddexp(0.0, values) - right * values)) + 1e-6 * float(line @ line)
        wrong = chances - right
        return loss, np.array([np.mean(wrong * sums), np.mean(wrong)]) + 2e-6 * line

    slope, bias = minimize(
        platt, np.array([1.0, 0.0]), jac=True, method="L-BFGS-B", bounds=[(1e-6, None), (None, None)]
    ).x
    return (*(float(slope * weight) for weight in weights), float(bias))
