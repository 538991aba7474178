"""When a model is spared: rules a reader can follow, in both languages."""

import pytest

from retrieval.prompts import Message
from retrieval.rewriting.need import GOOD, LONGEST, no_need, several_parts
from retrieval.rewriting.plans import About, Way

HISTORY = [Message("user", "What is LoRA?"), Message("assistant", "A method.")]
ENGLISH = About(("en",))


def never() -> float:
    raise AssertionError("the first hits need not be looked at")


def needed(way: Way, question: str, history: list[Message], sure: float | None = None, about: About = ENGLISH) -> str:
    return no_need(way, question, history, lambda: about, never if sure is None else lambda: sure) or ""


def test_nothing_is_condensed_where_nothing_was_said() -> None:
    assert needed("condense", "And what about it?", []) == "no_history"


@pytest.mark.parametrize(
    "question", ["And for QLoRA?", "How much memory does that need on one card?", "它为什么更慢？"]
)
def test_a_question_that_points_back_is_always_reworded(question: str) -> None:
    assert needed("condense", question, HISTORY) == needed("plan", question, HISTORY) == ""


def test_a_new_subject_with_good_passages_of_its_own_is_left_alone() -> None:
    question = "Which learning rate suits continued pretraining of small models?"
    for way in ("condense", "plan"):
        assert needed(way, question, HISTORY, GOOD) == "good_hits"  # type: ignore[arg-type]
        assert needed(way, question, HISTORY, GOOD - 0.01) == ""  # type: ignore[arg-type]


def test_first_questions_are_planned_for_unless_their_passages_are_good() -> None:
    assert needed("plan", "How does low-rank adaptation save memory?", [], 0.9) == "good_hits"
    assert needed("plan", "How does low-rank adaptation save memory?", [], 0.1) == ""
    assert needed("plan", "低秩适配怎样节省显存？", [], None, ENGLISH) == ""  # to be translated
    assert needed("plan", "低秩适配怎样节省显存？", [], 0.9, About(("en", "zh"))) == "good_hits"


@pytest.mark.parametrize(
    "question",
    ["What is LoRA and how does it differ from QLoRA?", "What is DPO? What is RLHF?", "什么是 LoRA，怎么训练？"],
)
def test_a_question_of_several_parts_is_planned_for(question: str) -> None:
    assert several_parts(question) and needed("plan", question, []) == ""


def test_a_long_question_says_what_it_is_about() -> None:
    assert not several_parts("How large is the model?")
    assert needed("plan", "why " * LONGEST, HISTORY) == needed("condense", "x" * (LONGEST + 1), HISTORY) == "long"
