"""Low-rank adapters in their forms: ranks by layer, PiSSA on the base it left, AdaLoRA that really prunes, 4 bits in
any way of computing."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from made_orders import MadeOrder, job_in, made_model, made_order, quiet
from tiny_models import byte_tokenizer, llama
from transformers import AutoTokenizer

from adapt.recipe import Dapt, LearningRate, Method
from adapt.serving_limits import refused_folder
from adapt.training.methods import load_model, under_adapter
from adapt.training.train import train
from eval.models.adapter_base import adapter_base
from eval.models.language_models import load_parts, locate
from retrieval.errors import DamagedError, UsageError

torch.set_num_threads(1)
SETTINGS = Dapt(block=32, batch_tokens=128, micro_tokens=64, precision="fp32", lr=LearningRate(peak=1e-2))


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    sizes = {"hidden_size": 64, "intermediate_size": 128}  # 4-bit weights on a CPU come in blocks of 64
    import tiny_models

    plain = tiny_models.sizes
    tiny_models.sizes = lambda tokenizer: {**plain(tokenizer), **sizes}
    try:
        return made_model(tmp_path_factory.mktemp("base") / "model")
    finally:
        tiny_models.sizes = plain


@pytest.fixture(scope="module")
def order(base: Path) -> MadeOrder:
    return made_order(AutoTokenizer.from_pretrained(base), rows=24)


def run(folder: Path, base: Path, order: MadeOrder, method: Method, watch: Any = None, **changes: Any) -> Any:
    settings = SETTINGS.model_copy(update={"method": method, **changes})
    return train(job_in(folder, base, settings), progress=quiet, order=order, watch=watch)


def logits(model: Any) -> torch.Tensor:
    model.eval()
    for module in model.modules():
        if type(module).__name__ == "Linear4bit":
            module.train()  # on a CPU bitsandbytes computes otherwise, and less exactly, in evaluation
    with torch.no_grad():
        return model(input_ids=torch.tensor([[5, 9, 200, 31, 7]])).logits.float()


def test_a_rank_of_its_own_counts_as_much_as_the_others() -> None:
    model = under_adapter(
        llama(byte_tokenizer()),
        Method(kind="lora", r=8, ranks={"q_proj": 2, "layers.1.mlp.up_proj": 4}, alphas={"v_proj": 8}),
        activation_checkpointing=False,
    )
    layers = model.base_model.model.model.layers
    found = {
        name: (module.r["default"], module.scaling["default"])
        for name, module in layers.named_modules()
        if hasattr(module, "lora_A")
    }
    assert found["0.self_attn.q_proj"] == found["1.self_attn.q_proj"] == (2, 2.0)
    assert found["0.mlp.up_proj"] == (8, 2.0) and found["1.mlp.up_proj"] == (4, 2.0)
    assert found["0.self_attn.v_proj"] == (8, 1.0)


def test_a_pissa_adapter_is_plain_and_on_the_untouched_base(tmp_path: Path, base: Path, order: MadeOrder) -> None:
    seen: list[torch.Tensor] = []
    method = Method(kind="lora", r=4, init="pissa", rslora=True, ranks={"q_proj": 2})
    result = run(tmp_path, base, order, method, watch=lambda trainer: seen.append(logits(trainer.model)))
    config = json.loads((result.adapter / "adapter_config.json").read_text())
    assert config["r"] == 8 and config["rank_pattern"] == {"q_proj": 4} and config["init_lora_weights"] is True
    assert refused_folder(result.adapter) == []
    under, _, _ = load_parts(locate(str(base), result.adapter), cache=tmp_path)
    assert float((logits(under) - seen[0]).abs().max()) < 1e-3


def adapter_of(model: Any) -> dict[str, torch.Tensor]:
    return {
        name: weight.detach().clone()
        for name, weight in model.named_parameters()
        if ".lora_" in name or "ranknum" in name
    }


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_adalora_prunes_to_its_budget_and_spends_it_unevenly(
    tmp_path: Path, base: Path, order: MadeOrder, precision: Any
) -> None:
    after: list[int] = []
    weights: dict[str, torch.Tensor] = {}

    def watch(trainer: Any) -> None:
        model = trainer.model.base_model.model
        weights.update(adapter_of(trainer.model))
        after.extend(int(w.shape[0]) for name, w in model.named_parameters() if ".lora_E." in name)

    method = Method(kind="adalora", r=2, start_r=6, begin=0.1, settle=0.2)
    result = run(tmp_path, base, order, method, watch=watch, precision=precision)
    again, _, _ = load_parts(locate(str(base), result.adapter), cache=tmp_path, precision=precision)
    assert weights and all(
        torch.equal(weights[name], weight) and weights[name].dtype == weight.dtype
        for name, weight in adapter_of(again).items()
    )
    assert len(after) == 14
    assert sum(after) <= 2 * 14 and max(after) > 2 > min(after)


def test_adalora_without_time_to_prune_is_refused(tmp_path: Path, base: Path, order: MadeOrder) -> None:
    with pytest.raises(UsageError, match="prunes between the first 3 and the last 3 of 6 steps"):
        run(tmp_path, base, order, Method(kind="adalora", r=2, begin=0.5, settle=0.45))


@pytest.mark.slow
def test_an_adapter_that_begins_as_the_error_of_4_bits_is_nearer_to_the_base_and_is_held_to_the_bit(
    tmp_path: Path, base: Path, order: MadeOrder
) -> None:
    pytest.importorskip("bitsandbytes")
    whole, _, _ = load_parts(locate(str(base)), cache=tmp_path)
    rows = [order.row(number).ids for number in range(8)]
    apart = {}
    for init in ("zero", "error"):
        method = Method(kind="qlora", r=32, rslora=True, init=init, compute="fp32", ranks={"q_proj": 16})  # type: ignore[arg-type]
        settings = SETTINGS.model_copy(update={"method": method})
        model, _ = load_model(base, settings, precision="fp32", cache=tmp_path)
        under = under_adapter(model, method, activation_checkpointing=False, rows=rows, folder=base)
        apart[init] = float((logits(under) - logits(whole)).square().mean())
    assert apart["error"] < 0.5 * apart["zero"]
    seen: list[torch.Tensor] = []
    result = run(tmp_path, base, order, method, watch=lambda trainer: seen.append(logits(trainer.model)))
    again, _, _ = load_parts(locate(str(base), result.adapter), cache=tmp_path, precision="nf4")
    assert torch.equal(logits(again), seen[0]) and refused_folder(result.adapter) == []
    with pytest.raises(DamagedError, match="has no weights 'model.layers.0"):
        under_adapter(model, method, activation_checkpointing=False, rows=rows, folder=tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize(("double", "compute"), [(True, "fp32"), (False, "fp16"), (True, "bf16")])
def test_four_bits_are_held_and_merged_as_they_were_trained(
    tmp_path: Path, base: Path, order: MadeOrder, double: bool, compute: str
) -> None:
    pytest.importorskip("bitsandbytes")
    seen: list[torch.Tensor] = []
    wide = ("v_proj", "layers.1") if double else ()
    method = Method(kind="qlora", r=4, double_quantisation=double, compute=compute, wide=wide)  # type: ignore[arg-type]
    result = run(tmp_path, base, order, method, watch=lambda trainer: seen.append(logits(trainer.model)))
    told = adapter_base(result.adapter)
    assert told is not None and told.four_bits is not None
    assert (told.four_bits.double, told.four_bits.compute, told.four_bits.wide) == (double, compute, wide)
    again, _, _ = load_parts(locate(str(base), result.adapter), cache=tmp_path, precision="nf4")
    state = again.base_model.model.model.layers[0].mlp.up_proj.base_layer.weight.quant_state
    assert state.nested is double
    packed = [
        name
        for name, module in again.named_modules()
        if type(getattr(module, "base_layer", None)).__name__ == "Linear4bit"
    ]
    assert len(packed) == (6 if wide else 14)
    if wide:
        assert all(".layers.0." in name and not name.endswith("v_proj") for name in packed)
    assert torch.equal(logits(again), seen[0])
    merged, _, _ = load_parts(locate(str(result.model)), cache=tmp_path)
    one, other = seen[0].log_softmax(-1), logits(merged).log_softmax(-1)
    apart = float((one.exp() * (one - other)).sum(-1).mean())
    assert apart < (1e-5 if compute == "fp32" else 5e-3)
