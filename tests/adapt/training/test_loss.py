"""The loss without logits is the loss with logits, in value and gradients, and documents in a row do not meet."""

from pathlib import Path

import numpy as np
import pytest
import torch
from made_orders import MadeRow, made_model, made_order
from transformers import AutoModelForCausalLM, AutoTokenizer

from adapt.training.guards import require_separate_documents
from adapt.training.loss import CHUNK, Logits, attach, linear_cross_entropy
from adapt.training.rows import Collator

torch.set_num_threads(1)


def plainly(hidden, weight, targets, bias, shape: Logits) -> torch.Tensor:
    logits = hidden @ weight.T + (bias if bias is not None else 0)
    logits = logits * shape.scale
    if shape.cap is not None:
        logits = torch.tanh(logits / shape.cap) * shape.cap
    return torch.nn.functional.cross_entropy(logits, targets, reduction="sum")


@pytest.mark.parametrize("places", [1, 7, CHUNK, 2 * CHUNK + 3])
@pytest.mark.parametrize("shape", [Logits(), Logits(scale=0.25), Logits(cap=5.0), Logits(scale=2.0, cap=3.0)])
@pytest.mark.parametrize("with_bias", [False, True])
def test_value_and_gradients_are_those_of_the_full_logits(places: int, shape: Logits, with_bias: bool) -> None:
    chance = torch.Generator().manual_seed(places)
    tensors = [torch.randn(n, generator=chance, dtype=torch.float64) for n in ((places, 8), (50, 8), (50,))]
    targets = torch.randint(0, 50, (places,), generator=chance)
    grads = []
    for told in (plainly, None):
        hidden, weight, bias = (tensor.clone().requires_grad_() for tensor in tensors)
        given = bias if with_bias else None
        if told is None:
            loss = linear_cross_entropy(hidden, weight, targets, bias=given, factor=0.5, logits=shape) * 3
        else:
            loss = told(hidden, weight, targets, given, shape) * 1.5
        loss.backward()
        grads.append([loss.item(), hidden.grad, weight.grad, bias.grad if with_bias else torch.zeros(1)])
    assert grads[0][0] == pytest.approx(grads[1][0], rel=1e-6)
    for plain, ours in zip(grads[0][1:], grads[1][1:], strict=True):
        torch.testing.assert_close(plain, ours, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_a_packed_batch_costs_what_its_documents_cost_alone(tmp_path: Path, attention: str) -> None:
    folder = made_model(tmp_path / "base")
    model = AutoModelForCausalLM.from_pretrained(folder, attn_implementation=attention)
    order = made_order(AutoTokenizer.from_pretrained(folder), rows=6)
    alone = 0.0
    for number in range(len(order)):
        row = order.row(number)
        for piece in np.split(row.ids, np.cumsum(row.pieces)[:-1]):
            if len(piece) > 1:
                ids = torch.from_numpy(piece.astype(np.int64))[None]
                with torch.no_grad():
                    alone += float(model(input_ids=ids, labels=ids).loss) * (len(piece) - 1)
    attach(model)
    rows = [(number, order.row(number)) for number in range(len(order))]
    for flat in (False, True):
        batch = {k: v for k, v in Collator(flat=flat)(rows).items() if k not in ("rows", "sources")}
        with torch.no_grad():
            together = float(model(**batch)["loss"])
        assert together == pytest.approx(alone, rel=1e-5)


def test_documents_that_would_see_each_other_are_noticed_before_the_first_step(tmp_path: Path) -> None:
    folder = made_model(tmp_path / "base")
    model = AutoModelForCausalLM.from_pretrained(folder)
    order = made_order(AutoTokenizer.from_pretrained(folder))
    attach(model)
    assert require_separate_documents(model, order, Collator(), precision="fp32", device="cpu") < 1e-5

    class Joining(Collator):
        """Takes a row for one document, as a loop that ignored `pieces` would."""

        def __call__(self, rows):  # type: ignore[no-untyped-def]
            batch = super().__call__(rows)
            length = batch["input_ids"].shape[1]
            return batch | {"position_ids": torch.arange(length)[None]}

    with pytest.raises(Exception, match="see each other"):
        require_separate_documents(model, order, Joining(), precision="fp32", device="cpu")


def test_a_model_that_bends_its_logits_in_an_unknown_way_is_refused(tmp_path: Path) -> None:
    folder = made_model(tmp_path / "base")
    model = AutoModelForCausalLM.from_pretrained(folder)
    plain = model.lm_head.forward
    model.lm_head.forward = lambda hidden: plain(hidden) * 1.5  # type: ignore[method-assign]
    attach(model)
    order = made_order(AutoTokenizer.from_pretrained(folder))
    with pytest.raises(Exception, match="changes its logits"):
        require_separate_documents(model, order, Collator(), precision="fp32", device="cpu")


def test_a_row_of_one_place_has_no_target() -> None:
    row = MadeRow(np.array([5], dtype=np.int32), np.array([1], dtype=np.int32), 0)
    assert Collator()([(0, row), (-1, None)])["targets"].tolist() == [[-100], [-100]]
