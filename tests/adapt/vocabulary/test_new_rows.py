"""New rows begin as the mean of their old tokens' rows and are all that is ever trained; stopping changes nothing."""

import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from tiny_models import sizes

from adapt.vocabulary.choosing import around
from adapt.vocabulary.distilling import distillation, expanded
from adapt.vocabulary.new_rows import NewRows
from adapt.vocabulary.rows import add_rows, tied
from adapt.vocabulary.warming import Schedule, StoppedError, batches, cut, warm
from retrieval.errors import FathomError, UsageError

torch.set_num_threads(1)
SPLITS = ((5, 6, 7), (8, 9), (10, 10))
OLD = 300


def model(*, ties: bool = True, rows: int = OLD) -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    chosen = sizes(range(rows))  # of which it wants the length only
    return LlamaForCausalLM(LlamaConfig(**chosen, tie_word_embeddings=ties)).eval()


def gpt2() -> Any:
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    return GPT2LMHeadModel(GPT2Config(vocab_size=OLD, n_positions=64, n_embd=32, n_layer=2, n_head=2)).eval()


def documents() -> list[np.ndarray]:
    """Old tokens at random, and every tenth a new one, of which 302 always follows 20."""
    draw = np.random.default_rng(3)
    made = []
    for _ in range(40):
        ids = draw.integers(3, 60, size=60)
        ids[::10] = OLD + draw.integers(0, 2, size=6)
        ids[5::20], ids[6::20] = 20, OLD + 2
        made.append(ids)
    return made


@pytest.mark.parametrize("ties", [True, False])
def test_a_new_row_is_the_mean_of_its_old_tokens_rows(ties: bool) -> None:
    made = model(ties=ties)
    before = {name: tensor.clone() for name, tensor in made.state_dict().items()}
    assert add_rows(made, OLD, SPLITS) == OLD + 3
    matrices = {"model.embed_tokens.weight", "lm_head.weight"}
    for name, tensor in made.state_dict().items():
        assert torch.equal(tensor[:OLD] if name in matrices else tensor, before[name])
        if name in matrices:
            for place, split in enumerate(SPLITS):
                torch.testing.assert_close(tensor[OLD + place], before[name][list(split)].mean(0))
    assert tied(made) == made.config.tie_word_embeddings == ties
    assert made.config.vocab_size == OLD + 3


def test_the_bias_of_an_output_matrix_gets_its_means_too() -> None:
    from transformers import PhiConfig, PhiForCausalLM

    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 2}
    made = PhiForCausalLM(PhiConfig(vocab_size=OLD, pad_token_id=0, **sizes)).eval()
    with torch.no_grad():
        made.lm_head.bias.normal_()
    bias = made.lm_head.bias.detach().clone()
    add_rows(made, OLD, SPLITS)
    torch.testing.assert_close(made.lm_head.bias[OLD], bias[[5, 6, 7]].mean())
    assert torch.equal(made.lm_head.bias[:OLD], bias)


def test_spare_rows_are_used_first_and_rows_are_padded_only_if_asked() -> None:
    spare = model(rows=OLD + 20)
    assert add_rows(spare, OLD, SPLITS) == spare.config.vocab_size == OLD + 20
    padded = model()
    assert add_rows(padded, OLD, SPLITS, multiple=64) == padded.config.vocab_size == 320
    assert torch.isfinite(padded.lm_head.weight).all()


def test_a_tokenizer_of_another_model_is_refused() -> None:
    with pytest.raises(UsageError, match="do not belong together"):
        add_rows(model(), OLD + 1, SPLITS)


@pytest.mark.parametrize("made", [model, lambda: model(ties=False), gpt2], ids=["tied", "untied", "gpt2"])
def test_rows_in_place_compute_what_rows_in_the_matrix_do(made: Callable[[], Any]) -> None:
    found = made()
    add_rows(found, OLD, SPLITS)
    new = NewRows(found, OLD, 3)
    with torch.no_grad():
        for parameter in new.parameters().values():
            parameter += torch.randn(parameter.shape) * 0.1
        ids = torch.from_numpy(np.stack(documents()[:2]))[:, :40]
        with new.in_place():
            told = found(input_ids=ids).logits
        assert not torch.allclose(found(input_ids=ids).logits, told)
        new.write_back()
        torch.testing.assert_close(found(input_ids=ids).logits, told)


def run(
    folder: Path, made: Any = None, *, stop_at: int | None = None, distil: bool = False, **schedule: Any
) -> tuple[Any, dict[str, Any]]:
    made = made or model()
    add_rows(made, OLD, SPLITS)
    new = NewRows(made, OLD, 3)
    stop = threading.Event()

    def progress(stage: str, done: int, total: int) -> None:
        if stop_at is not None and done >= stop_at:
            stop.set()

    loss = distillation(made, new, SPLITS, torch.device("cpu"), cross_entropy_weight=0.0) if distil else None
    chosen = Schedule(**{"tokens": 6000, "batch_tokens": 200, "lr": 2e-2, "seed": 1, **schedule})
    found = warm(
        made,
        new,
        cut(documents(), 40, end=1),
        chosen,
        folder=folder,
        identity="one",
        progress=progress,
        stop=stop,
        loss=loss,
    )
    return made, found


@pytest.mark.parametrize("ties", [True, False])
def test_only_new_rows_change_and_the_loss_falls(tmp_path: Path, ties: bool) -> None:
    made = model(ties=ties)
    before = {name: tensor.clone() for name, tensor in made.state_dict().items()}
    made, found = run(tmp_path, made)
    for name, tensor in made.state_dict().items():
        assert torch.equal(tensor[:OLD] if "embed_tokens" in name or "lm_head" in name else tensor, before[name])
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    losses = [line["loss"] for line in lines]
    assert np.mean(losses[-5:]) < np.mean(losses[:5]) - 0.2
    assert [line["step"] for line in lines] == list(range(1, found["steps"] + 1))
    assert set(lines[0]) == {"step", "tokens", "loss", "lr", "seconds"}
    assert lines[-1]["tokens"] == found["tokens"] >= 6000
    assert max(line["lr"] for line in lines) == pytest.approx(2e-2) and lines[-1]["lr"] < 2e-3
    assert not list(tmp_path.rglob("*.pt")) and not list(tmp_path.rglob("*.bin"))


def test_the_state_of_the_optimizer_is_as_small_as_the_rows(tmp_path: Path) -> None:
    made, _ = run(tmp_path)
    (place,) = (tmp_path / "checkpoints").iterdir()
    tensors = load_file(place / "rows.safetensors")
    assert {tuple(tensor.shape) for tensor in tensors.values()} == {(3, 32)}
    assert all(parameter.grad is None for parameter in made.parameters())


@pytest.mark.parametrize("distil", [False, True])
def test_stopped_and_gone_on_is_as_if_never_stopped(tmp_path: Path, distil: bool) -> None:
    once, told = run(tmp_path / "once", distil=distil)
    for at in (1, 1500, 4000):
        with pytest.raises(StoppedError, match="run it again"):
            run(tmp_path / "often", stop_at=at, distil=distil)
    often, again = run(tmp_path / "often", distil=distil)
    assert torch.equal(once.lm_head.weight, often.lm_head.weight)
    assert {**told, "seconds": 0} == {**again, "seconds": 0}
    losses = [
        [json.loads(line)["loss"] for line in (tmp_path / name / "metrics.jsonl").read_text().splitlines()]
        for name in ("once", "often")
    ]
    assert losses[0] == losses[1]


def test_a_checkpoint_that_was_changed_is_not_gone_on_from(tmp_path: Path) -> None:
    with pytest.raises(StoppedError):
        run(tmp_path, stop_at=2000)
    (place,) = (tmp_path / "checkpoints").iterdir()
    data = bytearray((place / "rows.safetensors").read_bytes())
    data[-1] ^= 1
    (place / "rows.safetensors").write_bytes(data)
    whole, _ = run(tmp_path)
    fresh, _ = run(tmp_path / "fresh")
    assert torch.equal(whole.lm_head.weight, fresh.lm_head.weight)


def test_a_loss_that_is_no_number_stops_it(tmp_path: Path) -> None:
    made = model()
    with torch.no_grad():
        made.model.norm.weight.fill_(float("nan"))
    with pytest.raises(FathomError, match="no number"):
        run(tmp_path, made)


def test_distillation_brings_hidden_states_to_those_on_old_tokens(tmp_path: Path) -> None:
    def distance(made: Any) -> float:
        row = documents()[0][:40].tolist()
        old, ends = expanded(row, OLD, SPLITS)
        with torch.no_grad():
            new = made.base_model(input_ids=torch.tensor([row])).last_hidden_state[0]
            wanted = made.base_model(input_ids=torch.from_numpy(old)[None]).last_hidden_state[0, ends]
        return float(((new - wanted) ** 2).mean())

    start = model()
    add_rows(start, OLD, SPLITS)
    made, found = run(tmp_path, distil=True)
    assert distance(made) < 0.9 * distance(start)
    assert found["last_loss"] < found["first_loss"]


def test_a_row_in_old_tokens_knows_where_its_tokens_end() -> None:
    old, ends = expanded([4, OLD, 5, OLD + 1], OLD, SPLITS)
    assert old.tolist() == [4, 5, 6, 7, 5, 8, 9] and ends.tolist() == [0, 3, 4, 6]


def test_steps_hold_all_rows_once_before_any_twice() -> None:
    rows = cut(documents(), 40, end=None)
    steps = batches(rows, Schedule(tokens=3600, batch_tokens=100, lr=1.0, seed=5))
    flat = [index for step in steps for index in step]
    assert sorted(flat[: len(rows)]) == list(range(len(rows)))
    assert len(flat) > len(rows) and sum(len(rows[index]) for index in flat) >= 3600
    assert all(sum(len(rows[index]) for index in step) >= 100 for step in steps[:-1])
    assert steps == batches(rows, Schedule(tokens=3600, batch_tokens=100, lr=9.0, seed=5))
    assert steps != batches(rows, Schedule(tokens=3600, batch_tokens=100, lr=1.0, seed=6))


def test_windows_are_around_new_tokens_and_show_each_as_often_as_the_text_has_it() -> None:
    draw = np.random.default_rng(0)
    made = [draw.integers(0, OLD, size=400) for _ in range(20)]
    for ids in made:
        ids[::40] = OLD
        ids[60::200] = OLD + 1  # a fifth as often
    rows = around(made, OLD, block=24, tokens=2400, seed=2)
    assert all(len(row) == 24 and (row >= OLD).any() for row in rows) and 2400 <= sum(map(len, rows)) < 2424
    often, seldom = (sum(int((row == OLD + number).sum()) for row in rows) for number in (0, 1))
    assert 0.1 < seldom / often < 0.3
    assert [row.tolist() for row in rows] == [row.tolist() for row in around(made, OLD, block=24, tokens=2400, seed=2)]
    assert len(around(made, OLD, block=24, tokens=10**6, seed=2)) == 20 * 12  # each place once
    assert around(made, OLD + 2, block=24, tokens=2400, seed=2) == []
