"""A trained adapter → the folder that an engine takes for a role."""

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from adapt.export.role_adapter import write_role_adapter
from eval.models.adapter_base import FILE
from eval.models.packaged import SAME_WEIGHTS
from retrieval.errors import UsageError

BASE = sorted(SAME_WEIGHTS)[0]
CONFIG = {
    "peft_type": "LORA",
    "r": 4,
    "lora_alpha": 8,
    "target_modules": ["v_proj", "q_proj"],
    "modules_to_save": None,
    "base_model_name_or_path": "/home/somebody/models/base",
}
NAME = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight"


def trained(folder: Path, base: str = BASE, **config: object) -> Path:
    folder.mkdir()
    save_file({NAME: np.full((4, 8), 0.25, np.float32)}, folder / "adapter_model.safetensors")
    (folder / "adapter_config.json").write_text(json.dumps(CONFIG | config))
    (folder / FILE).write_text(json.dumps({"base_sha256": base}))
    (folder / "manifest.json").write_text(json.dumps({"recipe": {"name": "rewriter"}}))
    return folder


def test_a_role_is_half_as_large_and_says_where_it_comes_from(tmp_path: Path) -> None:
    out = tmp_path / "out"
    write_role_adapter(trained(tmp_path / "run"), out, role="rewriter", data=["CANARD | CC BY-SA 4.0 | somewhere"])
    weights = load_file(out / "adapter_model.safetensors")[NAME]
    assert weights.dtype == np.float16 and float(weights[0, 0]) == 0.25
    config = json.loads((out / "adapter_config.json").read_text())
    assert config["target_modules"] == ["q_proj", "v_proj"] and "/home" not in json.dumps(config)
    facts = json.loads((out / FILE).read_text())
    assert (facts["role"], facts["base_sha256"]) == ("rewriter", BASE) and facts["prompt_version"]
    card = (out / "README.md").read_text()
    assert "| CANARD | CC BY-SA 4.0 | somewhere |" in card and "data/recipes/rewriter.yaml" in card


@pytest.mark.parametrize(
    ("base", "config", "said"),
    [
        ("0" * 64, {}, "was not trained on the model that comes with Fathom"),
        (BASE, {"use_dora": True}, "is no plain LoRA"),
        (BASE, {"modules_to_save": ["lm_head"]}, "is no plain LoRA"),
        (BASE, {"target_modules": "all-linear"}, "names no layers one by one"),
    ],
)
def test_what_an_engine_could_not_take_for_a_role_is_refused(
    tmp_path: Path, base: str, config: dict[str, object], said: str
) -> None:
    run = trained(tmp_path / "run", base, **config)
    with pytest.raises(UsageError, match=said):
        write_role_adapter(run, tmp_path / "out", role="rewriter", data=[])
    with pytest.raises(UsageError, match="no role 'poet'"):
        write_role_adapter(run, tmp_path / "out", role="poet", data=[])
    assert not (tmp_path / "out").exists()
