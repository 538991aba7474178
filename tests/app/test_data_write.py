"""`fathom data write` as a command: plan, result and reasons, on the screen and as JSON; refusals in a sentence."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fakes import HashingEmbedder
from scripted_llm import ScriptedLLM

from eval.data.questions import read_questions

Fathom = Callable[..., Any]


class ClosableLLM(ScriptedLLM):
    """A `ScriptedLLM` that can be closed as an engine is."""

    def close(self) -> None:
        """Nothing to end."""


def say(asked: str) -> str:
    metres = re.findall(r"grows (\w+) metres", asked)[0]
    plant = re.findall(r"The (\w+) grows", asked)[0]
    good = {"question": f"How high does the {plant} grow behind the wall?", "answer": f"{metres} metres"}
    return "\n".join(map(json.dumps, (good, {**good, "answer": "ninety metres"})))


@pytest.fixture
def shelf(tmp_path: Path, monkeypatch: Any) -> Path:
    """Two documents that can be asked about and one that cannot be read; no model is loaded."""
    folder = tmp_path / "shelf"
    folder.mkdir()
    for plant, metres in (("fern", "two"), ("oak", "forty")):
        (folder / f"{plant}.md").write_text(
            f"# The {plant}\n\nThe {plant} grows {metres} metres high behind the old northern wall of the garden. "
            "It is watered daily in summer, pruned every winter and fed with compost from the kitchen.\n"
        )
    (folder / "empty.md").write_text("")
    embedder = HashingEmbedder(512)
    monkeypatch.setattr("retrieval.embedding.load.load_embedder", lambda settings: embedder)
    monkeypatch.setattr("app.build.engine_named", lambda settings, name: ClosableLLM(say=say))
    return folder


def test_questions_about_a_folder_are_written_checked_and_told(fathom: Fathom, shelf: Path, tmp_path: Path) -> None:
    out = tmp_path / "set"
    dry = fathom("data", "write", str(shelf), "--out", str(out), "--dry-run")
    assert not out.exists() and "passages: 2" in dry.stdout and "questions asked for: 4" in dry.stdout
    assert "The fern grows two metres" in dry.stdout or "The oak grows forty metres" in dry.stdout
    done = fathom("data", "write", str(shelf), "--out", str(out), code=3)  # 3: one file could not be read
    assert "2 of 4 questions about 2 passages are good" in done.stderr and "at rank 1" in done.stderr
    assert "answer is not in the passage\t2" in done.stdout and "empty\t1\tempty.md" in done.stdout
    found = read_questions(out)
    assert {question.answers[0] for question in found.questions} == {"two metres", "forty metres"}
    assert "is there already" in fathom("data", "write", str(shelf), "--out", str(out), code=2).stderr
    told = json.loads(
        fathom("data", "write", str(shelf), "--out", str(out), "--replace", "--json", "--count", "1", code=3).stdout
    )
    assert (
        told["kept"] == 1
        and told["requests"] == {"asked": 0, "reused": 1}
        and told["by"] == "scripted"
        and told["written"] == str(out)
    )
    made = fathom("data", "questions", str(out), "--out", str(tmp_path / "e.jsonl"), "--unanswerable", "0")
    assert "1 examples of 1 rows" in made.stderr


def test_a_collection_can_be_asked_about(fathom: Fathom, shelf: Path, tmp_path: Path) -> None:
    (shelf / "empty.md").unlink()
    fathom("index", "sync", str(shelf), "--collection", "garden")
    told = json.loads(
        fathom("data", "write", "--collection", "garden", "--out", str(tmp_path / "set"), "--json").stdout
    )
    assert told["kept"] == 2 and told["documents"] == 2


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--out", "set"), "name the documents"),
        (("shelf", "--collection", "garden", "--out", "set"), "not both"),
        (("gone", "--out", "set"), "there is no file or folder"),
        (("shelf", "--out", "none/set"), "there is no folder"),
        (("shelf", "--out", "shelf/fern.md"), "is a file"),
        (("shelf", "--out", "set", "--engine", "nothing"), "no engine 'nothing'"),
        (("shelf", "--out", "set", "--per-passage", "0"), "per_passage is 0"),
        (("shelf", "--out", "set", "--top", "0"), "top is 0"),
    ],
)
def test_bad_requests_are_one_sentence(
    fathom: Fathom, shelf: Path, monkeypatch: Any, words: tuple[str, ...], said: str
) -> None:
    monkeypatch.chdir(shelf.parent)
    done = fathom("data", "write", *words, code=2)
    assert said in done.stderr and len(done.stderr.strip().splitlines()) == 1
    assert not (shelf.parent / "set").exists()
