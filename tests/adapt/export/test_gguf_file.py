"""A model's folder → a GGUF file: the same weights and the same tokens in transformers, llama.cpp and OpenVINO."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from made_exports import TEMPLATE, TEXTS, made_model, tokenizer_of
from tiny_models import word_tokenizer

from adapt.experiments.export_readers import ask_llama_cpp
from adapt.export.gguf_file import KINDS, NOT_EMBEDDED, Kind, export_gguf
from adapt.export.gguf_vocabulary import read_vocabulary
from adapt.vocabulary.byte_level import ByteLevelBpe
from adapt.vocabulary.phrases import joining
from retrieval.errors import DamagedError, MissingError, UsageError

ROOT = Path(__file__).resolve().parents[3]
FAMILIES = [("llama", True), ("llama", False), ("qwen2", True), ("qwen2", False), ("qwen3", True), ("qwen3", False)]


def llama_cpp(files: list[Path], **asked: Any) -> dict[Path, Any]:
    """Tokens, logits and greedy texts by llama.cpp itself, in its own environment."""
    said = {}
    for file in files:
        try:
            told, values = ask_llama_cpp(file, asked)
        except MissingError as error:
            pytest.skip(str(error))
        said[file] = told | {"logits": values}
    return said


def logits(folder: Path, ids: list[int], gguf: str | None = None) -> Any:
    import torch
    from transformers import AutoModelForCausalLM, GgufConfig

    options = {"gguf_file": gguf, "quantization_config": GgufConfig(gguf_file=gguf, dequantize=True)} if gguf else {}
    with torch.no_grad():
        return AutoModelForCausalLM.from_pretrained(folder, **options)(torch.tensor([ids])).logits[0].numpy()


def written_by(model: Any, tokenizer: Any, texts: list[str], count: int) -> list[list[int]]:
    """Greedy, all texts at once; the end of a text ends nothing."""
    model.generation_config.eos_token_id = None
    asked = tokenizer(texts, return_tensors="pt", padding=True, padding_side="left")
    told = model.generate(**asked, do_sample=False, max_new_tokens=count)
    return told[:, asked["input_ids"].shape[1] :].tolist()


@pytest.mark.parametrize(("kind", "tie"), FAMILIES)
def test_transformers_reads_the_same_model_out_of_the_file(tmp_path: Path, kind: str, tie: bool) -> None:
    tokenizer = tokenizer_of("qwen2")
    folder = made_model(tmp_path / "model", kind, tokenizer, tie_word_embeddings=tie)
    ids = tokenizer(TEXTS[0])["input_ids"]
    before = logits(folder, ids)
    far: dict[Kind, float] = {"f16": 0.002, "q8_0": 0.04, "q4_1": 0.5, "q4_0": 0.5}
    for wanted, limit in far.items():
        export_gguf(folder, tmp_path / f"{wanted}.gguf", kind=wanted)
        difference = logits(tmp_path, ids, f"{wanted}.gguf") - before
        assert np.sqrt((difference**2).mean()) < limit * before.std(), wanted
        assert wanted != "f16" or np.abs(difference).max() < 0.01
    assert sorted(file.name for file in tmp_path.glob("*gguf*")) == sorted(f"{wanted}.gguf" for wanted in KINDS)


@pytest.mark.slow
@pytest.mark.parametrize("split", ["gpt2", "smollm", "qwen2", "llama-bpe"])
def test_llama_cpp_reads_the_same_tokens_and_computes_the_same_logits(tmp_path: Path, split: str) -> None:
    tokenizer = tokenizer_of(split)
    ids = list(range(20, 60))
    folders, files = {}, {}
    for kind, tie in FAMILIES:
        if kind == "qwen2" and split != "qwen2":
            continue  # transformers gives every qwen2 Qwen's way to split
        folders[kind, tie] = made_model(tmp_path / f"{kind}{tie}", kind, tokenizer, tie_word_embeddings=tie)
        files[kind, tie] = tmp_path / f"{kind}{tie}.gguf"
        export_gguf(folders[kind, tie], files[kind, tie], kind="f16")
    said = llama_cpp(list(files.values()), texts=TEXTS, ids=[ids])
    for which, file in files.items():
        wanted = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in TEXTS]
        assert said[file]["tokens"] == wanted, which
        told = np.array(said[file]["logits"][0])
        assert np.abs(told - logits(folders[which], ids)).max() < 0.02, which


@pytest.mark.parametrize("kind", ["llama", "qwen2", "qwen3"])
def test_the_embedded_engine_reads_the_same_tokens_and_writes_the_same_answer(tmp_path: Path, kind: str) -> None:
    import openvino
    import openvino_genai
    import torch

    from app.engines.loading import load_model

    tokenizer = tokenizer_of("qwen2" if kind != "llama" else "smollm")
    folder = made_model(tmp_path / "model", kind, tokenizer)
    ids = tokenizer("the cat sat on the")["input_ids"]
    wanted = openvino_genai.GenerationConfig()
    wanted.max_new_tokens, wanted.do_sample, wanted.ignore_eos = 12, False, True
    # q4_1 is not among them: OpenVINO 2026.4 holds the lowest value of each block as a whole number of steps (0.8 off).
    kinds: tuple[Kind, ...] = ("f16", "q8_0", "q4_0")
    for precision in kinds:
        file = tmp_path / f"{precision}.gguf"
        assert export_gguf(folder, file, kind=precision) is None
        loaded = load_model(file)
        for text in TEXTS:
            read = loaded.tokenizer.encode(text, add_special_tokens=False).input_ids.data.tolist()[0]
            assert read == tokenizer(text, add_special_tokens=False)["input_ids"], text
        (found,) = loaded.pipeline.generate([openvino.Tensor(np.array([ids], dtype=np.int64))], [wanted])
        written = list(found.m_generation_ids[0])
        told = torch.tensor(logits(tmp_path, ids + written, file.name)[len(ids) - 1 : -1])
        # OpenVINO computes in bf16, so that of two tokens that are all but equally likely it may take the other one.
        behind = [float(row.max() - row[token]) for row, token in zip(told, written, strict=True)]
        assert len(written) == 12 and max(behind) < 0.2, (precision, behind)
        assert float(told.std()) > 0.4, "a token taken at random would be far behind"


@pytest.mark.parametrize("split", ["gpt2", "llama-bpe"])
def test_a_file_whose_text_the_embedded_engine_would_split_otherwise_says_so_and_is_refused_there(
    tmp_path: Path, split: str
) -> None:
    from app.engines.gguf import read_header
    from app.engines.loading import load_model

    folder = made_model(tmp_path / "model", "llama", tokenizer_of(split))
    reason = export_gguf(folder, tmp_path / "m.gguf")
    assert reason is not None and "splits text otherwise" in reason
    assert read_header(tmp_path / "m.gguf").metadata[NOT_EMBEDDED] == reason
    with pytest.raises(UsageError, match="must not run .*splits text otherwise"):
        load_model(tmp_path / "m.gguf")


def test_chinese_merges_are_no_digits(tmp_path: Path) -> None:
    """A byte of Chinese is written as ², which Python takes for a digit."""
    folder = made_model(tmp_path / "model", "llama", tokenizer_of("smollm", words=600))
    vocabulary = read_vocabulary(folder)
    assert any("²" in merge or "³" in merge or "¹" in merge for merge in vocabulary.merges)
    assert vocabulary.splitter == "smollm"


def test_the_header_says_what_the_readers_need(tmp_path: Path) -> None:
    import gguf

    from app.engines.gguf import read_header

    tokenizer = tokenizer_of("smollm")
    folder = made_model(tmp_path / "medical", "llama", tokenizer, vocab_size=len(tokenizer) + 20)
    export_gguf(folder, tmp_path / "m.gguf", kind="q4_1")
    header = read_header(tmp_path / "m.gguf")
    assert (header.architecture, header.name, header.context_length) == ("llama", "medical", 512)
    assert header.chat_template == TEMPLATE
    assert header.metadata["tokenizer.ggml.bos_token_id"] == 0 and header.metadata["tokenizer.ggml.eos_token_id"] == 2
    reader = gguf.GGUFReader(tmp_path / "m.gguf")
    shapes = {tensor.name: tensor.shape.tolist() for tensor in reader.tensors}
    assert shapes["token_embd.weight"] == [128, len(tokenizer)], "rows of padding are left out"
    assert "output.weight" not in shapes
    types = {tensor.name: tensor.tensor_type.name for tensor in reader.tensors}
    assert types["token_embd.weight"] == "Q8_0" and types["blk.0.attn_q.weight"] == "Q4_1"
    assert set(types.values()) == {"F32", "Q8_0", "Q4_1"}
    kinds = reader.fields["tokenizer.ggml.token_type"].contents()
    assert kinds[:3] == [3, 3, 3] and set(kinds[3:-2]) == {1} and kinds[-2:] == [4, 4]


def test_the_end_of_an_answer_is_that_of_the_generation_settings(tmp_path: Path) -> None:
    from app.engines.gguf import read_header

    folder = made_model(tmp_path / "model", "llama", tokenizer_of("smollm"))
    (folder / "generation_config.json").write_text('{"eos_token_id": [1, 2]}')
    export_gguf(folder, tmp_path / "m.gguf")
    assert read_header(tmp_path / "m.gguf").metadata["tokenizer.ggml.eos_token_id"] == 1


def test_what_a_gguf_cannot_say_is_refused(tmp_path: Path) -> None:
    def refused(match: str, error: type[Exception] = UsageError, **config: Any) -> None:
        folder = made_model(tmp_path / "odd", "llama", tokenizer_of("smollm"))
        said = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(said | config))
        with pytest.raises(error, match=match):
            export_gguf(folder, tmp_path / "m.gguf")

    refused("of the kind 'gemma3'", model_type="gemma3")
    refused("stretches its positions", rope_parameters={"rope_type": "yarn", "factor": 4.0, "rope_theta": 10000.0})
    refused("stretches its positions", rope_parameters=None, rope_scaling={"type": "linear", "factor": 2.0})
    refused("has biases", attention_bias=True)
    refused("another activation", hidden_act="gelu")
    with pytest.raises(UsageError, match="no byte-level BPE"):
        export_gguf(made_model(tmp_path / "words", "llama", word_tokenizer(), eos_token_id=0), tmp_path / "m.gguf")
    odd = made_model(tmp_path / "split", "llama", tokenizer_of("smollm"))
    tokenizer = json.loads((odd / "tokenizer.json").read_text())
    (odd / "tokenizer.json").write_text(json.dumps(tokenizer | {"pre_tokenizer": {"type": "Whitespace"}}))
    with pytest.raises(UsageError, match="splits text in a way"):
        export_gguf(odd, tmp_path / "m.gguf")
    phrases = joining(ByteLevelBpe(tokenizer, tokenizer["model"]["vocab"], {}))
    (odd / "tokenizer.json").write_text(json.dumps(tokenizer | {"pre_tokenizer": phrases}))
    with pytest.raises(UsageError, match="tokens of several words"):
        export_gguf(odd, tmp_path / "m.gguf")
    tokenizer["added_tokens"][-1]["lstrip"] = True
    (odd / "tokenizer.json").write_text(json.dumps(tokenizer))
    with pytest.raises(UsageError, match="'</think>' .* in a way \\(lstrip\\)"):
        export_gguf(odd, tmp_path / "m.gguf")
    (odd / "tokenizer.json").write_text("{")
    with pytest.raises(DamagedError, match="cannot be read"):
        export_gguf(odd, tmp_path / "m.gguf")
    assert list(tmp_path.glob("*.gguf*")) + list(tmp_path.glob(".*")) == []


@pytest.mark.parametrize("kind", ["q4_0", "q4_1", "q8_0"])
def test_weights_are_rounded_as_llama_cpp_rounds_them(kind: str) -> None:
    """By the definition, number by number: the scale in fp16, then the nearest of the steps."""
    import gguf

    weights = np.random.default_rng(0).normal(size=(1, 32)).astype(np.float32)
    packed = gguf.quants.quantize(weights, gguf.GGMLQuantizationType[kind.upper()])
    found = gguf.quants.dequantize(packed, gguf.GGMLQuantizationType[kind.upper()])[0]
    row = weights[0]
    largest = row[np.abs(row).argmax()]
    if kind == "q8_0":
        step, low, steps = abs(largest) / 127, 0.0, np.arange(-127, 128)
    elif kind == "q4_0":
        step, low, steps = largest / -8, 0.0, np.arange(-8, 8)
    else:
        step, low, steps = (row.max() - row.min()) / 15, row.min(), np.arange(16)
    values = float(np.float16(low)) + float(np.float16(step)) * steps
    for weight, got in zip(row, found, strict=True):
        assert np.abs(values - got).min() < 1e-6
        assert abs(got - weight) <= np.abs(values - weight).min() + 2e-3


@pytest.mark.slow
@pytest.mark.timeout(420)
def test_the_packaged_model_in_halves_writes_the_same_texts_everywhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SmolLM2-135M as fp16: largest difference of a logit below 0.01, and 50 greedy texts that are equal."""
    import openvino
    import openvino_genai
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from eval.baselines.vllm_server import as_safetensors
    from eval.models.packaged import packaged_model

    monkeypatch.chdir(ROOT)
    torch.set_num_threads(1)
    folder = as_safetensors(packaged_model()).absolute()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    file = tmp_path / "packaged.gguf"
    assert export_gguf(folder, file, kind="f16") is None
    words = "The sea a king my friend bread light water Paris history winter music the law a stone"
    openings = [f"{a} {b}" for a in ("Tell me about", "Why is", "In 1995") for b in words.split()] + ["水是", "def f("]
    prompts = [tokenizer(text)["input_ids"] for text in openings][:50]
    count = 8
    wanted = written_by(model, tokenizer, openings[:50], count)
    ids = [tokenizer(TEXTS[0] + TEXTS[2])["input_ids"]]
    with torch.no_grad():
        told = [model(torch.tensor([one])).logits[0].numpy() for one in ids]
    pipeline = openvino_genai.LLMPipeline(str(file), "CPU", INFERENCE_PRECISION_HINT="f32", KV_CACHE_PRECISION="f32")
    asked = openvino_genai.GenerationConfig()
    asked.max_new_tokens, asked.do_sample, asked.ignore_eos = count, False, True
    for one, ours in zip(prompts, wanted, strict=True):
        written = pipeline.generate(openvino.Tensor(np.array([one], dtype=np.int64)), asked).tokens[0]
        assert list(written) == ours, tokenizer.decode(one)
    read_back = [logits(tmp_path, one, file.name) for one in ids]
    assert max(np.abs(a - b).max() for a, b in zip(told, read_back, strict=True)) < 0.01
    said = llama_cpp([file], texts=TEXTS[:4], ids=ids, prompts=prompts, count=count)[file]
    assert said["tokens"] == [tokenizer(text)["input_ids"] for text in TEXTS[:4]]
    # llama.cpp rounds what it multiplies fp16 weights with to fp16 too: from a file with fp32 it is 8e-5 off.
    assert max(np.abs(a - np.array(b)).max() for a, b in zip(told, said["logits"], strict=True)) < 0.1
    assert said["written"] == wanted
