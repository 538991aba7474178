"""The table of domain tokens is what the stage itself does, written as JSON and Markdown."""

import json
from pathlib import Path

import pytest
import torch
from domain_words import Domain, tokenizer
from tiny_models import save, sizes

from adapt.experiments.vocabulary_table import main
from adapt.vocabulary import extending
from retrieval.errors import UsageError


def _base(folder: Path) -> Path:
    from transformers import LlamaConfig, LlamaForCausalLM

    words = tokenizer("gpt2")
    torch.manual_seed(0)
    return save(folder, LlamaForCausalLM(LlamaConfig(**sizes(range(len(words))))), words)


def test_savings_grow_with_tokens_and_nothing_is_longer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(extending, "STRANGE", 100)
    texts = tmp_path / "texts.jsonl"
    rows = [json.dumps({"id": document.id, "text": document.text}) for document in Domain(size=120).texts()]
    texts.write_text("\n".join(rows), encoding="utf-8")
    words = ["--texts", str(texts), "--out", str(tmp_path / "out"), "--model", str(_base(tmp_path / "base"))]
    words += ["--tokens", "10", "30", "--measure", "20", "--warm-tokens", "1000", "--block", "24"]
    words += ["--general", str(texts), "--replay-share", "0.3", "--words-at-most", "5"]
    page = main([*words, "--batch-tokens", "100", "--lr", "0.01", "--limit-bytes", "4000"]).read_text()
    found = json.loads((tmp_path / "out" / "vocabulary.json").read_text())
    small, large = found["savings"]
    assert 0 < small["saving_held_out"] < large["saving_held_out"] < 0.9
    assert small["longer"] == large["longer"] == 0 and small["added"] <= 10 < large["added"] <= 30
    base, mean, warmed = found["bits_per_byte"]
    assert mean["tokens_per_byte"] == warmed["tokens_per_byte"] < base["tokens_per_byte"]
    assert warmed["bits_per_byte"] < mean["bits_per_byte"]
    assert warmed["bits_per_byte_general"] < mean["bits_per_byte_general"] and "general bits/byte" in page
    assert small["phrases"] < small["added"] and large["phrases"] > 0
    assert f"{large['saving_held_out']:.2%}" in page and "after warm-up" in page


def test_texts_too_few_to_hold_some_out_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "one.txt"
    file.write_text("one text", encoding="utf-8")
    with pytest.raises(UsageError, match="too few documents"):
        main(["--texts", str(file), "--out", str(tmp_path / "out"), "--model", str(_base(tmp_path / "base"))])
