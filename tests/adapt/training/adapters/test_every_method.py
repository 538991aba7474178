"""Every method on a tiny model: it learns, a stop changes no bit, what is on disk is what was trained, and it is loaded
onto no other base."""

from pathlib import Path
from typing import Any

import pytest
import torch
from made_orders import MadeOrder, in_pieces, job_in, made_model, made_order, quiet, steps_of, weights_of
from transformers import AutoTokenizer

from adapt.recipe import Dapt, LearningRate, Method
from adapt.training.train import train
from eval.models.language_models import load_language_model, load_parts, locate
from retrieval.errors import UsageError

torch.set_num_threads(1)
SETTINGS = Dapt(block=32, batch_tokens=128, micro_tokens=64, precision="fp32", lr=LearningRate(peak=1e-2))
METHODS = {
    "bitfit": Method(kind="bitfit"),
    "lora": Method(kind="lora", r=4, dropout=0.2),
    "rslora and ranks": Method(kind="lora", r=4, rslora=True, ranks={"q_proj": 2, "layers.1.mlp.up_proj": 8}),
    "dora": Method(kind="lora", r=4, dora=True),
    "pissa": Method(kind="lora", r=4, init="pissa", ranks={"q_proj": 2}),
    "adalora": Method(kind="adalora", r=2, begin=0.1, settle=0.2),
    "houlsby": Method(kind="houlsby", reduction=4),
    "pfeiffer": Method(kind="pfeiffer", reduction=4, activation="gelu", dropout=0.1),
    "prefix": Method(kind="prefix", virtual_tokens=5),
    "prompt": Method(kind="prompt", virtual_tokens=5, text="the cat"),
    "p_tuning": Method(kind="p_tuning", virtual_tokens=5, hidden=16),
    "ia3": Method(kind="ia3"),
}
each = pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
RATES = {"adalora": 2e-1, "ia3": 5e-2, "prompt": 5e-2, "p_tuning": 2e-2, "bitfit": 5e-2, "prefix": 3e-2}


def settings_of(method: Method, **changes: Any) -> Dapt:
    rate = LearningRate(peak=RATES.get(method.kind, 1e-2))
    return SETTINGS.model_copy(update={"method": method, "lr": rate, **changes})


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made_model(tmp_path_factory.mktemp("base") / "model", attention_bias=True)


@pytest.fixture(scope="module")
def order(base: Path) -> MadeOrder:
    return made_order(AutoTokenizer.from_pretrained(base), rows=24)


def logits_of(model: Any, order: MadeOrder) -> torch.Tensor:
    ids = torch.from_numpy(order.row(1).ids.astype("int64"))[None]
    with torch.no_grad():
        return model.eval()(input_ids=ids).logits[:, -ids.shape[1] :]


def cost_of(model: Any, order: MadeOrder) -> float:
    """Mean loss of the documents, each read alone."""
    from adapt.training.rows import parts_of

    losses = []
    for number in range(10):
        for part in parts_of(order.row(number)):
            ids = torch.from_numpy(part.ids.astype("int64"))[None]
            if ids.shape[1] > 1:
                with torch.no_grad():
                    logits = model(input_ids=ids).logits[0, -ids.shape[1] :]
                losses.append(float(torch.nn.functional.cross_entropy(logits[:-1], ids[0, 1:])))
    return sum(losses) / len(losses)


@each
def test_it_learns_and_what_is_on_disk_is_what_was_trained(
    tmp_path: Path, base: Path, order: MadeOrder, method: Method
) -> None:
    seen: list[torch.Tensor] = []
    trained: list[int] = []

    def watch(trainer: Any) -> None:
        trained.append(sum(weight.numel() for weight in trainer.model.parameters() if weight.requires_grad))
        seen.append(logits_of(trainer.model, order))

    result = train(job_in(tmp_path, base, settings_of(method)), progress=quiet, order=order, watch=watch)
    assert result.model is not None
    cache = tmp_path / "cache"
    plain, _, _ = load_parts(locate(str(base)), cache=cache)
    if result.adapter is None:
        again, _, _ = load_parts(locate(str(result.model)), cache=cache)
    else:
        again, _, _ = load_parts(locate(str(base), result.adapter), cache=cache)
    assert cost_of(again.eval(), order) < cost_of(plain, order) - 0.02
    apart = float((logits_of(again, order) - seen[0]).abs().max())
    assert apart == 0
    assert float((logits_of(plain, order) - seen[0]).abs().max()) > 1e-3
    if method.merges and result.adapter is not None:
        whole, _, _ = load_parts(locate(str(result.model)), cache=cache)
        assert float((logits_of(whole, order) - seen[0]).abs().max()) < 1e-3
    elif result.adapter is not None:
        assert result.model == base and not (tmp_path / "run" / "model").exists()
    assert train(job_in(tmp_path, base, settings_of(method)), progress=quiet, order=order) == result


@pytest.mark.parametrize("name", ["pissa", "adalora", "pfeiffer", "prompt", "p_tuning"])
def test_a_stop_changes_no_bit_of_it(tmp_path: Path, base: Path, order: MadeOrder, name: str) -> None:
    method = METHODS[name]
    whole = train(job_in(tmp_path / "whole", base, settings_of(method)), progress=quiet, order=order)
    pieces, sessions = in_pieces(job_in(tmp_path / "pieces", base, settings_of(method)), order, 250)
    assert sessions > 2
    assert steps_of(whole) == steps_of(pieces)
    one, other = (weights_of(result.adapter or result.model or Path()) for result in (whole, pieces))
    assert one.keys() == other.keys() and one
    assert all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("name", ["lora", "houlsby", "prompt"])
def test_an_adapter_is_refused_on_any_other_base(tmp_path: Path, base: Path, order: MadeOrder, name: str) -> None:
    result = train(job_in(tmp_path, base, settings_of(METHODS[name])), progress=quiet, order=order)
    assert result.adapter is not None
    load_language_model(str(base), adapter=result.adapter, cache=tmp_path / "cache").close()
    other = made_model(tmp_path / "other", seed=7, attention_bias=True)
    with pytest.raises(UsageError, match="was trained on .* and 'other' has other weights"):
        load_language_model(str(other), adapter=result.adapter, cache=tmp_path / "cache")


@pytest.mark.parametrize("name", ["prompt", "prefix", "p_tuning"])
def test_virtual_tokens_cost_what_peft_says_they_do(base: Path, order: MadeOrder, name: str, tmp_path: Path) -> None:
    from adapt.training.loss import attach
    from adapt.training.methods import load_model, under_adapter
    from adapt.training.rows import Collator, OrderRows

    settings = settings_of(METHODS[name])
    model, tokenizer = load_model(base, settings, precision="fp32", cache=tmp_path)
    undo = attach(model)
    model = under_adapter(model, settings.method, activation_checkpointing=False, tokenizer=tokenizer).eval()
    rows = OrderRows(order)
    batch = Collator(apart=True)([rows[0], rows[1], rows[2]])
    documents = sum(int((order.row(number).pieces > 0).sum()) for number in range(3))
    assert len(batch["input_ids"]) == documents and "position_ids" not in batch
    inputs = {key: value for key, value in batch.items() if key not in ("rows", "sources")}
    with torch.no_grad():
        ours = float(model(**inputs)["loss"])
        undo()
        theirs = 0.0
        for number in range(3):
            row, begin = order.row(number), 0
            for length in row.pieces:
                if length > 1:
                    ids = torch.from_numpy(row.ids[begin : begin + length].astype("int64"))[None]
                    labels = ids.clone()
                    labels[:, 0] = -100  # peft lets the last virtual token predict the first of the text
                    theirs += float(model(input_ids=ids, labels=labels).loss) * (length - 1)
                begin += length
    assert ours == pytest.approx(theirs, rel=1e-5)


def test_a_model_without_biases_is_refused_by_bitfit(tmp_path: Path, order: MadeOrder) -> None:
    bare = made_model(tmp_path / "bare")
    with pytest.raises(UsageError, match="the model has no biases"):
        train(job_in(tmp_path, bare, settings_of(Method(kind="bitfit"))), progress=quiet, order=order)


def test_bitfit_changes_biases_and_nothing_else(tmp_path: Path, base: Path, order: MadeOrder) -> None:
    result = train(job_in(tmp_path, base, settings_of(METHODS["bitfit"])), progress=quiet, order=order)
    before, after = weights_of(base), weights_of(result.model or Path())
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == {name for name in before if name.endswith(".bias")}
