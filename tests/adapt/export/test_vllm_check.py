"""What vLLM would refuse of an adapter, before a server is started. tests/app/test_serving_vllm.py asks vLLM itself."""

import json
from pathlib import Path
from typing import Any

import pytest
from made_exports import made_adapter, made_model, tokenizer_of

from adapt.export.vllm_check import max_rank, refused_config, refused_folder, require_servable
from retrieval.errors import MissingError, UsageError

PLAIN: dict[str, Any] = {"peft_type": "LORA", "r": 8, "lora_alpha": 16, "target_modules": ["q_proj"]}


def test_plain_lora_with_its_common_variants_is_taken() -> None:
    for more in (
        {},
        {"use_rslora": True},
        {"init_lora_weights": "gaussian"},
        {"rank_pattern": {"q_proj": 4}},
        {"r": 5},
    ):
        assert refused_config(PLAIN | more) == (), more


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"peft_type": "IA3"}, "no IA3"),
        ({"use_dora": True}, "DoRA"),
        ({"bias": "all"}, "biases"),
        ({"lora_bias": True}, "biases"),
        ({"modules_to_save": ["embed_tokens"]}, "whole modules"),
        ({"trainable_token_indices": {"embed_tokens": [1]}}, "rows of the embedding"),
        ({"init_lora_weights": "pissa_niter_4"}, "its start"),
        ({"init_lora_weights": "olora"}, "its start"),
        ({"layer_replication": [[0, 2]]}, "used twice"),
        ({"r": 1024}, "rank is 1024"),
        ({"rank_pattern": {"q_proj": 640}}, "rank is 640"),
        ({"r": None}, "does not say its rank"),
    ],
)
def test_what_vllm_refuses_is_named(more: dict[str, Any], said: str) -> None:
    (reason,) = refused_config(PLAIN | more)
    assert said in reason


def test_an_adapter_is_judged_by_its_weights_too(tmp_path: Path) -> None:
    base = made_model(tmp_path / "base", "llama", tokenizer_of("smollm"))
    plain = made_adapter(base, tmp_path / "plain", r=4)
    dora = made_adapter(base, tmp_path / "dora", use_dora=True)
    assert refused_folder(plain) == ()
    said = json.loads((dora / "adapter_config.json").read_text())
    (dora / "adapter_config.json").write_text(json.dumps(said | {"use_dora": False}))
    assert "which is no LoRA matrix" in refused_folder(dora)[0]
    with pytest.raises(UsageError, match="refuse the adapter 'dora': .*; merge it into its base"):
        require_servable(dora, "dora")
    with pytest.raises(MissingError, match="no adapter"):
        refused_folder(base)


def test_the_rank_that_the_server_is_told_is_one_that_vllm_knows(tmp_path: Path) -> None:
    def with_rank(rank: int) -> Path:
        folder = tmp_path / str(rank)
        folder.mkdir()
        (folder / "adapter_config.json").write_text(json.dumps(PLAIN | {"r": rank}))
        return folder

    assert [max_rank([with_rank(rank)]) for rank in (1, 4, 8, 17, 300)] == [1, 8, 8, 32, 320]
    assert max_rank([tmp_path / "4", tmp_path / "17"]) == 32
    with pytest.raises(UsageError, match="rank 600"):
        max_rank([with_rank(600)])
