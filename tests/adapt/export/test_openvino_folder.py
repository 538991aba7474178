"""A model's folder → an OpenVINO folder that the embedded engine runs, however text is split or positions stretched."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from made_exports import TEMPLATE, TEXTS, greedy, made_model, tokenizer_of

from adapt.export.openvino_folder import export_openvino

LLAMA3 = {
    "rope_type": "llama3", "rope_theta": 10000.0, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}  # fmt: skip


@pytest.mark.parametrize(
    ("kind", "split", "options"), [("llama", "llama-bpe", {"rope_parameters": LLAMA3}), ("qwen3", "qwen2", {})]
)
def test_the_embedded_engine_reads_and_writes_as_transformers_does(
    tmp_path: Path, kind: str, split: str, options: dict[str, Any]
) -> None:
    import openvino
    import openvino_genai
    from transformers import AutoModelForCausalLM

    from app.engines.loading import load_model

    tokenizer = tokenizer_of(split)
    folder = made_model(tmp_path / "model", kind, tokenizer, **options)
    export_openvino(folder, tmp_path / "out", cache=tmp_path / "cache")
    loaded = load_model(tmp_path / "out")
    assert loaded.tokenizer.chat_template == TEMPLATE and loaded.context_window == 512
    for text in TEXTS:
        read = loaded.tokenizer.encode(text, add_special_tokens=False).input_ids.data.tolist()[0]
        assert read == tokenizer(text, add_special_tokens=False)["input_ids"], text
    ids = tokenizer("the cat sat on the log and " * 12)["input_ids"]
    asked = openvino_genai.GenerationConfig()
    asked.max_new_tokens, asked.do_sample, asked.ignore_eos = 8, False, True
    pipeline = openvino_genai.LLMPipeline(str(tmp_path / "out"), "CPU", INFERENCE_PRECISION_HINT="f32")
    found = pipeline.generate(openvino.Tensor(np.array([ids], dtype=np.int64)), asked)
    assert list(found.tokens[0]) == greedy(AutoModelForCausalLM.from_pretrained(folder), ids, 8)
