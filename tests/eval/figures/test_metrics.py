"""Figures a reader can check by hand."""

import math
import random

import pytest

from eval.figures.metrics import MEASURES, aliases, figures, intervals, measures_at, per_query

QRELS = {"q1": {"a": 1, "b": 1}, "q2": {"c": 1}}


def test_hand_computed_figures():
    found = per_query({"q1": ["x", "a", "b"], "q2": ["c"]}, QRELS)
    gain = 1 / math.log2(3) + 1 / math.log2(4)  # relevant at ranks 2 and 3
    ideal = 1 / math.log2(2) + 1 / math.log2(3)
    assert found["nDCG@10"]["q1"] == pytest.approx(gain / ideal)
    assert found["RR@10"]["q1"] == pytest.approx(1 / 2)
    assert found["AP@100"]["q1"] == pytest.approx((1 / 2 + 2 / 3) / 2)
    assert found["Success@1"] == {"q1": 0.0, "q2": 1.0}
    assert found["R@10"] == {"q1": 1.0, "q2": 1.0}
    assert found["Judged@10"]["q1"] == pytest.approx(2 / 3)


def test_graded_judgements_use_linear_gain_as_trec_eval_does():
    found = per_query({"q": ["low", "high"]}, {"q": {"high": 3, "low": 1}})
    assert found["nDCG@10"]["q"] == pytest.approx((1 + 3 / math.log2(3)) / (3 + 1 / math.log2(3)))


@pytest.mark.parametrize("rankings", [{"q1": ["a", "b"]}, {"q1": ["a", "b"], "q2": []}])
def test_a_query_without_hits_counts_zero(rankings):
    found = per_query(rankings, QRELS)
    assert set(found) == set(MEASURES)
    assert found["nDCG@10"] == {"q1": pytest.approx(1.0), "q2": 0.0}
    assert intervals(found)["nDCG@10"].mean == pytest.approx(0.5)
    assert intervals(found)["nDCG@10"].n == 2


def test_no_hits_at_all():
    assert per_query({}, QRELS)["RR@10"] == {"q1": 0.0, "q2": 0.0}


def test_rank_decides_and_not_the_document_id():
    # trec_eval breaks ties by id; the ids here would order the ranking the other way round.
    for ranking, expected in ((["z", "a"], 1.0), (["a", "z"], 0.5)):
        assert per_query({"q": ranking}, {"q": {"z": 1}})["RR@10"]["q"] == expected


def test_recall_looks_as_deep_as_it_says():
    ranking = [f"x{number}" for number in range(50)] + ["a"]
    found = per_query({"q": ranking}, {"q": {"a": 1}})
    assert (found["R@10"]["q"], found["R@100"]["q"]) == (0.0, 1.0)


def test_queries_without_judgements_are_ignored():
    assert set(per_query({"stranger": ["a"], "q1": ["a"]}, QRELS)["RR@10"]) == {"q1", "q2"}


def test_a_document_ranked_twice_is_refused():
    with pytest.raises(ValueError, match="twice"):
        per_query({"q1": ["a", "a"]}, QRELS)


def test_figures_of_one_query_are_those_of_ir_measures():
    names = (*MEASURES, "nDCG", "nDCG@3", "R@5", "RR", "AP", "AP@5", "P@10", "Judged@3")
    chooser = random.Random(1)
    documents = [f"d{number}" for number in range(60)]
    rankings = {f"q{number}": chooser.sample(documents, chooser.randint(0, 60)) for number in range(200)}
    qrels = {
        query: {name: chooser.choice([-1, 0, 1, 1, 2, 3]) for name in chooser.sample(documents, chooser.randint(1, 30))}
        for query in rankings
    }
    theirs = per_query(rankings, qrels, names)
    for query, ranking in rankings.items():
        ours = figures(ranking, qrels[query], names)
        assert ours == pytest.approx({name: theirs[name][query] for name in names}, abs=1e-12)


def test_figures_refuse_what_has_no_meaning():
    with pytest.raises(ValueError, match="twice"):
        figures(["a", "a"], {"a": 1})
    with pytest.raises(ValueError, match="'ERR@10'"):
        figures(["a"], {"a": 1}, ("ERR@10",))


def test_a_short_ranking_has_no_deep_figures():
    assert "R@100" in measures_at(100) and "AP" not in measures_at(100)
    assert measures_at(10) == ("nDCG@10", "R@10", "RR@10", "Success@1", "Success@5", "Success@10", "Judged@10", "AP")
    assert measures_at(1000)[-1] == "AP"


def test_both_vocabularies_are_found():
    found = aliases({"R@10": 0.1, "R@100": 0.2, "RR@10": 0.3, "AP@100": 0.4, "Judged@10": 0.5})
    assert (found["Recall@10"], found["Recall@100"], found["MRR@10"], found["MAP"], found["judged@10"]) == (
        *(0.1, 0.2, 0.3, 0.4, 0.5),
    )
    assert aliases({"AP@100": 0.4, "AP": 0.45})["MAP"] == 0.45
    assert aliases({"nDCG@10": 1.0}) == {"nDCG@10": 1.0}
