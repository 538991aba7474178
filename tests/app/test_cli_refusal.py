"""`fathom index refusal` over a real collection (only the embedding model is a fake)."""

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from app.cli import app
from retrieval.answerability import THRESHOLD


@pytest.fixture
def fathom(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hashing_embedder: Any) -> Any:
    monkeypatch.setattr("retrieval.embedding.load.load_embedder", lambda settings: hashing_embedder)
    shelf = tmp_path / "shelf"
    shelf.mkdir()
    for name, text in (("tides", "Spring tides come at full moon."), ("bread", "Bread needs flour, salt and yeast.")):
        (shelf / f"{name}.txt").write_text(text)

    def call(*arguments: str, code: int = 0) -> Any:
        result = CliRunner().invoke(app, [*arguments, "--workspace", str(tmp_path / "workspace")])
        assert result.exit_code == code, result.output
        return result

    call("index", "sync", str(shelf))
    return call


def said(result: Any) -> Any:
    return json.loads(result.stdout)


def test_the_threshold_is_shown_set_used_and_taken_back(fathom: Any) -> None:
    assert said(fathom("index", "refusal", "--json")) == {
        "threshold": THRESHOLD,
        "before": THRESHOLD,
        "set_here": False,
    }
    question = ("ask", "When do spring tides come?", "--quote", "--json")
    answered = said(fathom(*question))
    assert not answered["refused"] and answered["threshold"] == THRESHOLD < answered["confidence"] < 1
    assert answered["flags"] == [] and answered["draft"] == "" and answered["prompt_version"] == ""
    assert "set for this collection" in fathom("index", "refusal", "--set", "0.999").output
    refused = said(fathom(*question))
    assert refused["refused"] and refused["threshold"] == 0.999 and refused["passages"]
    assert said(fathom("index", "refusal", "--reset", "--json"))["threshold"] == THRESHOLD
    assert not said(fathom(*question))["refused"]


def test_it_is_fitted_to_questions_with_and_without_an_answer(fathom: Any, tmp_path: Path) -> None:
    rows = [
        {"id": "1", "question": "When do spring tides come?", "answers": ["full moon"], "documents": ["tides.txt"]},
        {"id": "2", "question": "What does bread need?", "answers": ["flour"], "documents": ["bread.txt"]},
        {"id": "3", "question": "Who won the football championship?", "answers": [], "answerable": False},
    ]
    file = tmp_path / "questions.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    fathom("index", "refusal", "--set", "0.0")
    tried = said(fathom("index", "refusal", "--fit", str(file), "--dry-run", "--json"))
    assert tried["before"] == {"refused": 0.0, "over_refused": 0.0}
    assert tried["after"] == {"refused": 1.0, "over_refused": 0.0}
    assert said(fathom("index", "refusal", "--json"))["threshold"] == 0.0
    fathom("index", "refusal", "--fit", str(file))
    assert said(fathom("index", "refusal", "--json"))["threshold"] == tried["threshold"] > 0
    file.write_text(json.dumps(rows[0]) + "\n")
    assert "both kinds" in fathom("index", "refusal", "--fit", str(file), code=2).output


def test_wrong_usage_is_said_in_words(fathom: Any, tmp_path: Path) -> None:
    assert "exclude each other" in fathom("index", "refusal", "--set", "0.1", "--reset", code=2).output
    assert "belongs to --fit" in fathom("index", "refusal", "--dry-run", code=2).output
    fathom("index", "refusal", "--set", "1.5", code=2)
    fathom("index", "refusal", "--fit", str(tmp_path / "none.jsonl"), code=2)
