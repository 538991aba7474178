"""Two processes train as one does: the same losses, the same weights up to the order of sums, and one set of files.

torchrun starts those of the first test; the others' are forked (tests/forked_processes.py).
"""

import threading
from pathlib import Path

import pytest
import torch
from forked_processes import ForkedProcesses
from made_orders import job_in, made_model, ordered, quiet, steps_of, weights_of

from adapt.recipe import Dapt, LearningRate
from adapt.training.train import train
from retrieval.errors import FathomError

torch.set_num_threads(1)
SETTINGS = Dapt(block=32, batch_tokens=256, micro_tokens=64, precision="fp32", lr=LearningRate(peak=3e-3))


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made_model(tmp_path_factory.mktemp("base") / "model")


@pytest.fixture
def forked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("adapt.training.launching.subprocess.Popen", ForkedProcesses)


@pytest.mark.slow
@pytest.mark.timeout(900)  # each process loads torch and transformers, minutes on a busy machine
def test_two_processes_have_the_losses_of_one(tmp_path: Path, base: Path) -> None:
    told, results = [], []
    for processes in (1, 2):
        folder = tmp_path / str(processes)
        ordered(folder, base)
        result = train(job_in(folder, base, SETTINGS, processes=processes), progress=quiet)
        results.append(result)
        told.append(steps_of(result))
    assert [line["step"] for line in told[0]] == [line["step"] for line in told[1]]
    assert [line["loss"] for line in told[1]] == pytest.approx([line["loss"] for line in told[0]], rel=1e-5)
    assert [line["grad_norm"] for line in told[1]] == pytest.approx([line["grad_norm"] for line in told[0]], rel=1e-4)
    assert [line["shares"] for line in told[0]] == [line["shares"] for line in told[1]]
    one, other = (weights_of(result.model) for result in results if result.model)
    for name in one:
        torch.testing.assert_close(one[name], other[name], rtol=1e-3, atol=1e-5)


@pytest.mark.slow
@pytest.mark.usefixtures("forked")
def test_two_processes_stop_together_and_go_on(tmp_path: Path, base: Path) -> None:
    ordered(tmp_path, base)
    job = job_in(tmp_path, base, SETTINGS.model_copy(update={"batch_tokens": 64, "checkpoint_steps": 1}), processes=2)
    stop = threading.Event()
    stop.set()
    first = train(job, progress=quiet, stop=stop)
    assert first.stopped or first.model is not None
    result = train(job, progress=quiet)
    assert result.model is not None and result.step == result.steps
    assert [line["step"] for line in steps_of(result)] == list(range(1, result.steps + 1))


@pytest.mark.slow
@pytest.mark.usefixtures("forked")
def test_a_failure_in_a_process_comes_back_as_its_sentence(tmp_path: Path, base: Path) -> None:
    ordered(tmp_path, base)
    settings = SETTINGS.model_copy(update={"trainer": {"push_to_hub": True}})
    with pytest.raises(FathomError, match="push_to_hub cannot be set"):
        train(job_in(tmp_path, base, settings, processes=2), progress=quiet)
