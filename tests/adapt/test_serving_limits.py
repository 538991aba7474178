"""What vLLM would refuse of an adapter is said before it is trained. The list is held against vLLM's own code where
that is installed (build/vllm-venv)."""

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
from made_exports import made_adapter, made_model, tokenizer_of

from adapt.recipe import Method
from adapt.serving_limits import RANKS, max_rank, refused_by_vllm, refused_folder, require_servable
from retrieval.errors import DamagedError, MissingError, UsageError

PLAIN: dict[str, Any] = {"peft_type": "LORA", "r": 16, "lora_alpha": 32, "target_modules": ["q_proj"]}
REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "a rank too large": ({"r": 600}, "its rank 600 is more than the 512"),
    "a rank too large in one layer": ({"rank_pattern": {"q_proj": 513}}, "its rank 513 is more than the 512"),
    "no rank": ({"r": 0}, "does not say a rank"),
    "whole modules": ({"modules_to_save": ["embed_tokens", "score"]}, "the whole module 'embed_tokens'"),
    "dora": ({"use_dora": True}, "it is a DoRA adapter"),
    "biases of lora": ({"lora_bias": True}, "it has biases"),
    "biases of the base": ({"bias": "all"}, "it has biases"),
    "pissa": ({"init_lora_weights": "pissa_niter_4"}, "it began as pissa_niter_4"),
    "loftq": ({"init_lora_weights": "loftq"}, "it began as loftq"),
    "alora": ({"alora_invocation_tokens": [1]}, "aLoRA"),
    "layers that repeat": ({"layer_replication": [[0, 1]]}, "layer_replication"),
    "block-diagonal": ({"use_bdlora": {"a": 1}}, "BD-LoRA"),
    "qalora": ({"use_qalora": True}, "QALoRA"),
}
SERVED: dict[str, dict[str, Any]] = {
    "plain": {},
    "rslora": {"use_rslora": True},
    "ranks by layer": {"rank_pattern": {"q_proj": 64}, "alpha_pattern": {"q_proj": 128}},
    "a harmless beginning": {"init_lora_weights": "gaussian"},
    "a classifier's head": {"modules_to_save": ["score"]},
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_vllm_refuses_is_said(case: str) -> None:
    change, said = REFUSED[case]
    assert said in "; ".join(refused_by_vllm({**PLAIN, **change}))


@pytest.mark.parametrize("case", SERVED)
def test_what_vllm_serves_is_let_through(case: str) -> None:
    assert refused_by_vllm({**PLAIN, **SERVED[case]}) == []


def test_methods_of_a_recipe_are_judged_before_training() -> None:
    assert refused_by_vllm(Method()) == []
    assert refused_by_vllm(Method(kind="lora", r=64)) == refused_by_vllm(Method(kind="qlora", rslora=True)) == []
    assert refused_by_vllm(Method(kind="lora", init="pissa", r=256)) == []
    assert refused_by_vllm(Method(kind="lora", init="pissa", r=300)) == [
        "its rank 600 is more than the 512 that the server takes"
    ]
    assert refused_by_vllm(Method(kind="lora", dora=True)) == ["it is a DoRA adapter"]
    assert refused_by_vllm(Method(kind="lora", r=64), most_rank=16) == [
        "its rank 64 is more than the 16 that the server takes"
    ]
    for kind in ("adalora", "houlsby", "prefix", "prompt", "p_tuning", "ia3"):
        assert "vLLM serves LoRA adapters alone" in refused_by_vllm(Method(kind=kind))[0]  # type: ignore[arg-type]


def test_the_rank_that_the_server_is_told_is_the_least_that_suffices(tmp_path: Path) -> None:
    def with_rank(rank: int) -> Path:
        folder = tmp_path / str(rank)
        folder.mkdir()
        (folder / "adapter_config.json").write_text(json.dumps(PLAIN | {"r": rank}))
        return folder

    assert [max_rank([with_rank(rank)]) for rank in (1, 4, 8, 17, 300)] == [1, 8, 8, 32, 320]
    assert max_rank([tmp_path / "4", tmp_path / "17"]) == 32
    with pytest.raises(UsageError, match="rank 600"):
        max_rank([with_rank(600)])


def test_an_adapter_that_would_be_refused_is_not_served(tmp_path: Path) -> None:
    base = made_model(tmp_path / "base", "llama", tokenizer_of("smollm"))
    require_servable(made_adapter(base, tmp_path / "plain", r=4), "plain")
    dora = made_adapter(base, tmp_path / "dora", use_dora=True)
    with pytest.raises(UsageError, match="refuse the adapter 'dora': it is a DoRA adapter.*; merge it into its base"):
        require_servable(dora, "dora")
    said = json.loads((dora / "adapter_config.json").read_text())
    (dora / "adapter_config.json").write_text(json.dumps(said | {"use_dora": False}))
    with pytest.raises(UsageError, match="its weights hold .*magnitude"):
        require_servable(dora, "dora")
    with pytest.raises(MissingError, match="no adapter"):
        require_servable(base, "base")


def test_weights_that_are_no_lora_are_found_in_the_folder(tmp_path: Path) -> None:
    import numpy as np
    from safetensors.numpy import save_file

    with pytest.raises(DamagedError):
        refused_folder(tmp_path)
    (tmp_path / "adapter_config.json").write_text(json.dumps(PLAIN))
    layer = "base_model.model.model.layers.0.self_attn.q_proj"
    matrices = {f"{layer}.lora_A.weight": np.zeros((16, 4)), f"{layer}.lora_B.weight": np.zeros((4, 16))}
    save_file(matrices, tmp_path / "adapter_model.safetensors")
    assert refused_folder(tmp_path) == []
    more = {**matrices, "base_model.model.model.embed_tokens.token_adapter.trainable_tokens_delta": np.zeros((2, 4))}
    save_file(more, tmp_path / "adapter_model.safetensors")
    assert "trainable_tokens_delta" in refused_folder(tmp_path)[0]


ASKING = """
import json, sys
from types import SimpleNamespace
from typing import get_args
from vllm.config.lora import MaxLoRARanks
from vllm.lora.peft_helper import PEFTHelper
told = []
for config in json.load(sys.stdin):
    try:
        PEFTHelper.from_dict(config).validate_legal(SimpleNamespace(max_lora_rank=512))
        told.append(True)
    except ValueError:
        told.append(False)
print(json.dumps([list(get_args(MaxLoRARanks)), told]))
"""


@pytest.mark.slow
def test_vllm_itself_says_the_same() -> None:
    root = Path(__file__).parents[2]
    found = [root / "build/vllm-venv/bin/python", Path(os.environ.get("FATHOM_VLLM_PYTHON", ""))]
    python = next((path for path in found if path.is_file()), None)
    if python is None:
        pytest.skip("vLLM is not installed in build/vllm-venv ($FATHOM_VLLM_PYTHON)")
    cases = [change for change, _ in REFUSED.values()] + list(SERVED.values())
    configs = [{**PLAIN, **change} for change in cases]
    done = subprocess.run(
        [str(python), "-c", ASKING], input=json.dumps(configs), capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr[-2000:]
    ranks, legal = json.loads(done.stdout.splitlines()[-1])
    assert tuple(ranks) == RANKS
    assert legal == [not refused_by_vllm(config) for config in configs]
