"""Question files with gold spans: what is read, what is refused, and what a ranking of passages gains."""

import json

import pytest

from eval.data.datasets import load_dataset
from eval.data.gold import GoldSpan, read_questions, span_ranking, units
from eval.figures.metrics import figures
from retrieval.collection import Collection
from retrieval.errors import ReadingError, UsageError
from retrieval.passages import Document

TEXT = "Tides follow the moon. Spring tides are high. Neap tides are low."


@pytest.fixture
def make(tmp_path):
    def made(*rows, corpus=({"_id": "sea", "title": "Tides", "text": TEXT}, {"_id": "茶", "text": "绿茶不发酵。"})):
        folder = tmp_path / "set"
        folder.mkdir(exist_ok=True)
        (folder / "corpus.jsonl").write_text("".join(json.dumps(row) + "\n" for row in corpus), encoding="utf-8")
        lines = [row if isinstance(row, str) else json.dumps(row, ensure_ascii=False) for row in rows]
        (folder / "questions.jsonl").write_text("\n".join(lines), encoding="utf-8")
        return folder

    return made


def question(identifier="1", **more):
    return {"id": identifier, "question": "when are tides high?", "answers": ["spring"], **more}


def test_documents_and_spans_are_the_judgements(make):
    spans = [{"document": "sea", "start": 23, "end": 45}]
    folder = make(
        question(spans=spans, history=[{"role": "user", "text": "tides?"}]),
        question("2", documents=["茶"]),
        question("3", answerable=False, spans=[]),
    )
    dataset = load_dataset(folder)
    assert (dataset.form, dict(dataset.qrels)) == ("questions", {"1": {"sea": 1}, "2": {"茶": 1}})
    assert dataset.queries_without_relevant == 1
    assert dataset.histories["1"][0].text == "tides?"
    (span,) = dataset.spans["1"]
    # The indexed text begins with the title, so the offsets move with it.
    assert f"Tides\n\n{TEXT}"[span.start : span.end] == TEXT[23:45] == "Spring tides are high."
    assert load_dataset(folder / "questions.jsonl").qrels == dataset.qrels


def test_questions_about_a_collection(make, tmp_path, hashing_embedder):
    folder = make(question(spans=[{"document": "sea.txt", "start": 0, "end": 5}]))
    with Collection.create(tmp_path / "shelf", name="shelf", embedder=lambda: hashing_embedder) as collection:
        collection.add([Document("sea.txt", TEXT)])
        dataset = load_dataset(folder / "questions.jsonl", collection=collection)
        assert dataset.documents == () and dataset.spans["1"] == (GoldSpan("sea.txt", 0, 5),)
        assert "collection shelf" in dataset.data
        collection.remove(["sea.txt"])
        with pytest.raises(ReadingError, match=r"line 1: .*'sea\.txt', which is not there"):
            load_dataset(folder / "questions.jsonl", collection=collection)


BROKEN = {
    "outside": (
        [question(spans=[{"document": "sea", "start": 0, "end": 66}])],
        "line 1: .* outside 'sea', which has 65",
    ),
    "backwards": (
        [question(), question("2", spans=[{"document": "sea", "start": 5, "end": 5}])],
        "line 2: the span 5 to 5",
    ),
    "negative": ([question(spans=[{"document": "sea", "start": -1, "end": 5}])], "line 1: the span -1"),
    "not a number": ([question(spans=[{"document": "sea", "start": "0", "end": 5}])], "'0' to 5"),
    "true": ([question(spans=[{"document": "sea", "start": True, "end": 5}])], "True to 5"),
    "unknown": ([question(spans=[{"document": "lake", "start": 0, "end": 5}])], "names 'lake', which is not there"),
    "unknown document": ([question(documents=["lake"])], "names 'lake'"),
    "no list": ([question(spans={"document": "sea"})], "'spans' is a dict, not a list"),
    "twice": ([question(), question()], "line 2: the question id '1' occurs twice .first in line 1"),
    "blank": ([question() | {"question": " "}], "question '1' has no text"),
    "history": ([question(history=[{"role": "robot", "text": "x"}])], "role"),
    "json": ([question(documents=["sea"]), "{oops"], "line 2 is not JSON"),
    "nothing": ([], "no question"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_questions_are_named_with_their_line(make, name):
    rows, words = BROKEN[name]
    with pytest.raises(ReadingError, match=words):
        load_dataset(make(*rows))


def test_a_question_file_has_no_splits(make):
    with pytest.raises(UsageError, match="no splits"):
        load_dataset(make(question(documents=["sea"])), split="test")


def test_overlapping_gold_is_one_unit():
    spans = [GoldSpan("a", 10, 20), GoldSpan("a", 5, 12), GoldSpan("a", 20, 30), GoldSpan("b", 5, 12)]
    assert units(spans) == (GoldSpan("a", 5, 20), GoldSpan("a", 20, 30), GoldSpan("b", 5, 12))


def test_a_span_is_gained_once_by_the_first_passage_that_overlaps_it():
    gold = (GoldSpan("a", 10, 20), GoldSpan("a", 50, 60), GoldSpan("b", 0, 5))
    passages = [("c", 0, 9), ("a", 0, 15), ("a", 15, 40), ("a", 20, 50), ("b", 4, 9)]
    ranking = span_ranking(passages, gold)
    assert ranking == ["c@0-9", "a#10-20", "a@15-40", "a@20-50", "b#0-5"]
    found = figures(ranking, {span.name: 1 for span in gold}, ("R@10", "RR@10", "AP@100"))
    assert found == pytest.approx({"R@10": 2 / 3, "RR@10": 1 / 2, "AP@100": (1 / 2 + 2 / 5) / 3})


def test_a_passage_that_shows_two_spans_takes_two_ranks():
    gold = (GoldSpan("a", 10, 20), GoldSpan("a", 50, 60))
    ranking = span_ranking([("a", 0, 100), ("a", 100, 200)], gold)
    assert ranking == ["a#10-20", "a#50-60", "a@100-200"]
    assert figures(ranking, {span.name: 1 for span in gold}, ("nDCG@10",)) == {"nDCG@10": 1.0}


def test_an_unanswerable_question_has_no_gold(tmp_path):
    path = tmp_path / "q.jsonl"
    row = question(answerable=False, spans=[{"document": "sea", "start": 0, "end": 5}], documents=["sea"])
    path.write_text(json.dumps(row))
    (found,) = read_questions(path)
    assert found.documents == () and found.spans == ()
