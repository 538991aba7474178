"""A calibration with weights that a reader can check by hand."""

import math
from typing import Any

import pytest
from tiny_encoders import hit

from retrieval.errors import DamagedError
from retrieval.passages import Scores
from retrieval.reranking.calibration import Calibration, features, legs_of

WEIGHTS: dict[str, Any] = {
    "hybrid": {"logit": 1.0, "fused": 8.0, "best logit": 0.5, "best dense": 2.0, "bias": -3.0},
    "dense": {"logit": 1.0, "dense": 2.0, "best logit": 0.0, "bias": 0.0},
    "lexical": {"logit": 1.0, "lexical": 2.0, "best logit": 0.0, "bias": 0.0},
    "none": {"logit": 1.0, "bias": 0.0},
}


def sigmoid(value: float) -> float:
    return 1.0 / (1.0 + math.exp(-value))


def test_each_way_of_searching_has_weights_of_its_own_and_a_missing_score_counts_nothing() -> None:
    calibration = Calibration.from_json(WEIGHTS, "tiny")
    both = [hit("a", scores=Scores(0.5, 6.0, 0.8)), hit("b", scores=Scores(0.25, None, 0.2))]
    # logit + 8 · fused / best fused + best logit / 2 + 2 · best cosine − 3
    assert calibration(both, [1.0, 0.0]) == pytest.approx([sigmoid(1 + 8 + 0.5 + 1 - 3), sigmoid(2 + 0.5 + 1 - 3)])
    assert calibration([hit("a", scores=Scores(dense=0.5))], [1.0]) == pytest.approx([sigmoid(2.0)])
    by_words = [hit("a", scores=Scores(lexical=3.0)), hit("b", scores=Scores(lexical=1.5))]
    assert calibration(by_words, [1.0, 1.0]) == pytest.approx([sigmoid(1 + 2.0), sigmoid(1 + 1.0)])
    assert calibration([hit("a")], [1.0]) == pytest.approx([sigmoid(1.0)])
    assert calibration([], []) == []


def test_it_survives_its_own_file_and_any_logit() -> None:
    calibration = Calibration.from_json(WEIGHTS, "tiny")
    assert Calibration.from_json(calibration.to_json(), "tiny") == calibration
    assert calibration([hit("a"), hit("b")], [1e9, -1e9]) == pytest.approx([1.0, 0.0])


def test_the_legs_are_told_by_what_any_hit_has() -> None:
    assert legs_of([hit("a", scores=Scores(0.1)), hit("b", scores=Scores(None, 1.0))]) == "hybrid"
    assert legs_of([hit("a")]) == "none"
    assert features([hit("a", scores=Scores(None, 0.0))], [1.0], "lexical").tolist() == [[1.0, 0.0, 1.0]]


@pytest.mark.parametrize(
    "wrong", [{}, WEIGHTS | {"none": {"logit": 1.0}}, WEIGHTS | {"none": {"logit": 1e9, "bias": 0}}]
)
def test_a_calibration_that_lacks_numbers_is_damaged(wrong: dict[str, Any]) -> None:
    with pytest.raises(DamagedError, match="calibration"):
        Calibration.from_json(wrong, "tiny")
