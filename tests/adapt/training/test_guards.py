"""A training that goes wrong stops with a sentence and its last good checkpoint; rows and rates are what they say."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from made_orders import MadeOrder, MadeRow, job_in, made_model, made_order, quiet, steps_of
from transformers import AutoTokenizer

from adapt.recipe import Dapt, LearningRate
from adapt.training.arguments import OURS, fields, rates
from adapt.training.guards import FEWEST, LossGuard, TrainingFailed
from adapt.training.rows import IGNORED, Collator, OrderRows, batches, positions, targets_of
from adapt.training.train import train
from retrieval.errors import DamagedError, UsageError

torch.set_num_threads(1)


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("which", ["loss", "gradient"])
def test_what_is_no_number_stops_at_once(value: float, which: str) -> None:
    given: dict[str, Any] = {"loss": 3.0, "gradient": 1.0, which: value}
    with pytest.raises(TrainingFailed, match=f"the {which} of step 7 is no number.*last checkpoint is kept"):
        LossGuard().check(7, given["loss"], given["gradient"], 1e-4)


def test_a_single_high_loss_is_borne_and_three_on_end_are_not() -> None:
    guard = LossGuard([3.0] * FEWEST)
    guard.check(1, 9.0, 1.0, 1e-4)
    assert guard.suspicious == 1
    guard.check(2, 3.1, 1.0, 1e-4)
    assert guard.suspicious == 0
    guard.check(3, 9.0, 1.0, 1e-4)
    guard.check(4, 9.0, 1.0, 1e-4)
    with pytest.raises(TrainingFailed, match="9.000 nats per token at step 5, where 3.000 was usual"):
        guard.check(5, 9.0, 1.0, 1e-4)


def test_a_loss_that_is_high_from_the_beginning_is_usual() -> None:
    guard = LossGuard()
    for step in range(60):
        guard.check(step, 10.0 - step / 10, 1.0, 1e-4)
    assert guard.suspicious == 0


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made_model(tmp_path_factory.mktemp("base") / "model")


@pytest.fixture(scope="module")
def order(base: Path) -> MadeOrder:
    return made_order(AutoTokenizer.from_pretrained(base))


def test_a_training_that_breaks_keeps_its_last_good_checkpoint(
    tmp_path: Path, base: Path, order: MadeOrder, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = Dapt(
        block=32, batch_tokens=128, micro_tokens=64, precision="fp32", checkpoint_steps=1, lr=LearningRate(peak=1e-3)
    )
    plain = LossGuard.check

    def broken(self: LossGuard, step: int, loss: float, gradient: float, lr: float) -> None:
        plain(self, step, math.nan if step == 4 else loss, gradient, lr)

    monkeypatch.setattr(LossGuard, "check", broken)
    with pytest.raises(TrainingFailed, match="the loss of step 4 is no number"):
        train(job_in(tmp_path, base, settings), progress=quiet, order=order)
    kept = sorted(path.name for path in (tmp_path / "run" / "checkpoints").iterdir())
    assert kept == ["step-2", "step-3"]
    monkeypatch.undo()
    told = steps_of(train(job_in(tmp_path, base, settings), progress=quiet, order=order))
    assert [line["step"] for line in told] == [1, 2, 3, 4, 5, 6]


def test_a_training_with_far_too_high_a_rate_is_stopped(tmp_path: Path, base: Path) -> None:
    order = made_order(AutoTokenizer.from_pretrained(base), rows=240)
    settings = Dapt(
        block=32,
        batch_tokens=64,
        micro_tokens=64,
        precision="fp32",
        lr=LearningRate(peak=1e6, warm_up=0.5, curve="constant", floor=0.0),
        clip=1e9,
        weight_decay=0.0,
    )
    with pytest.raises(TrainingFailed, match="lower lr.peak"):
        train(job_in(tmp_path, base, settings), progress=quiet, order=order)


def test_tokens_without_a_row_are_noticed_before_the_first_step(tmp_path: Path, base: Path) -> None:
    strange = MadeOrder([MadeRow(np.array([1, 2, 70000, 3], np.int32), np.array([4], np.int32), 0)] * 8, ("domain",))
    with pytest.raises(DamagedError, match="token 70000, and the model has rows for"):
        train(job_in(tmp_path, base, Dapt(block=32, batch_tokens=64)), progress=quiet, order=strange)
    with pytest.raises(UsageError, match="there is no row"):
        train(job_in(tmp_path, base, Dapt(block=32, batch_tokens=64)), progress=quiet, order=MadeOrder([], ("domain",)))


def test_every_row_is_read_once_in_order_by_some_process_and_all_count_alike() -> None:
    for rows, processes in ((1, 1), (24, 1), (23, 2), (17, 3), (13, 2), (25, 1)):
        shares = [
            batches(rows, block=32, batch_tokens=384, micro_tokens=64, processes=processes, rank=rank)
            for rank in range(processes)
        ]
        read = [list(share) for share in shares]
        assert len({len(one) for one in read}) == 1 == len({len(share) for share in shares})
        assert len(read[0]) == len(shares[0]) == shares[0].steps * shares[0].accumulation
        at_once = [row for micro in zip(*read, strict=True) for part in micro for row in part]
        assert [row for row in at_once if row >= 0] == list(range(rows))
        of_steps = [row for step in range(shares[0].steps) for row in shares[0].of_step(step)]
        assert of_steps == list(range(rows))
        assert all(1 <= len(part) <= shares[0].micro_rows for one in read for part in one)


def test_no_step_is_much_smaller_than_the_others() -> None:
    """Twelve rows fill a step: one row that is left over is not a step of its own, which would be mostly noise."""
    for rows, sizes in ((12, [12]), (13, [6, 7]), (25, [8, 8, 9]), (23, [11, 12]), (36, [12, 12, 12])):
        share = batches(rows, block=32, batch_tokens=384, micro_tokens=64, processes=1, rank=0)
        assert [len(share.of_step(step)) for step in range(share.steps)] == sizes
        micro = list(share)
        for step in range(share.steps):
            mine = micro[step * share.accumulation : (step + 1) * share.accumulation]
            assert [row for part in mine for row in part] == list(share.of_step(step))
            assert max(map(len, mine)) - min(map(len, mine)) <= 1


def test_positions_begin_anew_and_no_document_predicts_the_next() -> None:
    assert positions([3, 2, 1]).tolist() == [0, 1, 2, 0, 1, 0]
    assert targets_of(np.arange(10, 16), [3, 2, 1]).tolist() == [11, 12, IGNORED, 14, IGNORED, IGNORED]
    long = MadeRow(np.arange(6, dtype=np.int32), np.array([4, 2], np.int32), 0)
    short = MadeRow(np.arange(3, dtype=np.int32), np.array([3], np.int32), 1)
    batch = Collator()([(0, long), (1, short)])
    assert batch["position_ids"].tolist() == [[0, 1, 2, 3, 0, 1], [0, 1, 2, 0, 1, 2]]
    assert batch["targets"].tolist() == [[1, 2, 3, -100, 5, -100], [1, 2, -100, -100, -100, -100]]
    flat = Collator(flat=True)([(0, long), (1, short)])
    assert flat["cu_seq_lens_q"].tolist() == [0, 4, 6, 9] and flat["max_length_q"] == 4
    counts = OrderRows(MadeOrder([long, short], ("a", "b")), frozenset({1})).counts(range(2))
    assert (counts.tokens, counts.targets, counts.kept, counts.by_source) == (9, 6, 2, (6, 3))


@pytest.mark.parametrize("curve", ["cosine", "wsd", "linear", "constant"])
@pytest.mark.parametrize("floor", [0.0, 0.1])
@pytest.mark.parametrize("warm_up", [0.0, 0.05])
def test_the_learning_rate_warms_up_from_the_first_step_and_comes_down_to_its_floor(
    curve: Any, floor: float, warm_up: float
) -> None:
    lr = LearningRate(peak=1.0, curve=curve, warm_up=warm_up, floor=floor, decay=0.2)
    told = [rates(lr, 100)(step) for step in range(101)]
    warm = int(100 * warm_up)
    assert told[:warm] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0][:warm])
    assert told[warm] == 1.0 if curve in ("wsd", "constant") else 0.98 < told[warm] < 1.0
    assert all(one >= other for one, other in zip(told[warm:], told[warm + 1 :], strict=False))
    assert told[99] == told[100] == (1.0 if curve == "constant" else pytest.approx(floor))
    if curve == "wsd":
        assert told[79] == 1.0 > told[80]
    if curve == "linear":
        assert told[warm + (100 - warm) // 2 - 1] == pytest.approx((1 + floor) / 2, abs=0.01)


def test_few_steps_have_a_rate_each() -> None:
    for curve in ("cosine", "wsd", "linear", "constant"):
        for steps in (1, 2, 3):
            told = [rates(LearningRate(peak=1.0, curve=curve), steps)(step) for step in range(steps)]  # type: ignore[arg-type]
            assert all(0 < rate <= 1 for rate in told)


def test_cosine_is_that_of_transformers_to_the_bit() -> None:
    from transformers import get_scheduler

    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    theirs = get_scheduler(
        "cosine_warmup_with_min_lr",
        optimizer,
        num_warmup_steps=3,
        num_training_steps=77,
        scheduler_specific_kwargs={"min_lr_rate": 0.1},
    )
    ours = rates(LearningRate(peak=1.0, warm_up=3 / 77, floor=0.1), 77)
    for step in range(77):
        assert optimizer.param_groups[0]["lr"] == ours(step)
        optimizer.step()
        theirs.step()


def test_the_refused_fields_exist_and_none_is_both_refused_and_passed_on() -> None:
    import dataclasses

    from trl import SFTConfig

    known = {field.name for field in dataclasses.fields(SFTConfig)}
    assert set(OURS) - known <= {"local_rank"}
    assert not set(OURS) & set(fields())
    assert known <= set(OURS) | set(fields())
