"""`fathom adapt plan|run` of a recipe for an encoder: its plan, its run and its refusals on the screen and as JSON."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fakes import HashingEmbedder
from tiny_encoders import save_encoder

Fathom = Callable[..., Any]
SUBJECTS = "tides moon bread flour water salt yeast index data pump".split()


@pytest.fixture
def recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr("retrieval.embedding.openvino_backend.SELF_TEST_SECONDS", 0.05)
    monkeypatch.setattr("app.build.embedder", lambda settings: HashingEmbedder)
    base = save_encoder(tmp_path / "tiny-encoder")
    rows = [
        {"query": f"the {one} {other} by", "positive": f"are {one} caused {other} are {one}"}
        for one in SUBJECTS
        for other in SUBJECTS
        if one != other
    ]
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    file = tmp_path / "mine.yaml"
    file.write_text(
        f"encoder: reranker\nbase: {json.dumps(str(base))}\nmax_tokens: 32\nheld_out: 0.3\nepochs: 0.3\n"
        "data: {pairs: {path: pairs.jsonl, kind: pairs}}\n"
    )
    return file


def test_a_plan_counts_and_a_run_leaves_a_folder_for_the_reranker(recipe: Path, fathom: Fathom, tmp_path: Path) -> None:
    plan = json.loads(fathom("adapt", "plan", str(recipe), "--json").stdout)
    (source,) = plan["sources"]
    assert (source["learned"] + source["held_out"], source["texts"]) == (90, 90)
    shown = fathom("adapt", "run", str(recipe), "--dry-run")
    assert "pairs\tpairs" in shown.stdout
    assert not (tmp_path / "w" / "runs").exists()
    done = fathom("adapt", "run", str(recipe), "--run", "first")
    assert "nDCG@10 calibrated" in done.stdout
    assert "--reranker" in done.stderr
    again = json.loads(fathom("adapt", "run", str(recipe), "--run", "first", "--json").stdout)
    assert again["run"]["status"] == "finished"
    assert Path(again["result"], "fathom.json").is_file()


def test_a_gate_that_is_not_passed_ends_with_1(recipe: Path, fathom: Fathom) -> None:
    done = fathom("adapt", "run", str(recipe), "--set", 'gates=["nDCG@10 >= 1.0"]', code=1)
    assert "is not passed" in done.stderr


def test_what_cannot_be_is_refused_in_a_sentence(recipe: Path, fathom: Fathom) -> None:
    text = recipe.read_text()
    recipe.write_text(text.replace("encoder: reranker", "encoder: ranker"))
    assert "did you mean 'reranker'" in fathom("adapt", "run", str(recipe), code=2).stderr
    recipe.write_text(text)
    assert "name stages" in fathom("adapt", "run", str(recipe), "--from", "sft", code=2).stderr
    missing = fathom("adapt", "plan", str(recipe), "--data", "pairs=nowhere.jsonl", code=2)
    assert "there is no" in missing.stderr
