"""Decontamination: a document that holds a question is found, with the question and the words; others are not."""

import json
from pathlib import Path

import pytest

from adapt.corpus.decontamination import Evaluations
from retrieval.errors import ReadingError, UsageError

LONG = "Which of the two valves has to be opened first when the plant is started after a long stop?"


def questions(path: Path, *rows: object) -> Path:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def looked_for(tmp_path: Path, *rows: object, words: int = 13) -> Evaluations:
    return Evaluations([questions(tmp_path / "q.jsonl", *rows)], words)


def test_thirteen_words_in_a_row_give_a_question_away_and_twelve_do_not(tmp_path: Path) -> None:
    evaluations = looked_for(tmp_path, {"id": "q7", "question": LONG})
    words = LONG.split()
    found = evaluations.overlap(f"Before. {' '.join(words[2:15]).upper()}, and so on.")
    assert found is not None and (found.file, found.item) == ("q.jsonl", "q7")
    assert found.question == LONG
    assert found.text == "the two valves has to be opened first when the plant is started"
    assert evaluations.overlap(f"Before. {' '.join(words[2:14])} and so on.") is None


def test_the_shared_text_is_shown_as_far_as_it_goes(tmp_path: Path) -> None:
    found = looked_for(tmp_path, {"question": LONG}).overlap(f"{LONG} Nobody knows.")
    assert found is not None and found.item == "line 1" and found.text == LONG.lower().rstrip("?")


def test_a_shorter_question_must_be_there_whole(tmp_path: Path) -> None:
    evaluations = looked_for(tmp_path, {"query": "who may open the red valve"}, {"note": "is the blue valve safe?"})
    assert evaluations.items == 2
    assert evaluations.overlap("It asks: who may open the red valve? The engineer.") is not None
    assert evaluations.overlap("It says who may open the red door.") is None
    assert evaluations.overlap("IS THE BLUE VALVE SAFE") is not None


def test_bookkeeping_short_answers_and_very_short_questions_are_not_looked_for(tmp_path: Path) -> None:
    evaluations = looked_for(
        tmp_path,
        {
            "question": "What is BRCA1?",
            "answers": ["none of the above is true"],
            "contexts": [LONG],
            "spans": [{"document": "d", "quote": LONG}],
            "source": LONG,
            "claim": "five words are long enough",
        },
    )
    assert (evaluations.items, evaluations.too_short) == (1, 1)
    assert evaluations.overlap(f"What is BRCA1? none of the above is true {LONG}") is None


def test_chinese_is_compared_by_characters(tmp_path: Path) -> None:
    asked = ["工厂长期停机之后重新启动时应当先打开哪一个阀门？", "黑豹队丢了多少分？", "什么是肺炎"]
    evaluations = looked_for(tmp_path, *({"question": question} for question in asked))
    assert (evaluations.items, evaluations.too_short) == (2, 1)
    found = evaluations.overlap("说明书写道，长期停机之后重新启动时应当先联系工程师。")
    assert found is not None and found.text == "长期停机之后重新启动时应当先"
    assert evaluations.overlap("说明书写道，停机之后重新启动时应当先联系。") is None
    assert evaluations.overlap("有人问黑豹队丢了多少分。") is not None
    assert evaluations.overlap("什么是肺炎") is None


def test_squad_json_choices_and_plain_texts_are_read_too(tmp_path: Path) -> None:
    squad = {"data": [{"title": "t", "paragraphs": [{"context": "c", "qas": [{"id": "s1", "question": LONG}]}]}]}
    (tmp_path / "squad.json").write_text(json.dumps(squad))
    assert Evaluations([tmp_path / "squad.json"], 13).overlap(LONG) is not None
    choices = {"question": "Which?", "choices": [f"{LONG[:-1]} and then some more of it", "no"], "answer": 0}
    assert looked_for(tmp_path, choices).overlap(LONG) is not None
    (tmp_path / "text.txt").write_text(f"Some introduction.\n\n{LONG}\n")
    found = Evaluations([tmp_path / "text.txt"], 13).overlap(LONG)
    assert found is not None and found.file == "text.txt"


def test_what_cannot_be_looked_for_is_refused_in_words(tmp_path: Path) -> None:
    (tmp_path / "bad.json").write_text("{")
    for path, words, error, said in [
        (tmp_path / "nowhere.jsonl", 13, UsageError, "there is no file"),
        (tmp_path, 13, UsageError, "is a folder"),
        (tmp_path / "bad.json", 13, ReadingError, "is not JSON"),
        (questions(tmp_path / "e.jsonl", {"question": "Why?"}), 13, ReadingError, "no text of 5 words"),
        (questions(tmp_path / "f.jsonl", {"question": LONG}), 2, UsageError, "at least 5"),
    ]:
        with pytest.raises(error, match=said):
            Evaluations([path], words)
