"""Intervals and paired tests on numbers whose answer is known."""

import numpy as np
import pytest

from eval.statistics import bootstrap, paired_test


def test_interval_of_a_known_normal_mean():
    values = np.random.default_rng(1).normal(0.5, 0.1, size=400)
    interval = bootstrap(values.tolist())
    standard_error = values.std() / 20
    assert interval.mean == pytest.approx(values.mean())
    assert interval.low == pytest.approx(values.mean() - 1.96 * standard_error, abs=0.1 * standard_error)
    assert interval.high == pytest.approx(values.mean() + 1.96 * standard_error, abs=0.1 * standard_error)
    assert interval.n == 400


def test_interval_covers_the_true_mean_about_as_often_as_it_says():
    generator = np.random.default_rng(0)
    covered = 0
    for _ in range(200):
        interval = bootstrap((generator.random(60) < 0.3).astype(float).tolist(), resamples=1_000)
        covered += interval.low <= 0.3 <= interval.high
    assert 0.89 <= covered / 200 <= 0.99


def test_interval_is_repeatable_and_one_value_has_no_width():
    values = [0.1, 0.9, 0.4, 0.4]
    assert bootstrap(values, seed=3) == bootstrap(values, seed=3)
    alone = bootstrap([0.7])
    assert (alone.low, alone.high) == (0.7, 0.7)


def test_too_little_to_resample_is_refused():
    with pytest.raises(ValueError, match="at least one"):
        bootstrap([])
    with pytest.raises(ValueError, match="1,000"):
        bootstrap([1.0], resamples=10)


def test_every_query_better_by_the_same_amount():
    a = {str(number): 0.2 for number in range(5)}
    b = {str(number): 0.3 for number in range(5)}
    result = paired_test(a, b)
    # Two of the 2^5 sign patterns are as extreme as the one seen: p = 1/16.
    assert result.p == pytest.approx(1 / 16, abs=0.01)
    assert result.difference.mean == pytest.approx(0.1)


def test_equal_systems_do_not_differ():
    scores = {str(number): number / 10 for number in range(10)}
    assert paired_test(scores, scores).p == 1.0


def test_chance_differences_are_rarely_significant():
    generator = np.random.default_rng(5)
    significant = 0
    for _ in range(200):
        a = {str(query): float(value) for query, value in enumerate(generator.random(30))}
        b = {str(query): float(value) for query, value in enumerate(generator.random(30))}
        significant += paired_test(a, b, resamples=1_000).p < 0.05
    assert 1 <= significant <= 22


def test_different_queries_are_refused():
    with pytest.raises(ValueError, match="same queries"):
        paired_test({"a": 1.0}, {"b": 1.0})
