"""docs/scale.md: what it names exists, its recipe is one, its commands parse, and two machines train as it says."""

import ast
import importlib.util
import json
import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from made_orders import job_in, made_model, ordered, quiet, steps_of

from adapt.experiments.__main__ import options_of
from adapt.experiments.gpu_rows import _config
from adapt.recipe import Dapt, LearningRate
from adapt.recipe_file import load_recipe
from adapt.training.arguments import check_passed, fields
from adapt.training.job import TrainingResult
from adapt.training.launching import JOB, LOG, OUTCOME, STOP
from adapt.training.rows import batches
from adapt.training.sharding import require_shardable
from adapt.training.train import train

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "scale.md").read_text("utf-8")


def blocks(language: str) -> list[str]:
    """Fenced pieces in a language, in order."""
    fenced = re.findall(r"^```(\w*)\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    return [text for word, text in fenced if word == language]


def test_the_recipe_of_the_page_is_one(tmp_path: Path) -> None:
    (snippet,) = blocks("yaml")
    (tmp_path / "recipe.yaml").write_text(snippet)
    settings = load_recipe(tmp_path / "recipe.yaml").stages[0].settings
    assert isinstance(settings, Dapt) and settings.trainer["fsdp"]
    check_passed(settings.trainer)
    assert settings.trainer.keys() <= set(fields())
    require_shardable(settings)


def test_the_modules_files_and_words_of_the_page_exist() -> None:
    modules = set(re.findall(r"-m (adapt[\w.]*)", PAGE)) | set(re.findall(r"from (adapt[\w.]+) import", PAGE))
    assert len(modules) >= 2
    for module in modules:
        assert importlib.util.find_spec(module) is not None, module
    for path in re.findall(r"`((?:adapt|docs)/[\w./-]+)`", PAGE) + re.findall(r"data/recipes/[\w.-]+", PAGE):
        assert (ROOT / path).is_file(), path
    for name in (JOB, OUTCOME, LOG):
        assert name in PAGE
    assert f"/{STOP}`" in PAGE
    (script,) = blocks("python")
    imported = {
        alias.name for node in ast.walk(ast.parse(script)) if isinstance(node, ast.ImportFrom) for alias in node.names
    }
    assert "work" in imported


def test_the_commands_of_the_page_parse() -> None:
    words = " ".join(blocks("")).replace("\\\n", " ")
    told = re.findall(r"python -m adapt\.experiments (.*)", words)
    assert len(told) == 2
    for command in told:
        options_of(command.split())
    help_text = subprocess.run(
        [sys.executable, "-m", "app", "adapt", "run", "--help"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    for option in set(re.findall(r"fathom adapt run [^\n#]*?(--[a-z]+)", words)):
        assert option in help_text


def test_the_batches_of_the_page_are_those_of_the_trainer() -> None:
    options = {"block": 4096, "batch_tokens": 131_072, "micro_tokens": 16_384, "rank": 0}
    eight, one = (batches(1000, processes=processes, **options) for processes in (8, 1))
    assert (eight.step_rows, eight.micro_rows, eight.accumulation) == (32, 4, 1)
    assert (one.step_rows, one.micro_rows, one.accumulation) == (32, 4, 8)


@pytest.mark.parametrize(("model", "full", "table"), [("qwen3-4b", 64, 6.2), ("qwen3-8b", 131, 19.9)])
def test_the_sizes_of_the_page_follow_from_the_configs(model: str, full: float, table: float) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    config = _config(model)
    with torch.device("meta"):
        made = AutoModelForCausalLM.from_config(config)
    weights = sum(weight.numel() for weight in made.parameters())
    assert round(16 * weights / 1e9) == full and f"| {full} GB |" in PAGE
    tables = 1 if config.tie_word_embeddings else 2
    assert round(16 * tables * config.vocab_size * config.hidden_size / 1e9, 1) == table and f"| {table} GB |" in PAGE


@pytest.mark.slow
@pytest.mark.timeout(900)  # four processes that each load torch: minutes where others work beside
def test_two_agents_train_one_job_as_two_machines_do(tmp_path: Path) -> None:
    base = made_model(tmp_path / "base")
    settings = Dapt(block=32, batch_tokens=256, micro_tokens=64, precision="fp32", lr=LearningRate(peak=3e-3))
    alone, both = tmp_path / "alone", tmp_path / "both"
    ordered(alone, base)
    ordered(both, base)
    expected = train(job_in(alone, base, settings, processes=1), progress=quiet)
    job = job_in(both, base, settings, processes=2)
    job.folder.mkdir(parents=True, exist_ok=True)
    job.write(job.folder / JOB)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [
        sys.executable, "-m", "torch.distributed.run", "--nnodes=2", "--nproc-per-node=1", "--rdzv-id=dapt",
        "--rdzv-backend=c10d", f"--rdzv-endpoint=127.0.0.1:{port}", "-m", "adapt.training.worker",
        str(job.folder / JOB),
    ]  # fmt: skip
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    agents = [
        subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        for _ in range(2)
    ]
    try:
        said = [agent.communicate(timeout=800)[1].decode(errors="replace")[-2000:] for agent in agents]
    finally:
        for agent in agents:
            agent.kill()
    assert [agent.returncode for agent in agents] == [0, 0], said
    assert "error" not in json.loads((job.folder / OUTCOME).read_text())
    result = TrainingResult.read(job.folder / OUTCOME)
    assert result.model is not None and result.step == expected.step
    losses = [[line["loss"] for line in steps_of(one)] for one in (expected, result)]
    assert losses[1] == pytest.approx(losses[0], rel=1e-5)
