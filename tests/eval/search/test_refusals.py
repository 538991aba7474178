"""Thresholds of refusal on signals that can be checked by hand."""

import json

import pytest

from eval.search.refusals import RefusalQuestions, Signal, fit
from retrieval.answering import AnswerSettings
from retrieval.errors import UsageError


def test_thresholds_part_what_can_be_answered_from_what_cannot():
    answered = [Signal(0.6 + n / 100, 0.1, True) for n in range(20)]
    silent = [Signal(0.3 + n / 100, 0.1, False) for n in range(20)]
    fitted = fit([*answered, *silent], AnswerSettings(least_coverage=0.2, least_dense=0.9))
    assert 0.49 < fitted.least_dense <= 0.6
    assert fitted.least_coverage > 0.1


def test_thresholds_that_do_as_well_are_left_as_they_are():
    now = AnswerSettings(least_coverage=0.5, least_dense=0.5)
    signals = [Signal(0.8, 0.9, True)] * 10 + [Signal(0.1, 0.1, False)] * 10
    assert fit(signals, now) == now


def test_few_unanswerable_questions_weigh_as_much_as_many_answerable_ones():
    signals = [Signal(0.5 + n / 1000, 0.0, True) for n in range(100)] + [Signal(0.55, 0.0, False)] * 2
    fitted = fit(signals, AnswerSettings(least_coverage=0.9, least_dense=0.0))
    assert fitted.least_dense > 0.55  # half of the hundred are given up for the two


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
