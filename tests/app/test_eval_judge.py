"""`fathom eval judge` and `fathom eval export` from the command line, with the judge that needs no model."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from eval.runs.parts import PartFolder

Fathom = Callable[..., Any]
PASSAGES = ["Tides are caused by the moon.", "Bread needs flour."]


@pytest.fixture
def samples(tmp_path: Path) -> Path:
    """Four answers with ids 1 to 4: the odd ones stand in the passages."""
    answers = ["The moon causes tides.", "Jupiter melted.", "Bread needs flour.", "Cats purr loudly."]
    rows = [
        {"user_input": f"Question {n}?", "retrieved_contexts": PASSAGES, "response": answer, "reference": answer}
        for n, answer in enumerate(answers, 1)
    ]
    file = tmp_path / "samples.jsonl"
    file.write_text("\n".join(map(json.dumps, rows)))
    return file


def test_answers_of_another_system_are_judged_and_printed(fathom: Fathom, samples: Path) -> None:
    out = fathom("eval", "judge", str(samples), "--engine", "lexical").output
    assert "faithfulness\t0.500" in out
    assert "context_recall\t0.500" in out
    assert "parsed\t1.000" in out
    assert "answer_relevance" not in out


def test_labels_of_people_give_kappa_on_the_screen_and_in_json(fathom: Fathom, samples: Path, tmp_path: Path) -> None:
    labels = tmp_path / "labels.jsonl"
    rows = [{"id": str(n), "metric": "faithfulness", "label": n % 2} for n in (1, 2, 3)]
    labels.write_text("\n".join(map(json.dumps, rows)))
    arguments = ("eval", "judge", str(samples), "--engine", "lexical", "--labels", str(labels))
    out = fathom(*arguments).output
    assert "faithfulness: kappa 1.00" in out and "the same in 100% of 3" in out
    assert "as corrected by the 3 labels of people" in out
    found = json.loads(fathom(*arguments, "--json").stdout)
    assert found["metrics"]["faithfulness"] == 0.5
    assert found["extras"]["agreement"]["faithfulness"]["kappa"] == 1.0
    assert found["counts"]["missing"]["faithfulness"] == 0
    assert found["run"]["settings"]["engine"] == "lexical"


def test_a_judge_is_measured_on_claims(fathom: Fathom, tmp_path: Path) -> None:
    folder = tmp_path / "claims"
    folder.mkdir()
    (folder / "corpus.jsonl").write_text('{"_id": "1", "title": "", "text": "Tides are caused by the moon."}\n')
    rows = [
        {"split": "validation", "id": "1", "claim": "The moon causes tides.", "label": "SUPPORT"},
        {"split": "validation", "id": "2", "claim": "Cats purr.", "label": "NOT_ENOUGH_INFO"},
    ]
    lines = [json.dumps(row | {"evidence_doc_id": "", "cited_doc_ids": ["1"]}) for row in rows]
    (folder / "claims_evidence.jsonl").write_text("\n".join(lines))
    out = fathom("eval", "judge", "--claims", str(folder), "--engine", "lexical").output
    assert "kappa 1.00" in out
    assert "people: no\t1\t0" in out and "people: yes\t0\t1" in out


def test_wrong_usage_is_a_sentence(fathom: Fathom, samples: Path, tmp_path: Path) -> None:
    assert "either a run" in fathom("eval", "judge", code=2).output
    assert "either a run" in fathom("eval", "judge", str(samples), "--claims", str(tmp_path), code=2).output
    assert "no run 'nothing'" in fathom("eval", "judge", "nothing", code=2).output
    assert "'beauty'" in fathom("eval", "judge", str(samples), "--metric", "beauty", code=2).output
    samples.write_text("not json\n")
    assert "line 1 is not JSON" in fathom("eval", "judge", str(samples), "--engine", "lexical", code=1).output


def test_a_dry_run_writes_nothing_and_says_how_many_verdicts_there_would_be(
    fathom: Fathom, samples: Path, tmp_path: Path
) -> None:
    out = fathom("eval", "judge", str(samples), "--engine", "lexical", "--dry-run").output
    assert "4 answers of samples.jsonl by the lexical judge, 16 verdicts" in out
    assert not (tmp_path / "w" / "runs").exists()


def test_answers_are_exported_for_ragas(fathom: Fathom, tmp_path: Path) -> None:
    part = PartFolder(tmp_path / "answers")
    passages = [{"document": "tides.txt", "text": PASSAGES[0]}]
    part.append({"id": "a", "text": "Why?", "metrics": {}, "answer": "The moon [1].", "passages": passages})
    file = tmp_path / "out.jsonl"
    out = fathom("eval", "export", str(tmp_path / "answers"), str(file), "--to", "ragas").output
    assert "1 sample written" in out
    (row,) = map(json.loads, file.read_text().splitlines())
    assert row["response"] == "The moon [1]." and row["retrieved_context_ids"] == ["tides.txt"]
    assert "--replace" in fathom("eval", "export", str(tmp_path / "answers"), str(file), code=2).output
    found = json.loads(fathom("eval", "export", str(tmp_path / "answers"), str(file), "--replace", "--json").stdout)
    assert found == {"file": str(file), "form": "ragas", "samples": 1, "left_out": 0}
