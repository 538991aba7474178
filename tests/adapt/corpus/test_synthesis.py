"""Replay text that a model writes itself: what is drawn, what is kept, and that a kill changes nothing."""

import contextlib
import json
import random
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_models import byte_tokenizer, llama, plain_logprobs, save

from adapt.corpus import synthesis
from adapt.corpus.self_written import Judge, distinct, finished_text
from adapt.corpus.synthesis import report_of, sample, synthesise
from adapt.recipe import Synthetic
from adapt.training.bases import base_folder
from eval.data.texts import read_texts
from eval.models.language_models import PACKAGED
from eval.runs.parts import read_records
from retrieval.errors import DamagedError, FathomError, UsageError

TEMPLATE = "{% for m in messages %}ask {{ m.content }} </s> {% endfor %}{% if add_generation_prompt %}tell {% endif %}"
SETTINGS = Synthetic(tokens=600, length=40)


def words_tokenizer(words: int, *, template: str | None = None) -> Any:
    """`words` invented words of seven letters, each one token: whatever a random model writes reads as text."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    drawn = random.Random(0)
    made = ["<s>", "</s>", "<unk>", "ask", "tell", *("".join(drawn.choices("abcdefghij", k=7)) for _ in range(words))]
    tokenizer = Tokenizer(models.WordLevel({word: place for place, word in enumerate(made)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    whole = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        clean_up_tokenization_spaces=False,
    )
    whole.chat_template = template
    return whole


def model_folder(folder: Path, tokenizer: Any) -> Path:
    return save(folder, llama(tokenizer), tokenizer)


@pytest.fixture(scope="module")
def writer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of two layers that writes 800 invented words at random."""
    return model_folder(tmp_path_factory.mktemp("writer"), words_tokenizer(800))


def write(model: Path, folder: Path, settings: Synthetic = SETTINGS, **options: Any) -> Path:
    return synthesise(
        model, settings, **{"seed": 1, "progress": lambda *_: None, "device": "cpu"} | options, folder=folder
    )


def test_it_writes_the_tokens_asked_for_and_says_what_it_dropped(writer: Path, tmp_path: Path) -> None:
    texts = write(writer, tmp_path / "a")
    report = report_of(texts)
    rows = [json.loads(line) for line in texts.read_text("utf-8").splitlines()]
    assert 600 <= report["kept"]["tokens"] < 600 + SETTINGS.length
    assert report["kept"]["texts"] == len(rows) == len({row["id"] for row in rows})
    assert report["kept"]["texts"] + sum(x["texts"] for x in report["dropped"].values()) == report["written"]["texts"]
    assert {document.text for document in read_texts(texts).documents} == {row["text"] for row in rows}
    assert report["kept"]["by_start"].keys() <= {"opening", "free"}
    assert -12 < report["mean_logprob"] < 0


def test_a_seed_writes_the_same_and_another_seed_something_else(writer: Path, tmp_path: Path) -> None:
    first, same = (write(writer, tmp_path / name).read_bytes() for name in "ab")
    assert first == same
    assert write(writer, tmp_path / "c", seed=2).read_bytes() != first
    with pytest.raises(UsageError, match="another seed"):
        write(writer, tmp_path / "a", seed=2)


def test_stopped_and_started_again_it_ends_with_the_same_bytes(
    writer: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(synthesis, "BATCH", 8)
    whole = write(writer, tmp_path / "whole").read_bytes()
    stop = threading.Event()

    def after_the_first_batch(stage: str, done: int, total: int) -> None:
        if 0 < done < total:
            stop.set()

    with pytest.raises(KeyboardInterrupt):
        write(writer, tmp_path / "cut", progress=after_the_first_batch, stop=stop)
    journal = tmp_path / "cut" / "records.jsonl"
    assert journal.stat().st_size and not (tmp_path / "cut" / "texts.jsonl").exists()
    journal.write_bytes(journal.read_bytes()[:-900])  # as a kill in the middle of a batch leaves it
    assert write(writer, tmp_path / "cut").read_bytes() == whole


def test_more_tokens_later_only_add_texts(writer: Path, tmp_path: Path) -> None:
    little = write(writer, tmp_path / "a").read_bytes()
    more = write(writer, tmp_path / "a", Synthetic(tokens=1_500, length=40)).read_bytes()
    assert more.startswith(little) and len(more) > 2 * len(little)


def test_a_finished_text_is_written_again_only_where_it_was_changed(writer: Path, tmp_path: Path) -> None:
    texts = write(writer, tmp_path / "a")
    whole, before = texts.read_bytes(), texts.stat().st_mtime_ns
    assert write(writer, tmp_path / "a").stat().st_mtime_ns == before
    texts.write_bytes(whole[:-40])
    assert write(writer, tmp_path / "a").read_bytes() == whole
    (tmp_path / "a" / "records.jsonl").write_text('{"id": "0", "text": 7}\n' * 30)
    texts.unlink()
    with pytest.raises(DamagedError):
        (tmp_path / "a" / "settings.json").write_text("[]")
        write(writer, tmp_path / "a")


def test_records_that_are_no_texts_are_refused(writer: Path, tmp_path: Path) -> None:
    texts = write(writer, tmp_path / "a")
    texts.unlink()
    batch = json.loads((tmp_path / "a" / "settings.json").read_text())["batch"]
    rows = [json.dumps({"id": str(number), "text": 7}) for number in range(batch)]
    (tmp_path / "a" / "records.jsonl").write_text("\n".join(rows) + "\n")
    with pytest.raises(DamagedError, match="not what was written"):
        write(writer, tmp_path / "a")


def test_probabilities_are_those_of_each_text_alone(tmp_path: Path) -> None:
    """Few words, so that many texts end early and leave the batch: its rows must not be mixed up by that."""
    tokenizer = words_tokenizer(20)
    model = llama(tokenizer)
    folder = save(tmp_path / "model", model, tokenizer)
    with contextlib.suppress(FathomError):  # so few words make texts that repeat themselves
        write(folder, tmp_path / "a", Synthetic(tokens=900, length=40, top_p=1.0))
    records = read_records(tmp_path / "a")
    checked = 0
    for record in list(records.values())[::2]:
        ids = tokenizer(record["text"], add_special_tokens=False)["input_ids"]
        if record["ended"] and ids:
            assert len(ids) == record["tokens"]
            assert sum(plain_logprobs(model, [0, *ids])) == pytest.approx(record["nats"], rel=0.03, abs=0.3)
            checked += 1
    assert checked > 20
    assert {record["ended"] for record in records.values()} == {True, False}


def test_a_chat_model_asks_itself_and_answers(tmp_path: Path) -> None:
    tokenizer = words_tokenizer(20, template=TEMPLATE)
    folder = model_folder(tmp_path / "model", tokenizer)
    with contextlib.suppress(FathomError):
        write(folder, tmp_path / "a", Synthetic(tokens=900, length=40))
    records = read_records(tmp_path / "a").values()
    turns = [record for record in records if record["start"] == "turn"]
    assert {record["start"] for record in records} == {"turn", "opening", "free"}
    assert sum("\n\n" in record["text"] for record in turns) > len(turns) // 4
    assert not any("\n\n" in record["text"] for record in records if record["start"] != "turn")
    assert not any("</s>" in record["text"] for record in records)


def test_a_model_that_writes_rubbish_is_given_up_with_the_reasons(tmp_path: Path) -> None:
    folder = model_folder(tmp_path / "model", byte_tokenizer())
    with pytest.raises(FathomError, match=r"0 are usable \((too short|unprintable) \d+.*temperature"):
        write(folder, tmp_path / "a", Synthetic(tokens=900, length=40))


def test_texts_longer_than_the_window_are_refused(writer: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="window"):
        write(writer, tmp_path / "a", Synthetic(tokens=100, length=48))


# --- drawing ---------------------------------------------------------------------------------------------------------


def test_only_the_nucleus_is_drawn_from_and_as_often_as_it_is_likely() -> None:
    likely = torch.tensor([0.1, 0.4, 0.05, 0.3, 0.15])  # .4 + .3 + .15 reach .8: tokens 1, 3, 4
    chances = (torch.arange(8_500) + 0.5) / 8_500
    drawn = sample(likely.log().repeat(8_500, 1), chances, temperature=1.0, top_p=0.8)
    counts = np.bincount(drawn.numpy(), minlength=5) / 8_500
    assert counts == pytest.approx([0, 0.4 / 0.85, 0, 0.3 / 0.85, 0.15 / 0.85], abs=1e-3)


def test_a_nucleus_wider_than_the_likeliest_tokens_is_drawn_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    logits = torch.randn(50, 300, generator=torch.Generator().manual_seed(0))
    chances = torch.rand(50, generator=torch.Generator().manual_seed(1))
    wide = sample(logits, chances, temperature=1.3, top_p=0.9)
    monkeypatch.setattr(synthesis, "LIKELY", 7)
    assert torch.equal(sample(logits, chances, temperature=1.3, top_p=0.9), wide)
    allowed = torch.arange(300) % 2 == 0
    assert not (sample(logits, chances, temperature=1.3, top_p=1.0, allowed=allowed) % 2).any()


def test_the_largest_and_the_smallest_chance_draw_a_token_that_may_be_drawn() -> None:
    logits = torch.tensor([[2.0, 1.0, float("-inf")]] * 2)
    drawn = sample(logits, torch.tensor([0.0, 1.0 - 2**-24]), temperature=1.0, top_p=1.0)
    assert drawn.tolist() == [0, 1]


# --- keeping ---------------------------------------------------------------------------------------------------------

PROSE = (
    "The harbour master wrote every arrival into a green book, and nobody but him could read the marks he made. When "
    "the storm took the roof of his office in March, the pages dried on the stove, and the ink ran into small flowers."
)
CHINESE = (
    "港口的看守人把每一艘船都记在一本绿色的册子里。三月的暴风掀走了屋顶，他把册页放在炉子上烘干，"
    "墨迹化成了一朵朵褐色的小花，从此再没有人能读懂。"
)


def judged(*texts: str) -> Judge:
    judge = Judge()
    for number, text in enumerate(texts):
        judge.look_at(
            {
                "id": str(number),
                "text": text,
                "tokens": 9,
                "kept_tokens": 8,
                "nats": -18.0,
                "ended": True,
                "start": "free",
            }
        )
    return judge


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("A short one.", "too short"),
        ("短句。" * 5, "too short"),
        ("The mat is red. " * 30, "repeats itself"),
        ("茶叶放在桌子上。" * 30, "repeats itself"),
        (PROSE[:150] + "\x07" + PROSE[150:], "unprintable"),
        (PROSE[:150] + "\ufffd" + PROSE[150:], "unprintable"),
        ("+-=|{}[]<>#$%^&*()_!~`" + "".join(chr(33 + (7 * i * i + i // 3) % 15) for i in range(200)), "symbols"),
    ],
)
def test_what_is_no_text_is_dropped(text: str, reason: str) -> None:
    judge = judged(PROSE, text)
    assert judge.dropped == {reason: 1} and judge.kept == 1
    assert judge.report()["dropped"][reason]["examples"]


def test_english_and_chinese_prose_is_kept() -> None:
    judge = judged(PROSE, CHINESE)
    assert judge.kept == 2 and judge.tokens == 16
    assert judge.report()["mean_logprob"] == -2.0


def test_the_second_of_two_alike_is_dropped() -> None:
    changed = PROSE.replace("March", "April")
    judge = judged(PROSE, PROSE.upper(), changed, CHINESE, CHINESE.replace("三月", "四月"))
    assert judge.dropped == {"duplicate": 1, "near duplicate": 2}


def test_texts_that_share_half_a_sentence_are_no_duplicates() -> None:
    other = (
        PROSE[:60] + " he counted sails instead, and sold the numbers to a newspaper in the capital for tobacco money."
    )
    assert judged(PROSE, other).kept == 2


def test_what_was_cut_off_ends_with_its_last_sentence() -> None:
    assert finished_text("One is here. Two is here. Thr", False) == "One is here. Two is here."
    assert finished_text("第一句在这里。第二句在这里。第三", False) == "第一句在这里。第二句在这里。"
    assert finished_text("version 3.11 is what we wan", False) == "version 3.11 is what we"
    assert finished_text("One is here. Two is here. Thr", True) == "One is here. Two is here. Thr"
    assert finished_text("茶\ufffd\ufffd", False) == "茶"


def test_distinct_ngrams_are_counted_over_all_texts() -> None:
    assert distinct([["a", "b", "a"], ["a", "b"]], 1) == 2 / 5
    assert distinct([["a", "b", "a"], ["a", "b"]], 2) == 2 / 3
    assert distinct([["a"]], 2) is None


@pytest.mark.slow
def test_the_packaged_model_writes_readable_text(tmp_path: Path, packaged_cache: Path) -> None:
    base = base_folder(PACKAGED, cache=packaged_cache)
    texts = write(base, tmp_path / "a", Synthetic(tokens=700, length=64))
    report = report_of(texts)
    assert report["kept"]["by_start"].keys() >= {"turn"}
    # A uniform choice among the 49,152 tokens has −10.8.
    assert report["mean_logprob"] > -4
    words = " ".join(json.loads(line)["text"] for line in texts.read_text("utf-8").splitlines()).lower().split()
    assert sum(word in {"the", "a", "to", "of", "and", "in", "is"} for word in words) > 0.08 * len(words)
