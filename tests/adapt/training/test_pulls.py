"""Replay, distance, anchors, new and held layers in a real training: each changes what it should and nothing else, and
all of them together survive a stop to the bit."""

from pathlib import Path
from typing import Any

import pytest
import torch
from made_orders import MadeOrder, in_pieces, job_in, made_model, made_order, quiet, steps_of, weights_of
from transformers import AutoModelForCausalLM, AutoTokenizer

from adapt.recipe import Anchor, Dapt, Distance, Expansion, Freezing, Keep, LearningRate
from adapt.training.train import train
from retrieval.errors import UsageError

torch.set_num_threads(1)
SETTINGS = Dapt(block=32, batch_tokens=128, micro_tokens=64, precision="fp32", lr=LearningRate(peak=1e-2))


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made_model(tmp_path_factory.mktemp("base") / "model")


@pytest.fixture(scope="module")
def order(base: Path) -> MadeOrder:
    return made_order(AutoTokenizer.from_pretrained(base))


def with_(**changes: Any) -> Dapt:
    return SETTINGS.model_copy(update=changes)


def moved(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> float:
    return sum(float((one[name] - other[name]).square().sum()) for name in one)


@pytest.fixture(scope="module")
def plain(base: Path, order: MadeOrder, tmp_path_factory: pytest.TempPathFactory) -> dict[str, torch.Tensor]:
    result = train(job_in(tmp_path_factory.mktemp("plain"), base, SETTINGS), progress=quiet, order=order)
    assert result.model is not None
    return weights_of(result.model)


@pytest.mark.parametrize("kind", ["l2sp", "ewc"])
def test_anchors_keep_the_weights_nearer_to_where_they_were(
    tmp_path: Path, base: Path, order: MadeOrder, plain: dict[str, torch.Tensor], kind: str
) -> None:
    keep = Keep(**{kind: Anchor(weight=50.0, tokens=200)})
    result = train(job_in(tmp_path, base, with_(keep=keep)), progress=quiet, order=order)
    assert result.model is not None
    before = weights_of(base)
    assert moved(before, weights_of(result.model)) < 0.9 * moved(before, plain)
    assert steps_of(result)[0]["penalty"] == 0.0
    assert steps_of(result)[-1]["penalty"] > 0.0


def test_the_distance_is_the_same_from_a_file_and_from_the_model_itself(
    tmp_path: Path, base: Path, order: MadeOrder
) -> None:
    told = []
    for live in (False, True):
        keep = Keep(kl=Distance(weight=1.0, on=("general",), live=live, top=40))
        told.append(steps_of(train(job_in(tmp_path / str(live), base, with_(keep=keep)), progress=quiet, order=order)))
    for stored, live_one in zip(*told, strict=True):
        assert stored["kl"] == pytest.approx(live_one["kl"], abs=2e-3)  # float16 on the disk
        assert stored["loss"] == pytest.approx(live_one["loss"], abs=2e-3)
    assert told[0][0]["kl"] < 1e-3 < told[0][-1]["kl"]


def test_the_distance_keeps_the_model_nearer_on_the_rows_it_is_kept_on(
    tmp_path: Path, base: Path, order: MadeOrder
) -> None:
    far = {}
    for weight in (0.001, 20.0):
        keep = Keep(kl=Distance(weight=weight, on=("general",), live=True))
        told = steps_of(train(job_in(tmp_path / str(weight), base, with_(keep=keep)), progress=quiet, order=order))
        far[weight] = told[-1]["kl"]
    assert far[20.0] < 0.5 * far[0.001]


def test_new_layers_are_trained_alone_and_the_result_loads(tmp_path: Path, base: Path, order: MadeOrder) -> None:
    settings = with_(expand=Expansion(layers=1, where="top", only_new=True))
    result = train(job_in(tmp_path, base, settings), progress=quiet, order=order)
    assert result.model is not None
    before, after = weights_of(base), weights_of(result.model)
    assert AutoModelForCausalLM.from_pretrained(result.model).config.num_hidden_layers == 3
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert any(float(after[name].abs().max()) > 0 for name in after if name.endswith("layers.2.mlp.down_proj.weight"))


def test_held_layers_stay_to_the_bit_and_join_later(tmp_path: Path, base: Path, order: MadeOrder) -> None:
    before = weights_of(base)
    frozen = train(job_in(tmp_path / "frozen", base, with_(freeze=Freezing(layers=1))), progress=quiet, order=order)
    joining = train(
        job_in(tmp_path / "joining", base, with_(freeze=Freezing(layers=1, unfreeze=True))),
        progress=quiet,
        order=order,
    )
    assert frozen.model and joining.model
    name = "model.layers.0.mlp.down_proj.weight"
    assert torch.equal(before[name], weights_of(frozen.model)[name])
    assert not torch.equal(before[name], weights_of(joining.model)[name])


def test_all_of_it_together_goes_on_to_the_bit_after_stops(tmp_path: Path, base: Path, order: MadeOrder) -> None:
    settings = with_(
        keep=Keep(
            kl=Distance(weight=0.5, on=("general",)),
            l2sp=Anchor(weight=5.0),
            ewc=Anchor(weight=5.0, tokens=200),
        ),
        freeze=Freezing(layers=2, unfreeze=True),
        expand=Expansion(layers=1, only_new=False),
    )
    whole = train(job_in(tmp_path / "whole", base, settings), progress=quiet, order=order)
    pieces, sessions = in_pieces(job_in(tmp_path / "pieces", base, settings), order, 130)
    assert sessions > 2 and steps_of(whole) == steps_of(pieces)
    assert whole.model and pieces.model
    one, other = weights_of(whole.model), weights_of(pieces.model)
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_what_cannot_be_is_said_before_anything_is_loaded(tmp_path: Path, base: Path, order: MadeOrder) -> None:
    from adapt.recipe import Method

    for settings, words in (
        (with_(expand=Expansion(layers=1), method=Method(kind="lora")), "expand.*does not go with"),
        (with_(keep=Keep(kl=Distance(on=("wiki",)))), "names the source 'wiki'"),
        (with_(trainer={"push_to_hub": True}), "trainer.push_to_hub cannot be set: nothing is sent"),
        (with_(trainer={"leaning_rate": 1}), "leaning_rate is no field"),
        (with_(trainer={"model_init_kwargs": {"attn_implementation": "kernels-community/flash-attn"}}), "not known"),
        (with_(optimizer="paged_adamw_8bit"), "needs a CUDA GPU"),
        (with_(batch_tokens=16), "holds fewer than one block"),
    ):
        with pytest.raises(UsageError, match=words):
            train(job_in(tmp_path, base, settings), progress=quiet, order=order)
