"""Shares along a training: curves, their sums, what is possible with the texts at hand."""

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from adapt.corpus.shares import Shares, largest, require_possible, share_at, share_until
from adapt.recipe import Dapt, Mixture, Mixtures
from retrieval.errors import UsageError

mixtures = st.builds(
    Mixture,
    start=st.floats(0, 1),
    end=st.floats(0, 1),
    curve=st.sampled_from(["linear", "cosine", "step"]),
    steps=st.integers(1, 7),
    hold=st.one_of(st.just(0.0), st.just(1.0), st.floats(0, 1)),
)


def test_curves_go_where_a_hand_would_draw_them() -> None:
    linear = Mixture(start=0.2, end=0.8)
    assert [share_at(linear, place) for place in (0, 0.5, 1)] == pytest.approx([0.2, 0.5, 0.8])
    held = Mixture(start=0.2, end=0.8, hold=0.5)
    assert [share_at(held, place) for place in (0, 0.25, 0.5, 1)] == pytest.approx([0.2, 0.5, 0.8, 0.8])
    cosine = Mixture(start=0.0, end=1.0, curve="cosine")
    assert [share_at(cosine, place) for place in (0, 0.25, 0.5, 1)] == pytest.approx([0, 0.1464466, 0.5, 1])
    step = Mixture(start=0.2, end=0.8, curve="step", steps=4)
    assert [share_at(step, place) for place in (0, 0.24, 0.26, 0.6, 0.76, 1)] == pytest.approx(
        [0.2, 0.2, 0.4, 0.6, 0.8, 0.8]
    )


@given(mixture=mixtures, place=st.floats(0, 1))
def test_the_integral_is_the_sum_of_the_shares(mixture: Mixture, place: float) -> None:
    middles = (np.arange(4000) + 0.5) / 4000 * place
    summed = np.mean([share_at(mixture, float(middle)) for middle in middles]) * place
    assert share_until(mixture, place) == pytest.approx(summed, abs=1e-3)


@given(mixture=mixtures, place=st.floats(0, 1))
def test_rest_takes_what_the_others_leave(mixture: Mixture, place: float) -> None:
    shares = Shares({"domain": mixture, "general": "rest"})
    assert sum(shares.at(place).values()) == pytest.approx(1)
    assert sum(shares.until(place).values()) == pytest.approx(place)
    assert min(shares.at(place).values()) >= 0


@pytest.mark.parametrize(
    "mix",
    [
        {"a": 0.5, "b": 0.6},
        {"a": 0.5, "b": 0.4},
        {"a": {"from": 0.2, "to": 0.9}, "b": {"from": 0.5, "to": 0.4}, "c": "rest"},
        {"a": "rest", "b": "rest"},
        {},
    ],
)
def test_shares_that_do_not_add_up_are_refused(mix: dict) -> None:
    with pytest.raises(UsageError, match="add up to|at most is"):
        Shares(Dapt(mix=mix).mix)


def test_shares_that_cross_add_up_without_a_rest() -> None:
    crossing = Shares(Dapt(mix={"a": {"from": 0.2, "to": 0.9}, "b": {"from": 0.8, "to": 0.1}}).mix)
    assert crossing.until(1.0) == pytest.approx({"a": 0.55, "b": 0.45})


def test_the_scarcest_source_decides_how_long_a_stage_can_be() -> None:
    mix: Mixtures = {"domain": Mixture(start=0.25, end=0.75), "general": "rest"}
    assert largest({"domain": 1000, "general": 9000}, mix, 1.0) == 2000
    assert largest({"domain": 9000, "general": 1000}, mix, 3.0) == 6000
    assert largest({"all": 12345}, {"all": "rest"}, 1.0) == 12345


def test_an_impossible_stage_says_what_runs_out_where_and_what_would_do() -> None:
    mix: Mixtures = {"domain": Mixture(start=0.0, end=1.0), "general": "rest"}
    require_possible({"domain": 1000, "general": 9000}, mix, 1.0, 2000)
    with pytest.raises(UsageError) as caught:
        require_possible({"domain": 1000, "general": 9000}, mix, 1.0, 8000)
    # The share rises to 1, so half of 8000 are wanted; a quarter of those are used up at half of the way.
    assert str(caught.value) == (
        "'domain' has 1,000 tokens and, read 1 times, runs out after 50% of the 8,000 tokens of this mixture; 2,000 "
        "tokens are possible, or set epochs to 4"
    )


@given(
    mixture=mixtures,
    tokens=st.tuples(st.integers(1, 10**7), st.integers(1, 10**7)),
    epochs=st.floats(0.1, 10),
)
def test_the_largest_stage_is_possible_and_one_a_little_longer_is_not(
    mixture: Mixture, tokens: tuple[int, int], epochs: float
) -> None:
    mix: Mixtures = {"a": mixture, "b": "rest"}
    counts = dict(zip("ab", tokens, strict=True))
    possible = largest(counts, mix, epochs)
    assume(possible > 0)
    require_possible(counts, mix, epochs, possible)
    with pytest.raises(UsageError, match="runs out after"):
        require_possible(counts, mix, epochs, possible + 1 + possible // 1000)


def test_names_that_do_not_fit_are_named() -> None:
    with pytest.raises(UsageError, match="no source 'general'"):
        largest({"domain": 10}, {"domain": Mixture(start=0.5, end=0.5), "general": "rest"}, 1.0)
    with pytest.raises(UsageError, match="'general' has no share"):
        largest({"domain": 10, "general": 10}, {"domain": "rest"}, 1.0)
    with pytest.raises(UsageError, match="'domain' has a share of the mixture and no text"):
        largest({"domain": 0}, {"domain": "rest"}, 1.0)
