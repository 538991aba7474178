"""Risk–coverage curves small enough to compute by hand."""

import numpy as np
import pytest

from eval.figures.selective import aurc, excess_aurc, risk_coverage, selective_risks, separation


def test_the_risk_at_each_coverage_is_the_mean_loss_of_the_most_confident() -> None:
    # order by confidence: losses 0, 1, 0, 1
    risks = selective_risks([0.9, 0.1, 0.5, 0.7], [0, 1, 0, 1])
    assert risks.tolist() == pytest.approx([0, 1 / 2, 1 / 3, 1 / 2])
    assert aurc([0.9, 0.1, 0.5, 0.7], [0, 1, 0, 1]) == pytest.approx((0 + 1 / 2 + 1 / 3 + 1 / 2) / 4)


def test_equal_confidences_give_the_average_over_all_orders() -> None:
    assert selective_risks([1, 1, 1], [0, 0, 1]).tolist() == pytest.approx([1 / 3] * 3)
    assert aurc([1, 1, 0], [1, 0, 0]) == aurc([1, 1, 0], [0, 1, 0])


def test_the_best_order_has_no_excess() -> None:
    assert excess_aurc([3, 2, 1], [0, 0.5, 1]) == pytest.approx(0)
    assert excess_aurc([1, 2, 3], [0, 0.5, 1]) > 0.3


def test_separation_is_the_chance_to_rank_a_right_one_higher() -> None:
    assert separation([0.9, 0.8, 0.1], [True, True, False]) == 1
    assert separation([0.5, 0.5], [True, False]) == 0.5
    # right 3 and 1, wrong 2: one of two pairs
    assert separation([3, 2, 1], [True, False, True]) == 0.5
    assert separation([1, 2], [True, True]) is None


def test_thresholds_keep_the_risk_and_never_cut_a_tie() -> None:
    found = risk_coverage([4, 3, 3, 2], [0, 0, 1, 1])
    by_risk = {threshold["risk"]: threshold for threshold in found["thresholds"]}
    # keeping 4 alone has risk 0; with both 3s it is 1/3
    assert by_risk[0.2] == {"risk": 0.2, "confidence": 4.0, "coverage": 0.25}
    # in the middle of the 3s the risk would be .09, behind them it is .12
    tied = risk_coverage([4, 3, 3], [0, 0.18, 0.18])["thresholds"][1]
    assert tied == {"risk": 0.1, "confidence": 4.0, "coverage": pytest.approx(1 / 3)}
    none = risk_coverage([2, 1], [1, 1])["thresholds"][0]
    assert none["confidence"] is None and none["coverage"] == 0


def test_the_interval_covers_the_area_and_respects_clusters() -> None:
    generator = np.random.default_rng(1)
    confidence = generator.random(300).tolist()
    loss = (generator.random(300) > np.array(confidence)).astype(float).tolist()
    alone = risk_coverage(confidence, loss)
    low, high = alone["AURC_interval"]
    assert low < alone["AURC"] < high
    # ten copies of 30 answers say no more than the 30
    few = risk_coverage(confidence[:30] * 10, loss[:30] * 10, clusters=list(range(30)) * 10)
    wide = few["AURC_interval"][1] - few["AURC_interval"][0]
    assert wide > 1.5 * (high - low)
    assert alone["coverage"][-1] == 1 and alone["risk"][-1] == pytest.approx(np.mean(loss), abs=1e-4)
    assert len(alone["coverage"]) == len(alone["risk"]) == 200


@pytest.mark.parametrize(("confidence", "loss"), [([], []), ([1], [1, 2]), ([float("nan")], [0])])
def test_what_gives_no_curve_is_refused(confidence: list[float], loss: list[float]) -> None:
    with pytest.raises(ValueError):
        risk_coverage(confidence, loss)
