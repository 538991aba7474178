"""A GGUF file and token ids → the logits and the greedy texts of each program that reads such files: transformers,
OpenVINO GenAI and llama.cpp, all computing in fp32 where they can. It compares nothing.
"""

import json
import os
import subprocess
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from eval.baselines import llama_cpp_logits
from eval.baselines.install import baseline_python
from retrieval.embedding.no_telemetry import refuse_telemetry
from retrieval.errors import FathomError, MissingError

IDS = list[int]
_FP32 = {"INFERENCE_PRECISION_HINT": "f32", "KV_CACHE_PRECISION": "f32", "DYNAMIC_QUANTIZATION_GROUP_SIZE": 0}


@dataclass(frozen=True)
class Asked:
    """`ids` are texts of which the logits are wanted, `prompts` are to be gone on with by `count` tokens."""

    ids: Sequence[IDS]
    prompts: Sequence[IDS]
    count: int


@dataclass(frozen=True)
class Said:
    """`logits`, tokens × vocabulary, for each text; `written` for each prompt. Ends of texts end nothing."""

    logits: list[np.ndarray]
    written: list[IDS]


def by_transformers(place: Path, asked: Asked) -> Said:
    """Of a model folder, or of a GGUF file, whose weights are dequantised."""
    import torch
    from transformers import AutoModelForCausalLM, GgufConfig

    told: dict[str, Any] = {"dtype": torch.float32, "local_files_only": True}
    if place.is_file():
        file = place.name
        told |= {"gguf_file": file, "quantization_config": GgufConfig(gguf_file=file, dequantize=True)}
    model = AutoModelForCausalLM.from_pretrained(place.parent if place.is_file() else place, **told).eval()
    model.generation_config.eos_token_id = None
    with torch.no_grad():
        logits = [model(input_ids=torch.tensor([ids])).logits[0].numpy() for ids in asked.ids]
        written = []
        for ids in asked.prompts:
            given = torch.tensor([ids])
            all_ids = model.generate(
                input_ids=given,
                attention_mask=torch.ones_like(given),
                do_sample=False,
                repetition_penalty=1.0,
                max_new_tokens=asked.count,
            )
            written.append(all_ids[0, len(ids) :].tolist())
    return Said(logits, written)


def by_openvino(file: Path, asked: Asked) -> Said:
    """Logits are those of the model that OpenVINO GenAI makes of the file. Raises MissingError where it is not
    installed."""
    refuse_telemetry()
    try:
        import openvino
        import openvino_genai
    except ImportError as error:
        raise MissingError(f"OpenVINO GenAI is not installed ({error})") from error
    with tempfile.TemporaryDirectory(dir=file.parent) as made:
        link = Path(made) / file.name  # the model is written beside the file
        os.link(file, link)
        pipeline = openvino_genai.LLMPipeline(str(link), "CPU", enable_save_ov_model=True, **_FP32)
        wanted = openvino_genai.GenerationConfig()
        wanted.max_new_tokens, wanted.do_sample, wanted.ignore_eos = asked.count, False, True
        written = [
            list(pipeline.generate(openvino.Tensor(np.array([ids], dtype=np.int64)), wanted).tokens[0])
            for ids in asked.prompts
        ]
        del pipeline
        model = openvino.compile_model(str(link.with_name("openvino_model.xml")), "CPU", _FP32)
        logits = [_one_pass(model, ids) for ids in asked.ids]
        del model
    return Said(logits, written)


def _one_pass(model: Any, ids: IDS) -> np.ndarray:
    given = np.array([ids], dtype=np.int64)
    request = model.create_infer_request()  # a new one has read nothing yet
    request.infer(
        {
            "input_ids": given,
            "attention_mask": np.ones_like(given),
            "position_ids": np.arange(len(ids), dtype=np.int64)[None],
            "beam_idx": np.zeros(1, dtype=np.int32),
        }
    )
    return np.array(request.get_tensor("logits").data[0], dtype=np.float32)


def by_llama_cpp(file: Path, asked: Asked) -> Said:
    """Raises MissingError where its environment is not there."""
    told, logits = ask_llama_cpp(file, {"ids": asked.ids, "prompts": asked.prompts, "count": asked.count})
    return Said(logits, told["written"])


def ask_llama_cpp(file: Path, asked: Mapping[str, Any]) -> tuple[dict[str, Any], list[np.ndarray]]:
    """What eval/baselines/llama_cpp_logits.py says, and the logits. Raises MissingError, FathomError."""
    python = baseline_python(name="llama-cpp")
    if not python.exists():
        raise MissingError(f"llama.cpp is not installed ({python}): python -m eval.baselines.install llama-cpp")
    with tempfile.TemporaryDirectory() as made:
        logits = Path(made) / "logits.npz"
        nothing = {"texts": [], "ids": [], "prompts": [], "count": 0, "window": 512}
        done = subprocess.run(
            [str(python), llama_cpp_logits.__file__],
            input=json.dumps(nothing | dict(asked) | {"model": str(file), "logits": str(logits)}),
            capture_output=True,
            text=True,
        )
        if done.returncode != 0:
            raise FathomError(f"llama.cpp does not read {file}: {' '.join(done.stderr.split())[-300:]}")
        with np.load(logits, allow_pickle=False) as stored:
            return json.loads(done.stdout), [stored[name] for name in stored.files]


READERS: Mapping[str, Callable[[Path, Asked], Said]] = {
    "transformers": by_transformers,
    "OpenVINO GenAI": by_openvino,
    "llama.cpp": by_llama_cpp,
}
