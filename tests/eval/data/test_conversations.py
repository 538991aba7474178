"""Turns from a file, and the known-item collection that conversations with answers hold."""

import json
from pathlib import Path
from typing import Any

import pytest

from eval.data.conversations import LEAST_QUESTIONS, known_items, read_turns
from retrieval.errors import ReadingError, UsageError
from retrieval.prompts import Message


def written(path: Path, rows: list[Any]) -> Path:
    path.write_text("\n".join(json.dumps(row, ensure_ascii=False) for row in rows), encoding="utf-8")
    return path


def user(text: str) -> dict[str, str]:
    return {"role": "user", "text": text}


def assistant(text: str) -> dict[str, str]:
    return {"role": "assistant", "text": text}


def conversation(number: int, answer: str) -> list[dict[str, Any]]:
    """Two turns; the second one's history holds the answer to the first."""
    asked = f"Who is person {number}?"
    return [
        {"id": f"c{number}_q0", "history": [], "question": asked, "rewrite": asked},
        {
            "id": f"c{number}_q1",
            "history": [user(asked), assistant(answer)],
            "question": "Where was she born?",
            "rewrite": f"Where was person {number} born?",
        },
    ]


def test_turns_are_read_with_their_conversation_as_cluster(tmp_path: Path) -> None:
    rows = [
        *conversation(1, "A painter of the last century."),
        {"id": "31_4", "history": [], "question": "Why?", "rewrite": "Why?"},
        {"id": "rw20k-0", "history": [], "question": "为什么", "rewrite": "为什么"},
        {"id": "x", "conversation": "mine", "question": "How?", "rewrite": "How?"},
    ]
    turns = read_turns(written(tmp_path / "t.jsonl", rows))
    assert [turn.cluster for turn in turns] == ["c1", "c1", "31", "rw20k-0", "mine"]
    assert turns[1].history[1] == Message("assistant", "A painter of the last century.")


def test_a_rewrite_is_needed_where_words_changed_and_something_came_before(tmp_path: Path) -> None:
    before = [user("Who wrote Dune?")]
    rows = [
        {"id": "a", "history": before, "question": "When?", "rewrite": "When was Dune written?"},
        {"id": "b", "history": before, "question": "who wrote emma", "rewrite": "Who wrote Emma?"},
        {"id": "c", "history": [], "question": "When?", "rewrite": "When was Dune written?"},
        {"id": "d", "history": [user("秦始皇活了多久")], "question": "为什么", "rewrite": "为什么秦始皇活了50岁"},
    ]
    assert [turn.needed for turn in read_turns(written(tmp_path / "t.jsonl", rows))] == [True, False, False, True]


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"id": "a", "history": [], "question": "Why?"}, "line 2 lacks 'rewrite'"),
        ({"id": "a", "history": [], "question": " ", "rewrite": "Why?"}, "line 2: the question is empty"),
        ({"id": "a", "history": "none", "question": "Why?", "rewrite": "Why?"}, "line 2: 'history' is not a list"),
        (
            {"id": "a", "history": [{"role": "system", "text": "x"}], "question": "Why?", "rewrite": "Why?"},
            "line 2: 'history'",
        ),
        ({"id": "first", "history": [], "question": "Why?", "rewrite": "Why?"}, "line 2: the id 'first' occurs twice"),
    ],
)
def test_what_is_no_turn_is_named_with_its_line(tmp_path: Path, row: dict[str, Any], said: str) -> None:
    first = {"id": "first", "history": [], "question": "Why?", "rewrite": "Why?"}
    with pytest.raises(ReadingError, match=said):
        read_turns(written(tmp_path / "t.jsonl", [first, row]))


def test_an_empty_file_has_no_turns(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no turns"):
        read_turns(written(tmp_path / "t.jsonl", []))


def test_the_next_turn_holds_the_answer_that_is_looked_for(tmp_path: Path) -> None:
    rows = [
        row
        for number in range(LEAST_QUESTIONS)
        for row in conversation(number, f"A painter of harbours and storms, known for work {number}.")
    ]
    found = known_items(read_turns(written(tmp_path / "t.jsonl", rows)), "t")
    assert found is not None
    assert len(found.documents) == len(found.queries) == LEAST_QUESTIONS
    assert found.queries["c3_q0"] == "Who is person 3?"  # nobody ever answers the second turns
    (document,) = found.qrels["c3_q0"]
    text = {one.id: one.text for one in found.documents}[document]
    assert text == "A painter of harbours and storms, known for work 3."
    assert "person" not in text  # the question is not in the document


def test_answers_that_say_nothing_or_repeat_the_question_are_nobodys_to_find(tmp_path: Path) -> None:
    useful = [row for n in range(LEAST_QUESTIONS) for row in conversation(n, f"A painter of harbours, work {n}.")]
    useless = [
        *conversation(100, "CANNOTANSWER"),
        *conversation(101, "yes, in 1965"),
        *conversation(102, "Person 102 is who? Who is person 102?"),
        *conversation(103, "无法回答"),
    ]
    found = known_items(read_turns(written(tmp_path / "t.jsonl", useful + useless)), "t")
    assert found is not None and len(found.queries) == LEAST_QUESTIONS
    assert not any(query.startswith(("c100", "c101", "c102", "c103")) for query in found.queries)


def test_the_same_answer_is_one_document_of_several_questions(tmp_path: Path) -> None:
    rows = [row for n in range(LEAST_QUESTIONS) for row in conversation(n, "She painted harbours and storms.")]
    found = known_items(read_turns(written(tmp_path / "t.jsonl", rows)), "t")
    assert found is not None and len(found.documents) == 1
    assert set(map(str, found.qrels.values())) == {"{'answer-0': 1}"}


def test_too_few_answers_are_no_collection(tmp_path: Path) -> None:
    rows = conversation(1, "A painter of harbours and storms.")
    assert known_items(read_turns(written(tmp_path / "t.jsonl", rows)), "t") is None


def test_another_corpus_has_another_name_so_that_no_cached_index_is_taken_for_it(tmp_path: Path) -> None:
    def name(work: str) -> str:
        rows = [row for n in range(LEAST_QUESTIONS) for row in conversation(n, f"A painter of harbours, {work} {n}.")]
        found = known_items(read_turns(written(tmp_path / "t.jsonl", rows)), "t")
        assert found is not None
        return found.name

    assert name("work") == name("work") != name("opus")
