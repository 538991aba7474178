"""Checkpoints are whole or not there; damaged ones are noticed, a full disk is said in time, no pickle is in them."""

import errno
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from adapt.training.checkpoints import Checkpoints, DiskFull, Identity, install, whole
from adapt.training.metrics import MetricsFile, read
from adapt.training.states import load_optimizer, load_random, random_state, save_optimizer, save_random

torch.set_num_threads(1)
IDENTITY = Identity(model="m", order="o", settings={"clip": 1.0}, seed=0)


def writing(text: str) -> Any:
    def fill(folder: Path) -> None:
        (folder / "model.safetensors").write_text(text)
        (folder / "inner").mkdir()
        (folder / "inner" / "more.json").write_text("{}")

    return fill


def made(folder: Path, *steps: int) -> Checkpoints:
    checkpoints = Checkpoints(folder / "checkpoints", IDENTITY)
    for step in steps:
        checkpoints.write(step, writing(f"weights of {step}"), size=100, facts={"tokens": step})
    return checkpoints


def test_the_newest_two_are_kept_and_the_newest_is_found(tmp_path: Path) -> None:
    checkpoints = made(tmp_path, 2, 4, 10)
    assert sorted(path.name for path in checkpoints.folder.iterdir()) == ["step-10", "step-4"]
    found = checkpoints.newest()
    assert found is not None
    assert found[0].name == "step-10" and found[1]["step"] == 10 and found[1]["tokens"] == 10


@pytest.mark.parametrize("damage", ["bit", "missing", "manifest", "seal", "short"])
def test_a_damaged_one_is_set_aside_and_the_one_before_is_taken(tmp_path: Path, damage: str) -> None:
    checkpoints = made(tmp_path, 4, 10)
    folder = checkpoints.folder / "step-10"
    weights, manifest = folder / "model.safetensors", folder / "manifest.json"
    if damage == "bit":
        data = bytearray(weights.read_bytes())
        data[3] ^= 1
        weights.write_bytes(data)
    elif damage == "short":
        weights.write_bytes(weights.read_bytes()[:-1])
    elif damage == "missing":
        weights.unlink()
    elif damage == "manifest":
        manifest.write_text("[")
    else:
        manifest.write_text(manifest.read_text().replace('"step": 10', '"step": 11'))
    found = checkpoints.newest()
    assert found is not None and found[0].name == "step-4"
    assert (checkpoints.folder / "damaged-step-10").is_dir()


def test_what_a_kill_left_half_written_is_cleared(tmp_path: Path) -> None:
    checkpoints = made(tmp_path, 4)
    shutil.copytree(checkpoints.folder / "step-4", checkpoints.folder / ".making-step-6")
    checkpoints.clear_leftovers()
    assert [path.name for path in checkpoints.folder.iterdir()] == ["step-4"]


def test_a_full_disk_leaves_the_one_before_and_says_so(tmp_path: Path) -> None:
    checkpoints = made(tmp_path, 4)

    def full(folder: Path) -> None:
        writing("half")(folder)
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(DiskFull, match="the checkpoint of step 4 is kept"):
        checkpoints.write(6, full, size=100, facts={})
    assert [path.name for path in checkpoints.folder.iterdir()] == ["step-4"]


def test_too_little_room_is_said_before_a_byte_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoints = made(tmp_path, 2, 4)
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=50 << 20))
    with pytest.raises(DiskFull, match="a checkpoint takes 100 MiB and 50 MiB are free; the checkpoint of step 4"):
        checkpoints.write(6, lambda folder: pytest.fail("written"), size=100 << 20, facts={})
    with pytest.raises(DiskFull, match="needs .* MiB for 2 checkpoints"):
        checkpoints.require_room(100 << 20, 50 << 20)
    checkpoints.require_room(1 << 20, 1 << 20)


def test_another_training_s_checkpoint_is_refused_in_words(tmp_path: Path) -> None:
    made(tmp_path, 4)
    other = Identity(model="n", order="o", settings={"clip": 2.0, "block": 8}, seed=0)
    with pytest.raises(Exception, match="the base changed since the checkpoint; block was null and is 8; clip was 1.0"):
        Checkpoints(tmp_path / "checkpoints", other).newest()


def test_an_installed_folder_replaces_the_older_one_whole(tmp_path: Path) -> None:
    install(tmp_path / "model", writing("one"), {"n": 1})
    install(tmp_path / "model", writing("two"), {"n": 2})
    found = whole(tmp_path / "model")
    assert found is not None and found["n"] == 2
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
    with pytest.raises(ZeroDivisionError):
        install(tmp_path / "model", lambda folder: 1 / 0, {})  # type: ignore[arg-type,return-value]
    assert (tmp_path / "model" / "model.safetensors").read_text() == "two"


def test_an_optimizer_s_state_comes_back_to_the_bit_without_a_pickle(tmp_path: Path) -> None:
    def trained(steps: int) -> tuple[torch.nn.Linear, torch.optim.AdamW]:
        torch.manual_seed(0)
        layer = torch.nn.Linear(4, 3)
        optimizer = torch.optim.AdamW(layer.parameters(), lr=0.1, fused=True)
        for _ in range(steps):
            layer(torch.ones(2, 4)).square().sum().backward()
            optimizer.step()
        return layer, optimizer

    _, optimizer = trained(3)
    save_optimizer(optimizer.state_dict(), tmp_path / "optimizer")
    assert sorted(path.suffix for path in tmp_path.iterdir()) == [".json", ".safetensors"]
    _, other = trained(1)
    other.load_state_dict(load_optimizer(tmp_path / "optimizer"))
    for mine, its in zip(other.state.values(), optimizer.state.values(), strict=True):
        assert all(torch.equal(torch.as_tensor(mine[key]), torch.as_tensor(its[key])) for key in its)
    assert other.param_groups[0]["betas"] == optimizer.param_groups[0]["betas"]


def test_random_numbers_go_on_where_they_were(tmp_path: Path) -> None:
    import random

    import numpy as np

    def drawn() -> list[float]:
        return [random.random(), random.gauss(0, 1), float(np.random.rand()), float(np.random.randn()), *torch.rand(3)]

    random.gauss(0, 1)  # leaves a second number in store
    save_random([random_state()], tmp_path / "random.json")
    expected = drawn()
    drawn()
    load_random(tmp_path / "random.json", 0)
    assert drawn() == expected


def test_lines_after_the_checkpoint_are_cut_off_and_half_a_line_is_none(tmp_path: Path) -> None:
    file = tmp_path / "metrics.jsonl"
    text = "".join(json.dumps({"step": step, "loss": float(step)}) + "\n" for step in (1, 2, 3, 4))
    file.write_text(text + '{"step": 5, "lo')
    assert [line["step"] for line in read(file)] == [1, 2, 3, 4]
    metrics = MetricsFile(file, since=2)
    metrics.append({"step": 3, "loss": float("nan")})
    metrics.close()
    assert [line["step"] for line in read(file)] == [1, 2, 3]
    assert read(file)[-1]["loss"] is None
    assert metrics.losses == [1.0, 2.0]
