"""Shapes are read as they are, and what training takes is reckoned from them: against torch and peft, and by hand."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tiny_models import byte_tokenizer, llama, save

from adapt.costs import (
    NF4_BYTES,
    NF4_DOUBLE_BYTES,
    ModelFacts,
    Need,
    disk_of,
    facts_of,
    forward_work,
    memory_of,
    said_bytes,
    total,
    trained_parameters,
    training_work,
)
from adapt.recipe import Anchor, Dapt, Distance, Expansion, Freezing, Keep, Method
from retrieval.errors import DamagedError, UsageError


@pytest.fixture(scope="module")
def model() -> Any:
    return llama(byte_tokenizer())


@pytest.fixture(scope="module")
def folder(model: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(tmp_path_factory.mktemp("model"), model, byte_tokenizer())


@pytest.fixture(scope="module")
def facts(folder: Path) -> ModelFacts:
    return facts_of(folder)


def test_shapes_are_those_of_the_model(model: Any, facts: ModelFacts) -> None:
    assert facts.parameters == sum(weight.numel() for weight in model.parameters())
    assert (facts.rows, facts.width, facts.layers, facts.tied) == (model.config.vocab_size, 32, 2, False)
    assert facts.layer == sum(weight.numel() for weight in model.model.layers[0].parameters()) + 32 // 2
    linear = [module for name, module in model.named_modules() if hasattr(module, "in_features") and name != "lm_head"]
    assert facts.packed == sum(module.in_features * module.out_features for module in linear)
    assert len(facts.linear) == len(linear) == 14
    assert facts.multiplied == facts.packed + facts.rows * 32


def test_tied_tables_count_once(tmp_path: Path) -> None:
    tied = llama(byte_tokenizer(), tie_word_embeddings=True)
    found = facts_of(save(tmp_path, tied, byte_tokenizer()))
    assert found.tied and found.parameters == sum(weight.numel() for weight in tied.parameters())


@pytest.mark.parametrize("targets", ["all-linear", ("q_proj", "v_proj"), ("mlp.down_proj",)])
def test_adapters_are_as_large_as_those_of_peft(facts: ModelFacts, targets: Any) -> None:
    from peft import LoraConfig, get_peft_model

    names = targets if isinstance(targets, str) else list(targets)
    adapted = get_peft_model(llama(byte_tokenizer()), LoraConfig(r=4, target_modules=names, task_type="CAUSAL_LM"))
    trained = sum(weight.numel() for weight in adapted.parameters() if weight.requires_grad)
    assert facts.adapter(Method(kind="lora", r=4, targets=targets)) == trained


@pytest.mark.parametrize(
    "method",
    [
        Method(kind="lora", r=4, ranks={"q_proj": 2, "layers.1.mlp.up_proj": 8}, dora=True),
        Method(kind="adalora", r=4),
        Method(kind="houlsby", reduction=4),
        Method(kind="pfeiffer", reduction=4),
        Method(kind="prefix", virtual_tokens=3),
        Method(kind="prompt", virtual_tokens=3),
        Method(kind="p_tuning", virtual_tokens=3, hidden=7),
        Method(kind="ia3"),
        Method(kind="bitfit"),
    ],
    ids=lambda method: method.kind,
)
def test_every_method_is_reckoned_as_large_as_it_is(tmp_path: Path, method: Method) -> None:
    from adapt.training.methods import under_adapter

    tokenizer = byte_tokenizer()
    model = llama(tokenizer, attention_bias=True)
    found = facts_of(save(tmp_path, model, tokenizer))
    adapted = under_adapter(model, method, activation_checkpointing=False, steps=20, tokenizer=tokenizer)
    trained = sum(weight.numel() for weight in adapted.parameters() if weight.requires_grad)
    assert found.adapter(method) == trained


def test_new_layers_are_as_large_as_the_old(facts: ModelFacts) -> None:
    grown = facts.grown(layers=3)
    assert grown.layers == 5 and grown.parameters == facts.parameters + 3 * facts.layer
    assert grown.packed == facts.packed * 5 // 2
    assert facts.grown(rows=10).parameters == facts.parameters + 2 * 10 * 32


def test_six_operations_for_each_weight_and_four_with_an_adapter(facts: ModelFacts) -> None:
    tiny = Dapt(block=1)
    forward = forward_work(facts, 1)
    assert forward == 2 * facts.multiplied + 2 * 2 * 32
    assert training_work(facts, tiny) == pytest.approx(3 * forward)
    checkpointed = tiny.model_copy(update={"activation_checkpointing": True})
    assert training_work(facts, checkpointed) == pytest.approx(4 * forward)
    lora = Dapt(block=1, method=Method(kind="lora", r=1))
    assert training_work(facts, lora) == pytest.approx(2 * forward + 6 * facts.adapter(lora.method))
    assert training_work(replace(facts, active=0.5), tiny) < training_work(facts, tiny)


def test_frozen_weights_have_no_gradients(facts: ModelFacts) -> None:
    assert trained_parameters(facts, Dapt()) == facts.parameters
    assert trained_parameters(facts, Dapt(freeze=Freezing(layers=1))) == facts.parameters - facts.layer
    frozen = Dapt(freeze=Freezing(layers=1, embeddings=True))
    assert trained_parameters(facts, frozen) == facts.parameters - facts.layer - facts.table
    assert trained_parameters(facts, Dapt(freeze=Freezing(layers=1, unfreeze=True))) == facts.parameters
    assert trained_parameters(facts.grown(layers=2), Dapt(expand=Expansion(layers=2))) == 2 * facts.layer


def of(needs: list[Need], what: str) -> int:
    return sum(need.bytes for need in needs if need.what == what)


def test_full_training_in_fp32_takes_sixteen_bytes_a_weight(facts: ModelFacts) -> None:
    needs = memory_of(facts, Dapt(), micro=512, bf16=False, gpu=False)
    states = sum(of(needs, what) for what in ("weights", "gradients", "optimizer"))
    assert states == 16 * facts.parameters
    assert of(memory_of(facts, Dapt(optimizer="adamw_8bit"), micro=512, bf16=False, gpu=True), "optimizer") < states / 7
    assert all(need.why for need in needs)


def test_what_keeps_a_model_from_forgetting_takes_memory(facts: ModelFacts) -> None:
    plain = total(memory_of(facts, Dapt(), micro=512, bf16=False, gpu=False))
    for keep, more in (
        (Keep(l2sp=Anchor(weight=1)), 4),
        (Keep(ewc=Anchor(weight=1)), 8),
        (Keep(l2sp=Anchor(weight=1), ewc=Anchor(weight=1)), 8),
        (Keep(kl=Distance(live=True)), 4),
        (Keep(kl=Distance()), 0),
    ):
        assert total(memory_of(facts, Dapt(keep=keep), micro=512, bf16=False, gpu=False)) == (
            plain + more * facts.parameters
        )


def test_adapters_and_four_bits_take_less(facts: ModelFacts) -> None:
    lora = memory_of(facts, Dapt(method=Method(kind="lora", r=4)), micro=512, bf16=True, gpu=True)
    assert of(lora, "weights") == 2 * facts.parameters
    qlora = memory_of(facts, Dapt(method=Method(kind="qlora", r=4)), micro=512, bf16=True, gpu=True)
    assert of(qlora, "weights") == round(facts.packed * NF4_DOUBLE_BYTES) + 2 * (facts.parameters - facts.packed)
    once = Method(kind="qlora", r=4, double_quantisation=False, compute="fp32")
    wide = memory_of(facts, Dapt(method=once), micro=512, bf16=True, gpu=True)
    assert of(wide, "weights") == round(facts.packed * NF4_BYTES) + 4 * (facts.parameters - facts.packed)
    held = Method(kind="qlora", r=4, wide=("v_proj", "layers.1"))
    wide = memory_of(facts, Dapt(method=held), micro=512, bf16=True, gpu=True)
    left = facts.packed // 2 - 32 * 16
    assert of(wide, "weights") == round(left * NF4_DOUBLE_BYTES) + 2 * (facts.parameters - left)
    assert of(qlora, "gradients") == 4 * facts.adapter(Method(kind="qlora", r=4))


def test_activations_grow_with_what_goes_through_at_once_and_shrink_by_recomputing(facts: ModelFacts) -> None:
    def activations(micro: int, **settings: Any) -> int:
        return of(memory_of(facts, Dapt(**settings), micro=micro, bf16=False, gpu=False), "activations")

    assert activations(1024) == 2 * activations(512)
    assert activations(512, activation_checkpointing=True) < activations(512)


def test_checkpoints_hold_weights_and_moments_three_times(facts: ModelFacts) -> None:
    needs = disk_of(facts, Dapt(), tokens=1000, kept_tokens=0)
    assert of(needs, "checkpoints") == 3 * 12 * facts.parameters and of(needs, "result") == 4 * facts.parameters
    kept = disk_of(facts, Dapt(keep=Keep(kl=Distance(top=8))), tokens=1000, kept_tokens=500)
    assert of(kept, "teacher") == 500 * (8 * 4 + 9 * 2)  # ids in 4 bytes; the likeliest 8 and the rest in 2


@pytest.mark.parametrize(("number", "said"), [(1, "1 MiB"), (300 << 20, "300 MiB"), (3 << 30, "3.0 GiB")])
def test_sizes_are_said_as_people_say_them(number: int, said: str) -> None:
    assert said_bytes(number) == said


def changed(folder: Path, tmp_path: Path, **settings: Any) -> Path:
    import shutil

    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    config = json.loads((copy / "config.json").read_text("utf-8"))
    (copy / "config.json").write_text(json.dumps(config | settings), encoding="utf-8")
    return copy


@pytest.mark.parametrize(
    "settings",
    [
        {"num_hidden_layers": 10**9},
        {"num_hidden_layers": -1},
        {"hidden_size": "many"},
        {"num_attention_heads": None},
        {"num_attention_heads": 0},
        {"head_dim": 2**40},
    ],
)
def test_a_config_that_no_model_has_is_refused(folder: Path, tmp_path: Path, settings: dict[str, Any]) -> None:
    with pytest.raises(DamagedError, match="which no model has"):
        facts_of(changed(folder, tmp_path, **settings))


def test_quantised_weights_are_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="quantised already"):
        facts_of(changed(folder, tmp_path, quantization_config={"quant_method": "gptq"}))


def test_damaged_files_are_refused(folder: Path, tmp_path: Path) -> None:
    copy = changed(folder, tmp_path)
    (copy / "model.safetensors").write_bytes(b"\xff" * 100)
    with pytest.raises(DamagedError, match="is damaged"):
        facts_of(copy)
    (copy / "model.safetensors").unlink()
    with pytest.raises(DamagedError, match="no table of embeddings"):
        facts_of(copy)
    (copy / "config.json").write_text("[]", encoding="utf-8")
    with pytest.raises(DamagedError, match="not what a model has"):
        facts_of(copy)
