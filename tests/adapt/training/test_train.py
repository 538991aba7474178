"""A tiny model trained for a few steps: what comes out, and that a stop at any step changes nothing of it."""

import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from made_orders import MadeOrder, in_pieces, job_in, made_model, made_order, quiet, steps_of, stopping_at, weights_of
from transformers import AutoModelForCausalLM, AutoTokenizer

from adapt.recipe import Dapt, LearningRate, Method
from adapt.training.train import train

torch.set_num_threads(1)
SETTINGS = Dapt(block=32, batch_tokens=128, micro_tokens=64, precision="fp32", lr=LearningRate(peak=3e-3), clip=1.0)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made_model(tmp_path_factory.mktemp("base") / "model")


@pytest.fixture(scope="module")
def order(base: Path) -> MadeOrder:
    return made_order(AutoTokenizer.from_pretrained(base), rows=23)  # six steps of which one has a row less


def test_training_lowers_the_loss_and_leaves_a_whole_model(tmp_path: Path, base: Path, order: MadeOrder) -> None:
    result = train(job_in(tmp_path, base, SETTINGS), progress=quiet, order=order)
    told = steps_of(result)
    assert [line["step"] for line in told] == [1, 2, 3, 4, 5, 6]
    assert told[-1]["loss"] < told[0]["loss"]
    assert told[-1]["tokens"] == order.tokens == result.tokens
    assert result.model is not None
    model = AutoModelForCausalLM.from_pretrained(result.model)
    assert model.config.use_cache is True
    assert (
        AutoTokenizer.from_pretrained(result.model).chat_template == AutoTokenizer.from_pretrained(base).chat_template
    )
    assert any(not torch.equal(weights_of(base)[name], now) for name, now in weights_of(result.model).items())
    assert not list(tmp_path.rglob("*.bin")) and not list(tmp_path.rglob("*.pt*"))
    assert train(job_in(tmp_path, base, SETTINGS), progress=quiet, order=order) == result


@pytest.mark.parametrize("every", [60, 130, 300])
@pytest.mark.parametrize("method", [Method(), Method(kind="lora", r=4, dropout=0.2)], ids=["full", "lora"])
def test_a_training_that_was_stopped_goes_on_to_the_bit(
    tmp_path: Path, base: Path, order: MadeOrder, every: int, method: Method
) -> None:
    curve = "cosine" if method.kind == "full" else "wsd"
    lr = LearningRate(peak=3e-3, curve=curve, warm_up=0.3, floor=0.0)  # type: ignore[arg-type]
    settings = SETTINGS.model_copy(update={"method": method, "lr": lr})
    whole = train(job_in(tmp_path / "whole", base, settings), progress=quiet, order=order)
    pieces, sessions = in_pieces(job_in(tmp_path / "pieces", base, settings), order, every)
    assert sessions > 2
    assert steps_of(whole) == steps_of(pieces)
    assert steps_of(whole)[0]["lr"] == 1.5e-3
    assert whole.model and pieces.model
    one, other = weights_of(whole.model), weights_of(pieces.model)
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_the_loss_of_a_step_is_the_mean_over_its_tokens_whatever_the_micro_batches(
    tmp_path: Path, base: Path, order: MadeOrder
) -> None:
    told = []
    for micro in (32, 64, 128):
        settings = SETTINGS.model_copy(update={"micro_tokens": micro})
        told.append(steps_of(train(job_in(tmp_path / str(micro), base, settings), progress=quiet, order=order)))
    for other in told[1:]:
        assert [line["loss"] for line in other] == pytest.approx([line["loss"] for line in told[0]], rel=1e-5)
        assert [line["grad_norm"] for line in other] == pytest.approx([line["grad_norm"] for line in told[0]], rel=1e-4)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"settings": SETTINGS.model_copy(update={"clip": 0.5})}, "clip was 1.0 and is 0.5"),
        ({"seed": 4}, "the seed was 3 and is 4"),
    ],
)
def test_a_checkpoint_of_other_settings_is_refused(
    tmp_path: Path, base: Path, order: MadeOrder, change: dict[str, Any], words: str
) -> None:
    stop = threading.Event()
    job = job_in(tmp_path, base, SETTINGS)
    assert train(job, progress=stopping_at(stop, 200), stop=stop, order=order).stopped
    with pytest.raises(Exception, match=words):
        train(replace(job, **change), progress=quiet, order=order)


def test_a_base_or_an_order_that_changed_is_refused(tmp_path: Path, base: Path, order: MadeOrder) -> None:
    stop = threading.Event()
    job = job_in(tmp_path, base, SETTINGS)
    assert train(job, progress=stopping_at(stop, 200), stop=stop, order=order).stopped
    with pytest.raises(Exception, match="the texts or their mixture changed since the checkpoint"):
        train(job, progress=quiet, order=made_order(AutoTokenizer.from_pretrained(base), seed=1))
    with pytest.raises(Exception, match="the base changed since the checkpoint"):
        train(replace(job, model=made_model(tmp_path / "other", seed=9)), progress=quiet, order=order)
