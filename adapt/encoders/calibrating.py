"""Held-out questions with a reranker's logits → the calibration it is shipped with, and what the order gains by it.

Two steps for each way of searching. How logit and score of the search weigh against each other, by nDCG@10 itself: of
the shares that are within one standard error of the best the one that leaves the search the most (the "one standard
error rule", Breiman et al. 1984), since a reranker knows other domains less well than the one it learned.
What the sum means: a logistic regression over all passages (Platt 1999), which leaves the order as it is. Each question
is also put to its own hits without those that answer it, so that probabilities hold where nothing does.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import get_args

import numpy as np

from adapt.encoders.mining import Ranking
from eval.figures.metrics import figures
from retrieval.errors import UsageError
from retrieval.reranking.calibration import FEATURES, Calibration, Legs, features

SHARES = tuple(number / 20 for number in range(20))
"""Of the logit beside the search's score, each in units of its spread; the search always keeps some."""
SMOOTH = 2
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


def ndcg(scored: Sequence[Scored], scores: Sequence[Sequence[float]] | None = None) -> np.ndarray:
    """nDCG@10 of each question, a text where its best passage stands; without `scores` in the search's own order."""
    found = []
    for number, one in enumerate(scored):
        order = list(range(len(one.ranking.candidates)))
        if scores is not None:
            order.sort(key=lambda place: -scores[number][place])  # noqa: B023 - used at once
        names = dict.fromkeys(one.ranking.candidates[place].document for place in order)
        found.append(figures(list(names), one.ranking.grades, (MEASURE,))[MEASURE])
    return np.array(found)


def crossfitted(scored: Sequence[Scored]) -> np.ndarray:
    """nDCG@10 of each question by a calibration that was fitted to others (5 folds)."""
    found = np.zeros(len(scored))
    for fold in range(FOLDS):
        ours = [place for place in range(len(scored)) if place % FOLDS == fold]
        calibration = fit([scored[place] for place in range(len(scored)) if place % FOLDS != fold])
        told = [scored[place] for place in ours]
        found[ours] = ndcg(told, [_probabilities(one, calibration) for one in told])
    return found


def expected_error(scored: Sequence[Scored], calibration: Calibration, bins: int = 10) -> float:
    """Expected calibration error over equal-width bins: |share of right ones − mean probability|, weighted; of each
    question with and without what answers it, as the calibration is fitted."""
    values, right = [], []
    for one in (*scored, *map(_unanswered, scored)):
        values += _probabilities(one, calibration)
        right += list(one.right)
    given, told = np.array(values), np.array(right)
    places = np.minimum((given * bins).astype(int), bins - 1)
    return float(
        sum(
            (places == place).mean() * abs(told[places == place].mean() - given[places == place].mean())
            for place in np.unique(places)
        )
    )


def _probabilities(one: Scored, calibration: Calibration) -> list[float]:
    return calibration([candidate.as_hit() for candidate in one.ranking.candidates], one.logits)


def _fit(scored: Sequence[Scored], legs: Legs) -> tuple[float, ...]:
    order = sum(not name.startswith("best ") for name in FEATURES[legs])
    tables = [_table(one, legs) for one in scored]
    weights = _weights(scored, [table[:, :order] for table in tables])
    twins = [twin for twin in map(_unanswered, scored) if twin.ranking.candidates]
    tables += [_table(one, legs) for one in twins]
    rows = np.concatenate([np.column_stack([table[:, :order] @ weights, table[:, order:]]) for table in tables])
    slope, *levels, bias = _platt(rows, np.concatenate([one.right for one in (*scored, *twins)]))
    return (*(float(slope * weight) for weight in weights), *levels, bias)


def _table(one: Scored, legs: Legs) -> np.ndarray:
    return features([candidate.as_hit() for candidate in one.ranking.candidates], one.logits, legs)


def _unanswered(one: Scored) -> Scored:
    """The same question to a collection without the texts that answer it."""
    kept = [place for place, right in enumerate(one.right) if not right]
    candidates = tuple(one.ranking.candidates[place] for place in kept)
    return Scored(Ranking(one.ranking.question, candidates, {}), tuple(one.logits[place] for place in kept))


def _weights(scored: Sequence[Scored], tables: Sequence[np.ndarray]) -> np.ndarray:
    """(features,) of the logit and, where there is one, of the score of the search."""
    if tables[0].shape[1] == 1:
        return np.ones(1)
    # What counts is how far passages of one question lie apart.
    spread = np.concatenate([table - table.mean(0) for table in tables]).std(0) + 1e-9
    reached = np.array(
        [ndcg(scored, [list(table / spread @ (share, 1.0 - share)) for table in tables]) for share in SHARES]
    )
    # A mean over neighbours: the single best share of a few hundred questions is best by luck.
    around = np.pad(reached, ((SMOOTH, SMOOTH), (0, 0)), mode="edge")
    smooth = np.stack([around[place : place + 2 * SMOOTH + 1].mean(0) for place in range(len(SHARES))])
    behind = smooth[smooth.mean(1).argmax()] - smooth
    errors = behind.std(1, ddof=1) / np.sqrt(len(scored))
    share = SHARES[int(np.flatnonzero(behind.mean(1) <= errors)[0])]
    return np.array([share, 1.0 - share]) / spread


def _platt(rows: np.ndarray, right: np.ndarray) -> tuple[float, ...]:
    """Slopes, never negative, and bias of the logistic regression of `right` on the columns of `rows`."""
    from scipy.optimize import minimize

    columns = rows.shape[1]

    def loss(line: np.ndarray) -> tuple[float, np.ndarray]:
        values = rows @ line[:columns] + line[columns]
        chances = 1.0 / (1.0 + np.exp(-np.clip(values, -500, 500)))
        wrong = (chances - right) / len(right)
        total = float(np.mean(np.logaddexp(0.0, values) - right * values)) + 1e-6 * float(line @ line)
        return total, np.append(rows.T @ wrong, wrong.sum()) + 2e-6 * line

    start, bounds = np.append(np.ones(columns), 0.0), [(1e-6, None)] + [(0.0, None)] * (columns - 1) + [(None, None)]
    return tuple(map(float, minimize(loss, start, jac=True, method="L-BFGS-B", bounds=bounds).x))
