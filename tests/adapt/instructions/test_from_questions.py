"""Question sets → examples of answering from passages."""

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from fakes import HashingEmbedder

from adapt.instructions.example import Example, read_examples, write_examples
from adapt.instructions.from_questions import (
    Making,
    examples_from_questions,
    held_out_documents,
    held_out_questions,
)
from adapt.instructions.importing import Imported
from adapt.instructions.question_sets import write_question_set
from eval.data.corpora import CorpusDocument, as_document
from eval.data.questions import Question, QuestionSet, read_questions
from retrieval.errors import UsageError
from retrieval.unanswered import says_no_answer

PLANTS = ("fern", "oak", "moss", "birch", "reed", "larch", "holly", "aspen", "yew", "alder")


def made_set(folder: Path) -> QuestionSet:
    documents = [
        {"_id": f"d{n}", "title": plant, "text": f"The {plant} grows {n + 2} metres high in wet ground."}
        for n, plant in enumerate(PLANTS)
    ]
    questions = [
        {"id": f"q{n}", "question": f"How high does the {plant} grow?", "context_id": f"d{n}",
         "answers": [f"{n + 2} metres"], "answer_starts": [documents[n]["text"].index(f"{n + 2} metres")]}
        for n, plant in enumerate(PLANTS)
    ]  # fmt: skip
    folder.mkdir()
    for name, rows in (("corpus.jsonl", documents), ("qa.jsonl", questions)):
        (folder / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
    return read_questions(folder)


def made(found: QuestionSet, making: Making, tmp_path: Path) -> tuple[list[Example], Imported]:
    into = Imported()
    examples = examples_from_questions(found, making, into, embedder=HashingEmbedder(), cache=tmp_path / "cache")
    return list(examples), into


def test_an_answer_is_the_gold_one_and_cites_the_passage_that_holds_it(tmp_path: Path) -> None:
    found = made_set(tmp_path / "set")
    examples, into = made(found, Making(distractors=3, unanswerable=0.0), tmp_path)
    assert len(examples) == into.examples == into.rows == 10
    numbers = set()
    for number, example in enumerate(examples):
        system, user, assistant = example.messages
        answer, mark = assistant.content.rsplit(" ", 1)
        assert answer == f"{number + 2} metres" and example.labels["group"] == f"d{number}"
        shown = user.content.split(f'<passage number="{mark.strip("[]")}"')[1].split("</passage")[0]
        assert answer in shown and PLANTS[number] in shown
        numbers.add(mark)
    assert len(numbers) > 1  # the right passage stands in several places


def test_neither_place_nor_number_of_passages_tells_which_is_the_gold_one(tmp_path: Path) -> None:
    documents = tuple(
        CorpusDocument(f"d{n}", "", f"Plant p{n} of bed b{n % 7} grows {n + 2} metres high.") for n in range(600)
    )
    found = QuestionSet(
        "many", "questions",
        tuple(
            Question(f"q{n}", f"How high grows p{n} of b{n % 7}?", (f"{n + 2} metres",), documents=(f"d{n}",))
            for n in range(600)
        ),
        documents, {},
    )  # fmt: skip
    examples, _ = made(found, Making(distractors=3, unanswerable=0.0), tmp_path)
    places: dict[int, Counter[int]] = {}
    for example in examples:
        shown = example.messages[-2].content.count("<passage number=")
        places.setdefault(shown, Counter())[int(example.messages[-1].content.rsplit("[", 1)[1][:-1])] += 1
    assert set(places) == {1, 2, 3, 4} and len(examples) == 600
    for shown, counted in places.items():
        # Evenly drawn, a place is 4 standard deviations off once in 15,000 times.
        mean, total = counted.total() / shown, counted.total()
        for place in range(1, shown + 1):
            assert abs(counted[place] - mean) <= 4 * (total * (1 / shown) * (1 - 1 / shown)) ** 0.5, (shown, counted)


def test_a_refusal_is_not_learnt_from_passages_that_have_the_answer(tmp_path: Path) -> None:
    heights = ["five" if n % 3 else "nine" for n in range(len(PLANTS))]
    texts = [f"The {plant} is {high} metres high." for plant, high in zip(PLANTS, heights, strict=True)]
    gold = [
        Question(f"q{n}", f"How high is the {plant}?", (f"{heights[n]} metres",), documents=(f"d{n}",))
        for n, plant in enumerate(PLANTS)
    ]
    plants = tuple(CorpusDocument(f"d{n}", "", text) for n, text in enumerate(texts))
    examples, _ = made(
        QuestionSet("same", "questions", tuple(gold), plants, {}), Making(distractors=5, unanswerable=0.9), tmp_path
    )
    refused = [example for example in examples if example.labels["unanswerable"]]
    assert len(refused) >= 5
    for example in refused:
        assert f"{heights[int(str(example.labels['group'])[1:])]} metres" not in example.messages[-2].content
    none = QuestionSet("alone", "questions", (gold[1], gold[2]), (plants[1], plants[2]), {})
    examples, _ = made(none, Making(distractors=5, unanswerable=0.9), tmp_path)
    assert [example.labels["unanswerable"] for example in examples] == [False, False]


def test_without_the_gold_passage_the_answer_is_that_there_is_none(tmp_path: Path) -> None:
    examples, _ = made(made_set(tmp_path / "set"), Making(distractors=2, unanswerable=0.6, seed=4), tmp_path)
    refused = [example for example in examples if example.labels["unanswerable"]]
    assert 2 <= len(refused) < len(examples)
    for example in refused:
        plant = PLANTS[int(str(example.labels["group"])[1:])]
        assert says_no_answer(example.messages[-1].content)
        passages = example.messages[-2].content.split("Question:")[0]
        assert f"The {plant} grows" not in passages and "<passage" in passages


def test_the_number_of_passages_does_not_tell_whether_there_is_an_answer(tmp_path: Path) -> None:
    found = made_set(tmp_path / "set")
    shown: dict[bool, list[int]] = {True: [], False: []}
    for seed in range(30):
        for example in made(found, Making(distractors=2, unanswerable=0.5, seed=seed), tmp_path)[0]:
            count = example.messages[-2].content.count("<passage number=")
            shown[bool(example.labels["unanswerable"])].append(count)
    for counts in shown.values():
        assert len(counts) > 80 and set(counts) == {1, 2, 3}
        assert all(0.2 < counts.count(number) / len(counts) < 0.47 for number in (1, 2, 3))


def test_questions_of_held_out_documents_are_never_examples_and_can_be_measured(tmp_path: Path) -> None:
    found = made_set(tmp_path / "set")
    making = Making(hold_out=0.3, unanswerable=0.4, seed=1)
    away = held_out_documents(found, 0.3)
    assert away == {"d7", "d8", "d9"}
    examples, into = made(found, making, tmp_path)
    assert not {example.labels["group"] for example in examples} & away and into.left_out.counts["held out"] == 3
    rows = held_out_questions(found, making, embedder=HashingEmbedder(), cache=tmp_path / "cache")
    assert write_question_set(tmp_path / "held", rows, found.documents) == 3
    again = read_questions(tmp_path / "held")
    assert [question.id for question in again.questions] == ["q7", "q8", "q9"]
    for question in again.questions:
        gold = f"d{question.id[1:]}"
        assert (question.documents == (gold,)) == question.answerable
        if question.answerable:
            span = question.spans[0]
            text = as_document(next(one for one in again.documents if one.id == gold)).text
            assert span.document == gold and text[span.start : span.end] == question.answers[0]
    write_examples(tmp_path / "examples.jsonl", examples)
    assert len(list(read_examples(tmp_path / "examples.jsonl"))) == len(examples)


def test_a_held_out_question_that_nothing_answers_is_measured_as_such(tmp_path: Path) -> None:
    found = made_set(tmp_path / "set")
    none = replace(found.questions[-1], id="none", answers=(), evidence=(), answerable=False)
    with_it = replace(found, questions=(*found.questions, none))
    making = Making(hold_out=0.3, unanswerable=0.0)
    rows = held_out_questions(with_it, making, embedder=HashingEmbedder(), cache=tmp_path / "cache")
    assert [(row["id"], row.get("answerable", True)) for row in rows] == [
        ("q7", True),
        ("q8", True),
        ("q9", True),
        ("none", False),
    ]


def test_impossible_wishes_are_refused() -> None:
    with pytest.raises(UsageError, match="it is a share"):
        Making(unanswerable=1.5)
    with pytest.raises(UsageError, match="need distractors"):
        Making(distractors=0)
