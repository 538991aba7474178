"""Calibrations of made-up scores of which it is known what they tell."""

import numpy as np
import pytest

from adapt.encoders.calibrating import Scored, crossfitted, expected_error, fit, ndcg
from adapt.encoders.mining import Candidate, Ranking
from retrieval.errors import UsageError
from retrieval.reranking.calibration import FEATURES


def made(questions: int, *, of_logit: float, of_search: float, seed: int = 0) -> list[Scored]:
    """Ten candidates a question, one of them right, which is ahead by so much in the logit and in the search's
    scores, each of which has noise of 1."""
    chance = np.random.default_rng(seed)
    scored = []
    for number in range(questions):
        right = int(chance.integers(10))
        ahead = np.eye(10)[right]
        logits = chance.normal(size=10) + of_logit * ahead
        search = (chance.normal(size=10) + of_search * ahead) / 10 + 0.5
        candidates = tuple(
            Candidate(f"d{place}", f"text {place}", float(search[place]), float(search[place]), float(search[place]))
            for place in np.argsort(-search)
        )
        ordered = tuple(float(logits[place]) for place in np.argsort(-search))
        scored.append(Scored(Ranking(f"question {number}", candidates, {f"d{right}": 1}), ordered))
    return scored


def test_what_both_know_is_better_than_what_either_knows() -> None:
    scored = made(200, of_logit=1.5, of_search=1.5)
    both, search, logit = (
        crossfitted(scored).mean(),
        ndcg(scored).mean(),
        ndcg(scored, [one.logits for one in scored]).mean(),
    )
    assert both > max(search, logit) + 0.05


def test_a_logit_that_tells_nothing_leaves_the_order_of_the_search() -> None:
    scored = made(300, of_logit=0.0, of_search=2.0)
    weights = fit(scored).weights["hybrid"]
    assert all(weight >= 0.0 for weight in weights[:-1])
    assert crossfitted(scored).mean() >= ndcg(scored).mean() - 0.01


def test_probabilities_are_what_happens() -> None:
    calibration = fit(made(400, of_logit=2.0, of_search=1.0))
    fresh = made(400, of_logit=2.0, of_search=1.0, seed=1)
    assert expected_error(fresh, calibration) < 0.03
    assert set(calibration.weights) == set(FEATURES)


def test_a_question_that_nothing_answers_gets_low_probabilities() -> None:
    scored = made(400, of_logit=4.0, of_search=1.0)
    calibration = fit(scored)
    best, left = [], []
    for one in made(100, of_logit=4.0, of_search=1.0, seed=2):
        hits = [candidate.as_hit() for candidate in one.ranking.candidates]
        right = int(one.right.argmax())
        found = calibration(hits, one.logits)
        rest = calibration(hits[:right] + hits[right + 1 :], one.logits[:right] + one.logits[right + 1 :])
        best.append(max(found))
        left.append(max(rest))
    assert np.median(best) > 0.7 and np.median(left) < 0.3


def test_a_document_stands_where_its_best_passage_does() -> None:
    candidates = tuple(Candidate(name, "", None, None, None) for name in ("a", "b", "b"))
    scored = [Scored(Ranking("?", candidates, {"b": 1}), (0.0, -1.0, 5.0))]
    assert ndcg(scored)[0] == pytest.approx(1 / np.log2(3))
    assert ndcg(scored, [one.logits for one in scored])[0] == 1.0


def test_too_few_questions_are_refused() -> None:
    with pytest.raises(UsageError, match="held_out"):
        fit(made(5, of_logit=1.0, of_search=1.0))
