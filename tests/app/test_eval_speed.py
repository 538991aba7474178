"""`fathom eval speed`: tables for people, JSON for programs, errors in words."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fakes import five_documents
from typer.testing import CliRunner

from app.cli import app
from eval.runs.suites import load_suite

Fathom = Callable[..., Any]


@pytest.fixture(autouse=True)
def no_model(monkeypatch: pytest.MonkeyPatch, hashing_embedder: Any) -> None:
    """Only the embedding model is a fake."""
    monkeypatch.setattr("retrieval.embedding.load.load_embedder", lambda settings: hashing_embedder)


@pytest.fixture
def files(tmp_path: Path) -> Path:
    folder = tmp_path / "files"
    folder.mkdir()
    for document in five_documents():
        (folder / document.uri).write_text(document.text, encoding="utf-8")
    return folder


def test_two_commands_side_by_side(fathom: Fathom) -> None:
    ours = 'python -c "print(\'{\\"figures\\": {\\"n\\": 2}}\')"'
    peer = 'python -c "print(\'{\\"figures\\": {\\"n\\": 3}}\')"'
    words = ("eval", "speed", "beside", "--ours", ours, "--peer", peer, "--peer-python", sys.executable)
    told = json.loads(fathom(*words, "--repeats", "3", "--json").stdout)
    assert told["extras"]["compared"]["n"]["ratio"] == 1.5
    assert {"cpu_ratio", "wall_ratio"} <= set(told["metrics"]) and len(told["extras"]["runs"]) == 6
    assert told["counts"]["done"] == 3 and told["run"]["settings"]["repeats"] == 3
    shown = fathom(*words, "--repeats", "1").stdout
    assert "peer/ours" in shown and "1.5 ×" in shown and "cpu_s" in shown


def test_a_failing_peer_is_told_with_its_last_words(fathom: Fathom) -> None:
    peer = "python -c \"raise SystemExit('no index here')\""
    result = fathom("eval", "speed", "beside", "--ours", "python -c pass", "--peer", peer, "--repeats", "2", code=1)
    assert "the peer ended with exit code 1" in result.output and "no index here" in result.output


def test_indexing_and_search_of_ones_own_files(fathom: Fathom, files: Path) -> None:
    told = json.loads(fathom("eval", "speed", "indexing", "--folder", str(files), "--repeats", "2", "--json").stdout)
    assert told["metrics"]["passages_per_second"] > 0 and told["extras"]["passages"] == 5
    fathom("index", "sync", str(files))
    told = json.loads(fathom("eval", "speed", "search", "--mode", "lexical", "--repeats", "1", "--json").stdout)
    assert told["metrics"]["search_ms"] > 0 and told["extras"]["mode"] == "lexical"
    assert told["timings"]["search"]["p99"] >= told["timings"]["search"]["p50"]
    assert "search_ms" in fathom("eval", "speed", "search", "--repeats", "1").stdout


def test_a_dry_run_measures_nothing(fathom: Fathom, files: Path, tmp_path: Path) -> None:
    shown = fathom("eval", "speed", "indexing", "--folder", str(files), "--dry-run").output
    assert "5 files" in shown and not (tmp_path / "w" / "runs").exists()


@pytest.mark.parametrize(
    ("words", "code", "sentence"),
    [
        (("flying",), 2, "flying"),
        (("indexing",), 2, "to measure indexing, give folder"),
        (("serving", "--users", "1,two"), 2, "--users '1,two' is not valid"),
        (("serving", "--engine", "gpt"), 2, "no engine 'gpt'"),
        (("serving", "--engine", "http://127.0.0.1:9/v1"), 1, "cannot be reached"),
        (("beside", "--ours", "python 'x", "--peer", "python -c pass"), 2, "cannot be split"),
        (("search",), 1, "no collection 'default'"),
    ],
)
def test_what_cannot_be_measured_is_said_in_a_sentence(
    fathom: Fathom, words: tuple[str, ...], code: int, sentence: str
) -> None:
    assert sentence in " ".join(fathom("eval", "speed", *words, code=code).output.split())


def test_a_suite_may_hold_speed_parts(tmp_path: Path) -> None:
    suite = tmp_path / "s.yaml"
    suite.write_text(
        "parts:\n  serving:\n    kind: speed\n    what: serving\n    engine: embedded\n    users: [1, 2]\n"
        "  side:\n    kind: speed\n    what: beside\n    ours: python -c pass\n    peer: python -c pass\n",
        encoding="utf-8",
    )
    parts: Any = load_suite(suite).parts
    assert parts["serving"].users == (1, 2) and parts["side"].peer == "python -c pass"


@pytest.mark.slow
def test_the_embedded_engine_is_measured(fathom: Fathom) -> None:
    pytest.importorskip("openvino_genai")
    words = ("--prompt-tokens", "60", "--new-tokens", "8", "--json")
    told = json.loads(fathom("eval", "speed", "generation", "--repeats", "2", *words).stdout)
    (row,) = told["extras"]["table"]
    assert row["repeats"] == 2 and row["first_token_ms"] > 0 and row["completion_tokens"] <= 8
    told = json.loads(fathom("eval", "speed", "serving", "--users", "1,3", "--rounds", "1", *words).stdout)
    assert [(level["users"], level["errors"]) for level in told["extras"]["curve"]] == [(1, 0), (3, 0)]


def test_one_thread_starts_again_with_every_library_held(fathom: Fathom, monkeypatch: pytest.MonkeyPatch) -> None:
    class Started(BaseException):
        """In place of the process that execve would have become."""

    def note(program: str, words: list[str], environment: dict[str, str]) -> None:
        assert (program, words[:3]) == (sys.executable, [sys.executable, "-m", "app"])
        held = ("OMP_NUM_THREADS", "RAYON_NUM_THREADS", "FATHOM_ENGINE_THREADS", "FATHOM_EMBEDDING_THREADS")
        assert {environment[name] for name in held} == {"1"} and environment["OMP_WAIT_POLICY"] == "PASSIVE"
        raise Started

    monkeypatch.setattr("os.execve", note)
    with pytest.raises(Started):
        CliRunner().invoke(app, ["eval", "speed", "search", "--one-thread"], catch_exceptions=False)
