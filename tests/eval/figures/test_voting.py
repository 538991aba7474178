"""Several answers become one by majority, and ties are broken as is said."""

from typing import Any

import pytest

from eval.figures.voting import vote, vote_on_choices
from retrieval.errors import UsageError


def ballot(scores: list[float], answer: str = "b") -> dict[str, Any]:
    options = ["a", "b", "c"]
    predictions = {"choice_accuracy_norm": options[scores.index(max(scores))]}
    return {"q": {"options": options, "scores": scores, "predictions": predictions, "expected": answer}}


def test_the_answer_that_most_agree_with_wins() -> None:
    assert vote(["tea", "Coffee", "coffee "], same=lambda text: text.strip().lower()) == 1
    assert vote(["tea", "coffee"]) == 0
    with pytest.raises(ValueError, match="nobody voted"):
        vote([])


def test_two_weak_votes_beat_a_sure_one() -> None:
    found = vote_on_choices([ballot([-9.0, -0.1, -9.0]), ballot([-1.0, -1.1, -9.0]), ballot([-1.0, -1.2, -9.0])])["q"]
    assert found["predicted"] == "a" and found["votes"] == {"b": 1, "a": 2}
    assert found["metrics"] == {"choice_accuracy_norm": 0.0}


def test_equal_votes_go_to_what_all_find_likelier() -> None:
    found = vote_on_choices([ballot([-1.0, -1.5, -9.0]), ballot([-8.0, -0.5, -9.0])])["q"]
    assert found["predicted"] == "b" and found["metrics"] == {"choice_accuracy_norm": 1.0}


def test_models_that_were_asked_something_else_do_not_vote_together() -> None:
    with pytest.raises(UsageError, match="different questions"):
        vote_on_choices([ballot([1, 0, 0]), {}])
    other = ballot([1.0, 0.0, 0.0])
    other["q"]["options"] = ["a", "b", "d"]
    with pytest.raises(UsageError, match="other options"):
        vote_on_choices([ballot([1, 0, 0]), other])
