"""Adapters and 4-bit bases: what is merged is what was trained, and any form of a base becomes a folder to train on."""

import json
import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from made_orders import MadeOrder, in_pieces, job_in, made_model, made_order, quiet, steps_of, weights_of
from transformers import AutoModelForCausalLM, AutoTokenizer

from adapt.recipe import Dapt, LearningRate, Method
from adapt.training.bases import base_folder, weights_hash
from adapt.training.train import train
from retrieval.errors import DamagedError, UsageError

torch.set_num_threads(1)
SETTINGS = Dapt(block=32, batch_tokens=128, micro_tokens=64, precision="fp32", lr=LearningRate(peak=1e-2))
WIDE = {"hidden_size": 64, "intermediate_size": 128}
"""4-bit weights on a CPU come in blocks of 64."""


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    import tiny_models

    folder = tmp_path_factory.mktemp("base") / "model"
    sizes = tiny_models.sizes
    tiny_models.sizes = lambda tokenizer: {**sizes(tokenizer), **WIDE}
    try:
        return made_model(folder)
    finally:
        tiny_models.sizes = sizes


@pytest.fixture(scope="module")
def order(base: Path) -> MadeOrder:
    return made_order(AutoTokenizer.from_pretrained(base), rows=40)


def logits_of(model: Any, order: MadeOrder) -> torch.Tensor:
    ids = torch.from_numpy(order.row(1).ids.astype("int64"))[None]
    with torch.no_grad():
        return model(input_ids=ids).logits.float().log_softmax(-1)


@pytest.mark.parametrize("method", [Method(kind="lora", r=8), Method(kind="lora", r=8, rslora=True, alpha=4)])
def test_the_merged_model_is_the_base_under_its_adapter(
    tmp_path: Path, base: Path, order: MadeOrder, method: Method
) -> None:
    from peft import PeftModel

    settings = SETTINGS.model_copy(update={"method": method})
    result = train(job_in(tmp_path, base, settings), progress=quiet, order=order)
    assert result.model and result.adapter
    assert steps_of(result)[-1]["loss"] < steps_of(result)[0]["loss"]
    under = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), result.adapter).eval()
    merged = AutoModelForCausalLM.from_pretrained(result.model).eval()
    plain = AutoModelForCausalLM.from_pretrained(base).eval()
    assert float((logits_of(under, order) - logits_of(merged, order)).abs().max()) < 1e-4
    assert float((logits_of(plain, order) - logits_of(merged, order)).abs().max()) > 1e-2
    facts = json.loads((result.adapter / "fathom.json").read_text())
    assert facts["base_sha256"] == weights_hash(base)
    assert (result.adapter / "tokenizer.json").is_file() and merged.config.tie_word_embeddings


@pytest.mark.slow
def test_a_4_bit_base_is_merged_where_it_was_trained_and_goes_on_after_a_stop(
    tmp_path: Path, base: Path, order: MadeOrder
) -> None:
    pytest.importorskip("bitsandbytes")
    from peft import PeftModel

    from eval.models.language_models import load_parts, locate

    settings = SETTINGS.model_copy(update={"method": Method(kind="qlora", r=8), "precision": "bf16"})
    result = train(job_in(tmp_path / "whole", base, settings), progress=quiet, order=order)
    assert result.model and result.adapter
    told = steps_of(result)
    assert told[-1]["loss"] < told[0]["loss"]
    four_bits, _, _ = load_parts(locate(str(base)), cache=tmp_path / "cache", precision="nf4")
    trained = logits_of(PeftModel.from_pretrained(four_bits, result.adapter).eval(), order)
    merged = logits_of(AutoModelForCausalLM.from_pretrained(result.model).eval(), order)
    four_bits, _, _ = load_parts(locate(str(base)), cache=tmp_path / "cache", precision="nf4")
    alone = logits_of(four_bits.eval(), order)
    apart = float((trained.exp() * (trained - merged)).sum(-1).mean())
    changed = float((trained.exp() * (trained - alone)).sum(-1).mean())
    assert apart < 0.02 * changed  # the rest is bf16's
    pieces, sessions = in_pieces(job_in(tmp_path / "pieces", base, settings), order, 300)
    assert sessions > 2 and steps_of(pieces) == told
    one, other = weights_of(result.model), weights_of(pieces.model or Path())
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_bf16_keeps_weights_in_fp32_and_learns_about_the_same(tmp_path: Path, base: Path, order: MadeOrder) -> None:
    told = {}
    for precision in ("fp32", "bf16"):
        settings = SETTINGS.model_copy(update={"precision": precision})
        result = train(job_in(tmp_path / precision, base, settings), progress=quiet, order=order)
        told[precision] = [line["loss"] for line in steps_of(result)]
        assert result.model
        assert all(tensor.dtype == torch.float32 for tensor in weights_of(result.model).values())
    assert told["bf16"] != told["fp32"]
    assert told["bf16"] == pytest.approx(told["fp32"], rel=0.1)


def test_casts_that_last_for_a_step_change_no_bit(
    tmp_path: Path, base: Path, order: MadeOrder, monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformers import Trainer

    from adapt.training.trainer import OrderTrainer

    settings = SETTINGS.model_copy(update={"precision": "bf16", "micro_tokens": 32})
    ours = train(job_in(tmp_path / "ours", base, settings), progress=quiet, order=order)
    assert not torch.is_autocast_enabled("cpu")
    monkeypatch.setattr(OrderTrainer, "training_step", Trainer.training_step)
    plain = train(job_in(tmp_path / "plain", base, settings), progress=quiet, order=order)
    assert steps_of(ours) == steps_of(plain)
    assert ours.model and plain.model
    one, other = weights_of(ours.model), weights_of(plain.model)
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_a_base_in_bf16_is_trained_in_fp32_and_written_in_bf16(tmp_path: Path, base: Path, order: MadeOrder) -> None:
    narrow = tmp_path / "narrow"
    AutoModelForCausalLM.from_pretrained(base, dtype=torch.bfloat16).save_pretrained(narrow)
    AutoTokenizer.from_pretrained(base).save_pretrained(narrow)
    result = train(job_in(tmp_path, narrow, SETTINGS), progress=quiet, order=order)
    assert result.model
    assert {tensor.dtype for tensor in weights_of(result.model).values()} == {torch.bfloat16}


def test_activation_checkpointing_changes_no_figure(tmp_path: Path, base: Path, order: MadeOrder) -> None:
    told = [
        steps_of(
            train(
                job_in(tmp_path / str(on), base, SETTINGS.model_copy(update={"activation_checkpointing": on})),
                progress=quiet,
                order=order,
            )
        )
        for on in (False, True)
    ]
    assert [line["loss"] for line in told[0]] == pytest.approx([line["loss"] for line in told[1]], rel=1e-6)


def test_a_folder_is_its_own_base_and_a_gguf_file_becomes_one(tmp_path: Path, base: Path) -> None:
    assert base_folder(str(base), cache=tmp_path) == base
    with pytest.raises(Exception, match="there is no model"):
        base_folder(str(tmp_path / "nothing"), cache=tmp_path)
    (tmp_path / "cut.gguf").write_bytes(b"GGUF")
    with pytest.raises(DamagedError, match="the model 'cut' cannot be loaded"):
        base_folder(str(tmp_path / "cut.gguf"), cache=tmp_path)
    changed = made_model(tmp_path / "other", seed=5)
    assert weights_hash(base) != weights_hash(changed)


@pytest.mark.slow
def test_the_packaged_model_becomes_a_folder_with_its_template(packaged_cache: Path) -> None:
    folder = base_folder("packaged", cache=packaged_cache)
    assert {"model.safetensors", "tokenizer.json", "config.json"} <= {file.name for file in folder.iterdir()}
    assert AutoTokenizer.from_pretrained(folder).chat_template


def test_two_trainings_in_one_folder_do_not_meet(tmp_path: Path, base: Path, order: MadeOrder) -> None:
    said: list[str] = []

    def meanwhile(stage: str, done: int, total: int) -> None:
        if stage == "training" and not said:
            try:
                train(job_in(tmp_path, base, SETTINGS), progress=quiet, order=order, stop=threading.Event())
            except Exception as error:
                said.append(str(error))

    train(job_in(tmp_path, base, SETTINGS), progress=meanwhile, order=order)
    assert said and "is being changed by process" in said[0]


def test_layers_that_are_not_there_are_named(tmp_path: Path, base: Path, order: MadeOrder) -> None:
    settings = SETTINGS.model_copy(update={"method": Method(kind="lora", r=4, targets=("query",))})
    with pytest.raises(UsageError, match="the adapter does not fit the model"):
        train(job_in(tmp_path, base, settings), progress=quiet, order=order)
