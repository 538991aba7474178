"""The table of exports on a tiny model: what each reader of a GGUF file computes and writes beside the model itself."""

import json
from pathlib import Path

import pytest
import torch
from made_exports import made_model, tokenizer_of

from adapt.experiments import export_readers, export_table
from adapt.experiments.__main__ import main
from retrieval.errors import MissingError

torch.set_num_threads(1)
HANDBOOK = Path(__file__).parents[3] / "data" / "handbook" / "questions.jsonl"


def test_each_kind_stands_beside_the_model_in_each_reader(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def gone(file: Path, asked: export_readers.Asked) -> export_readers.Said:
        raise MissingError("llama.cpp is not installed")

    monkeypatch.setattr(export_table, "READERS", {**export_readers.READERS, "llama.cpp": gone})
    folder = made_model(tmp_path / "model", "llama", tokenizer_of("smollm"))
    words = ["export", "--model", str(folder), "--out", str(tmp_path / "out"), "--questions", str(HANDBOOK)]
    words += ["--prompts", "3", "--count", "4", "--kinds", "f16", "q8_0", "q4_1", "--cache", str(tmp_path / "cache")]
    assert main(words) == 0
    told = json.loads((tmp_path / "out" / "export.json").read_text("utf-8"))
    rows = {(row["kind"], row["reader"]): row for row in told["rows"]}
    assert len(rows) == 9 and told["prompts"] == 3
    assert rows["f16", "llama.cpp"]["skipped"] == "llama.cpp is not installed"
    own = {kind: rows[kind, "transformers"]["model"] for kind in ("f16", "q8_0", "q4_1")}
    assert own["f16"]["relative"] < own["q8_0"]["relative"] < own["q4_1"]["relative"]
    assert own["f16"]["most"] < 0.01 and own["f16"]["same"] == 3
    read = {kind: rows[kind, "OpenVINO GenAI"]["file"] for kind in own}
    assert read["q8_0"]["most"] < 1e-4 and read["q8_0"]["same"] == 3
    assert read["q4_1"]["most"] > 0.1, (
        "OpenVINO no longer rounds the lowest value of a block; say so in docs/serving.md"
    )
    text = (tmp_path / "out" / "export.md").read_text("utf-8")
    assert "| 3 of 3 |" in text and "skipped: llama.cpp is not installed" in text
    assert sorted(file.name for file in (tmp_path / "out").iterdir()) == ["export.json", "export.md"]


def test_too_few_questions_are_said(tmp_path: Path) -> None:
    folder = made_model(tmp_path / "model", "llama", tokenizer_of("smollm"))
    words = ["export", "--model", str(folder), "--out", str(tmp_path / "out"), "--questions", str(HANDBOOK)]
    assert main([*words, "--prompts", "100000", "--cache", str(tmp_path / "cache")]) == 2
    assert not (tmp_path / "out").exists()
