"""Training on conversations: only answers count, packed or alone, as TRL counts them; and a stop changes nothing."""

import contextlib
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from chat_templates import assistant, chat_tokenizer, user
from made_orders import MadeOrder, MadeRow, in_pieces, job_in, quiet, steps_of, weights_of
from tiny_models import llama, save
from transformers import AutoModelForCausalLM, AutoTokenizer

from adapt.chat.dressing import dressed
from adapt.chat.templates import shipped
from adapt.chat.writing import Writer
from adapt.recipe import LearningRate, Method, Sft
from adapt.training.loss import attach
from adapt.training.noise import EmbeddingNoise
from adapt.training.rows import Collator, positions
from adapt.training.train import train

torch.set_num_threads(1)
TALKS = [
    [user("the cat"), assistant("sat on the mat.")],
    [user("绿茶"), assistant("不经过发酵。"), user("the dog"), assistant("sat on the log.")],
    [user("and the dog"), assistant("sat on the mat and the log and the cat. " * 2)],
    [user("水温"), assistant("八十度")],
]
SETTINGS = Sft(
    block=192, batch_tokens=384, micro_tokens=192, precision="fp32", lr=LearningRate(peak=1e-2), method=Method()
)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    tokenizer = chat_tokenizer(None)
    model = llama(tokenizer, tie_word_embeddings=True)
    model.config.max_position_embeddings = 512
    return save(tmp_path_factory.mktemp("base") / "tiny", model, tokenizer)


def talks_in_rows(base: Path, *, together: int = 2, times: int = 6) -> MadeOrder:
    """Rows of so many conversations each."""
    tokenizer = AutoTokenizer.from_pretrained(base)
    writer = Writer(tokenizer, template=shipped("chatml", tokenizer))
    written = [row for talk in TALKS for row in writer.rows(talk)] * times
    rows = []
    for start in range(0, len(written), together):
        some = written[start : start + together]
        ids = np.concatenate([np.array(one.ids, dtype=np.int32) for one in some])
        learned = np.concatenate([np.array(one.learned) for one in some])
        rows.append(MadeRow(ids, np.array([len(one.ids) for one in some], dtype=np.int32), 0, learned))
    return MadeOrder(rows, ("chat",))


def loss_of(model: Any, rows: list[MadeRow], *, flat: bool = False) -> float:
    """The mean over learned tokens."""
    batch = Collator(flat=flat)(list(enumerate(rows)))
    batch = {key: value for key, value in batch.items() if key in ("input_ids", "position_ids", "targets")}
    with torch.no_grad():
        return float(model(**batch)["loss"]) / int((batch["targets"] != -100).sum())


def test_a_conversation_costs_packed_what_it_costs_alone(base: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(base, attn_implementation="sdpa")
    attach(model)
    alone = talks_in_rows(base, together=1, times=1).rows
    each = [(loss_of(model, [row]), int(row.learned[1:].sum())) for row in alone if row.learned is not None]
    mean = sum(loss * count for loss, count in each) / sum(count for _, count in each)
    assert loss_of(model, talks_in_rows(base, together=4, times=1).rows) == pytest.approx(mean, abs=1e-5)
    assert loss_of(model, talks_in_rows(base, together=2, times=1).rows) == pytest.approx(mean, abs=1e-5)
    assert loss_of(model, alone) == pytest.approx(mean, abs=1e-5), "beside one another"


def test_the_first_loss_is_that_of_trl(tmp_path: Path, base: Path) -> None:
    from datasets import Dataset
    from trl import SFTConfig, SFTTrainer

    order = talks_in_rows(base, together=4, times=1)
    settings = SETTINGS.model_copy(update={"block": 384, "micro_tokens": 384})
    ours = steps_of(train(job_in(tmp_path, base, settings), progress=quiet, order=order))[0]["loss"]
    tokenizer = AutoTokenizer.from_pretrained(base)
    tokenizer.chat_template = shipped("chatml", tokenizer)
    tokenizer.pad_token = tokenizer.eos_token
    config = SFTConfig(
        output_dir=str(tmp_path / "trl"),
        max_steps=1,
        per_device_train_batch_size=len(TALKS),
        assistant_only_loss=True,
        max_length=None,
        gradient_checkpointing=False,
        bf16=False,
        logging_steps=1,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        dataloader_pin_memory=False,
        use_cpu=True,
    )
    with contextlib.redirect_stdout(sys.stderr):  # it prints its figures
        trainer = SFTTrainer(
            AutoModelForCausalLM.from_pretrained(base, attn_implementation="sdpa"),
            config,
            train_dataset=Dataset.from_list([{"messages": talk} for talk in TALKS]),
            processing_class=tokenizer,
        )
        trainer.train()
    theirs = next(line["loss"] for line in trainer.state.log_history if "loss" in line)
    assert ours == pytest.approx(theirs, rel=1e-5)


def test_only_answers_are_learned(tmp_path: Path, base: Path) -> None:
    order = talks_in_rows(base, times=20)
    job = job_in(tmp_path, base, SETTINGS)
    told = steps_of(train(job, progress=quiet, order=order))
    assert told[-1]["loss"] < 0.7 * told[0]["loss"]
    after = AutoModelForCausalLM.from_pretrained(tmp_path / "run" / "model", attn_implementation="sdpa")
    before = AutoModelForCausalLM.from_pretrained(base, attn_implementation="sdpa")
    asked = [MadeRow(row.ids, row.pieces, 0, ~row.learned) for row in order.rows[:2] if row.learned is not None]
    gains = {}
    for name, rows in (("answers", order.rows[:2]), ("questions", asked)):
        losses = []
        for model in (before, after):
            undo = attach(model)
            losses.append(loss_of(model, rows))
            undo()
        gains[name] = losses[0] - losses[1]
    assert gains["answers"] > 4 * abs(gains["questions"]), gains


@pytest.mark.parametrize("method", [Method(), Method(kind="lora", r=4, dropout=0.1)], ids=["full", "lora"])
def test_a_training_with_noise_that_was_stopped_goes_on_to_the_bit(tmp_path: Path, base: Path, method: Method) -> None:
    settings = SETTINGS.model_copy(update={"method": method, "neftune": 5.0})
    order = talks_in_rows(base, times=3)
    whole = train(job_in(tmp_path / "whole", base, settings), progress=quiet, order=order)
    pieces, sessions = in_pieces(job_in(tmp_path / "pieces", base, settings), order, 150)
    assert sessions > 2
    assert steps_of(whole) == steps_of(pieces)
    assert whole.model and pieces.model
    one, other = weights_of(whole.model), weights_of(pieces.model)
    assert all(torch.equal(one[name], other[name]) for name in one)
    quietly = settings.model_copy(update={"neftune": None})
    without = train(job_in(tmp_path / "without", base, quietly), progress=quiet, order=order)
    assert steps_of(without)[0]["loss"] != steps_of(whole)[0]["loss"]


def test_noise_is_as_large_as_the_paper_says_and_only_in_training() -> None:
    tokenizer = chat_tokenizer()
    model = llama(tokenizer).train()
    plain = model.get_input_embeddings()
    ids = torch.randint(0, 300, (2, 60))
    told = torch.from_numpy(np.stack([positions([20, 40]), positions([60])]))
    clean = plain(ids).detach()
    noise = EmbeddingNoise(model, alpha=5.0, seed=1)
    assert torch.equal(plain(ids), clean)

    def drawn(**place: int) -> torch.Tensor:
        noise.begin(told, **{"step": 0, "micro_batch": 0, "rank": 0, **place})
        found = plain(ids).detach() - clean
        noise.end()
        return found

    first = drawn()
    for row, part, length in ((0, slice(0, 20), 20), (0, slice(20, 60), 40), (1, slice(0, 60), 60)):
        reach = 5.0 / (length * 32) ** 0.5
        assert 0.95 * reach < float(first[row, part].abs().max()) <= reach * 1.0001
    assert torch.equal(first, drawn())
    assert not any(torch.equal(first, drawn(**{name: 1})) for name in ("step", "micro_batch", "rank"))
    model.eval()
    assert not drawn().any()


def test_the_result_ends_where_a_turn_ends_and_has_the_template(tmp_path: Path, base: Path) -> None:
    """The base knows no template and ends documents with </s>."""
    tokenizer = dressed(base, "chatml", tmp_path / "tokenizer")
    job = job_in(tmp_path, base, SETTINGS.model_copy(update={"template": "chatml"}), tokenizer=tokenizer)
    result = train(job, progress=quiet, order=talks_in_rows(base, times=1))
    assert result.model is not None
    made = AutoTokenizer.from_pretrained(result.model)
    end = made.convert_tokens_to_ids("<|im_end|>")
    assert made.eos_token == "<|im_end|>" and "{% generation" not in made.chat_template
    assert made.get_vocab() == AutoTokenizer.from_pretrained(base).get_vocab()
    told = json.loads((result.model / "generation_config.json").read_bytes())["eos_token_id"]
    assert told == json.loads((result.model / "config.json").read_bytes())["eos_token_id"]
    assert (told if isinstance(told, list) else [told])[0] == end
    model = AutoModelForCausalLM.from_pretrained(result.model)
    ends = model.generation_config.eos_token_id
    assert end in (ends if isinstance(ends, list) else [ends])
