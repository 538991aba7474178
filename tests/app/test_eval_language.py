"""`fathom eval language`: figures, forgetting and errors as a person and as a program meet them."""

import json
from pathlib import Path
from typing import Any

import pytest
from tiny_models import byte_tokenizer, llama, save
from typer.testing import CliRunner, Result

from app.cli import app

TEXT = "The cat sat on the mat. 绿茶不经过发酵。\n\n"


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """Two models of one tokenizer: `before` with usable weights, `after` with others."""
    folder = tmp_path_factory.mktemp("models")
    tokenizer = byte_tokenizer()
    return (
        str(save(folder / "before", llama(tokenizer), tokenizer)),
        str(save(folder / "after", llama(tokenizer, seed=5), tokenizer)),
    )


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    for name, times in (("domain.txt", 200), ("general.txt", 180)):
        (tmp_path / name).write_text(TEXT * times, encoding="utf-8")
    (tmp_path / "choices.jsonl").write_text(
        "".join(
            json.dumps({"id": n, "question": f"Is it {n}?", "choices": ["yes", "no"], "answer": n % 2}) + "\n"
            for n in range(6)
        )
    )
    return tmp_path


def fathom(texts: Path, *arguments: str) -> Result:
    return CliRunner().invoke(app, ["eval", "language", "--workspace", str(texts / "space"), *arguments])


def answer(texts: Path, *arguments: str) -> dict[str, Any]:
    result = fathom(texts, *arguments, "--json")
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def test_figures_come_with_intervals_and_where_they_are_from(models: tuple[str, str], texts: Path) -> None:
    found = answer(texts, "--on", str(texts / "domain.txt"), "--model", models[0], "--window", "32")
    assert set(found["metrics"]) == {"bits_per_byte", "tokens_per_byte"}
    low, high = found["intervals"]["bits_per_byte"]
    assert low <= found["metrics"]["bits_per_byte"] <= high
    assert found["extras"]["model"]["name"] == "before" and found["extras"]["window"] == 32
    facts = found["extras"]["texts"]["domain"]
    assert facts["bytes"] == len((texts / "domain.txt").read_bytes())
    assert found["run"]["kind"] == "language" and Path(found["run"]["folder"]).is_dir()


def test_forgetting_is_shown_between_two_models(models: tuple[str, str], texts: Path) -> None:
    words = ["--on", f"domain={texts}/domain.txt", "--on", f"general={texts}/general.txt", "--limit-bytes", "3000"]
    words += ["--choices", str(texts / "choices.jsonl"), "--model", models[1], "--against", models[0]]
    found = answer(texts, *words)
    rows = {row["metric"]: row for row in found["forgetting"]}
    assert {"bits_per_byte_domain", "bits_per_byte_general", "choice_accuracy"} <= set(rows)
    for label in ("domain", "general"):
        row = rows[f"bits_per_byte_{label}"]
        before = found["language-against"]["metrics"][f"bits_per_byte_{label}"]
        after = found["metrics"][f"bits_per_byte_{label}"]
        assert (row["a"], row["b"]) == (pytest.approx(before), pytest.approx(after))
        assert row["relative"] and row["change"]["value"] == pytest.approx(after / before - 1)
    shown = fathom(texts, *words)
    assert shown.exit_code == 0 and "measured already" in shown.stderr
    assert "before: before" in shown.stdout and "after: after" in shown.stdout and "%" in shown.stdout


def test_a_model_that_changed_in_place_is_measured_again(models: tuple[str, str], texts: Path) -> None:
    """Training writes over its own folder; the figures of yesterday are not those of today."""
    tokenizer = byte_tokenizer()
    folder = texts / "trained"
    words = ["--on", str(texts / "domain.txt"), "--limit-bytes", "1500", "--model", str(folder)]
    figures = []
    for seed in (1, 2):
        save(folder, llama(tokenizer, seed=seed), tokenizer)
        figures.append(answer(texts, *words)["metrics"]["bits_per_byte"])
    assert figures[0] != figures[1]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "nothing to measure on"),
        (["--on", "gone.txt"], "no file or folder"),
        (["--on", "a=domain.txt", "--on", "general.txt"], "give every --on a label"),
        (["--on", "a=domain.txt", "--on", "a=general.txt"], "two texts are labelled 'a'"),
        (["--on", "domain.txt", "--window", "4", "--stride", "4"], "smaller than the window"),
        (["--on", "domain.txt", "--model", "nothing/at all"], "there is no model"),
        (["--choices", "domain.txt"], "line 1 is not JSON"),
        (["--on", "domain.txt", "--precision", "int4"], "precision is one of"),
    ],
)
def test_a_wrong_word_is_one_sentence(
    words: list[str], said: str, models: tuple[str, str], texts: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(texts)
    result = fathom(texts, *(["--model", models[0], *words] if "--model" not in words else words))
    assert result.exit_code != 0 and said in result.output and "Traceback" not in result.output
    assert not (texts / "space" / "runs").exists() or not list((texts / "space" / "runs").iterdir()) or "int4" in words


def test_a_dry_run_says_what_would_be_done(models: tuple[str, str], texts: Path) -> None:
    result = fathom(texts, "--on", str(texts / "domain.txt"), "--model", models[0], "--dry-run")
    assert result.exit_code == 0
    assert "1 documents, " in result.stdout and not (texts / "space" / "runs").exists()
