"""Speed, memory and utilisation of the methods: the path that a GPU takes, here on the CPU with a tiny config."""

import importlib.util
import json
import math
from pathlib import Path

import pytest
import torch

from adapt.experiments.__main__ import main
from adapt.experiments.gpu_rows import MODELS, Work, _config, _pack, measure_rows
from retrieval.errors import UsageError

WORK = Work(block=64, micro_tokens=128, steps=3, warm_up=1, rank=4)


def silent(*_: object) -> None: ...


def test_each_method_is_a_row_with_its_figures() -> None:
    found = measure_rows(["tiny"], ["full", "lora"], WORK, peak=0.5, device="cpu", progress=silent)
    full, lora = found["rows"]
    assert full["error"] is lora["error"] is None
    assert full["parameters"] == full["trained"] == lora["parameters"] > 10 * lora["trained"] > 0
    for row in found["rows"]:
        # Random weights know nothing: the loss is that of a uniform choice.
        assert row["first_loss"] == pytest.approx(math.log(512), abs=0.3)
        assert row["tokens_per_second"] == pytest.approx(128 / row["step_seconds"])
    assert full["last_loss"] < full["first_loss"]


def test_utilisation_is_work_by_time_by_what_the_card_can_do() -> None:
    """Forward pass of the tiny config, 2 multiply-adds a weight: per layer q 64·64, k and v 64·32 each, o 64·64, three
    of 64·128; head 512·64; attention 4 · 64 · block. Three times that with the backward pass."""
    (row,) = measure_rows(["tiny"], ["full"], WORK, peak=0.5, device="cpu", progress=silent)["rows"]
    weights = 2 * (2 * 64 * 64 + 2 * 64 * 32 + 3 * 64 * 128) + 512 * 64
    flops = 3 * (2 * weights + 2 * 4 * 64 * 64)
    assert row["mfu"] == pytest.approx(row["tokens_per_second"] * flops / 0.5e12)
    assert row["mfu_causal"] < row["mfu"]


@pytest.mark.skipif(importlib.util.find_spec("bitsandbytes") is None, reason="needs bitsandbytes")
def test_four_bit_weights_say_nearly_the_same_and_train_an_adapter() -> None:
    from transformers import AutoModelForCausalLM

    (row,) = measure_rows(["tiny"], ["qlora"], WORK, device="cpu", progress=silent)["rows"]
    assert row["error"] is None and row["mfu"] is None
    (full,) = measure_rows(["tiny"], ["full"], WORK, device="cpu", progress=silent)["rows"]
    assert row["parameters"] == full["parameters"] and 0 < row["trained"] < full["trained"] / 5
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(_config("tiny"), dtype=torch.bfloat16)
    ids = torch.arange(40)[None]
    with torch.no_grad():
        before = model(input_ids=ids).logits.float()
        _pack(model, "cpu")
        after = model(input_ids=ids).logits.float()
    assert 0 < (after - before).norm() < 0.3 * before.norm()


def test_the_sizes_are_those_of_the_published_models() -> None:
    from transformers import AutoModelForCausalLM

    billions = {}
    for name in ("qwen3-0.6b", "qwen3-4b", "qwen3-8b"):
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(_config(name))
        billions[name] = round(sum(weight.numel() for weight in model.parameters()) / 1e9, 2)
    assert billions == {"qwen3-0.6b": 0.6, "qwen3-4b": 4.02, "qwen3-8b": 8.19}


def test_the_command_writes_a_file(tmp_path: Path) -> None:
    words = ["gpu", "--out", str(tmp_path / "new" / "gpu.json"), "--models", "tiny", "--methods", "lora"]
    work = ["--block", "32", "--micro-tokens", "64", "--steps", "1", "--warm-up", "1", "--rank", "2", "--checkpointing"]
    assert main([*words, *work]) == 0
    found = json.loads((tmp_path / "new" / "gpu.json").read_text())
    assert found["rows"][0]["tokens_per_second"] > 0 and found["work"]["checkpointing"] is True


def test_a_config_file_is_a_model_too_and_anything_else_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "config.json"
    file.write_text(json.dumps(MODELS["tiny"]))
    assert _config(str(file)).hidden_size == 64
    file.write_text('{"model_type": "no such thing"}')
    for wrong in ("qwen9", str(file)):
        with pytest.raises(UsageError):
            measure_rows([wrong], ["full"], WORK, device="cpu", progress=silent)
    with pytest.raises(UsageError, match="block"):
        measure_rows(["tiny"], ["full"], Work(block=64, micro_tokens=32), device="cpu", progress=silent)
    with pytest.raises(UsageError, match="prefix"):
        measure_rows(["tiny"], ["prefix"], WORK, device="cpu", progress=silent)
