"""Conversations with human rewrites become examples of rewriting, exactly as the search asks for it."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from adapt.instructions.from_rewrites import (
    Rewriting,
    conversations,
    examples_from_rewrites,
    write_turns,
)
from adapt.instructions.importing import Imported
from eval.data.conversations import read_turns
from retrieval.errors import UsageError
from retrieval.prompts import Message
from retrieval.rewriting.condensing import rewrite_messages


def _file(folder: Path, conversations_: int = 10) -> Path:
    rows = []
    for number in range(conversations_):
        town = f"Tidewell {number}"
        history: list[dict[str, str]] = []
        for turn, (question, rewrite) in enumerate(
            [
                (f"Where is {town}?", f"Where is {town}?"),
                ("Who founded it?", f"Who founded {town}?"),
                (f"Has {town} a harbour?", f"Has {town} a harbour?"),
                ("它有多少居民？", f"{town}有多少居民？"),
            ],
            1,
        ):
            rows.append({"id": f"c{number}_{turn}", "history": list(history), "question": question, "rewrite": rewrite})
            history += [{"role": "user", "text": question}, {"role": "assistant", "text": f"Answer {turn} on {town}."}]
    path = folder / "turns.jsonl"
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def test_an_example_asks_as_serving_does_and_learns_the_human_rewrite(tmp_path: Path) -> None:
    into = Imported()
    found = conversations(_file(tmp_path), Rewriting(unchanged=0.5))
    examples = {
        one.origin.source: one for one in examples_from_rewrites(found, Rewriting(unchanged=0.5), into) if one.origin
    }
    one = examples["turns.jsonl#c3_2"]
    history = [Message("user", "Where is Tidewell 3?"), Message("assistant", "Answer 1 on Tidewell 3.")]
    asked = [(message.role, message.text) for message in rewrite_messages("Who founded it?", history)]
    assert [(message.role, message.content) for message in one.messages[:-1]] == asked
    assert one.messages[-1].content == "Who founded Tidewell 3?"
    assert one.labels == {"group": "c3", "task": "rewrite", "needed": True}
    chinese = examples["turns.jsonl#c3_4"]
    assert chinese.messages[-1].content == "Tidewell 3有多少居民？" and "改写" in chinese.messages[0].content
    assert into.left_out.counts == {"without a history": 10}


def test_questions_that_stay_as_they_are_have_no_more_than_their_share(tmp_path: Path) -> None:
    found = conversations(_file(tmp_path), Rewriting())
    for share, most in ((0.0, 0), (0.2, 5), (0.5, 10)):
        examples = list(examples_from_rewrites(found, Rewriting(unchanged=share), Imported()))
        assert sum(not one.labels["needed"] for one in examples) == most
        assert sum(bool(one.labels["needed"]) for one in examples) == 20


def test_held_out_conversations_are_in_no_example_and_can_be_measured_on(tmp_path: Path) -> None:
    making = Rewriting(hold_out=0.3, unchanged=0.5)
    found = conversations(_file(tmp_path), making)
    learnt = {one.labels["group"] for one in examples_from_rewrites(found, making, Imported())}
    away = {turn.cluster for turn in found.held_out}
    assert len(away) == 3 and not learnt & away and len(learnt) == 7
    write_turns(tmp_path / "held.jsonl", found.held_out)
    assert tuple(read_turns(tmp_path / "held.jsonl")) == found.held_out


def test_conversations_about_one_topic_are_held_out_together_and_so_is_what_is_said_twice(tmp_path: Path) -> None:
    path = _file(tmp_path)
    rows = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
    for row in rows:
        row["topic"] = [f"town {int(row['id'][1:].split('_')[0]) // 2}", "History"]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    making = Rewriting(hold_out=0.4)
    found = conversations(path, making)
    away = {turn.cluster for turn in found.held_out}
    assert len(away) == 4 and {turn.topic for turn in found.held_out}.isdisjoint(turn.topic for turn in found.learnt)
    write_turns(tmp_path / "held.jsonl", found.held_out)
    assert tuple(read_turns(tmp_path / "held.jsonl")) == found.held_out

    # Somebody asks for the same in so many words elsewhere, and a conversation is there under two names.
    words = "Who founded Tidewell on the western shore?"
    one = replace(next(turn for turn in found.held_out if turn.question == "Who founded it?"), rewrite=words)
    same = replace(found.learnt[1], id="y_2", rewrite=words)
    copied = replace(one, id="z_2", question="Why?", rewrite="Why Tidewell?")
    into = Imported()
    again = replace(found, held_out=(*found.held_out, one), learnt=(*found.learnt, same, copied))
    sources = {example.origin.source for example in examples_from_rewrites(again, making, into) if example.origin}
    assert "turns.jsonl#y_2" not in sources and "turns.jsonl#z_2" not in sources and len(sources) == 14
    assert into.left_out.counts["held out elsewhere"] == 2


def test_standalone_questions_are_made_of_rewrites_of_this_and_other_conversations(tmp_path: Path) -> None:
    making = Rewriting(unchanged=0.0, standalone=0.2)
    examples = list(examples_from_rewrites(conversations(_file(tmp_path), making), making, Imported()))
    made = [one for one in examples if not one.labels["needed"]]
    assert len(examples) == 25 and len(made) == 5
    for one in made:
        assert f"Last question: {one.messages[-1].content}\n" in one.messages[1].content.replace(
            "最后一个问题：", "Last question:"
        )
    names = [str(one.labels["group"]).removeprefix("c") in one.messages[-1].content for one in made]
    assert any(names) and not all(names)  # of the same conversation, and of another


def test_a_rewrite_that_serving_would_refuse_teaches_nothing(tmp_path: Path) -> None:
    path = tmp_path / "turns.jsonl"
    row = {"id": "a_2", "history": [{"role": "user", "text": "Where is Tidewell?"}], "question": "Who founded it?"}
    path.write_text(json.dumps({**row, "rewrite": "Who? What? When? Where did they found Tidewell?"}), "utf-8")
    into = Imported()
    assert list(examples_from_rewrites(conversations(path, Rewriting()), Rewriting(), into)) == []
    assert into.left_out.counts == {"rewrite that serving would not take": 1}


def test_shares_are_shares() -> None:
    with pytest.raises(UsageError, match="hold_out is 1.0; it is a share from 0 to below 1"):
        Rewriting(hold_out=1.0)
    with pytest.raises(UsageError, match="limit is 0"):
        Rewriting(limit=0)
