"""What 4 bits cost and which layers give it back, on a tiny model of which 4 bits change one layer alone."""

import json
from pathlib import Path

import pytest
import torch
from tiny_models import byte_tokenizer, llama, save

from adapt.experiments.__main__ import main
from adapt.experiments.four_bits_table import fill_four_bits
from retrieval.errors import UsageError

torch.set_num_threads(1)


def made(folder: Path) -> tuple[Path, Path]:
    """A model whose first layer is all zeros, which 4 bits hold exactly; and texts."""
    tokenizer = byte_tokenizer()
    model = llama(tokenizer)
    with torch.no_grad():
        for weight in model.model.layers[0].parameters():
            weight.zero_()
    texts = folder / "texts"
    texts.mkdir()
    for number in range(12):
        (texts / f"{number}.md").write_text(f"# Text {number}\n\n" + f"The cat {number} sat on the mat. " * 40)
    return save(folder / "model", model, tokenizer), texts


def test_what_gives_back_most_for_its_weights_is_chosen_within_the_share(tmp_path: Path) -> None:
    pytest.importorskip("bitsandbytes")
    model, texts = made(tmp_path)
    words = ["four-bits", "--model", str(model), "--texts", str(texts), "--out", str(tmp_path / "out")]
    assert main([*words, "--tokens", "300", "--share", "0.75", "--cache", str(tmp_path / "cache")]) == 0
    told = json.loads((tmp_path / "out" / "four-bits.json").read_text("utf-8"))
    names = [row["wide"] for row in told["rows"]]
    assert names[-2:] == ["layers.0", "layers.1"] and "down_proj" in names and len(names) == 9
    gives = {row["wide"]: row["gives_back"] for row in told["rows"]}
    assert gives["layers.0"] == 0 and gives["layers.1"] == pytest.approx(1)
    assert told["held"] <= 0.75 and "layers.0" not in told["wide"]
    assert told["loss"]["whole"] != told["loss"]["nf4"]
    assert "of the memory of 16 bits" in (tmp_path / "out" / "four-bits.md").read_text("utf-8")
    with pytest.raises(UsageError, match="ask for a larger share"):
        fill_four_bits(model, texts=texts, tokens=300, share=0.1, out=tmp_path / "o", progress=lambda *_: None)
    with pytest.raises(UsageError, match="were asked for"):
        fill_four_bits(model, texts=texts, tokens=90_000, share=0.7, out=tmp_path / "o", progress=lambda *_: None)
