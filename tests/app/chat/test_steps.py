"""What a search did, in English and Chinese, under an answer and after a reload."""

from typing import get_args

import pytest

from app.chat.messages import turn_html
from app.chat.steps import step_text
from app.chat.turns import Asked, Turn, read_record
from app.chat.words import CHINESE, ENGLISH
from retrieval.steps import Skipped, Step

STEPS = (
    Step("rewrite", 650.0, "with_previous", "too_slow", {"limit": 2.0}),
    Step("search", 12.0, "searched", values={"queries": 2, "hits": 8}),
    Step("rerank", 0.2, "skipped", "failed", {"error": "<script>alert(1)</script>"}),
)


def test_steps_are_said_in_both_languages() -> None:
    assert step_text(STEPS[0], ENGLISH) == (
        "searched together with the question before — it took longer than 2.0 s · 650 ms"
    )
    assert step_text(STEPS[0], CHINESE) == "与上一个问题合在一起检索（原因：超过 2.0 秒） · 650 毫秒"
    assert step_text(STEPS[1], ENGLISH) == "searches: 2, passages: 8 · 12 ms"
    assert step_text(Step("rewrite", 0.0, "condensed"), CHINESE) == "已改写为独立的问题"


@pytest.mark.parametrize("words", [ENGLISH, CHINESE], ids=["en", "zh"])
def test_every_reason_has_words(words: object) -> None:
    assert set(words.step_why) == set(get_args(Skipped)) - {""}  # type: ignore[attr-defined]
    assert words.step_did.keys() == ENGLISH.step_did.keys()  # type: ignore[attr-defined]


def test_a_step_of_a_newer_fathom_is_said_by_its_names() -> None:
    assert step_text(Step("rewrite", 0.0, "cut", "no_hits"), ENGLISH) == "rewrite.cut — no passage was found"


def test_steps_stand_under_the_answer_and_are_kept_with_it() -> None:
    turn = Turn(1, "c", "q?", Asked("default"), 0.0, state="done", text="a", queries=("q?", "p q?"), steps=STEPS)
    shown = turn_html(turn, ENGLISH)
    assert "p q?" in shown and "it took longer than 2.0 s" in shown and "<script>" not in shown
    assert read_record(turn.record())["steps"] == STEPS
    assert "steps" not in read_record('{"steps": [{"name": 1, "more": 2}], "hits": []}')
