"""The shipped recipe `smoke`, run as README says: the whole chain on the model that comes along, which then answers."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


def fathom(workspace: Path, *words: str) -> "subprocess.CompletedProcess[str]":
    environment = {**os.environ, "OMP_WAIT_POLICY": "PASSIVE"}
    command = [sys.executable, "-m", "app", *words, "--workspace", str(workspace)]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=800)
    assert "Traceback" not in done.stdout + done.stderr
    return done


def told(done: "subprocess.CompletedProcess[str]") -> Any:
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout)


def test_smoke_makes_a_model_that_answers(tmp_path: Path, packaged_at_hand: Callable[[Path], None]) -> None:
    packaged_at_hand(tmp_path / "cache")
    result = told(fathom(tmp_path, "adapt", "run", "data/recipes/smoke.yaml", "--json"))
    assert result["run"]["status"] == "finished"
    assert [stage["kind"] for stage in result["stages"]] == ["vocabulary", "dapt", "tapt"]
    assert not any(stage["skipped"] for stage in result["stages"])
    figures = result["stages"][-1]["measured"]["figures"]
    for label in ("domain", "general", "everyday"):
        assert 0.3 < figures[f"{label} bits_per_byte"]["value"] < 3.0
    before = result["base"]["figures"]
    assert figures["domain tokens_per_byte"]["value"] < before["domain tokens_per_byte"]["value"]
    report = Path(result["report"]).read_text("utf-8")
    assert "smoke" in report and "https://" not in report.split("</style>")[-1].split("<script")[0][:2000]

    again = fathom(tmp_path, "adapt", "run", "data/recipes/smoke.yaml", "--json")
    assert all(stage["skipped"] for stage in told(again)["stages"])
    (model,) = told(fathom(tmp_path, "model", "list", "--json"))
    assert model["name"] == "smoke" and model["stages"] == ["vocabulary", "dapt", "tapt"]

    shelf = tmp_path / "shelf"
    shelf.mkdir()
    (shelf / "pump.md").write_text("# Pump\n\nError code E17 means that the motor is overheated.\n", encoding="utf-8")
    assert fathom(tmp_path, "index", "sync", str(shelf)).returncode == 0
    answer = told(fathom(tmp_path, "ask", "What does error code E17 mean?", "--model", "smoke", "--json"))
    assert "smoke" in str(answer["model"]) and answer["passages"]


def test_smoke_sft_makes_a_model_that_answers_and_stops(tmp_path: Path) -> None:
    from app.engines.local import LocalModel, open_local
    from app.engines.speaker import Manners

    result = told(fathom(tmp_path, "adapt", "run", "data/recipes/smoke-sft.yaml", "--json"))
    assert result["run"]["status"] == "finished" and result["failed"] == []
    (stage,) = result["stages"]
    before, after = (one["figures"]["chat chat_loss"]["value"] for one in (result["base"], stage["measured"]))
    assert after < before
    blocks = stage["facts"]["blocks"]["chat"]
    assert blocks["learned"] < 0.5 * blocks["tokens"] and blocks["too_long"]["count"] == 0
    assert (Path(stage["model"]).parent / "adapter" / "adapter_model.safetensors").is_file()
    # Questions of the examples are answered as briefly as there, to the end of the turn.
    speaker = open_local(LocalModel(stage["model"]), Manners(max_new_tokens=80))
    question = {"role": "user", "content": "Should prices that change every week be trained in?"}
    pieces = list(speaker.pieces([question], {}))
    assert "".join(piece.text for piece in pieces).strip() and pieces[-1].finish == "stop", pieces
