"""Rows and documents → a question set on the disk, whole or not at all."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from adapt.instructions.question_sets import CORPUS, QUESTIONS, require_new_folder, write_question_set
from eval.data.corpora import CorpusDocument, as_document
from eval.data.questions import read_questions
from retrieval.errors import UsageError
from retrieval.passages import Document

TEXT = "The fern grows two metres high. 绿茶的水温是八十度。"


def row(document: str, answer: str) -> dict[str, Any]:
    start = TEXT.index(answer)
    span = {"document": document, "start": start, "end": start + len(answer)}
    return {"id": f"{document}-{start}", "question": "How high? 多高？", "answers": [answer], "spans": [span]}


def test_spans_of_titled_untitled_and_read_documents_hold_the_answer_when_read_again(tmp_path: Path) -> None:
    read = Document("r.md", TEXT, title="From a file")
    documents = [CorpusDocument("t", "Plants", TEXT), CorpusDocument("u", "", TEXT)]
    documents.append(CorpusDocument("r.md", read.title, read.text, read))
    rows = [row(one.id, answer) for one in documents for answer in ("two metres", "八十度")]
    assert write_question_set(tmp_path / "set", rows, documents, reports={"report.json": {"kept": 6}}) == 6
    found = read_questions(tmp_path / "set")
    texts = {one.id: as_document(one).text for one in found.documents}
    assert len(found.questions) == 6 and (tmp_path / "set" / "report.json").is_file()
    for question in found.questions:
        assert [texts[span.document][span.start : span.end] for span in question.spans] == list(question.answers)


def test_what_fails_in_the_middle_leaves_nothing_and_what_was_there(tmp_path: Path) -> None:
    def failing() -> Iterator[dict[str, Any]]:
        yield row("u", "two metres")
        raise UsageError("enough")

    documents = [CorpusDocument("u", "", TEXT)]
    with pytest.raises(UsageError, match="enough"):
        write_question_set(tmp_path / "set", failing(), documents)
    assert list(tmp_path.iterdir()) == []
    write_question_set(tmp_path / "set", [row("u", "two metres")], documents)
    (tmp_path / "set" / "notes.txt").write_text("mine")
    before = (tmp_path / "set" / QUESTIONS).read_bytes()
    with pytest.raises(UsageError, match="enough"):
        write_question_set(tmp_path / "set", failing(), documents)
    assert (tmp_path / "set" / QUESTIONS).read_bytes() == before
    write_question_set(tmp_path / "set", [row("u", "八十度")], documents)
    assert {path.name for path in (tmp_path / "set").iterdir()} == {QUESTIONS, CORPUS, "notes.txt"}
    assert read_questions(tmp_path / "set").questions[0].answers == ("八十度",)


def test_half_characters_do_not_stop_the_writing(tmp_path: Path) -> None:
    documents = [CorpusDocument("u", "", f"\ud800 {TEXT}")]
    write_question_set(tmp_path / "set", [{"id": "1", "question": "\udc00?", "answerable": False}], documents)
    assert read_questions(tmp_path / "set").documents[0].text == f"\ufffd {TEXT}"


def test_a_place_that_cannot_be_is_told_before_anything_is_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "empty").mkdir()
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "a").write_text("")
    require_new_folder(tmp_path / "empty", replace=False)
    require_new_folder(tmp_path / "full", replace=True)
    for name, said in (("file", "is a file"), ("full", "there already"), ("gone/set", "there is no folder")):
        with pytest.raises(UsageError, match=said):
            require_new_folder(tmp_path / name, replace=False)
