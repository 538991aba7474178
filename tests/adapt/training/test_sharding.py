"""FSDP2: weights shared out between two processes train as those of one process do, and are whole in every file.

accelerate shares weights out between GPUs only. In the processes of these tests two CPUs pass for GPUs at that one
question; everything else (torch's fully_shard, gloo, the trainer, checkpoints) is what runs on GPUs.
"""

import os
import threading
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from forked_processes import ForkedProcesses
from made_orders import job_in, made_model, ordered, quiet, steps_of, weights_of

from adapt.recipe import Anchor, Dapt, Keep, LearningRate, Method
from adapt.training.sharding import require_shardable
from adapt.training.train import train
from retrieval.errors import UsageError

torch.set_num_threads(1)
SHARED_OUT = {"fsdp": "full_shard", "fsdp_config": {"fsdp_version": 2, "reshard_after_forward": True}}
SETTINGS = Dapt(
    block=32,
    batch_tokens=256,
    micro_tokens=64,
    precision="fp32",
    lr=LearningRate(peak=3e-3),
    checkpoint_steps=4,
    trainer=SHARED_OUT,
)


def cpu_passes_for_gpu() -> None:
    """In a process of the training, before it begins."""
    import accelerate.state as state

    plain, whole = state.PartialState.__init__, state.AcceleratorState.__init__

    def pass_for_gpu(self: Any, *words: Any, **options: Any) -> None:
        plain(self, *words, **options)
        if self.distributed_type == state.DistributedType.MULTI_CPU:
            self.distributed_type = state.DistributedType.MULTI_GPU

    def tell(self: Any, *words: Any, **options: Any) -> None:
        whole(self, *words, **options)
        with open(os.environ["TOLD"], "a") as file:
            file.write(f"{self.distributed_type}\n")

    state.PartialState.__init__, state.AcceleratorState.__init__ = pass_for_gpu, tell  # type: ignore[method-assign]


@pytest.fixture
def sharing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The processes of `train` share weights out; returns the file in which each says how it works."""
    forked = partial(ForkedProcesses, first=cpu_passes_for_gpu)
    monkeypatch.setattr("adapt.training.launching.subprocess.Popen", forked)
    monkeypatch.setenv("TOLD", str(tmp_path / "told"))
    return tmp_path / "told"


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["full", "lora"])
def test_weights_shared_out_train_as_whole_ones_do(kind: str, tmp_path: Path, sharing: Path) -> None:
    base = made_model(tmp_path / "base")
    settings = SETTINGS.model_copy(update={"method": Method(kind=kind, r=4)})  # type: ignore[arg-type]
    told, weights = [], []
    for name, processes, trainer in (("one", 1, {}), ("two", 2, SHARED_OUT)):
        folder = tmp_path / name
        ordered(folder, base)
        job = job_in(folder, base, settings.model_copy(update={"trainer": trainer}), processes=processes)
        result = train(job, progress=quiet)
        assert result.model is not None
        told.append(steps_of(result))
        weights.append(weights_of(result.model))
    assert set(sharing.read_text().split()) == {"DistributedType.FSDP"}
    for figure, close in (("loss", 1e-5), ("grad_norm", 1e-4)):
        assert [line[figure] for line in told[1]] == pytest.approx([line[figure] for line in told[0]], rel=close)
    assert weights[0].keys() == weights[1].keys()
    for name in weights[0]:
        torch.testing.assert_close(weights[0][name], weights[1][name], rtol=1e-3, atol=1e-5)


@pytest.mark.slow
def test_a_stopped_training_goes_on_from_whole_weights(tmp_path: Path, sharing: Path) -> None:
    base = made_model(tmp_path / "base")
    ordered(tmp_path, base)
    settings = SETTINGS.model_copy(update={"batch_tokens": 64})
    job = job_in(tmp_path, base, settings, processes=2)
    stop = threading.Event()
    stop.set()
    first = train(job, progress=quiet, stop=stop)
    assert first.stopped and first.step == 1 < first.steps
    result = train(job, progress=quiet)
    undisturbed = tmp_path / "undisturbed"
    ordered(undisturbed, base)
    whole = train(job_in(undisturbed, base, settings, processes=2), progress=quiet)
    assert result.model is not None and whole.model is not None
    assert [line["loss"] for line in steps_of(result)] == [line["loss"] for line in steps_of(whole)]
    one, other = weights_of(result.model), weights_of(whole.model)
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_what_does_not_go_with_it_is_refused() -> None:
    require_shardable(SETTINGS)
    with pytest.raises(UsageError, match="lora"):
        require_shardable(SETTINGS.model_copy(update={"method": Method(kind="qlora")}))
    for keep in (Keep(l2sp=Anchor(weight=1.0)), Keep(ewc=Anchor(weight=1.0))):
        with pytest.raises(UsageError, match="fsdp"):
            require_shardable(SETTINGS.model_copy(update={"keep": keep}))
        require_shardable(SETTINGS.model_copy(update={"keep": keep, "trainer": {}}))
