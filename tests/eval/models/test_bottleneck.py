"""Bottleneck adapters: nothing at first, what they add is what the formula says, lower ones can be dropped, and a
stranger's files are refused."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_models import byte_tokenizer, llama, save

from adapt.recipe import Method
from adapt.training.adapters.bottlenecks import shape_for
from eval.models import bottleneck
from eval.models.language_models import load_parts, locate
from retrieval.errors import DamagedError, UsageError

IDS = torch.tensor([[5, 9, 200, 31, 7]])


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        return model(input_ids=IDS).logits


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return save(tmp_path / "base", llama(byte_tokenizer()), byte_tokenizer())


@pytest.fixture
def adapter(tmp_path: Path) -> Path:
    model = llama(byte_tokenizer())
    shape = shape_for(model, Method(kind="houlsby", reduction=8))
    before = logits(model)
    bottleneck.put_on(model, shape)
    assert torch.equal(logits(model), before)
    torch.manual_seed(1)
    for weight in model.bottleneck.parameters():
        torch.nn.init.normal_(weight, std=0.1)
    folder = tmp_path / "adapter"
    folder.mkdir()
    bottleneck.save(folder, shape, model.bottleneck.state_dict(), base="base")
    return folder


def test_an_adapter_adds_what_its_formula_says(base: Path, adapter: Path) -> None:
    weights = load_file(adapter / "adapter_model.safetensors")
    plain = llama(byte_tokenizer())

    def added(number: int, place: int, hidden: torch.Tensor) -> torch.Tensor:
        at = f"{number}.{place}"
        inner = torch.relu(hidden @ weights[f"{at}.down.weight"].T + weights[f"{at}.down.bias"])
        return hidden + inner @ weights[f"{at}.up.weight"].T + weights[f"{at}.up.bias"]

    for number, layer in enumerate(plain.model.layers):
        attend, mlp = layer.self_attn.forward, layer.mlp.forward

        def attention(*args: Any, number: int = number, attend: Any = attend, **options: Any) -> Any:
            hidden, *rest = attend(*args, **options)
            return (added(number, 0, hidden), *rest)

        layer.self_attn.forward = attention
        layer.mlp.forward = lambda hidden, number=number, mlp=mlp: added(number, 1, mlp(hidden))
    model, _, _ = load_parts(locate(str(base), adapter), cache=base)
    assert torch.allclose(logits(model), logits(plain), atol=1e-5)


def test_lower_layers_can_be_dropped(tmp_path: Path, base: Path, adapter: Path) -> None:
    whole, _, _ = load_parts(locate(str(base), adapter), cache=base)
    none = bottleneck.drop_lower(adapter, 2, tmp_path / "none")
    half = bottleneck.drop_lower(adapter, 1, tmp_path / "half")
    plain, _, _ = load_parts(locate(str(base)), cache=base)
    gone, _, _ = load_parts(locate(str(base), none), cache=base)
    upper, _, _ = load_parts(locate(str(base), half), cache=base)
    assert torch.equal(logits(gone), logits(plain))
    assert not torch.allclose(logits(upper), logits(plain)) and not torch.allclose(logits(upper), logits(whole))
    assert len(load_file(half / "adapter_model.safetensors")) * 2 == len(
        load_file(adapter / "adapter_model.safetensors")
    )
    with pytest.raises(UsageError, match="3 layers cannot be dropped"):
        bottleneck.drop_lower(adapter, 3, tmp_path / "x")


@pytest.mark.parametrize(
    ("change", "kind", "said"),
    [
        ({"width": 64}, UsageError, "is 64 wide and the model 32"),
        ({"places": [["model.layers.0.nowhere"]]}, UsageError, "which this model has not"),
        ({"places": [["../../etc"]]}, DamagedError, "says what no bottleneck adapter has"),
        ({"activation": "__class__"}, DamagedError, "says what no bottleneck adapter has"),
        ({"inner": 1 << 40}, DamagedError, "says what no bottleneck adapter has"),
        ({"places": [["model.layers.0.mlp"]] * 2000}, DamagedError, "says what no bottleneck adapter has"),
        ({"inner": 3}, DamagedError, "are not what its config says"),
        ({"inner": "many"}, DamagedError, "is no bottleneck adapter's"),
    ],
)
def test_a_strangers_adapter_is_refused(base: Path, adapter: Path, change: Any, kind: Any, said: str) -> None:
    config = json.loads((adapter / "adapter_config.json").read_text())
    (adapter / "adapter_config.json").write_text(json.dumps({**config, **change}))
    with pytest.raises(kind, match=said):
        load_parts(locate(str(base), adapter), cache=base)


def test_weights_that_are_none_are_refused(base: Path, adapter: Path) -> None:
    save_file({"0.0.down.weight": torch.zeros(2, 2)}, adapter / "adapter_model.safetensors")
    with pytest.raises(DamagedError, match="are not what its config says"):
        load_parts(locate(str(base), adapter), cache=base)
    (adapter / "adapter_model.safetensors").write_bytes(b"no")
    with pytest.raises(DamagedError, match="is no safetensors file"):
        load_parts(locate(str(base), adapter), cache=base)
