"""`fathom data queries` and `fathom index reembed --adapter`, from the command line."""

import json
from pathlib import Path

import pytest
from tiny_embedders import save_adapter, save_small_model
from typer.testing import CliRunner

from app.cli import app

DOCUMENTS = {
    "tides.md": "# Tides\n\nSpring tides follow the full moon. They flood the lower quay twice a month. The harbour "
    "master closes the gate before noon on those days. Boats without a pilot wait outside the mole.\n",
    "潮.md": "# 大潮手册\n\n大潮出现在满月之后。每个月有两次海水会淹没下层码头。"
    "港口管理员会在那几天的中午之前关闭闸门。船只必须在外面等待潮水退去。\n",
}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_small_model(tmp_path_factory.mktemp("model"), "bert")


@pytest.fixture
def workspace(tmp_path: Path, model: Path) -> Path:
    place = tmp_path / "ws"
    place.mkdir()
    lines = [
        "[embedding]", f'model = "{model}"', 'backend = "torch"', 'precision = "fp32"', "threads = 1",
        "[splitting]", "passage_tokens = 40", "overlap_tokens = 8", "context_tokens = 8",
    ]  # fmt: skip
    (place / "fathom.toml").write_text("\n".join(lines))
    (tmp_path / "docs").mkdir()
    for name, text in DOCUMENTS.items():
        (tmp_path / "docs" / name).write_text(text, "utf-8")
    return place


def fathom(*words: object) -> tuple[int, str]:
    result = CliRunner().invoke(app, [str(word) for word in words])
    return result.exit_code, result.output


def test_files_and_a_collection_give_pairs_in_both_languages(workspace: Path, tmp_path: Path) -> None:
    docs, out = tmp_path / "docs", tmp_path / "pairs.jsonl"
    code, said = fathom("data", "queries", docs, "--out", out, "--dry-run", "--json", "--workspace", workspace)
    plan = json.loads(said)
    assert code == 0 and plan["pairs"] > 1 and plan["dry_run"] and not out.exists()
    code, said = fathom("data", "queries", docs, "--out", out, "--json", "--workspace", workspace)
    report = json.loads(said)
    rows = [json.loads(line) for line in out.read_text("utf-8").splitlines()]
    assert code == 0 and report["pairs"] == len(rows) == plan["pairs"]
    assert {row["document"] for row in rows} == {"tides.md", "潮.md"}
    assert all(set(row) == {"query", "positive", "document", "kind"} for row in rows)
    code, said = fathom("data", "queries", docs, "--out", out, "--workspace", workspace)
    assert code == 2 and "--replace" in said


def test_a_collection_is_asked_in_its_own_passages_with_mined_negatives(workspace: Path, tmp_path: Path) -> None:
    out = tmp_path / "pairs.jsonl"
    assert fathom("index", "sync", tmp_path / "docs", "--collection", "harbour", "--workspace", workspace)[0] == 0
    code, said = fathom(
        "data", "queries", "harbour", "--out", out, "--negatives", 2, "--json", "--workspace", workspace
    )  # fmt: skip
    assert code == 0, said
    report = json.loads(said)
    assert report["documents"] == 2 and report["without_negatives"] is not None
    code, said = fathom(
        "data", "queries", "harbour", tmp_path / "docs", "--out", out, "--replace", "--workspace", workspace
    )
    assert code == 2 and "asked alone" in said


def test_what_is_wrong_is_told(workspace: Path, tmp_path: Path) -> None:
    out = tmp_path / "pairs.jsonl"
    code, said = fathom("data", "queries", tmp_path / "docs", "--out", out, "--kind", "poem", "--workspace", workspace)
    assert code == 2 and "poem" in said
    code, said = fathom("data", "queries", tmp_path / "none", "--out", out, "--workspace", workspace)
    assert code != 0 and "none" in said and "Traceback" not in said
    assert not out.exists()


def test_a_collection_moves_to_an_adapter_after_a_plan(workspace: Path, tmp_path: Path, model: Path) -> None:
    fathom("index", "sync", tmp_path / "docs", "--collection", "harbour", "--workspace", workspace)
    adapter = save_adapter(tmp_path / "adapter", model)
    move = ("index", "reembed", "--collection", "harbour", "--workspace", workspace)
    code, said = fathom(*move, "--adapter", adapter, "--dry-run", "--json")
    plan = json.loads(said)
    assert code == 0 and set(plan["changes"]) == {"model", "weights"} and plan["passages"] > 0 and not plan["resplit"]
    code, said = fathom(*move, "--adapter", adapter)
    assert code == 0 and "embedded anew" in said
    code, said = fathom("index", "status", "--collection", "harbour", "--json", "--workspace", workspace)
    assert json.loads(said)["adapter"] is True
    code, said = fathom(
        "search", "moon", "--collection", "harbour", "--mode", "dense", "--json", "--workspace", workspace
    )
    assert code == 0 and json.loads(said)
    # Without a word it keeps its own; 'none' goes back to the bare model.
    code, said = fathom(*move, "--dry-run", "--json")
    assert json.loads(said)["changes"] == {}
    code, said = fathom(*move, "--adapter", "none")
    assert code == 0
    code, said = fathom("index", "status", "--collection", "harbour", "--json", "--workspace", workspace)
    assert json.loads(said)["adapter"] is False


def test_an_adapter_that_is_none_is_told_before_anything_is_done(workspace: Path, tmp_path: Path) -> None:
    fathom("index", "sync", tmp_path / "docs", "--collection", "harbour", "--workspace", workspace)
    code, said = fathom(
        "index", "reembed", "--collection", "harbour", "--adapter", tmp_path / "docs", "--workspace", workspace
    )  # fmt: skip
    assert code == 1 and "is no embedding adapter" in said
    code, said = fathom("search", "moon", "--collection", "harbour", "--mode", "dense", "--workspace", workspace)
    assert code == 0


def test_a_setting_names_the_adapter_of_new_collections(workspace: Path, tmp_path: Path, model: Path) -> None:
    fathom("index", "sync", tmp_path / "docs", "--collection", "bare", "--workspace", workspace)
    adapter = save_adapter(tmp_path / "adapter", model)
    toml = workspace / "fathom.toml"
    toml.write_text(toml.read_text().replace("[embedding]", f'[embedding]\nadapter = "{adapter}"'))
    fathom("index", "sync", tmp_path / "docs", "--collection", "tuned", "--workspace", workspace)
    code, said = fathom("index", "status", "--collection", "tuned", "--json", "--workspace", workspace)
    assert json.loads(said)["adapter"] is True
    code, said = fathom("search", "moon", "--collection", "bare", "--mode", "dense", "--workspace", workspace)
    assert code == 1 and "fathom index reembed --collection bare" in said
