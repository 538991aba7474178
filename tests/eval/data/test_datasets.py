"""The three forms of a test collection, and what is said about a broken one."""

import gzip
import json
import os
from pathlib import Path

import pytest

from eval.data.datasets import available_splits, load_dataset, sample
from retrieval.errors import FathomError, ReadingError, UsageError

SHARED = Path(os.environ.get("FATHOM_SHARED_DATA") or Path(__file__).parents[3].parent / "shared" / "data")


def write_lines(path, rows):
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    if path.suffix == ".gz":
        path.write_bytes(gzip.compress(text.encode()))
    else:
        path.write_text(text, encoding="utf-8")


@pytest.fixture
def beir(tmp_path):
    folder = tmp_path / "tiny"
    (folder / "qrels").mkdir(parents=True)
    write_lines(
        folder / "corpus.jsonl.gz",
        [{"_id": "d1", "title": "鲸", "text": "蓝鲸是最大的动物。"}, {"_id": "d2", "title": "", "text": "a cat"}],
    )
    write_lines(
        folder / "queries.jsonl",
        [{"_id": "q1", "text": "最大的动物"}, {"_id": "q2", "text": "cat"}, {"_id": "q3", "text": "unjudged"}],
    )
    (folder / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\nq1\td1\t2\nq2\td1\t0\n")
    (folder / "qrels" / "train.tsv").write_text("q2 0 d2 1\n")
    return folder


def test_beir_form(beir):
    dataset = load_dataset(beir)
    assert (dataset.name, dataset.form, dataset.split) == ("tiny", "beir", "test")
    assert [document.title for document in dataset.documents] == ["鲸", ""]
    assert dataset.queries == {"q1": "最大的动物"}
    assert dataset.qrels == {"q1": {"d1": 2}}
    assert dataset.queries_without_relevant == 1  # q2 is judged, but nothing is relevant to it
    assert dataset.queries_without_judgements == 1  # q3
    assert dataset.cluster("q1") == "d1"
    assert {Path(name).name for name in dataset.data} == {"corpus.jsonl.gz", "queries.jsonl", "test.tsv"}


def test_a_split_is_chosen_by_name_and_trec_judgements_are_read(beir):
    assert available_splits(beir) == ["test", "train"]
    assert load_dataset(beir, split="train").qrels == {"q2": {"d2": 1}}
    with pytest.raises(UsageError, match=r"no split 'dev'.*test, train"):
        load_dataset(beir, split="dev")


def test_without_a_test_split_the_choice_must_be_clear(beir):
    (beir / "qrels" / "test.tsv").unlink()
    assert load_dataset(beir).split == "train"
    (beir / "qrels" / "dev.tsv").write_text("q1\td1\t1\n")
    with pytest.raises(UsageError, match="dev, train"):
        load_dataset(beir)


def test_question_answering_with_contexts(tmp_path):
    write_lines(tmp_path / "corpus.jsonl", [{"_id": "p0", "title": "", "text": "在歐洲"}])
    write_lines(
        tmp_path / "qa.jsonl",
        [
            {
                "id": "1",
                "split": "dev",
                "question": "哪裡？",
                "context_id": "p0",
                "answers": ["歐洲"],
                "answerable": True,
            },
            {"id": "2", "split": "dev", "question": "?", "context_id": "p0", "answers": [], "answerable": False},
        ],
    )
    dataset = load_dataset(tmp_path)
    assert (dataset.form, dict(dataset.qrels)) == ("contexts", {"1": {"p0": 1}})
    assert load_dataset(tmp_path, split="dev").queries == {"1": "哪裡？"}
    with pytest.raises(UsageError, match="'test'.*dev"):
        load_dataset(tmp_path, split="test")


def test_question_answering_alone_makes_documents_of_answers(tmp_path):
    write_lines(
        tmp_path / "qa.jsonl",
        [
            {"id": "1", "focus": "Flu", "question": "What is flu?", "answers": ["A virus.", "An illness."]},
            {"id": "2", "focus": "Flu", "question": "What is flu?", "answers": ["Fever."]},
            {"id": "3", "focus": "Cold", "question": "What is a cold?", "answers": ["A virus."]},
        ],
    )
    dataset = load_dataset(tmp_path)
    assert [(document.id, document.title) for document in dataset.documents] == [
        ("1-a0", "Flu"),
        ("1-a1", "Flu"),
        ("2-a0", "Flu"),
    ]
    assert dataset.queries == {"1": "What is flu?", "3": "What is a cold?"}
    assert dataset.qrels == {"1": {"1-a0": 1, "1-a1": 1, "2-a0": 1}, "3": {"1-a0": 1}}


def test_sample_keeps_every_judged_document_and_is_repeatable(tmp_path):
    write_lines(
        tmp_path / "qa.jsonl",
        [{"id": str(n), "focus": "", "question": f"q{n}", "answers": [f"a{n}", f"b{n}"]} for n in range(20)],
    )
    whole = load_dataset(tmp_path)
    small = sample(whole, queries=3, distractors=5, seed=1)
    assert (len(small.queries), len(small.documents)) == (3, 11)
    assert {d for grades in small.qrels.values() for d in grades} <= {document.id for document in small.documents}
    assert sample(whole, queries=3, distractors=5, seed=1) == small
    assert len(sample(whole, queries=99, distractors=99).documents) == 40


def break_corpus(folder):
    write_lines(folder / "corpus.jsonl.gz", [{"_id": "d1", "text": "x"}, {"_id": "d1", "text": "y"}])


def break_gzip(folder):
    path = folder / "corpus.jsonl.gz"
    path.write_bytes(path.read_bytes()[:-12])


BROKEN = {
    "twice": (break_corpus, "duplicate-id", "'d1' occurs twice"),
    "cut gzip": (break_gzip, "gzip", "damaged"),
    "no gzip": (lambda f: (f / "corpus.jsonl.gz").write_bytes(b"plain"), "gzip", "damaged"),
    "json": (lambda f: (f / "queries.jsonl").write_text('{"_id": 1, "text": "x"}\n{oops\n'), "json", "line 2"),
    "a list": (lambda f: (f / "queries.jsonl").write_text("[1]\n"), "json", "list"),
    "latin-1": (lambda f: (f / "queries.jsonl").write_bytes(b'{"_id": "q1", "text": "caf\xe9"}'), "encoding", "UTF-8"),
    "no text": (lambda f: (f / "queries.jsonl").write_text('{"_id": "q1"}\n'), "field", "lacks 'text'"),
    "no query": (lambda f: (f / "queries.jsonl").write_text(""), "unknown-query", "line 2: .*'q1'"),
    "unknown document": (
        lambda f: (f / "qrels" / "test.tsv").write_text("q1\td1\t1\nq1\td9\t1\nq2\td8\t1\n"),
        "unknown-document",
        "line 2: .*'d9'.*2 are missing",
    ),
    "unknown query": (
        lambda f: (f / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\nq7\td1\t1\n"),
        "unknown-query",
        "line 2: .*'q7'.* queries.jsonl",
    ),
    "half a grade": (lambda f: (f / "qrels" / "test.tsv").write_text("q1\td1\t0.5\n"), "qrels", "'0.5' is not a whole"),
    "two grades": (
        lambda f: (f / "qrels" / "test.tsv").write_text("q1\td1\t1\nq1\td1\t2\n"),
        "qrels",
        "line 2 gives .* grade 2, line 1 gave 1",
    ),
    "no judgement": (
        lambda f: (f / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\n"),
        "qrels",
        "no judg",
    ),
    "query twice": (
        lambda f: (f / "queries.jsonl").write_text('{"_id": "q1", "text": "x"}\n\n{"_id": "q1", "text": "y"}\n'),
        "duplicate-id",
        "line 3: the query id 'q1' occurs twice .first in line 1",
    ),
    "blank query": (
        lambda f: (f / "queries.jsonl").write_text('{"_id": "q2", "text": "x"}\n{"_id": "q1", "text": " "}\n'),
        "empty",
        "line 2: the judged query 'q1' has no text",
    ),
    "text is a number": (
        lambda f: (f / "queries.jsonl").write_text('{"_id": "q1", "text": 7}\n'),
        "field",
        "line 1: 'text' is a int",
    ),
    "id is a list": (lambda f: (f / "queries.jsonl").write_text('{"_id": [], "text": "x"}\n'), "field", "not an id"),
    "nested": (lambda f: (f / "queries.jsonl").write_text("[" * 100_000 + "\n"), "json", "line 1"),
    "empty corpus": (lambda f: write_lines(f / "corpus.jsonl.gz", []), "empty", "no document"),
    "grade": (lambda f: (f / "qrels" / "test.tsv").write_text("q1\td1\tyes\n"), "qrels", "line 1"),
    "columns": (lambda f: (f / "qrels" / "test.tsv").write_text("q1\t1\n"), "qrels", "line 1"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_files_are_named_with_what_is_wrong(beir, name):
    damage, reason, words = BROKEN[name]
    damage(beir)
    with pytest.raises(ReadingError, match=words) as caught:
        load_dataset(beir)
    assert caught.value.reason == reason


def test_a_folder_that_is_no_collection(tmp_path):
    with pytest.raises(UsageError, match="not a folder"):
        load_dataset(tmp_path / "missing")
    (tmp_path / "notes.txt").write_text("hello")
    with pytest.raises(UsageError, match=r"notes\.txt"):
        load_dataset(tmp_path)
    (tmp_path / "qrels").mkdir()
    with pytest.raises(UsageError, match="no judgements"):
        load_dataset(tmp_path)
    (tmp_path / "qrels" / "test.tsv").write_text("q\td\t1\n")
    with pytest.raises(FathomError, match=r"lacks queries\.jsonl"):
        load_dataset(tmp_path)


def test_without_judgements_the_message_says_what_is_missing(beir):
    for path in (beir / "qrels").iterdir():
        path.unlink()
    (beir / "qrels").rmdir()
    with pytest.raises(UsageError, match=r"relevance judgements \(qrels/\*\.tsv"):
        load_dataset(beir)


def test_judgements_without_anything_relevant_cannot_be_measured(beir):
    (beir / "qrels" / "test.tsv").write_text("q2\td1\t0\n")
    with pytest.raises(UsageError, match="no query with a relevant document"):
        load_dataset(beir)


def test_ids_with_blanks_and_half_characters(beir):
    write_lines(
        beir / "corpus.jsonl.gz", [{"_id": "my report.pdf", "title": None, "text": "a"}, {"_id": 7, "text": "b"}]
    )
    (beir / "queries.jsonl").write_text('{"_id": "q 1", "text": "half \\ud800 character"}\n')
    (beir / "qrels" / "test.tsv").write_text("q 1\tmy report.pdf\t1\nq 1\t7\t-1\n")
    dataset = load_dataset(beir)
    assert dataset.qrels == {"q 1": {"my report.pdf": 1, "7": -1}}
    assert dataset.queries["q 1"] == "half \ufffd character"


def test_a_question_holding_its_contexts_makes_one_document_of_them(tmp_path):
    write_lines(
        tmp_path / "qa.jsonl",
        [
            {"id": "1", "split": "dev", "question": "Does it?", "contexts": ["One.", "Two."], "answers": ["yes"]},
            {"id": "2", "split": "dev", "question": "Is it?", "contexts": ["Three."], "answers": ["no"]},
        ],
    )
    dataset = load_dataset(tmp_path)
    assert [(document.id, document.text) for document in dataset.documents] == [
        ("1-context", "One.\n\nTwo."),
        ("2-context", "Three."),
    ]
    assert (dataset.form, dict(dataset.qrels)) == ("contexts", {"1": {"1-context": 1}, "2": {"2-context": 1}})
    assert load_dataset(tmp_path, split="dev").split == "dev"
    with pytest.raises(UsageError, match="'test'.*dev"):
        load_dataset(tmp_path, split="test")


def test_answers_to_contexts_that_lie_elsewhere_are_no_corpus(tmp_path):
    write_lines(tmp_path / "qa.jsonl", [{"id": "1", "question": "x", "context_id": "c", "answers": ["y"]}])
    with pytest.raises(UsageError, match=r"corpus\.jsonl"):
        load_dataset(tmp_path)


COUNTS = {
    "pubmedqa": (500, 500),
    "scifact": (5_183, 300),
    "cranfield": (1_400, 225),
    "cosqa": (6_267, 500),
    "xquad_zh": (240, 1_190),
    "drcd": (1_000, 3_524),
}


@pytest.mark.parametrize("name", COUNTS)
def test_real_collections_have_the_counts_their_readme_states(name):
    if not (SHARED / name).is_dir():
        pytest.skip(f"needs ../shared/data/{name}")
    dataset = load_dataset(SHARED / name)
    assert (len(dataset.documents), len(dataset.queries)) == COUNTS[name]
