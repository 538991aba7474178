"""Events of the review page, without a browser: nothing a tab says is believed."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from adapt.instructions.example import Example, Message, reviews_beside, write_examples
from adapt.instructions.reviews import Reviews
from app.review.reviewing import FIELDS, Reviewing
from app.review.words import CHINESE, ENGLISH, words_for


@pytest.fixture
def reviewing(tmp_path: Path) -> Reviewing:
    examples = [Example.of([Message("user", f"q{n}"), Message("assistant", f"a{n}")]) for n in range(3)]
    write_examples(tmp_path / "e.jsonl", examples)
    return Reviewing(Reviews(tmp_path / "e.jsonl"))


def act(reviewing: Reviewing, command: Any) -> dict[str, Any]:
    request: Any = SimpleNamespace(headers={"accept-language": "en"}, query_params={})
    row = reviewing.act(request, command if isinstance(command, str) else json.dumps(command))
    return dict(zip(FIELDS, row, strict=True))


@pytest.mark.parametrize(
    "command",
    [
        "", "[]", "{", "[" * 100_000, {}, {"do": 3}, {"do": "accept"}, {"do": "accept", "id": "gone", "version": 0},
        {"do": "accept", "id": ["x"], "version": "0"}, {"do": "edit", "id": "$", "version": 0},
        {"do": "edit", "id": "$", "version": 0, "messages": ["only one"]},
        {"do": "edit", "id": "$", "version": 0, "messages": ["", None]},
        {"do": "edit", "id": "$", "version": 0, "messages": [{"a": 1}, 3]},
        {"do": "accept", "id": "$", "version": True}, {"do": "accept", "id": "$", "version": 7},
        {"do": "next", "id": "$", "state": "<b>", "origin": "<i>", "score": "<u>", "below": "nan"},
    ],
)  # fmt: skip
def test_commands_that_make_no_sense_decide_nothing(reviewing: Reviewing, command: Any) -> None:
    if isinstance(command, dict) and command.get("id") == "$":
        command = {**command, "id": reviewing.reviews.order[0]}
    answer = act(reviewing, command)
    assert json.loads(answer["place"])["serial"]
    assert not reviews_beside(reviewing.reviews.path).exists()
    drawn = "".join(str(answer[name]) for name in ("bar", "notice", "card", "actions"))
    assert "<b>" not in drawn and "<i>" not in drawn and "<u>" not in drawn


def test_an_edit_that_changes_nothing_is_an_acceptance(reviewing: Reviewing) -> None:
    name = reviewing.reviews.order[0]
    act(reviewing, {"do": "edit", "id": name, "version": 0, "messages": [None, "a0"]})
    assert reviewing.reviews.state(name) == "accepted"
    act(reviewing, {"do": "edit", "id": name, "version": 1, "messages": [None, "better"], "state": ""})
    act(reviewing, {"do": "edit", "id": name, "version": 2, "messages": ["q?", None], "state": ""})
    assert [message.content for message in reviewing.reviews.messages(name)] == ["q?", "better"]


def test_a_decision_moves_on_within_what_is_shown(reviewing: Reviewing) -> None:
    first, second, third = reviewing.reviews.order
    answer = act(reviewing, {"do": "reject", "id": second, "version": 0, "note": "no"})
    assert json.loads(answer["place"])["id"] == third
    answer = act(reviewing, {"do": "next", "id": third})
    assert json.loads(answer["place"])["id"] == first and ENGLISH.again in answer["notice"]
    answer = act(reviewing, {"do": "take-back", "id": second, "version": 1, "state": "rejected"})
    assert json.loads(answer["place"])["id"] == second and reviewing.reviews.state(second) == "open"


def test_chinese_is_said_in_full() -> None:
    assert words_for("zh-CN,en;q=0.8") is CHINESE and words_for("de, en") is ENGLISH
    for name in CHINESE.__slots__:
        mine, theirs = getattr(CHINESE, name), getattr(ENGLISH, name)
        assert mine != theirs or name == "score", name
        if isinstance(mine, dict):
            assert set(mine) == set(theirs)
