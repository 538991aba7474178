"""The vocabulary: which way is up, what a name means, how a value is written."""

import string

import pytest

from eval.figures.measures import (
    HEADLINE,
    MEASURES,
    better,
    describe,
    find,
    format_difference,
    format_value,
    in_order,
    main_metric,
)
from eval.figures.metrics import MEASURES as RETRIEVAL
from eval.runs.suites import KINDS


@pytest.mark.parametrize(
    ("metric", "direction"),
    [
        ("nDCG@10", "higher"),
        ("R@7", "higher"),
        ("lexical:nDCG@10", "higher"),
        ("nDCG@10_raw", "higher"),
        ("over_refusal", "lower"),
        ("risk", "lower"),
        ("bits_per_byte", "lower"),
        ("bits_per_byte_domain", "lower"),
        ("errors", "lower"),
        ("cpu_ratio", "higher"),
        ("tokens_per_second", "higher"),
        ("requests_per_second", "higher"),
        ("8_users_tokens_per_second", "higher"),
        ("8_users_first_token_ms", "lower"),
        ("indexing_cpu_s", "lower"),
        ("over_refusal_zh", "lower"),
        ("choice_accuracy_norm", "higher"),
        ("first_token_ms", "lower"),
        ("accuracy_ms", "lower"),
        ("index_s", "lower"),
        ("latency", "lower"),
        ("squared_error", "lower"),
        ("something_new", "higher"),
    ],
)
def test_which_way_is_up(metric, direction):
    assert better(metric) == direction


@pytest.mark.parametrize(
    ("metric", "value", "written"),
    [
        ("nDCG@10", 0.67891, "0.679"),
        ("bits_per_byte", 1.23456, "1.2346"),
        ("first_token_ms", 1234.5, "1,234 ms"),
        ("search_ms", 4.5678, "4.57 ms"),
        ("index_s", 2.5, "2.5 s"),
        ("cpu_ratio", 3.0, "3.00 ×"),
        ("tokens_per_second", 1234.56, "1,234.6"),
        ("unknown", 0.5, "0.500"),
        ("unknown", 12345.6, "12,345.6"),
        ("F1", None, "–"),
    ],
)
def test_how_a_value_is_written(metric, value, written):
    assert format_value(metric, value) == written


@pytest.mark.parametrize(("value", "written"), [(0.01234, "+0.012"), (-0.5, "-0.500"), (-0.0001, "0.000"), (None, "–")])
def test_a_difference_has_a_sign_unless_it_rounds_to_nothing(value, written):
    assert format_difference("F1", value) == written


def test_a_description_names_the_depth():
    assert "first 5" in describe("Success@5")
    assert describe("nobody_knows") == ""
    assert describe("wait_ms") == "time in milliseconds"


def test_every_measure_has_one_short_line_and_a_format_for_one_number():
    for name, measure in MEASURES.items():
        assert measure.meaning and "\n" not in measure.meaning and len(measure.meaning) < 100, name
        assert [field for _, field, _, _ in string.Formatter().parse(measure.form) if field is not None] == [""]


def test_every_kind_of_part_has_a_headline_of_known_measures():
    assert HEADLINE.keys() == KINDS.keys()
    for metrics in (*HEADLINE.values(), RETRIEVAL):
        for metric in metrics:
            assert find(metric) or metric.endswith("_ms"), metric


def test_the_headline_comes_first_and_stages_after():
    metrics = ["lexical:nDCG@10", "Success@1", "own", "nDCG@10"]
    assert in_order("retrieval", metrics) == ["nDCG@10", "Success@1", "lexical:nDCG@10", "own"]
    assert main_metric("retrieval", metrics) == "nDCG@10"
    assert main_metric("unheard of", metrics) == "lexical:nDCG@10"
    assert main_metric("retrieval", []) is None
