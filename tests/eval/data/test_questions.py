"""Question files in every form that is read, and everything that may be wrong with one."""

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fakes import HashingEmbedder

from eval.data.questions import Question, QuestionSet, read_questions, sampled
from retrieval.collection import Collection
from retrieval.errors import ReadingError, UsageError
from retrieval.passages import Document

TIDES = "Tides are caused by the moon. Spring tides come at full moon."
TEA = "绿茶不经过发酵。水温应该在八十度左右。"
Rows = list[dict[str, Any]]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with two documents and no question yet."""
    place = tmp_path / "set"
    (place / "documents").mkdir(parents=True)
    (place / "documents" / "tides.txt").write_text(TIDES, encoding="utf-8")
    (place / "documents" / "茶.txt").write_text(TEA, encoding="utf-8")
    return place


def write(path: Path, rows: Rows) -> Path:
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    if path.suffix == ".gz":
        path.write_bytes(gzip.compress(text.encode()))
    else:
        path.write_text(text, encoding="utf-8")
    return path


def one(found: QuestionSet) -> Question:
    (question,) = found.questions
    return question


def quoted(found: QuestionSet, question: Question) -> list[str]:
    """What stands at the gold spans of the documents as they are indexed."""
    from eval.data.corpora import as_document

    texts = {document.id: as_document(document).text for document in found.documents}
    return [texts[span.document][span.start : span.end] for span in question.spans]


# --- Fathom's own form ------------------------------------------------------------------------------------------------


def test_a_question_file_beside_a_folder_of_documents(folder: Path) -> None:
    write(
        folder / "questions.jsonl",
        [
            {
                "id": "q1",
                "question": "When do spring tides come?",
                "answers": ["at full moon", "full moon"],
                "spans": [{"document": "tides.txt", "start": 30, "end": 61}],
                "history": [{"role": "user", "text": "What causes tides?"}, {"role": "assistant", "text": "The moon."}],
                "group": "sea",
            },
            {"id": "q2", "question": "绿茶发酵吗？", "answers": ["no"], "kind": "yes-no", "documents": ["茶.txt"]},
            {"id": "q3", "question": "Who won?", "answerable": False},
        ],
    )
    found = read_questions(folder)
    assert found == read_questions(folder / "questions.jsonl")
    assert (found.name, found.form) == ("set", "corpus") and len(found.documents) == 2
    first, second, third = found.questions
    assert quoted(found, first) == ["Spring tides come at full moon."]
    assert [message.role for message in first.history] == ["user", "assistant"]
    assert (first.kind, first.source, first.documents, first.group) == ("span", "tides.txt", ("tides.txt",), "sea")
    # English and Chinese words for yes and no are one
    assert (second.choices, second.answers, second.language) == (("是", "否"), ("否",), "zh")
    assert not third.answerable and third.answers == () and third.source is None
    assert any(name.endswith("questions.jsonl") for name in found.data) and len(found.data) == 2


def test_spans_alone_give_the_answers_and_overlapping_ones_are_one(folder: Path) -> None:
    spans = [{"document": "tides.txt", "start": s, "end": e} for s, e in ((0, 20), (10, 29), (30, 61))]
    question = one(read_questions(write(folder / "questions.jsonl", [{"id": 1, "question": "Tides?", "spans": spans}])))
    assert question.id == "1" and len(question.evidence) == 2
    assert question.answers == (TIDES[:29], TIDES[30:])


def test_offsets_count_from_the_text_where_a_title_stands_above_it(tmp_path: Path) -> None:
    write(tmp_path / "corpus.jsonl", [{"_id": "d", "title": "The sea", "text": TIDES}])
    row = {"id": "q", "question": "When?", "answers": ["full moon"], "context_id": "d", "answer_starts": [51]}
    found = read_questions(write(tmp_path / "qa.jsonl", [row]).parent)
    assert quoted(found, one(found)) == ["full moon"] and one(found).spans[0].start == 51 + len("The sea\n\n")


def test_contexts_that_rows_carry_become_documents_once(tmp_path: Path) -> None:
    rows = [
        {"id": "a", "question": "One?", "answers": ["moon"], "context": TIDES},
        {"id": "b", "question": "Two?", "answers": ["moon"], "context": TIDES},
    ]
    found = read_questions(write(tmp_path / "questions.jsonl.gz", rows))
    assert len(found.documents) == 1 and [question.documents for question in found.questions] == [("a",), ("a",)]


def test_the_documents_may_be_those_of_a_collection(tmp_path: Path, hashing_embedder: HashingEmbedder) -> None:
    row = {"id": "q", "question": "Tides?", "spans": [{"document": "t.txt", "start": 0, "end": 5}]}
    file = write(tmp_path / "questions.jsonl", [row])
    with Collection.create(tmp_path / "shelf", name="shelf", embedder=lambda: hashing_embedder) as shelf:
        shelf.add([Document("t.txt", TIDES)])
        found = read_questions(file, collection=shelf)
    assert one(found).answers == ("Tides",) and "collection shelf" in found.data
    with pytest.raises(ReadingError, match="not among the 0"):
        read_questions(file)


def test_choices_are_named_by_text_or_letter(tmp_path: Path) -> None:
    row = {"id": "q", "question": "Which?", "choices": ["Tides", "Bread"], "answers": ["b"]}
    question = one(read_questions(write(tmp_path / "questions.jsonl", [row])))
    assert (question.kind, question.answers) == ("choice", ("Bread",))


def test_a_sample_keeps_the_order_and_the_draw(tmp_path: Path) -> None:
    rows = [{"id": n, "question": "?" * (n + 1), "answerable": False} for n in range(50)]
    found = read_questions(write(tmp_path / "questions.jsonl", rows))
    drawn = sampled(found, 5, seed=3)
    assert drawn == sampled(found, 5, seed=3) != sampled(found, 5, seed=4)
    assert sorted(drawn, key=lambda question: int(question.id)) == list(drawn)
    assert sampled(found, None) == sampled(found, 99) == found.questions


# --- SQuAD ------------------------------------------------------------------------------------------------------------


def squad(*qas: dict[str, Any]) -> dict[str, Any]:
    return {"version": "v2.0", "data": [{"title": "Sea", "paragraphs": [{"context": TIDES, "qas": list(qas)}]}]}


def test_squad_2_with_a_question_without_answer(tmp_path: Path) -> None:
    file = tmp_path / "dev.json"
    answers = [{"text": "full moon", "answer_start": 51}, {"text": "at full moon", "answer_start": 48}]
    impossible = {
        "id": "b",
        "question": "Why?",
        "is_impossible": True,
        "answers": [],
        "plausible_answers": [{"text": "moon", "answer_start": 24}],
    }
    given = {"id": "a", "question": "When?", "is_impossible": False, "answers": answers}
    file.write_text(json.dumps(squad(given, impossible)))
    found = read_questions(tmp_path)
    assert (found.form, found.name) == ("squad-2.0", "dev")
    first, second = found.questions
    assert first.answers == ("full moon", "at full moon") and quoted(found, first) == ["full moon", "at full moon"]
    assert len(first.evidence) == 1  # alternatives: to cite one is enough
    assert not second.answerable and second.answers == () and second.documents == first.documents == ("Sea#0",)


def test_squad_1_says_nothing_of_impossible_questions(tmp_path: Path) -> None:
    file = tmp_path / "train-v1.1.json"
    file.write_text(
        json.dumps(squad({"id": "a", "question": "By what?", "answers": [{"text": "moon", "answer_start": 24}]}))
    )
    assert read_questions(file).form == "squad-1.1"


@pytest.mark.parametrize(
    ("whole", "said"),
    [
        ({"version": "2"}, 'under "data"'),
        (
            squad({"id": "a", "question": "?", "answers": [{"text": "sun", "answer_start": 24}]}),
            "qas\\[0\\]: no answer",
        ),
        (squad({"question": "?", "answers": []}), 'paragraphs\\[0\\].qas\\[0\\]: has no "id"'),
        (squad({"id": "a", "question": "?", "answers": []}), "answerable question needs"),
    ],
)
def test_wrong_squad_files_are_named_with_the_place(tmp_path: Path, whole: dict[str, Any], said: str) -> None:
    file = tmp_path / "dev.json"
    file.write_text(json.dumps(whole))
    with pytest.raises(ReadingError, match=said) as caught:
        read_questions(file)
    assert str(file) in str(caught.value)


# --- what may be wrong ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"question": "no id"}, "lacks 'id'"),
        ({"id": "a", "answers": ["x"]}, "lacks 'question'"),
        ({"id": "a", "question": "  ", "answers": ["x"]}, "has no text"),
        ({"id": "a", "question": "?", "answers": "moon"}, '"answers" is a list of texts, not a str'),
        ({"id": "a", "question": "?", "answers": [["moon"]]}, "is none"),
        ({"id": "a", "question": "?", "answers": ["", " "]}, "empty texts"),
        ({"id": "a", "question": "?"}, 'needs "answers" or "spans"'),
        ({"id": "a", "question": "?", "answers": ["x"], "documents": ["gone.txt"]}, "names 'gone.txt'"),
        ({"id": "a", "question": "?", "answers": ["x"], "within": "gone.txt"}, "names 'gone.txt'"),
        ({"id": "a", "question": "?", "answers": ["x"], "context_id": "gone"}, "names the document 'gone'"),
        ({"id": "a", "question": "?", "spans": [{"document": "x", "start": 0, "end": 1}]}, "names 'x'"),
        ({"id": "a", "question": "?", "spans": [{"document": "tides.txt", "start": 5, "end": 99}]}, "61 characters"),
        ({"id": "a", "question": "?", "spans": [{"document": "tides.txt", "start": 5, "end": 5}]}, "61 characters"),
        (
            {"id": "a", "question": "?", "answers": ["moon"], "context_id": "tides.txt", "answer_starts": [3]},
            "no answer",
        ),
        ({"id": "a", "question": "?", "answers": ["x"], "kind": "essay"}, "no kind 'essay'"),
        ({"id": "a", "question": "?", "answers": ["perhaps"], "kind": "yes-no"}, "not among the choices"),
        ({"id": "a", "question": "?", "answers": ["x"], "kind": "choice"}, "needs two"),
        ({"id": "a", "question": "?", "answers": ["x"], "history": [{"role": "system", "text": "!"}]}, "history"),
        ({"id": "a", "question": "?", "answers": ["x"], "answerable": "yes"}, "true or false"),
    ],
)
def test_a_wrong_row_is_named_with_file_and_line(folder: Path, row: dict[str, Any], said: str) -> None:
    right = {"id": "first", "question": "Fine?", "answerable": False}
    file = write(folder / "questions.jsonl", [right, row])
    with pytest.raises(ReadingError, match=said) as caught:
        read_questions(file)
    assert str(file) in str(caught.value) and "line 2" in str(caught.value)


def test_duplicate_ids_empty_files_and_absent_ones_are_refused(folder: Path) -> None:
    twice = [{"id": "a", "question": "?", "answerable": False}] * 2
    with pytest.raises(ReadingError, match="line 2: the id 'a' was used before"):
        read_questions(write(folder / "questions.jsonl", twice))
    with pytest.raises(ReadingError, match="holds no question"):
        read_questions(write(folder / "questions.jsonl", []))
    (folder / "questions.jsonl").write_text('{"id": 1,\n')
    with pytest.raises(ReadingError, match="line 1 is not JSON"):
        read_questions(folder)
    (folder / "questions.jsonl").unlink()
    with pytest.raises(UsageError, match="holds no questions.jsonl"):
        read_questions(folder)
    with pytest.raises(UsageError, match="there is no"):
        read_questions(folder / "gone.jsonl")
    with pytest.raises(UsageError, match="no question file"):
        read_questions(folder / "documents" / "tides.txt")


def test_only_a_split_that_is_there_can_be_chosen(tmp_path: Path) -> None:
    rows = [{"id": n, "question": "?", "answerable": False, "split": "dev" if n else "test"} for n in range(3)]
    file = write(tmp_path / "qa.jsonl", rows)
    assert len(read_questions(file, split="dev").questions) == 2
    with pytest.raises(UsageError, match="no split 'train'; it holds dev, test"):
        read_questions(file, split="train")


# --- public sets ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "questions", "documents", "kinds"),
    [
        ("xquad_zh", 1190, 240, {"span"}),
        ("drcd", 3524, 1000, {"span"}),
        ("tatqa", 1668, 278, {"span", "number"}),
        ("pubmedqa", 500, 500, {"choice"}),
        ("medquad_qa", 16407, 15811, {"text"}),
    ],
)
def test_public_sets_are_read_whole(
    shared_data: Callable[[str], Path], name: str, questions: int, documents: int, kinds: set[str]
) -> None:
    found = read_questions(shared_data(name))
    assert (len(found.questions), len(found.documents)) == (questions, documents)
    assert {question.kind for question in found.questions} == kinds
    if kinds == {"span"}:
        question = found.questions[-1]
        assert set(quoted(found, question)) <= set(question.answers)


def test_table_questions_have_their_table_as_text(shared_data: Callable[[str], Path]) -> None:
    found = read_questions(shared_data("tatqa"))
    question = next(q for q in found.questions if q.text == "What is the amount of total sales in 2019?")
    (document,) = (d for d in found.documents if d.id == question.documents[0])
    assert "| Total sales | $1,496.5 | $1,202.9 | $1,107.7 |" in document.text
    assert (question.kind, question.scale, question.answers) == ("number", "million", ("$1,496.5",))
    assert quoted(found, question) == ["1,496.5"]


@pytest.mark.slow
def test_contract_questions_look_only_at_their_contract(shared_data: Callable[[str], Path]) -> None:
    found = read_questions(shared_data("cuad"))
    assert len(found.questions) == 10701 and sum(not q.answerable for q in found.questions) == 7119
    assert all(question.within == question.documents[0] for question in found.questions)
    located = [q for q in found.questions if q.answerable and q.spans]
    assert len(located) / 3582 > 0.95  # the rest is quoted with words left out
