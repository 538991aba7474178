"""`fathom eval tune --collection` and `fathom index rerank` with the shipped reranker (only the embedding is a fake):
what is found is kept where that is asked for, and searches, answers and measurements follow it."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from app.assistance import Assistance
from app.build import open_collection
from app.cli import app
from app.settings import load_settings
from retrieval.embedding.load import EmbeddingSettings
from retrieval.errors import MissingError
from retrieval.rewriting.plans import WithPrevious

pytestmark = pytest.mark.slow
Fathom = Callable[..., Any]
GOODS = ("anchor", "basket", "candle", "drum", "engine", "feather", "gate", "hammer")


@pytest.fixture
def fathom(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hashing_embedder: Any) -> Fathom:
    monkeypatch.setattr("retrieval.embedding.load.load_embedder", lambda settings: hashing_embedder)
    monkeypatch.setattr("retrieval.embedding.openvino_backend.SELF_TEST_SECONDS", 0.05)
    monkeypatch.setenv("FATHOM_ASSIST_RERANK_SECONDS", "500")
    monkeypatch.setenv("FATHOM_EMBEDDING_CACHE", str(EmbeddingSettings().cache_folder()))  # converted there once
    shelf = tmp_path / "shelf"
    shelf.mkdir()
    for name in GOODS:
        (shelf / f"{name}.txt").write_text(f"The {name} costs nine pounds and is made by hand.")
        (shelf / f"decoy-{name}.txt").write_text(f"The {name} stands beside the other {name} in the yard.")

    def call(*arguments: str, code: int = 0) -> Any:
        result = CliRunner().invoke(app, [*arguments, "--workspace", str(tmp_path / "workspace")])
        assert result.exit_code == code, result.output
        assert "Traceback" not in result.output
        return result

    call("index", "sync", str(shelf), "--collection", "shop")
    return call


@pytest.fixture
def questions(tmp_path: Path) -> Path:
    rows: list[dict[str, Any]] = [
        {
            "id": name,
            "question": f"How much does the {name} cost?",
            "answers": ["nine pounds"],
            "documents": [f"{name}.txt"],
        }
        for name in GOODS
    ]
    rows += [{"id": f"s{n}", "question": f"Who won match {n}?", "answers": [], "answerable": False} for n in (1, 2)]
    file = tmp_path / "questions.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def said(result: Any) -> Any:
    return json.loads(result.stdout)


def test_it_says_what_it_found_changes_nothing_unasked_and_keeps_it_when_asked(
    fathom: Fathom, questions: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checked = ("eval", "tune", str(questions), "--collection", "shop")
    found = said(fathom(*checked, "--json"))
    assert found["questions"] == {"answerable": 8, "unanswerable": 2, "groups": 8}
    assert found["rerank"]["reranker"] == "packaged" and found["rerank"]["now"] and not found["written"]
    cut = found["least_relevance"]
    assert cut, found["notes"]
    assert 0.0 < cut["best"] <= cut["lowest_gold"] and cut["kept"]["value"] < cut["read"] and cut["adopt"]
    assert found["changes"] and found["refusal"]["fitted_on"] == 10
    assert said(fathom("index", "rerank", "--collection", "shop", "--json"))["set_here"] is None
    shown = fathom(*checked)
    assert "Reranking with packaged: nDCG@10" in shown.output and "with --write keeps it for 'shop'" in shown.output

    written = said(fathom(*checked, "--write", "--json"))
    assert written["written"] and written["least_relevance"] == cut
    here = said(fathom("index", "rerank", "--collection", "shop", "--json"))["set_here"]
    assert here["least_relevance"] == cut["best"]
    assert said(fathom("index", "status", "--collection", "shop", "--json"))["set_here"]["reranker"] == "packaged"
    assert f"{cut['best']:g}" in fathom("index", "status", "--collection", "shop").output
    again = said(fathom(*checked, "--json"))["least_relevance"]
    assert again["now"] == cut["best"] and not again["adopt"]

    asked = ("search", "How much does the drum cost?", "--collection", "shop", "--rerank", "packaged")
    steps = said(fathom(*asked, "--json", "--steps"))
    (step,) = (step for step in steps["steps"] if step["step"] == "cut")
    assert step["did"] == "cut" and step["values"]["least"] == cut["best"]
    monkeypatch.setenv("FATHOM_ASSIST_LEAST_RELEVANCE", "0.0")  # the settings go before
    (step,) = (step for step in said(fathom(*asked, "--json", "--steps"))["steps"] if step["step"] == "cut")
    assert step["values"] == {"kept": 10, "dropped": 0, "least": 0.0} or step["values"]["dropped"] == 0
    assert "go before what is set here" in fathom("index", "rerank", "--collection", "shop").output


def test_what_a_collection_says_is_followed_by_searches_answers_and_measurements(
    fathom: Fathom, questions: Path, tmp_path: Path
) -> None:
    steps = ("search", "How much does the drum cost?", "--collection", "shop", "--json", "--steps")
    measured = ("eval", "answers", str(questions), "--collection", "shop", "--quote", "--json")
    assert "hits are not reranked" in fathom("index", "rerank", "--off", "--collection", "shop").output
    before = said(fathom(*measured))
    assert [step["step"] for step in said(fathom(*steps))["steps"]] == ["rewrite", "search"]
    assert "hits are reranked by packaged" in fathom("index", "rerank", "--on", "--collection", "shop").output
    fathom("index", "rerank", "--least", "0.999", "--collection", "shop")
    found = said(fathom(*steps))
    assert [step["step"] for step in found["steps"]] == ["rewrite", "search", "rerank", "cut"]
    assert len(found["hits"]) == 1 and found["hits"][0]["scores"]["rerank"] is not None
    answered = said(fathom("ask", "How much does the drum cost?", "--quote", "--collection", "shop", "--json"))
    assert [step["step"] for step in answered["steps"]] == ["rewrite", "search", "rerank", "cut"]
    assert "rerank" not in [step["step"] for step in said(fathom(*steps, "--rerank", "none"))["steps"]]
    after = said(fathom(*measured))  # not taken for measured already
    assert after["run"]["config_hash"] != before["run"]["config_hash"]
    used = [result["extras"]["assist"]["reranker"] for result in (before, after)]
    assert used == ["none", "packaged"]
    assert "hits are reranked by packaged" in fathom("index", "rerank", "--reset", "--collection", "shop").output
    assert [step["step"] for step in said(fathom(*steps))["steps"]] == ["rewrite", "search", "rerank"]


def test_a_reranker_that_only_the_collection_asks_for_keeps_nobody_from_searching(
    fathom: Fathom, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fathom("index", "rerank", "--on", "--collection", "shop")
    monkeypatch.setattr("retrieval.reranking.load.SHIPPED", tmp_path / "nowhere")
    asked = ("search", "How much does the drum cost?", "--collection", "shop", "--json", "--steps")
    (step,) = (step for step in said(fathom(*asked))["steps"] if step["step"] == "rerank")
    assert step["skipped"] == "no_engine"
    assert "get the repository whole" in fathom(*asked, "--rerank", "packaged", code=1).output
    settings = load_settings(tmp_path / "workspace", flags={"assist": {"reranker": "packaged"}})
    with open_collection(settings, "shop") as opened, pytest.raises(MissingError):
        strict = Assistance(settings)
        strict.load(WithPrevious(), strict.finding_in(opened))


def test_wrong_usage_is_said_in_words(fathom: Fathom, questions: Path, tmp_path: Path) -> None:
    checked = ("eval", "tune", str(questions), "--collection", "shop")
    assert "--trials is not for --collection" in fathom(*checked, "--trials", "3", code=2).output
    assert "--over is not for --collection" in fathom(*checked, "--over", "k=3", code=2).output
    assert "exclude each other" in fathom(*checked, "--write", "--dry-run", code=2).output
    assert "name it with --collection" in fathom("eval", "tune", str(questions), "--write", code=2).output
    few = tmp_path / "few.jsonl"
    few.write_text("".join(questions.read_text().splitlines(keepends=True)[:3]))
    assert "has 3 questions" in fathom("eval", "tune", str(few), "--collection", "shop", code=2).output
    none = fathom(*checked, "--reranker", "none").output
    assert "no reranker was asked" in none and "Reranking with" not in none
    assert "no collection 'shed'" in fathom("eval", "tune", str(questions), "--collection", "shed", code=1).output
    assert "give it alone" in fathom("index", "rerank", "--on", "--reset", code=2).output
    fathom("index", "rerank", "--least", "1.5", code=2)


def test_what_is_kept_and_cannot_be_read_can_be_taken_back(fathom: Fathom, tmp_path: Path) -> None:
    settings = load_settings(tmp_path / "workspace")
    with open_collection(settings, "shop", write=True) as opened, opened.catalogue.transaction():
        opened.catalogue.set_setting("tuned", "{")
    search = ("search", "How much does the drum cost?", "--collection", "shop")
    assert "index rerank --reset" in " ".join(fathom(*search, code=1).output.split())
    fathom("index", "rerank", "--reset", "--collection", "shop")
    fathom(*search)
