"""How vLLM is started: on this machine alone, in its own environment; what is missing is said. No server is started."""

import re
from pathlib import Path

import pytest

from eval.baselines.install import ENVIRONMENTS, baseline_python
from eval.baselines.vllm_server import Flags, as_safetensors, command, environment, serving
from retrieval.errors import FathomError, MissingError


def test_every_environment_has_exact_pins_and_a_folder_of_its_own() -> None:
    for wanted in ENVIRONMENTS.values():
        assert all(re.fullmatch(r"[a-z0-9-]+==\d+(\.\d+)+", pin) for pin in wanted.pins)
    assert len({wanted.folder for wanted in ENVIRONMENTS.values()}) == len(ENVIRONMENTS)
    assert baseline_python(name="vllm") == Path("build/vllm-venv/bin/python")
    assert baseline_python() == Path("build/baseline-venv/bin/python")


def test_it_listens_on_this_machine_and_tells_nobody() -> None:
    words = command(Path("/models/tides"), 8123, Flags(context=2048, sequences=16))
    assert words[0] == str(baseline_python(name="vllm"))
    options = dict(zip(words, words[1:], strict=False))
    assert (options["--host"], options["--port"], options["--served-model-name"]) == ("127.0.0.1", "8123", "tides")
    assert (options["--max-model-len"], options["--max-num-seqs"]) == ("2048", "16")
    variables = environment(Flags(threads=2))
    assert variables["OMP_NUM_THREADS"] == "2"
    assert variables["VLLM_NO_USAGE_STATS"] == variables["HF_HUB_OFFLINE"] == "1"


def test_what_is_missing_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(MissingError, match="python -m eval.baselines.install vllm"):
        with serving(tmp_path):
            raise AssertionError("it cannot have started")


def test_a_server_that_does_not_start_is_told_with_the_end_of_its_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    python = baseline_python(name="vllm")
    python.parent.mkdir(parents=True)
    python.write_text("#!/bin/sh\necho 'no such model' >&2\nexit 3\n", encoding="utf-8")
    python.chmod(0o755)
    with pytest.raises(FathomError, match="vLLM ended; the end of its log: no such model"):
        with serving(tmp_path):
            raise AssertionError("it cannot have started")


def test_a_model_that_was_written_out_is_not_written_again(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}", encoding="utf-8")
    assert as_safetensors(Path("absent.gguf"), tmp_path) == tmp_path
