"""`fathom eval answers` from the command line, quoting, so that no model is needed."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from app.cli import app

Fathom = Callable[..., Any]
TEXTS = {
    "pump.md": "Replace the membrane after 4,000 hours of operation. The pump weighs 12 kilograms.\n",
    "离心机.txt": "每次使用后用百分之七十的酒精擦拭转子室。\n",
}
ROWS = [
    {
        "id": "hours",
        "question": "After how many hours of operation is the membrane replaced?",
        "answers": ["4,000"],
        "kind": "number",
        "spans": [{"document": "pump.md", "start": 0, "end": 52}],
    },
    {
        "id": "酒精",
        "question": "使用后用什么擦拭转子室？",
        "answers": ["酒精"],
        "spans": [{"document": "离心机.txt", "start": 0, "end": 20}],
    },
    {"id": "cup", "question": "Who won the football championship?", "answerable": False},
]


@pytest.fixture
def fathom(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hashing_embedder: Any) -> Fathom:
    """Runs a command; only the embedding model is a fake."""
    monkeypatch.setattr("retrieval.embedding.load.load_embedder", lambda settings: hashing_embedder)

    def call(*arguments: str, code: int = 0) -> Any:
        result = CliRunner().invoke(app, ["eval", "answers", *arguments, "--workspace", str(tmp_path / "w")])
        assert result.exit_code == code, result.output
        assert "Traceback" not in result.output
        return result

    return call


@pytest.fixture
def questions(tmp_path: Path) -> Path:
    folder = tmp_path / "plant"
    (folder / "documents").mkdir(parents=True)
    for name, text in TEXTS.items():
        (folder / "documents" / name).write_text(text, encoding="utf-8")
    (folder / "questions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS), encoding="utf-8")
    return folder


def test_the_json_has_metrics_intervals_and_extras(fathom: Fathom, questions: Path) -> None:
    found = json.loads(fathom(str(questions), "--quote", "--json").stdout)
    metrics = found["metrics"]
    assert metrics["accuracy"] == metrics["numeric_match"] == metrics["citation_recall"] == metrics["link_rate"] == 1
    assert metrics["refusal_recall"] == 1 and metrics["over_refusal"] == 0
    low, high = found["intervals"]["F1"]
    assert low <= metrics["F1"] <= high
    assert found["counts"]["items"] == found["counts"]["done"] == 3
    assert found["extras"]["risk_coverage"]["n"] == 2 and "total" in found["timings"]
    records = Path(found["run"]["folder"]) / "parts"
    (file,) = records.glob("*/records.jsonl")
    assert {json.loads(line)["id"] for line in file.read_text(encoding="utf-8").splitlines()} == {
        "hours",
        "酒精",
        "cup",
    }


def test_the_screen_shows_figures_by_group(fathom: Fathom, questions: Path) -> None:
    out = fathom(str(questions), "--quote").output
    for word in ("accuracy", "citation_precision", "refusal_F1", "AURC", "language", "zh", "refused: 1 by confidence"):
        assert word in out, word


def test_a_dry_run_writes_nothing(fathom: Fathom, questions: Path, tmp_path: Path) -> None:
    out = fathom(str(questions), "--quote", "--dry-run").output
    assert "3 questions of plant" in out
    assert not list((tmp_path / "w").rglob("records.jsonl"))


@pytest.mark.parametrize(
    ("options", "said", "code"),
    [
        (["--context", "open"], "no context 'open'", 2),
        (["--context", "closed-book", "--quote"], "closed-book", 2),
        (["--k", "0"], "--k", 2),
        (["--quote", "--collection", "gone"], "gone", 1),
        (["--split", "train"], "no split 'train'", 2),
    ],
)
def test_wrong_options_are_one_sentence(
    fathom: Fathom, questions: Path, options: list[str], said: str, code: int
) -> None:
    assert said in fathom(str(questions), *options, code=code).output


def test_a_wrong_file_is_named_with_its_line(fathom: Fathom, questions: Path) -> None:
    with (questions / "questions.jsonl").open("a") as file:
        file.write('{"id": "hours", "question": "Again?", "answerable": false}\n')
    out = fathom(str(questions), "--quote", code=1).output
    assert "questions.jsonl" in out and "line 4" in out
    assert "there is no" in fathom(str(questions / "gone.jsonl"), "--quote", code=2).output
