"""Successive halving on scores that can be checked by hand."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eval.search.halving import evaluations, rungs, successive_halving

ITEMS = [f"q{n}" for n in range(270)]


def test_rungs_grow_by_the_factor_and_end_with_all_items():
    assert rungs(27, 270, factor=3, least=30) == [30, 90, 270]
    assert rungs(2, 270, factor=3, least=30) == [90, 270]
    assert rungs(1, 270) == [270]
    assert rungs(27, 40, factor=3, least=30) == [40]


def test_the_best_candidate_wins_and_most_work_goes_to_good_ones():
    asked: dict[int, int] = {}

    def score(candidate, items):
        asked[candidate] = asked.get(candidate, 0) + len(items)
        return {item: 1.0 - abs(candidate - 7) / 27 for item in items}

    trials = successive_halving(list(range(27)), ITEMS, score)
    assert trials[0].candidate == 7
    assert len(trials) == 27 and sorted(trial.candidate for trial in trials) == list(range(27))
    assert asked[7] == 270 and asked[26] == 30
    assert sum(asked.values()) == evaluations(27, 270) == 27 * 30 + 9 * 60 + 3 * 180


def test_no_item_is_scored_twice_for_a_candidate():
    seen = set()

    def score(candidate, items):
        for item in items:
            assert (candidate, item) not in seen
            seen.add((candidate, item))
        return dict.fromkeys(items, float(candidate))

    successive_halving([0, 1, 2, 3], ITEMS, score)


def test_what_is_in_use_now_is_scored_on_every_item_however_bad():
    trials = successive_halving(list(range(12)), ITEMS, lambda c, items: dict.fromkeys(items, float(c)))
    now = next(trial for trial in trials if trial.candidate == 0)
    assert trials[0].candidate == 11
    assert set(now.scores) == set(ITEMS)


def test_of_equals_the_one_in_use_wins():
    trials = successive_halving(["now", "b", "c"], ITEMS, lambda c, items: dict.fromkeys(items, 0.5))
    assert trials[0].candidate == "now"


def test_nothing_to_choose_from_is_an_error():
    with pytest.raises(ValueError, match="at least one"):
        successive_halving([], ITEMS, lambda c, items: {})
    with pytest.raises(ValueError, match="at least one"):
        successive_halving([1], [], lambda c, items: {})


@given(candidates=st.integers(1, 40), items=st.integers(1, 300), factor=st.integers(2, 4))
def test_the_counted_work_is_the_work_done(candidates, items, factor):
    done = 0

    def score(candidate, wanted):
        nonlocal done
        done += len(wanted)
        return {item: float(candidate) for item in wanted}

    names = [str(n) for n in range(items)]
    trials = successive_halving(list(range(candidates)), names, score, factor=factor)
    assert done == evaluations(candidates, items, factor)
    assert len(trials[0].scores) == items
