"""Intervals, paired tests and corrections on numbers whose answer is known, by hand or from scipy."""

import math
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from eval.figures.statistics import (
    Estimate,
    bootstrap,
    clusters_of,
    detectable,
    estimates,
    holm,
    over_seeds,
    paired,
    paired_test,
    table_of,
)


def column(values) -> dict[str, object]:
    """Values by item; the names sort as the values stand."""
    return {f"{number:05}": value for number, value in enumerate(values)}


# --- intervals -------------------------------------------------------------------------------------------------------


def test_interval_of_a_known_normal_mean():
    values = np.random.default_rng(1).normal(0.5, 0.1, size=400)
    interval = bootstrap(values.tolist())
    standard_error = values.std() / 20
    assert interval.mean == pytest.approx(values.mean())
    assert interval.low == pytest.approx(values.mean() - 1.96 * standard_error, abs=0.1 * standard_error)
    assert interval.high == pytest.approx(values.mean() + 1.96 * standard_error, abs=0.1 * standard_error)
    assert interval.n == 400


def test_interval_is_that_of_scipy_where_there_are_many_items():
    values = np.random.default_rng(2).beta(0.3, 0.2, size=500)
    found = estimates({"nDCG@10": column(values)})["nDCG@10"]
    theirs = stats.bootstrap((values,), np.mean, method="percentile", rng=np.random.default_rng(3))
    error = float(theirs.standard_error)
    assert found.low == pytest.approx(theirs.confidence_interval.low, abs=0.1 * error)
    assert found.high == pytest.approx(theirs.confidence_interval.high, abs=0.1 * error)


def test_interval_of_a_ratio_is_that_of_scipy():
    generator = np.random.default_rng(4)
    below = generator.integers(1, 50, size=300).astype(float)
    above = below * generator.random(300)
    found = estimates({"bits_per_byte": column(zip(above.tolist(), below.tolist(), strict=True))})["bits_per_byte"]
    theirs = stats.bootstrap(
        (above, below),
        lambda a, b, axis=-1: a.sum(axis=axis) / b.sum(axis=axis),
        paired=True,
        method="percentile",
        rng=np.random.default_rng(5),
    )
    error = float(theirs.standard_error)
    assert found.value == pytest.approx(above.sum() / below.sum())
    assert found.low == pytest.approx(theirs.confidence_interval.low, abs=0.12 * error)
    assert found.high == pytest.approx(theirs.confidence_interval.high, abs=0.12 * error)


def coverage(draw, truth: float, trials: int = 300) -> float:
    """How often the interval of `draw(generator)`, a table's column and its clusters, holds the truth."""
    generator = np.random.default_rng(0)
    held = 0
    for _ in range(trials):
        values, clusters = draw(generator)
        found = estimates({"m": values}, clusters=clusters, resamples=1_000)["m"]
        held += found.low <= truth <= found.high
    return held / trials


@pytest.mark.parametrize("n", [8, 60])
def test_interval_covers_the_true_mean_about_as_often_as_it_says(n):
    """The plain percentile interval covers .88 at 8 normal items: outside of these bounds."""
    assert 0.91 <= coverage(lambda generator: (column(generator.normal(size=n)), None), 0.0) <= 0.985


def test_interval_covers_when_items_share_documents_and_only_if_it_is_told_so():
    def draw(generator):
        documents = np.repeat(generator.normal(size=20), 10)
        names = {f"{number:05}": str(number // 10) for number in range(200)}
        return column(documents + generator.normal(scale=0.5, size=200)), names

    assert 0.90 <= coverage(draw, 0.0) <= 0.985
    assert coverage(lambda generator: (draw(generator)[0], None), 0.0) < 0.7


def test_clusters_of_equal_items_are_as_wide_as_one_item_of_each():
    single = column([0.1, 0.5, 0.9, 0.3, 0.2])
    tenfold = {f"{item}-{copy}": value for item, value in single.items() for copy in range(10)}
    clusters = {name: name.partition("-")[0] for name in tenfold}
    one, ten = estimates({"m": single})["m"], estimates({"m": tenfold}, clusters=clusters)["m"]
    assert (ten.low, ten.high) == (pytest.approx(one.low), pytest.approx(one.high))
    assert (one.n, ten.n) == (5, 50)


def test_missing_values_are_left_out_and_counted():
    found = estimates({"faithfulness": {"a": 1.0, "b": None, "c": 0.0, "d": math.nan}, "EM": {"a": 1.0}})
    assert (found["faithfulness"].value, found["faithfulness"].n, found["faithfulness"].missing) == (0.5, 2, 2)
    assert found["EM"].missing == 0


def test_a_pair_is_summed_before_it_is_divided():
    found = estimates({"citation_precision": {"a": (1, 1), "b": (0, 3), "c": (0, 0)}})["citation_precision"]
    assert (found.value, found.n) == (0.25, 3)


def test_what_cannot_be_estimated_has_no_interval_and_gives_no_warning():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = estimates(
            {
                "one": {"a": 0.7},
                "none": {"a": None, "b": None},
                "nothing": {},
                "zero": {"a": (0, 0), "b": (0, 0)},
                "seldom": {"a": (1, 2), "b": (0, 0), "c": (0, 0)},
                "same": {"a": 0.4, "b": 0.4},
            }
        )
        one_document = estimates({"m": {"a": 0.1, "b": 0.9}}, clusters={"a": "d", "b": "d"})["m"]
        assert estimates({}) == {}
    assert found["one"] == Estimate(0.7, None, None, 1, 0)
    assert found["none"] == Estimate(None, None, None, 0, 2)
    assert found["nothing"] == Estimate(None, None, None, 0, 0)
    assert found["zero"] == Estimate(None, None, None, 2, 0)
    assert found["seldom"] == Estimate(0.5, None, None, 3, 0)
    assert found["same"].low == pytest.approx(0.4) and found["same"].high == pytest.approx(0.4)
    assert one_document == Estimate(0.5, None, None, 2, 0)


def test_twenty_of_twenty_does_not_prove_all():
    right, wrong = estimates({"right": column([1.0] * 20), "wrong": column([0.0] * 20)}).values()
    exact = stats.binomtest(20, 20).proportion_ci(method="exact")
    assert (right.low, right.high) == (pytest.approx(exact.low), 1.0)
    assert (wrong.low, wrong.high) == (0.0, pytest.approx(1 - exact.low))


def test_interval_is_repeatable_and_does_not_depend_on_the_order_of_items():
    values = column([0.1, 0.9, 0.4, 0.4])
    backwards = dict(reversed(values.items()))
    assert estimates({"m": values}, seed=3) == estimates({"m": backwards}, seed=3)
    assert bootstrap([0.1, 0.9, 0.4, 0.4], seed=3) == bootstrap([0.1, 0.9, 0.4, 0.4], seed=3)
    alone = bootstrap([0.7])
    assert (alone.low, alone.high) == (0.7, 0.7)


def test_blocks_of_draws_change_nothing_but_memory(monkeypatch):
    values = {"m": column(np.random.default_rng(0).random(50))}
    whole = estimates(values)["m"]
    monkeypatch.setattr("eval.figures.resampling.BLOCK", 64)
    again = estimates(values)["m"]
    assert (again.low, again.high) == (pytest.approx(whole.low), pytest.approx(whole.high))


def test_too_little_to_resample_is_refused():
    with pytest.raises(ValueError, match="at least one"):
        bootstrap([])
    with pytest.raises(ValueError, match="1,000"):
        bootstrap([1.0], resamples=10)


@settings(max_examples=60, deadline=None)
@given(
    st.dictionaries(
        st.text(max_size=3),
        st.one_of(
            st.none(),
            st.floats(-1e6, 1e6),
            st.floats(),
            st.tuples(st.floats(0, 1e6), st.integers(0, 100)),
            st.text(max_size=2),
        ),
        max_size=12,
    )
)
def test_any_figures_give_an_interval_around_something_finite_or_none(values):
    found = estimates({"m": values}, resamples=1_000)["m"]
    assert found.n + found.missing == len(values)
    if found.value is not None:
        assert math.isfinite(found.value)
    if found.low is not None:
        assert math.isfinite(found.low) and found.low <= found.high


# --- records ---------------------------------------------------------------------------------------------------------


def test_records_turn_into_a_table_and_clusters():
    records = {
        "a": {"metrics": {"EM": 1, "citation_precision": [1, 2]}, "cluster": "doc"},
        "b": {"metrics": {"EM": None}, "cluster": None},
        "c": {"metrics": {}, "error": "the engine died"},
        "d": {"metrics": "damaged"},
    }
    assert table_of(records) == {"EM": {"a": 1, "b": None}, "citation_precision": {"a": (1, 2)}}
    assert clusters_of(records) == {"a": "doc"}


# --- paired tests ----------------------------------------------------------------------------------------------------


def test_every_query_better_by_the_same_amount():
    a = {str(number): 0.2 for number in range(5)}
    b = {str(number): 0.3 for number in range(5)}
    result = paired_test(a, b)
    # Two of the 2^5 sign patterns are as extreme as the one seen, and all 32 are looked at.
    assert result.p == 2 / 32
    assert result.difference.mean == pytest.approx(0.1)


def test_p_by_hand_with_unequal_differences():
    # |+1+2-0.5| = 2.5 is reached by +++ (3.5), ++- (2.5) and their mirrors: 4 of 8.
    found = paired({"m": column([0, 0, 0])}, {"m": column([1, 2, -0.5])})["m"]
    assert found.p == 0.5


@pytest.mark.parametrize("n", [10, 40])
def test_p_is_that_of_scipy(n):
    """Exact at 10 items; at 40 both draw exchanges at random."""
    generator = np.random.default_rng(n)
    a = generator.random(n)
    b = a + generator.normal(0.08, 0.2, size=n)
    theirs = stats.permutation_test(
        (a, b), lambda x, y: np.mean(y - x), permutation_type="samples", n_resamples=20_000, rng=generator
    )
    assert paired({"m": column(a)}, {"m": column(b)})["m"].p == pytest.approx(
        theirs.pvalue, abs=1e-9 if n == 10 else 0.01
    )


def test_p_of_many_normal_differences_is_near_that_of_the_t_test():
    generator = np.random.default_rng(7)
    a = generator.normal(size=200)
    b = a + generator.normal(0.13, 1.0, size=200)
    assert paired({"m": column(a)}, {"m": column(b)})["m"].p == pytest.approx(stats.ttest_rel(a, b).pvalue, abs=0.01)


def test_p_of_a_ratio_exchanges_pairs():
    """Both orders of two items by hand: 1/1 + 3/3 against 0/1 + 0/3 is a gap of 1; half exchanged, .25 against .75."""
    a, b = {"x": (0, 1), "y": (0, 3)}, {"x": (1, 1), "y": (3, 3)}
    assert paired({"m": a}, {"m": b})["m"].p == 0.5


def test_an_exchange_that_leaves_nothing_to_divide_by_counts_against_a_difference():
    a, b = {"x": (1, 1), "y": (0, 0)}, {"x": (0, 0), "y": (0, 1)}
    assert paired({"m": a}, {"m": b})["m"].p == 1.0


def test_a_cluster_changes_sides_as_one():
    a, b = column([0.0] * 6), column([1.0] * 6)
    apart = paired({"m": a}, {"m": b})["m"]
    together = paired({"m": a}, {"m": b}, clusters={item: "first" if item < "00003" else "second" for item in a})["m"]
    assert (apart.p, together.p) == (2 / 64, 2 / 4)


def test_more_items_than_can_be_enumerated_never_give_p_zero():
    found = paired({"m": column([0.0] * 40)}, {"m": column([1.0] * 40)})["m"]
    assert found.p == 1 / 10_001


def test_metrics_tested_together_are_tested_as_alone():
    """Exact and random ones share a table; a metric that no item differs on has p = 1."""
    generator = np.random.default_rng(8)
    few = [column([0.2] * 8), column([0.2] * 6 + [0.5, 0.4])]
    many = [column(generator.random(50)), column(generator.random(50))]
    found = paired({"few": few[0], "many": many[0], "same": many[0]}, {"few": few[1], "many": many[1], "same": many[0]})
    assert found["few"].p == paired({"few": few[0]}, {"few": few[1]})["few"].p == 0.5
    assert found["many"].p == pytest.approx(paired({"many": many[0]}, {"many": many[1]})["many"].p, abs=0.02)
    assert found["same"].p == 1.0 and found["same"].effect == 0.0


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


def test_items_without_a_value_on_one_side_are_left_out_of_both():
    found = paired({"m": {"x": 0.0, "y": 1.0, "z": None}}, {"m": {"x": 0.5, "y": None, "w": 1.0}})["m"]
    assert (found.a, found.b) == (0.0, 0.5)
    assert (found.difference.n, found.difference.missing) == (1, 3)
    assert (found.difference.low, found.effect, found.detectable) == (None, None, None)


def test_difference_and_its_interval_are_those_of_the_pairs():
    generator = np.random.default_rng(9)
    a = generator.random(100)
    b = a + generator.normal(0.05, 0.1, size=100)
    found = paired({"m": column(a)}, {"m": column(b)})["m"]
    alone = estimates({"m": column(b - a)})["m"]
    assert found.difference.value == pytest.approx(alone.value)
    assert (found.difference.low, found.difference.high) == (pytest.approx(alone.low), pytest.approx(alone.high))
    assert (found.a, found.b) == (pytest.approx(a.mean()), pytest.approx(b.mean()))


def test_nothing_in_common_to_compare_is_no_crash():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert paired({"a": {"x": 1.0}}, {"b": {"x": 1.0}}) == {}
        found = paired({"m": {"x": None}, "r": {"x": (0, 0)}}, {"m": {"x": 1.0}, "r": {"x": (1, 1)}})
    assert found["m"].p is None and found["m"].difference.value is None
    assert found["r"].p is None and found["r"].b == 1.0


def test_effect_size_is_mean_over_deviation_of_the_pairs():
    # Differences 1, 2, 3: mean 2, deviation 1.
    assert paired({"m": column([0, 0, 0])}, {"m": column([1, 2, 3])})["m"].effect == pytest.approx(2.0)


def test_detectable_difference_is_found_four_times_out_of_five():
    generator = np.random.default_rng(10)
    promised = detectable(1 / math.sqrt(30), 29)
    found = [stats.ttest_1samp(generator.normal(promised, 1.0, size=30), 0).pvalue < 0.05 for _ in range(2_000)]
    assert np.mean(found) == pytest.approx(0.8, abs=0.03)
    a, b = column([0.0] * 30), column(generator.normal(0, 1.0, size=30))
    deviation = np.std(list(b.values()), ddof=1)
    assert paired({"m": a}, {"m": b})["m"].detectable == pytest.approx(promised * deviation)


def test_copies_of_items_make_no_smaller_difference_detectable():
    a, b = column([0.1, 0.5, 0.9, 0.3, 0.2]), column([0.3, 0.4, 1.0, 0.9, 0.1])
    copies = [{f"{item}-{copy}": value for item, value in side.items() for copy in range(10)} for side in (a, b)]
    clusters = {name: name.partition("-")[0] for name in copies[0]}
    one = paired({"m": a}, {"m": b})["m"]
    ten = paired({"m": copies[0]}, {"m": copies[1]}, clusters=clusters)["m"]
    assert ten.detectable == pytest.approx(one.detectable) and ten.p == one.p


def test_standard_error_of_a_ratio_is_that_of_its_bootstrap():
    generator = np.random.default_rng(11)
    below = generator.integers(1, 40, size=400).astype(float)
    a = column(zip((below * generator.random(400)).tolist(), below.tolist(), strict=True))
    b = column(zip((below * generator.random(400)).tolist(), below.tolist(), strict=True))
    found = paired({"m": a}, {"m": b})["m"]
    error = found.detectable / (stats.t.ppf(0.975, 399) + stats.t.ppf(0.8, 399))
    assert (found.difference.high - found.difference.low) / (2 * 1.966) == pytest.approx(error, rel=0.04)


# --- several tests, several seeds ------------------------------------------------------------------------------------


def test_holm_by_hand():
    """Holm 1979: .01 · 4, .02 · 3, .03 · 2, .04 · 1, each at least as large as the one before."""
    assert holm({"d": 0.04, "a": 0.01, "c": 0.03, "b": 0.02}) == pytest.approx(
        {"a": 0.04, "b": 0.06, "c": 0.06, "d": 0.06}
    )
    assert holm({"a": 0.9, "b": 0.8}) == {"a": 1.0, "b": 1.0}
    assert holm({}) == {}


def test_seeds_add_their_spread_to_that_of_the_items():
    generator = np.random.default_rng(12)
    items = generator.random(300)
    alike = over_seeds([{"F1": column(items)} for _ in range(3)])["F1"]
    single = over_seeds([{"F1": column(items)}])["F1"]
    apart = over_seeds([{"F1": column(items + shift)} for shift in (-0.1, 0.0, 0.1)])["F1"]
    assert alike.estimate.value == apart.estimate.value == pytest.approx(items.mean())
    assert alike.estimate.high - alike.estimate.low == pytest.approx(
        single.estimate.high - single.estimate.low, rel=0.05
    )
    # Between seeds .1 / sqrt(3) with 2 degrees of freedom, which dwarfs the items' .017.
    assert apart.estimate.high - apart.estimate.value > 0.15
    assert apart.by_seed == pytest.approx((items.mean() - 0.1, items.mean(), items.mean() + 0.1))


def test_intervals_over_few_uncertain_seeds_cover():
    """A hierarchical bootstrap covers .84 here."""
    generator = np.random.default_rng(13)
    held = 0
    for _ in range(300):
        quality = generator.normal(scale=0.3, size=60)
        tables = [
            {"F1": column(quality + generator.normal(scale=0.1) + generator.normal(scale=0.2, size=60))}
            for _ in range(3)
        ]
        found = over_seeds(tables, resamples=1_000)["F1"].estimate
        held += found.low <= 0 <= found.high
    assert held / 300 >= 0.89


def test_a_gain_within_the_noise_of_training_is_no_gain():
    items = np.random.default_rng(14).random(200)
    steady = [{"F1": column(items + shift)} for shift in (0.0, 0.001, 0.002)]
    noisy = [{"F1": column(items + shift)} for shift in (-0.09, 0.05, 0.13)]
    better = [{"F1": column(items + 0.03 + shift)} for shift in (0.0, 0.001, 0.002)]
    unsure, sure = over_seeds(noisy, steady)["F1"], over_seeds(better, steady)["F1"]
    assert unsure.estimate.value == pytest.approx(0.029) and unsure.p > 0.3
    assert sure.estimate.value == pytest.approx(0.03) and sure.p < 0.001
    assert sure.estimate.low > 0


def test_seeds_that_lack_values_are_counted_and_none_at_all_is_empty():
    found = over_seeds([{"m": {"x": 1.0, "y": 0.0}}, {"m": {"x": 1.0, "y": None}}])["m"].estimate
    assert (found.value, found.n, found.missing, found.low) == (1.0, 1, 1, None)
    assert over_seeds([]) == {} and over_seeds([{"a": {"x": 1.0}}, {"b": {"x": 1.0}}]) == {}
