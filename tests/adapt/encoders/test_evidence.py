"""Questions with spans → a test collection of sentences."""

import json
from pathlib import Path

import pytest

from adapt.encoders.evidence import write_evidence
from eval.data.datasets import load_dataset
from eval.data.questions import read_questions
from retrieval.errors import UsageError

TEXT = "The drill has a light. Under load the motor stops. It costs 9 pounds."


def made(folder: Path, spans: bool = True) -> Path:
    folder.mkdir()
    documents = [{"_id": f"d{n}", "title": f"Drill {n}", "text": TEXT} for n in range(4)]
    start = TEXT.index("Under")
    rows = [
        {
            "id": f"q{n}",
            "question": "Why did it stop?",
            "answers": ["the motor stops"],
            "documents": [f"d{n}"],
            **({"spans": [{"document": f"d{n}", "start": start, "end": start + 27}]} if spans else {}),
        }
        for n in range(4)
    ]
    rows.append({"id": "all", "question": "And?", "answers": ["all"], "documents": ["d0"]})
    rows.append({"id": "none", "question": "Who made it?", "answerable": False, "documents": ["d0"]})
    if spans:
        rows[-2]["spans"] = [{"document": "d0", "start": 0, "end": len(TEXT)}]  # runs over too many sentences
        rows[-1]["spans"] = rows[0]["spans"]  # evidence that there is no answer is none of one
    for name, items in (("corpus", documents), ("questions", rows)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(item) + "\n" for item in items))
    return folder


def test_each_question_is_judged_by_the_sentence_of_its_span_and_held_out_documents_ask_nothing(tmp_path: Path) -> None:
    found = read_questions(made(tmp_path / "set"))
    assert write_evidence(found, tmp_path / "out", hold_out=0.25) == (12, 3)
    dataset = load_dataset(tmp_path / "out", split="train")
    assert {query: list(judged) for query, judged in dataset.qrels.items()} == {f"q{n}": [f"d{n}-s1"] for n in range(3)}
    sentence = next(one for one in dataset.documents if one.id == "d2-s1")
    assert (sentence.title, sentence.text) == ("Drill 2", "Under load the motor stops.")


def test_passages_are_runs_of_sentences_within_a_length(tmp_path: Path) -> None:
    found = read_questions(made(tmp_path / "set"))
    assert write_evidence(found, tmp_path / "out", characters=50) == (8, 5), "the long span lies in two passages"
    dataset = load_dataset(tmp_path / "out", split="train")
    assert [one.text for one in dataset.documents][:2] == [TEXT[:50], "It costs 9 pounds."]
    assert dataset.qrels["q1"] == {"d1-s0": 1}


def test_questions_without_spans_teach_nothing(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="has a span that one sentence holds"):
        write_evidence(read_questions(made(tmp_path / "set", spans=False)), tmp_path / "out")
