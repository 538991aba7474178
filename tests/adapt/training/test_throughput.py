"""The comparison of loops compares the same work: first losses are equal, rates and their ratios are there."""

import json
from pathlib import Path

import pytest
from made_orders import made_model

from adapt.experiments.throughput import main


@pytest.mark.slow
def test_fathom_s_loop_and_trl_s_begin_with_the_same_loss(tmp_path: Path) -> None:
    made_model(tmp_path / "base")
    texts = tmp_path / "texts.jsonl"
    lines = [json.dumps({"text": f"the dog sat on log {n}. " * (1 + n % 5)}) for n in range(40)]
    texts.write_text("\n".join(lines) + "\n")
    asked = "--block 32 --batch-tokens 128 --rows 2 --trl-rows 1 --steps 3 --rounds 1".split()
    out = tmp_path / "figures.json"
    assert main(["--texts", str(texts), "--model", str(tmp_path / "base"), "--out", str(out), *asked]) == 0
    told = json.loads(out.read_text())
    assert told["same_work"] and told["first_loss_apart"] < 1e-5
    assert told["fathom_over_trl"] > 0 and told["packed_over_padded"] > 0
    for run in told["runs"]:
        assert len(run["cpu"]) == len(run["tokens"]) == len(run["losses"]) == 3
    fathom, trl = (next(run for run in told["runs"] if run["arm"] == arm) for arm in ("fathom", "trl"))
    assert fathom["losses"] == pytest.approx(trl["losses"], rel=1e-4)
    assert fathom["tokens"] == trl["tokens"]
