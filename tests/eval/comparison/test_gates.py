"""What a gate may say, what it lets through, and how it tells what is wrong."""

import pytest

from eval.comparison.gates import judged, parse_gate, refuse_unknown
from eval.figures.statistics import Estimate
from retrieval.errors import UsageError


@pytest.mark.parametrize(
    ("text", "absolute", "part", "metric", "relation", "bound", "confidence"),
    [
        ("nDCG@10>=-0.01", False, None, "nDCG@10", ">=", -0.01, None),
        ("F1>0", False, None, "F1", ">", 0.0, None),
        ("scifact/nDCG@10 >= -.01 @95", False, "scifact", "nDCG@10", ">=", -0.01, 0.95),
        ("answers@1/F1<=0.5@99%", False, "answers@1", "F1", "<=", 0.5, 0.99),
        ("abs:faithfulness>=0.8", True, None, "faithfulness", ">=", 0.8, None),
        ("abs:zh/lexical:R@100>0.9@90", True, "zh", "lexical:R@100", ">", 0.9, 0.9),
        ("search.p50<5e1", False, None, "search.p50", "<", 50.0, None),
        ("ROUGE-L>=0", False, None, "ROUGE-L", ">=", 0.0, None),
    ],
)
def test_what_a_gate_may_say(text, absolute, part, metric, relation, bound, confidence):
    gate = parse_gate(text)
    assert (gate.absolute, gate.part, gate.metric, gate.relation) == (absolute, part, metric, relation)
    assert (gate.bound, gate.confidence) == (bound, pytest.approx(confidence))


@pytest.mark.parametrize(
    "text", ["", "F1", "F1>=", ">=0.1", "F1=0.1", "F1==0.1", "F1>=0>1", "a/b/F1>=0", "F1 >= 0 or so"]
)
def test_what_is_no_gate_is_told_the_form(text):
    with pytest.raises(UsageError, match="nDCG@10>=-0.01"):
        parse_gate(text)


@pytest.mark.parametrize("text", ["F1>=much", "F1>=nan", "F1>=inf", "F1>=0@0", "F1>=0@100", "F1>=0@1.2.3", "F1>=0@5"])
def test_numbers_that_are_none_are_refused(text):
    with pytest.raises(UsageError):
        parse_gate(text)


@pytest.mark.parametrize(
    ("text", "value", "passed"),
    [
        ("F1>=-0.01", 0.62 - 0.63, True),  # -0.010000000000000009
        ("F1>=-0.01", -0.0101, False),
        ("F1>0", 1e-17, False),
        ("F1>0", 0.001, True),
        ("F1<=0.1", 0.1 + 1e-16, True),
        ("F1<0.1", 0.1, False),
    ],
)
def test_a_bound_is_meant_as_it_is_written(text, value, passed):
    assert parse_gate(text).holds(value) is passed


def verdict(text, estimate):
    return judged(parse_gate(text), "scifact", ["F1", "nDCG@10"], lambda gate: estimate)


def test_with_a_confidence_the_end_of_the_interval_nearer_to_failing_decides():
    drop = Estimate(-0.005, -0.02, 0.01, 100)
    assert verdict("F1>=-0.01", drop).passed
    assert not verdict("F1>=-0.01@95", drop).passed
    assert verdict("F1>=-0.03@95", drop).value == -0.02
    assert verdict("F1<=0.01@95", drop).value == 0.01


def test_a_failed_gate_says_by_how_much():
    said = verdict("F1>=-0.01", Estimate(-0.13, -0.2, -0.1, 90, 10)).said
    assert "-0.130" in said and "-0.010" in said and "missed by 0.120" in said
    assert "10 of 100 items" in said


def test_what_has_no_value_or_no_interval_fails():
    assert not verdict("F1>=-1", Estimate(None, None, None, 0, 5)).passed
    assert not verdict("F1>=-1", None).passed
    assert verdict("F1>=-1", Estimate(0.5, None, None, 1)).passed
    assert not verdict("F1>=-1@95", Estimate(0.5, None, None, 1)).passed


def test_a_gate_on_another_part_or_a_metric_of_another_kind_says_nothing():
    assert verdict("cranfield/F1>=0", Estimate(1.0, 1.0, 1.0, 9)) is None
    assert verdict("EM>=0", Estimate(1.0, 1.0, 1.0, 9)) is None


def test_unknown_metrics_and_parts_are_refused_with_what_there_is():
    metrics = {"scifact": ["nDCG@10", "R@100"], "lexical → hybrid": ["F1"]}
    with pytest.raises(UsageError, match="nDCG@10, R@100, F1"):
        refuse_unknown([parse_gate("nDCG10>=0")], metrics)
    with pytest.raises(UsageError, match="F1"):
        refuse_unknown([parse_gate("hybrid/nDCG@10>=0")], metrics)
    with pytest.raises(UsageError, match="scifact, lexical → hybrid"):
        refuse_unknown([parse_gate("msmarco/nDCG@10>=0")], metrics)
    refuse_unknown([parse_gate("scifact/R@100>=0"), parse_gate("lexical/F1>=0"), parse_gate("F1>=0")], metrics)
