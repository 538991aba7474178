"""Figures a reader can check by hand."""

import math

import pytest

from eval.metrics import MEASURES, intervals, per_query

QRELS = {"q1": {"a": 1, "b": 1}, "q2": {"c": 1}}


def test_hand_computed_figures():
    figures = per_query({"q1": ["x", "a", "b"], "q2": ["c"]}, QRELS)
    gain = 1 / math.log2(3) + 1 / math.log2(4)  # relevant at ranks 2 and 3
    ideal = 1 / math.log2(2) + 1 / math.log2(3)
    assert figures["nDCG@10"]["q1"] == pytest.approx(gain / ideal)
    assert figures["RR@10"]["q1"] == pytest.approx(1 / 2)
    assert figures["AP@100"]["q1"] == pytest.approx((1 / 2 + 2 / 3) / 2)
    assert figures["Success@1"] == {"q1": 0.0, "q2": 1.0}
    assert figures["R@10"] == {"q1": 1.0, "q2": 1.0}
    assert figures["Judged@10"]["q1"] == pytest.approx(2 / 3)


def test_graded_judgements_use_linear_gain_as_trec_eval_does():
    figures = per_query({"q": ["low", "high"]}, {"q": {"high": 3, "low": 1}})
    assert figures["nDCG@10"]["q"] == pytest.approx((1 + 3 / math.log2(3)) / (3 + 1 / math.log2(3)))


@pytest.mark.parametrize("rankings", [{"q1": ["a", "b"]}, {"q1": ["a", "b"], "q2": []}])
def test_a_query_without_hits_counts_zero(rankings):
    figures = per_query(rankings, QRELS)
    assert set(figures) == set(MEASURES)
    assert figures["nDCG@10"] == {"q1": pytest.approx(1.0), "q2": 0.0}
    assert intervals(figures)["nDCG@10"].mean == pytest.approx(0.5)
    assert intervals(figures)["nDCG@10"].n == 2


def test_no_hits_at_all():
    assert per_query({}, QRELS)["RR@10"] == {"q1": 0.0, "q2": 0.0}


def test_rank_decides_and_not_the_document_id():
    # trec_eval breaks ties by id; the ids here would order the ranking the other way round.
    for ranking, expected in ((["z", "a"], 1.0), (["a", "z"], 0.5)):
        assert per_query({"q": ranking}, {"q": {"z": 1}})["RR@10"]["q"] == expected


def test_recall_looks_as_deep_as_it_says():
    ranking = [f"x{number}" for number in range(50)] + ["a"]
    figures = per_query({"q": ranking}, {"q": {"a": 1}})
    assert (figures["R@10"]["q"], figures["R@100"]["q"]) == (0.0, 1.0)


def test_queries_without_judgements_are_ignored():
    assert set(per_query({"stranger": ["a"], "q1": ["a"]}, QRELS)["RR@10"]) == {"q1", "q2"}


def test_a_document_ranked_twice_is_refused():
    with pytest.raises(ValueError, match="twice"):
        per_query({"q1": ["a", "a"]}, QRELS)
