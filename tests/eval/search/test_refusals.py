"""The threshold of refusal on signals that can be checked by hand."""

import json

import pytest

from eval.search.refusals import RefusalQuestions, Signal, fit
from retrieval.errors import UsageError


def test_the_threshold_parts_what_can_be_answered_from_what_cannot():
    answered = [Signal(0.6 + n / 100, True) for n in range(20)]
    silent = [Signal(0.3 + n / 100, False) for n in range(20)]
    assert 0.49 < fit([*answered, *silent], 0.9) <= 0.6


def test_a_threshold_that_does_as_well_is_left_as_it_is():
    signals = [Signal(0.8, True)] * 10 + [Signal(0.1, False)] * 10
    assert fit(signals, 0.5) == 0.5


def test_few_unanswerable_questions_weigh_as_much_as_many_answerable_ones():
    signals = [Signal(0.5 + n / 1000, True) for n in range(100)] + [Signal(0.55, False)] * 2
    assert fit(signals, 0.0) > 0.55  # half of the hundred are given up for the two


def questions(path, rows):
    (path / "corpus.jsonl").write_text(
        "".join(json.dumps({"_id": f"d{n}", "title": "", "text": f"text {n}"}) + "\n" for n in range(40))
    )
    file = path / "questions.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def row(number, answerable):
    spans = [{"document": f"d{number}", "start": 0, "end": 4}] if answerable else []
    answers = ["text"] if answerable else []
    return {"id": f"q{number}", "question": "?", "answers": answers, "answerable": answerable, "spans": spans}


def test_both_sides_get_both_kinds_and_no_question_is_on_both(tmp_path):
    file = questions(tmp_path, [row(n, n >= 6) for n in range(40)])
    found = RefusalQuestions.read(file, 0.5, seed=3)
    names = [{question.id for question in side} for side in (found.dev, found.test)]
    assert not names[0] & names[1] and len(names[0] | names[1]) == 40
    assert [sum(not question.answerable for question in side) for side in (found.dev, found.test)] == [3, 3]


def test_a_set_without_unanswerable_questions_is_refused(tmp_path):
    with pytest.raises(UsageError, match="no unanswerable questions"):
        RefusalQuestions.read(questions(tmp_path, [row(n, True) for n in range(8)]), 0.5, seed=0)
