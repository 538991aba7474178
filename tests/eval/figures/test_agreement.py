"""Agreement and corrected means against scikit-learn, hand-worked tables and simulations."""

import numpy as np
import pytest
from sklearn.metrics import cohen_kappa_score

from eval.figures.agreement import agreement, cohen_kappa, corrected_mean, gwet_ac1


@pytest.mark.parametrize("weights", [None, "linear", "quadratic"])
@pytest.mark.parametrize("classes", [2, 3, 5])
def test_kappa_is_that_of_scikit_learn(classes: int, weights: str | None) -> None:
    generator = np.random.default_rng(classes)
    people = generator.integers(0, classes, 200).tolist()
    judge = [label if generator.random() < 0.6 else int(generator.integers(0, classes)) for label in people]
    found = agreement(people, judge, weights=weights, resamples=1_000)  # type: ignore[arg-type]
    assert found.kappa == pytest.approx(cohen_kappa_score(people, judge, weights=weights), abs=1e-12)
    assert found.low is not None and found.high is not None
    assert found.low < found.kappa < found.high


def test_a_table_worked_by_hand() -> None:
    # Cohen's textbook case: 20 both yes, 5 people only, 10 judge only, 15 both no; observed .7, chance .5, kappa .4.
    people = [1] * 25 + [0] * 25
    judge = [1] * 20 + [0] * 5 + [1] * 10 + [0] * 15
    found = agreement(people, judge, resamples=1_000)
    assert found.table == ((15, 10), (5, 20))
    assert found.observed == pytest.approx(0.7)
    assert found.kappa == pytest.approx(0.4)
    assert found.precision == {"0": pytest.approx(15 / 20), "1": pytest.approx(20 / 30)}
    assert found.recall == {"0": pytest.approx(15 / 25), "1": pytest.approx(20 / 25)}
    # Mean shares .55 and .45: chance 2 × .55 × .45 = .495.
    assert found.ac1 == pytest.approx((0.7 - 0.495) / 0.505)


def test_ac1_stays_high_where_a_rare_class_pulls_kappa_down() -> None:
    table = [[118, 5], [2, 0]]  # Gwet 2008: 94 % agreement, kappa below 0
    kappa, ac1 = cohen_kappa(table), gwet_ac1(table)
    assert kappa is not None and kappa < 0
    assert ac1 is not None and ac1 > 0.9


def test_what_cannot_be_told_is_none_and_never_a_number() -> None:
    found = agreement([1, 1, 1], [1, 1, 1], resamples=1_000)
    assert (found.observed, found.kappa, found.low, found.high, found.ac1) == (1.0, None, None, None, None)
    one_sided = agreement([0, 1, 1], [1, 1, 1], classes=(0, 1), resamples=1_000)
    assert one_sided.kappa == 0.0
    assert one_sided.precision["0"] is None


def test_items_of_one_cluster_move_together() -> None:
    # Ten copies of thirty items know no more than the thirty: the clustered interval stays as wide as theirs.
    generator = np.random.default_rng(2)
    people = generator.integers(0, 2, 30).tolist()
    judge = [label if generator.random() < 0.75 else 1 - label for label in people]
    alone = agreement(people, judge, resamples=2_000)
    clusters = [str(number) for number in range(30)] * 10
    copied = agreement(people * 10, judge * 10, clusters=clusters, resamples=2_000)
    loose = agreement(people * 10, judge * 10, resamples=2_000)
    width = [(found.high or 0) - (found.low or 0) for found in (alone, copied, loose)]
    assert copied.kappa == pytest.approx(alone.kappa)
    assert width[1] == pytest.approx(width[0], rel=0.1)
    assert width[2] < 0.5 * width[1]


def test_the_interval_of_kappa_covers_the_true_one() -> None:
    generator = np.random.default_rng(4)
    covered = 0
    for _ in range(150):
        people = generator.random(120) < 0.5
        judge = np.where(generator.random(120) < 0.8, people, ~people)  # true kappa: 2 × .8 − 1 = .6
        found = agreement(people.tolist(), judge.tolist(), resamples=1_000)
        covered += (found.low or 0) <= 0.6 <= (found.high or 0)
    assert 0.88 <= covered / 150 <= 0.99


def test_wrong_pairs_are_refused() -> None:
    with pytest.raises(ValueError, match="at least one"):
        agreement([], [])
    with pytest.raises(ValueError, match="do not pair"):
        agreement([1], [1, 0])
    with pytest.raises(ValueError, match="unknown class '2'"):
        agreement([2], [1], classes=(0, 1))


def _simulate(labelled: int, judge_right: float, *, power: float | None) -> tuple[float, float, float, float]:
    """(coverage, mean width, mean estimate, judge's own mean) over 400 runs; the truth is .3, the judge errs to yes."""
    generator = np.random.default_rng(7)
    covered, widths, means, raw = 0, [], [], []
    for _ in range(400):
        truth = (generator.random(labelled + 600) < 0.3).astype(float)
        wrong = generator.random(truth.size) > judge_right
        said = np.where(wrong, 1.0, truth)
        found = corrected_mean(truth[:labelled], said[:labelled], said[labelled:], power=power)
        covered += found.low <= 0.3 <= found.high
        widths.append(found.high - found.low)
        means.append(found.mean)
        raw.append(found.judged)
    return covered / 400, float(np.mean(widths)), float(np.mean(means)), float(np.mean(raw))


def test_a_biased_judge_is_corrected_and_the_interval_holds() -> None:
    coverage, width, mean, raw = _simulate(100, 0.85, power=None)
    assert raw > 0.39  # the judge alone is far off: .3 + .7 × .15
    assert mean == pytest.approx(0.3, abs=0.01)
    assert 0.92 <= coverage <= 0.99
    # People alone would need 1.98 × sqrt(.21 / 100) on either side.
    assert width < 0.85 * 2 * 1.98 * 0.21**0.5 / 10


def test_a_useless_judge_costs_nothing_once_its_weight_is_tuned() -> None:
    people_alone = 2 * 1.98 * 0.21**0.5 / 10
    trusted = _simulate(100, 0.3, power=1.0)
    tuned = _simulate(100, 0.3, power=None)
    assert trusted[1] > 1.05 * tuned[1]
    assert tuned[1] <= 1.05 * people_alone
    assert tuned[0] >= 0.92


def test_few_labels_still_give_an_honest_interval() -> None:
    assert _simulate(15, 0.85, power=None)[0] >= 0.90


def test_without_unlabelled_items_the_labels_speak_alone() -> None:
    found = corrected_mean([0, 1, 1, 1], [1, 1, 1, 1], [])
    assert (found.mean, found.power, found.bias, found.n) == (0.75, 0.0, 0.25, 4)


def test_too_little_to_correct_with_is_refused() -> None:
    with pytest.raises(ValueError, match="two labels"):
        corrected_mean([1], [1], [0.5])
    with pytest.raises(ValueError, match="finite"):
        corrected_mean([1, 0], [1, float("nan")], [0.5])
