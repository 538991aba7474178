"""`fathom eval retrieval`: the JSON contract, the tables, and what is said of bad input before anything runs."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from scripted_judge import ScriptedJudge
from scripted_llm import ScriptedLLM
from typer.testing import CliRunner

from app.cli import app

Fathom = Callable[..., Any]
TEXTS = {
    "pump.md": "Replace the membrane of the dosing pump after 4,000 hours of operation.",
    "tides.txt": "Tides are caused by the moon. Spring tides come at full moon.",
    "离心机.txt": "每次使用后用百分之七十的酒精擦拭转子室。",
}


@pytest.fixture
def fathom(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hashing_embedder: Any) -> Fathom:
    """Runs a command; only the embedding model is a fake."""
    monkeypatch.setattr("retrieval.embedding.load.load_embedder", lambda settings: hashing_embedder)

    def call(*arguments: str, code: int = 0, **environment: str) -> Any:
        given = [*arguments, "--workspace", str(tmp_path / "w")]
        result = CliRunner().invoke(app, given, env=environment, terminal_width=200)
        assert result.exit_code == code, result.output
        assert "Traceback" not in result.output
        return result

    return call


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    folder = tmp_path / "dataset"
    (folder / "qrels").mkdir(parents=True)
    corpus = [{"_id": name, "title": "", "text": text} for name, text in TEXTS.items()]
    queries = [{"_id": "q1", "text": "membrane hours"}, {"_id": "q2", "text": "酒精擦拭"}]
    (folder / "corpus.jsonl").write_text("\n".join(map(json.dumps, corpus)))
    (folder / "queries.jsonl").write_text("\n".join(map(json.dumps, queries)))
    rows = "query-id\tcorpus-id\tscore\nq1\tpump.md\t1\nq2\t离心机.txt\t1\n"
    (folder / "qrels" / "test.tsv").write_text(rows, encoding="utf-8")
    return folder


def test_the_json_holds_metrics_intervals_and_the_run(fathom: Fathom, dataset: Path) -> None:
    found = json.loads(fathom("eval", "retrieval", str(dataset), "--pipeline", "lexical", "--json").stdout)
    assert found["metrics"]["nDCG@10"] == found["metrics"]["MRR@10"] == found["metrics"]["RR@10"] == 1.0
    assert {"Recall@10", "Recall@100", "R@10", "R@100", "MAP", "judged@10", "Judged@10"} <= set(found["metrics"])
    assert found["intervals"].keys() == found["metrics"].keys()
    assert found["counts"]["items"] == found["counts"]["done"] == 2
    assert found["timings"]["total"]["p50"] > 0
    assert found["run"]["settings"]["pipeline"] == "lexical"
    assert found["extras"]["split"] == "test" and found["extras"]["index"]["documents"] == 3
    assert (Path(found["run"]["folder"]) / "metrics.json").is_file()
    (runs,) = Path(found["run"]["folder"]).glob("parts/*/lexical.trec")
    assert runs.read_text(encoding="utf-8").splitlines()[0].split()[:4] == ["q1", "Q0", "pump.md", "1"]


def test_the_default_is_the_hybrid_with_its_legs_beside(fathom: Fathom, dataset: Path) -> None:
    metrics = json.loads(fathom("eval", "retrieval", str(dataset), "--json").stdout)["metrics"]
    assert {"nDCG@10", "lexical:nDCG@10", "dense:nDCG@10"} <= set(metrics)
    shown = fathom("eval", "retrieval", str(dataset), "--fresh").stdout.splitlines()
    assert shown[0].split("\t")[:3] == ["measure", "value", "95 % interval"]
    assert any(line.startswith("nDCG@10\t1.000\t") for line in shown)
    assert "before the last stage\tlexical\tdense" in shown


def test_whole_documents_and_passages_are_both_reported(fathom: Fathom, dataset: Path) -> None:
    whole = ("eval", "retrieval", str(dataset), "--pipeline", "lexical", "--whole-documents")
    found = json.loads(fathom(*whole, "--json").stdout)
    assert found["metrics"]["nDCG@10"] == found["passages"]["metrics"]["nDCG@10"] == 1.0
    assert found["passages"]["intervals"]["Recall@10"]
    assert "in ordinary passages\tpassages" in fathom(*whole).stdout.splitlines()


def test_a_dry_run_says_what_would_be_done(fathom: Fathom, dataset: Path, tmp_path: Path) -> None:
    shown = fathom("eval", "retrieval", str(dataset), "--limit", "1", "--dry-run").stdout
    assert "1 queries of dataset (test), 3 documents; 1 query beyond the limit left out" in shown
    assert not list((tmp_path / "w").glob("runs/*/parts"))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--pipeline", "fuzzy"], "no pipeline 'fuzzy'"),
        (["--split", "none"], "no split 'none'"),
        (["--k", "0"], "k is a number from 1"),
        (["--pipeline", "hybrid+rerank"], "no reranker is named"),
        (["--topics", "nothing.txt"], "not a file"),
    ],
)
def test_wrong_requests_end_with_2(fathom: Fathom, dataset: Path, arguments: list[str], words: str) -> None:
    assert words in fathom("eval", "retrieval", str(dataset), *arguments, code=2).output


def test_a_broken_dataset_is_named_with_file_and_line(fathom: Fathom, dataset: Path, tmp_path: Path) -> None:
    fathom("eval", "retrieval", str(dataset / "none"), code=2)
    (dataset / "qrels" / "test.tsv").write_text("q1\tpump.md\tmuch\n")
    said = " ".join(fathom("eval", "retrieval", str(dataset), code=1).output.split())
    assert "test.tsv: line 1: the grade 'much' is not a whole number" in said
    assert not list((tmp_path / "w").glob("runs/*/parts"))


def test_a_language_model_reranks_and_its_cost_is_told(
    fathom: Fathom, dataset: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    llm = ScriptedJudge(weigh=lambda text: 0.9 if "membrane" in text.split("<passage")[1] else 0.1, batches=[])
    monkeypatch.setattr("app.build.engine_named", lambda settings, name: llm)
    asked = ("eval", "retrieval", str(dataset), "--pipeline", "lexical+rerank", "--reranker", "llm")
    found = json.loads(fathom(*asked, "--json").stdout)
    assert found["metrics"]["nDCG@10"] == 1.0 and sum(llm.batches) >= 2
    assert found["extras"]["reranking"]["a_query"]["prompt_tokens"] > 20
    assert found["extras"]["reranker"]["kind"] == "llm pointwise"
    assert "tokens read, 0 tokens written" in " ".join(fathom(*asked, "--fresh").output.split())
    monkeypatch.setattr("app.build.engine_named", lambda settings, name: ScriptedLLM(say=str))
    said = " ".join(fathom(*asked, "--fresh", code=2).output.split())
    assert "shows no probabilities" in said and "llm:listwise" in said
