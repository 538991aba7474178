"""A model's folder → a GGUF file: the same weights, the same tokens, the same answers in the embedded engine."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_models
from tiny_models import byte_tokenizer, save, word_tokenizer

from adapt.export import export_gguf
from retrieval.errors import DamagedError, UsageError

TEMPLATE = "{% for m in messages %}<s>{{ m.content }}{% endfor %}</s>"
TEXTS = ("the cat sat on the log. 绿茶不经过发酵", "a1 22 b's 3.5, 'll\n\n\tx  ", "<s>the</s>", "😀 é ﬁ")


def made(folder: Path, kind: str = "llama", *, tie: bool = True, rows: int = 0, tokenizer: Any = None) -> Path:
    """A tiny model; `rows` more rows than tokens."""
    import torch
    import transformers

    torch.set_num_threads(1)
    torch.manual_seed(3)
    tokenizer = tokenizer or byte_tokenizer()
    tokenizer.chat_template = TEMPLATE
    sizes = tiny_models.sizes(tokenizer) | {
        "vocab_size": len(tokenizer) + rows,
        "hidden_size": 64,
        "intermediate_size": 96,
        "max_position_embeddings": 512,
        "initializer_range": 0.1,
        "tie_word_embeddings": tie,
    }
    name = {"llama": "Llama", "qwen2": "Qwen2", "qwen3": "Qwen3", "gpt2": "GPT2"}[kind]
    if kind == "qwen3":
        sizes["head_dim"] = 32
    model = getattr(transformers, f"{name}ForCausalLM" if kind != "gpt2" else "GPT2LMHeadModel")(
        getattr(transformers, f"{name}Config")(**sizes)
    )
    for parameter, values in model.named_parameters():
        if parameter.endswith(".bias"):
            torch.nn.init.normal_(values, std=0.3)
    return save(folder, model.eval(), tokenizer)


def logits(folder: Path) -> Any:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    ids = AutoTokenizer.from_pretrained(folder)(TEXTS[0], return_tensors="pt")["input_ids"]
    with torch.no_grad():
        return AutoModelForCausalLM.from_pretrained(folder)(ids).logits[0].numpy(), ids


@pytest.mark.parametrize(("kind", "tie"), [("llama", True), ("llama", False), ("qwen2", True)])
def test_transformers_reads_the_same_model_out_of_the_file(tmp_path: Path, kind: str, tie: bool) -> None:
    import torch

    from eval.models.language_models import load_parts, locate

    folder = made(tmp_path / "model", kind, tie=tie)
    before, ids = logits(folder)
    for wanted, far in (("f16", 0.01), ("q8_0", 0.2)):
        file = export_gguf(folder, tmp_path / f"{wanted}.gguf", kind=wanted)  # type: ignore[arg-type]
        model, _, _ = load_parts(locate(str(file)), cache=tmp_path / "cache")
        with torch.no_grad():
            after = model(ids).logits[0].numpy()
        assert np.abs(after - before).max() < far, wanted
        assert np.corrcoef(after.ravel(), before.ravel())[0, 1] > 0.999
    assert sorted(file.name for file in tmp_path.glob("*gguf*")) == ["f16.gguf", "q8_0.gguf"]


def test_the_header_says_what_the_readers_need(tmp_path: Path) -> None:
    import gguf

    from app.engines.gguf import read_header

    folder = made(tmp_path / "medical", rows=20)
    file = export_gguf(folder, tmp_path / "m.gguf")
    header = read_header(file)
    assert (header.architecture, header.name, header.context_length) == ("llama", "medical", 512)
    assert header.chat_template == TEMPLATE
    assert header.metadata["tokenizer.ggml.bos_token_id"] == 0 and header.metadata["tokenizer.ggml.eos_token_id"] == 1
    reader = gguf.GGUFReader(file)
    shapes = {tensor.name: tensor.shape.tolist() for tensor in reader.tensors}
    assert shapes["token_embd.weight"] == [64, 300], "rows of padding are left out"
    assert "output.weight" not in shapes
    assert {tensor.tensor_type.name for tensor in reader.tensors} == {"F32", "Q8_0"}
    kinds = reader.fields["tokenizer.ggml.token_type"].contents()
    assert kinds[:2] == [3, 3] and set(kinds[2:]) == {1}


def test_what_a_gguf_cannot_say_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="of the kind 'gpt2'"):
        export_gguf(made(tmp_path / "gpt2", "gpt2"), tmp_path / "m.gguf")
    with pytest.raises(UsageError, match="no byte-level BPE"):
        export_gguf(made(tmp_path / "words", tokenizer=word_tokenizer()), tmp_path / "m.gguf")
    stretched = made(tmp_path / "stretched")
    config = json.loads((stretched / "config.json").read_text())
    config["rope_parameters"] = {"rope_type": "yarn", "factor": 4.0, "rope_theta": 10000.0}
    (stretched / "config.json").write_text(json.dumps(config))
    with pytest.raises(UsageError, match="stretches its positions"):
        export_gguf(stretched, tmp_path / "m.gguf")
    odd = made(tmp_path / "odd")
    tokenizer = json.loads((odd / "tokenizer.json").read_text())
    tokenizer["pre_tokenizer"] = {"type": "Whitespace"}
    (odd / "tokenizer.json").write_text(json.dumps(tokenizer))
    with pytest.raises(UsageError, match="splits text in a way"):
        export_gguf(odd, tmp_path / "m.gguf")
    (odd / "tokenizer.json").write_text("{")
    with pytest.raises(DamagedError, match="cannot be read"):
        export_gguf(odd, tmp_path / "m.gguf")
    assert list(tmp_path.glob("*.gguf*")) + list(tmp_path.glob(".*")) == []


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["llama", "qwen2", "qwen3"])
def test_the_embedded_engine_reads_the_same_tokens_and_writes_the_same_answer(tmp_path: Path, kind: str) -> None:
    import openvino
    import openvino_genai
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from app.engines.loading import load_model

    folder = made(tmp_path / "model", kind)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    ids = tokenizer("the cat sat on the")["input_ids"]
    loaded = load_model(export_gguf(folder, tmp_path / "m.gguf", kind="f16"))
    for text in TEXTS:
        read = loaded.tokenizer.encode(text, add_special_tokens=False).input_ids.data.tolist()[0]
        assert read == tokenizer(text, add_special_tokens=False)["input_ids"], text
    wanted = openvino_genai.GenerationConfig()
    wanted.max_new_tokens, wanted.do_sample, wanted.ignore_eos = 12, False, True
    found = loaded.pipeline.generate(openvino.Tensor(np.array([ids], dtype=np.int64)), wanted)
    written = list(found.tokens[0])
    with torch.no_grad():
        told = AutoModelForCausalLM.from_pretrained(folder)(torch.tensor([ids + written])).logits[0]
    told = told[len(ids) - 1 : -1]
    # OpenVINO computes in bf16, so that of two tokens that are all but equally likely it may take the other one.
    behind = [float(row.max() - row[token]) for row, token in zip(told, written, strict=True)]
    assert len(written) == 12 and max(behind) < 0.05, behind
    assert float(told.std()) > 0.4, "a token taken at random would be far behind"
