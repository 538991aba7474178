"""Fusion: hand-checkable figures."""

import random

import pytest

from retrieval.fusion import convex, dense_share, from_zero, ranked, reciprocal_rank, spread, undecided


def test_scaling_keeps_zero() -> None:
    assert from_zero({1: 2.0, 2: 4.0, 3: 0.0, 4: -1.0}) == {1: 0.5, 2: 1.0, 3: 0.0, 4: 0.0}
    assert from_zero({1: -3.0}) == {1: 0.0} and from_zero({}) == {}


def test_convex_weights_the_legs() -> None:
    fused = convex({1: 0.8, 2: 0.4}, {2: 8.0, 3: 4.0}, 0.75)
    assert fused == pytest.approx({1: 0.75, 2: 0.375 + 0.25, 3: 0.125})


def test_convex_of_one_leg_keeps_its_order() -> None:
    assert [key for key, _ in ranked(convex({}, {5: 1.0, 6: 3.0, 7: 2.0}, 0.5), 3)] == [6, 7, 5]


def test_a_leg_that_cannot_tell_passages_apart_does_not_reorder_the_other() -> None:
    noise = {1: 0.601, 2: 0.602, 3: 0.603}
    assert [key for key, _ in ranked(convex(noise, {1: 9.0, 2: 6.0, 3: 3.0}, 0.5), 3)] == [1, 2, 3]


def test_spread() -> None:
    assert spread({1: 4.0, 2: 2.0, 3: 0.0}) == pytest.approx(0.5)
    assert spread({1: 3.0, 2: 3.0}) == spread({}) == spread({1: -1.0}) == 0.0


def test_a_leg_counts_by_how_well_it_tells_its_candidates_apart() -> None:
    sharp, flat = {1: 1.0, 2: 0.2}, {1: 0.61, 2: 0.60}
    assert dense_share(sharp, sharp, 0.75) == pytest.approx(0.75)
    assert dense_share(flat, sharp, 0.75) < 0.1 < 0.95 < dense_share(sharp, flat, 0.75)
    assert dense_share(flat, {}, 0.75) == 1.0 and dense_share({1: 1.0}, {1: 1.0}, 0.75) == 0.75


def test_scoring_only_the_undecided_gives_the_same_best() -> None:
    """Against scoring everything, on random legs of 60 over 200 passages."""
    chance = random.Random(4)
    spared = 0
    for _ in range(300):
        truth_dense = {key: chance.uniform(0.1, 0.9) for key in range(200)}
        truth_lexical = {key: max(0.0, chance.gauss(2, 3)) for key in range(200)}
        dense = dict(ranked(truth_dense, 60))
        lexical = dict(ranked({key: value for key, value in truth_lexical.items() if value > 0}, 60))
        share, k = chance.random(), chance.choice([1, 5, 10, 60])
        dense.update({key: truth_dense[key] for key in lexical})
        chosen = undecided(dense, lexical, share, k, min(lexical.values()))
        spared += len(dense) - len(lexical) - len(chosen)
        some = {**lexical, **{key: truth_lexical[key] for key in chosen}}
        every = {**lexical, **{key: truth_lexical[key] for key in dense}}
        found, expected = ranked(convex(dense, some, share), k), ranked(convex(dense, every, share), k)
        assert [key for key, _ in found] == [key for key, _ in expected]
        assert [score for _, score in found] == pytest.approx([score for _, score in expected])
    assert spared > 1000
    assert undecided({1: 0.9}, {}, 0.5, 10, 1.0) == undecided({1: 0.9, 2: 0.8}, {2: 3.0}, 0.5, 10, 0.0) == []


def test_reciprocal_rank_honours_weights_and_counts_from_one() -> None:
    fused = reciprocal_rank([[1, 2], [2, 1]], weights=[3.0, 1.0], k=10)
    assert fused[1] == pytest.approx(3 / 11 + 1 / 12)
    assert fused[1] > fused[2]


def test_reciprocal_rank_refuses_missing_weights() -> None:
    with pytest.raises(ValueError, match="2 lists but 1 weights"):
        reciprocal_rank([[1], [2]], weights=[1.0])


def test_equal_scores_are_ordered_by_id() -> None:
    assert ranked({9: 1.0, 3: 1.0, 5: 2.0}, 2) == [(5, 2.0), (3, 1.0)]
