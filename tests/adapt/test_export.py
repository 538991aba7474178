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
TEXTS = (
    "the cat sat on the log. 绿茶不经过发酵",
    "it isn't the cat's; they'LL say a1 22 b's 3.5, 'll\n\n\tx  ",
    "\n\n\tdef f():\r\n\r\n    return (x)==y //é ﬁ 绿茶，发酵。",
    "<s>the</s>",
    "😀 é ﬁ   and   so",
)


def english_tokenizer() -> Any:
    """Byte-level BPE that has learnt whole words, 't and 's among them: who splits text otherwise shows."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=["<s>", "</s>"], initial_alphabet=alphabet, show_progress=False
    )
    text = "it isn't the cat's log;; they'll say: (x) == y,  and   so\n\n\tdef f():\n    return 绿茶，发酵。"
    tokenizer.train_from_iterator([text] * 20, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>")


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
    name = {"llama": "Llama", "qwen2": "Qwen2"}[kind]
    model = getattr(transformers, f"{name}ForCausalLM")(getattr(transformers, f"{name}Config")(**sizes))
    return save(folder, model.eval(), tokenizer)


def logits(folder: Path) -> Any:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    ids = AutoTokenizer.from_pretrained(folder)(TEXTS[0], return_tensors="pt")["input_ids"]
    with torch.no_grad():
        return AutoModelForCausalLM.from_pretrained(folder)(ids).logits[0].numpy(), ids


@pytest.mark.parametrize("tie", [True, False])
def test_transformers_reads_the_same_model_out_of_the_file(tmp_path: Path, tie: bool) -> None:
    import torch

    from eval.models.language_models import load_parts, locate

    folder = made(tmp_path / "model", tie=tie)
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
    with pytest.raises(UsageError, match="of the kind 'qwen2'"):
        export_gguf(made(tmp_path / "qwen2", "qwen2"), tmp_path / "m.gguf")
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
def test_the_embedded_engine_reads_the_same_tokens_and_writes_the_same_answer(tmp_path: Path) -> None:
    import openvino
    import openvino_genai
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from app.engines.loading import load_model

    folder = made(tmp_path / "model", tokenizer=english_tokenizer())
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert "'t" in tokenizer.get_vocab()
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
