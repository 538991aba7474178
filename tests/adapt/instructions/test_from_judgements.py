"""Judged queries → examples of telling a relevant passage from a near miss."""

import json
from pathlib import Path

import pytest
from fakes import HashingEmbedder

from adapt.instructions.example import Example
from adapt.instructions.from_judgements import Judging, examples_from_judgements
from adapt.instructions.importing import Imported
from adapt.instructions.judged_sets import JudgedSet, drawn, held_out, judged_set
from adapt.instructions.question_sets import write_question_set
from eval.data.datasets import load_dataset
from retrieval.errors import ReadingError, UsageError
from retrieval.llm_reranking.judging import judge_messages
from retrieval.passages import Hit, Passage, Scores, Source

PLANTS = ("fern", "oak", "moss", "birch", "reed", "larch", "holly", "aspen", "yew", "alder")


def lines(path: Path, rows: list[dict[str, object]]) -> None:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


def beir(folder: Path, splits: tuple[str, ...] = ("train", "test")) -> Path:
    """Ten documents, each with one query; the even ones are of the first split."""
    (folder / "qrels").mkdir(parents=True)
    lines(folder / "corpus.jsonl",
          [{"_id": f"d{n}", "title": "", "text": f"The {plant} grows {n + 2} metres high in wet ground."}
           for n, plant in enumerate(PLANTS)])  # fmt: skip
    lines(folder / "queries.jsonl",
          [{"_id": f"q{n}", "text": f"how high {plant} {plant}"} for n, plant in enumerate(PLANTS)])  # fmt: skip
    for place, split in enumerate(splits):
        rows = [f"q{n}\td{n}\t1" for n in range(10) if n % len(splits) == place]
        (folder / "qrels" / f"{split}.tsv").write_text("\n".join(["query-id\tcorpus-id\tscore", *rows]) + "\n")
    return folder


def made(judged: JudgedSet, making: Judging, cache: Path) -> tuple[list[Example], Imported]:
    into = Imported()
    return list(examples_from_judgements(judged, making, into, embedder=HashingEmbedder(), cache=cache)), into


def test_the_train_queries_of_a_collection_become_examples_as_they_are_served(tmp_path: Path) -> None:
    examples, into = made(judged_set(str(beir(tmp_path / "set"))), Judging(share=0.5), tmp_path / "cache")
    assert len(examples) == into.examples == 10 and into.rows == 5
    for example in examples:
        system, user, verdict = example.messages
        number = int(example.labels["group"].removeprefix("set#d"))
        assert number % 2 == 0, "a test query was learnt"
        shown = next(n for n, plant in enumerate(PLANTS) if f"The {plant} " in user.content)
        assert verdict.content == ("yes" if shown == number else "no")
        assert example.labels["relevant"] is (shown == number)
        text = f"The {PLANTS[shown]} grows {shown + 2} metres high in wet ground."
        hit = Hit(1, 1.0, Passage(1, 1, 0, 0, 1, None, (), text, 1), Source(1, "", "", "", "", {}), Scores())
        served = judge_messages(f"how high {PLANTS[number]} {PLANTS[number]}", hit)
        assert [system.content, user.content] == [message.text for message in served]


def test_the_share_of_relevant_examples_is_the_one_asked_for(tmp_path: Path) -> None:
    judged = judged_set(str(beir(tmp_path / "set", ("train",))))
    for share in (0.5, 0.25, 0.4):
        examples, _ = made(judged, Judging(share=share), tmp_path / "cache")
        assert abs(sum(example.labels["relevant"] for example in examples) / len(examples) - share) < 0.06


def test_judgements_to_measure_with_are_not_trained_on_unless_named(tmp_path: Path) -> None:
    folder = beir(tmp_path / "set", ("test",))
    with pytest.raises(UsageError, match="only judgements to measure with"):
        judged_set(str(folder))
    assert len(judged_set(f"{folder}#test").dataset.queries) == 10
    with pytest.raises(UsageError, match="there is no"):
        judged_set(str(tmp_path / "nowhere"))


def test_held_out_documents_are_neither_asked_for_nor_shown(tmp_path: Path) -> None:
    judged = held_out(judged_set(str(beir(tmp_path / "set", ("train",)))), 0.3)
    examples, into = made(judged, Judging(share=0.3), tmp_path / "cache")
    assert judged.held_out_documents == {"d7", "d8", "d9"} and into.left_out.counts["held out"] == 3
    shown = "\n".join(example.messages[1].content for example in examples)
    assert not any(plant in shown for plant in PLANTS[7:]) and all(plant in shown for plant in PLANTS[:7])
    assert write_question_set(tmp_path / "held", judged.held_out_rows(), judged.dataset.documents) == 3
    read = load_dataset(tmp_path / "held")
    assert {query: dict(grades) for query, grades in read.qrels.items()} == {f"q{n}": {f"d{n}": 1} for n in (7, 8, 9)}
    with pytest.raises(UsageError, match="hold out less"):
        held_out(judged, 0.99)


def test_pairs_bring_their_own_negatives_in_english_and_chinese(tmp_path: Path) -> None:
    lines(tmp_path / "pairs.jsonl", [
        {"query": "how high is the fern", "positive": "The fern is two metres high.",
         "negatives": ["The fern is green.", "The fern likes wet ground."]},
        {"query": "绿茶的水温是多少", "positive": ["绿茶的水温应该在八十度左右。"], "negatives": ["绿茶不经过发酵。"]},
    ])  # fmt: skip
    examples, _ = made(judged_set(str(tmp_path / "pairs.jsonl")), Judging(share=0.34), tmp_path / "cache")
    told = {(example.messages[1].content.split("\n")[0], example.messages[1].content.split("\n")[3],
             example.messages[2].content) for example in examples}  # fmt: skip
    fern, tea = "Query: how high is the fern", "查询： 绿茶的水温是多少"
    assert {(fern, "The fern is two metres high.", "yes"), (fern, "The fern is green.", "no"),
            (tea, "绿茶的水温应该在八十度左右。", "yes"), (tea, "绿茶不经过发酵。", "no")} <= told  # fmt: skip


def test_what_looks_as_relevant_as_the_positive_is_no_negative(tmp_path: Path) -> None:
    lines(tmp_path / "pairs.jsonl", [
        {"query": "how high is the fern", "positive": "The fern is two metres high."},
        {"query": "how high is the old fern", "positive": "Old: some eight feet."},  # asks for nearly the same
        {"query": "where do larches grow", "positive": "Larches grow on mountains."},
        {"query": "where is it that larches grow", "positive": "Larches  grow on\nmountains."},  # says the same
    ])  # fmt: skip
    examples, _ = made(judged_set(str(tmp_path / "pairs.jsonl")), Judging(share=0.2), tmp_path / "cache")
    refused = {(example.messages[1].content.split("\n")[0], example.messages[1].content.split("\n")[3])
               for example in examples if not example.labels["relevant"]}  # fmt: skip
    assert ("Query: how high is the fern", "Larches grow on mountains.") in refused
    assert ("Query: how high is the fern", "Old: some eight feet.") not in refused
    assert not any("larches" in query and "mountains" in text for query, text in refused)


def test_fewer_queries_and_documents_can_be_drawn(tmp_path: Path) -> None:
    judged = judged_set(str(beir(tmp_path / "set", ("train",))))
    few = drawn(judged, queries=3, documents=5, seed=1)
    assert len(few.dataset.queries) == 3 and len(few.dataset.documents) == 5
    assert {document for query in few.dataset.queries for document in few.dataset.qrels[query]} <= {
        document.id for document in few.dataset.documents
    }
    away = drawn(held_out(judged, 0.3), queries=2, documents=6, seed=0)
    assert len(away.dataset.documents) == 6 and not {"d7", "d8", "d9"} & {one.id for one in away.dataset.documents}
    assert drawn(judged, queries=3, documents=5, seed=1) == few != drawn(judged, queries=3, documents=5, seed=2)


@pytest.mark.parametrize(
    ("row", "said"),
    [({"positive": "a"}, '"query"'), ({"query": "a"}, '"positive"'), ({"query": "a", "positive": 3}, "list of texts")],
)
def test_a_malformed_pair_is_named_by_its_line(tmp_path: Path, row: dict[str, object], said: str) -> None:
    lines(tmp_path / "pairs.jsonl", [{"query": "a", "positive": "b"}, row])
    with pytest.raises(ReadingError, match=f"line 2.*{said}"):
        judged_set(str(tmp_path / "pairs.jsonl"))
