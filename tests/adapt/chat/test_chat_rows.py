"""A file of examples → a corpus of conversations → packed rows: what is dropped, what is learned, what is too long."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from chat_templates import SMOLLM, assistant, chat_tokenizer, system, user

from adapt.chat.corpus import Conversation
from adapt.chat.rows import pack_chats
from adapt.chat.writing import Writer
from adapt.corpus.mixing import Order, mix
from adapt.corpus.packing import LEARNED, Blocks, pack
from adapt.corpus.preparing import Corpus, prepare
from adapt.corpus.texts import TrainingText
from adapt.recipe import Decontamination, Mixture, Source
from adapt.training.rows import IGNORED, Collator, OrderRows, targets_of
from retrieval.errors import DamagedError, ReadingError, UsageError


def quiet(stage: str, done: int, total: int) -> None:
    """No progress."""


def example(question: str, answer: str, **more: Any) -> dict[str, Any]:
    return {"id": f"{question}/{answer}", "messages": [user(question), assistant(answer)], **more}


def prepared(folder: Path, rows: list[dict[str, Any]], *, against: str = "", **settings: Any) -> Corpus:
    (folder / "chats.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    source = Source(path="chats.jsonl", chat=True, **{"held_out": 0.0, **settings})
    return prepare(
        "chat",
        source,
        root=folder,
        decontaminate=Decontamination(against=(against,) if against else ()),
        seed=0,
        cache=folder / "cache",
        progress=quiet,
    )


def test_repetitions_rejected_ones_and_questions_of_evaluations_are_dropped(tmp_path: Path) -> None:
    (tmp_path / "asked.jsonl").write_text(json.dumps({"question": "What colour is the old iron bridge at night?"}))
    rows = [
        example("a", "b"),
        example("a", "b", labels={"task": "again"}),
        example("c", "d", review={"decision": "rejected"}),
        example("Tell me: what colour is the old iron bridge at night?", "red"),
        example("e", "What colour is the old iron bridge at night?"),
        example("f", "1, 1, 1, 1, 1", review={"decision": "accepted"}),
    ]
    corpus = prepared(tmp_path, rows, against="asked.jsonl")
    kept = list(corpus.conversations())
    assert [one.messages[0]["content"] for one in kept] == ["a", "e", "f"], "answers are no questions, lists no faults"
    assert [one.row for one in kept] == [1, 5, 6]
    reasons = corpus.report["dropped"]["reasons"]
    assert {name: found["documents"] for name, found in reasons.items()} == {
        "duplicate": 1,
        "rejected": 1,
        "contaminated": 1,
    }
    assert prepared(tmp_path, rows, against="asked.jsonl").sha256 == corpus.sha256


def test_examples_of_one_group_stand_on_one_side(tmp_path: Path) -> None:
    rows = [example(f"q{n}", f"a{n}", labels={"group": f"doc {n % 7}"}) for n in range(70)]
    corpus = prepared(tmp_path, rows, held_out=0.3)
    sides = [{one.group for one in corpus.conversations(part)} for part in ("train", "held_out")]  # type: ignore[arg-type]
    assert sides[0] and sides[1] and not sides[0] & sides[1]
    assert corpus.count("train") + corpus.count("held_out") == 70
    (tmp_path / "other").mkdir()
    plain = prepared(tmp_path / "other", [example(f"q{n}", f"a{n}") for n in range(70)], held_out=0.3)
    assert 10 < plain.count("held_out") < 32
    more = prepared(tmp_path / "other", [example(f"q{n}", f"a{n}") for n in range(90)], held_out=0.3)
    before, after = ({one.id for one in found.conversations("held_out")} for found in (plain, more))
    assert before <= after, "an example stays on its side when others are added"


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"messages": [user("a")]}, "line 2 ends with the user"),
        ({"messages": [user("a"), assistant(" ")]}, "line 2 has nothing in what the assistant says"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "line 2 has the role 'tool'"),
        ({"messages": [assistant("a")]}, "line 2 has the role 'assistant' in message 1, where 'user' is due"),
        (
            {"messages": [user("a"), assistant("b"), system("c"), assistant("d")]},
            "line 2 has the role 'system' in message 3",
        ),
        ({"text": "raw"}, "line 2 has the field 'text'"),
    ],
)
def test_a_row_that_is_no_example_is_named(tmp_path: Path, row: dict[str, Any], said: str) -> None:
    with pytest.raises(ReadingError) as error:
        prepared(tmp_path, [example("a", "b"), {"id": "x", **row}])
    assert "chats.jsonl" in str(error.value) and said in str(error.value)


# --- rows ------------------------------------------------------------------------------------------------------------

TALKS = [
    Conversation(f"id{n}", n + 1, (user(f"the cat {n}"), assistant("sat on the mat. " * (1 + n % 3))), None)
    for n in range(12)
]
WRITER = Writer(chat_tokenizer(SMOLLM))


def packed(folder: Path, talks: list[Conversation] = TALKS, *, block: int = 128, **options: Any) -> Blocks:
    return pack_chats(
        talks, WRITER, block=block, folder=folder / "chat", seed=0, progress=quiet, name="'chat'",
        **{"too_long": "drop", **options},
    )  # fmt: skip


def test_conversations_are_packed_whole_with_what_is_learned(tmp_path: Path) -> None:
    blocks = packed(tmp_path)
    wanted = sorted(tuple(zip(row.ids, row.learned, strict=True)) for one in TALKS for row in WRITER.rows(one.messages))
    found = []
    for number in range(len(blocks)):
        row = blocks.row(number)
        assert row.learned is not None and len(row.learned) == len(row.ids) <= 128
        cuts = np.cumsum(row.pieces)[:-1]
        for ids, learned in zip(np.split(row.ids, cuts), np.split(row.learned, cuts), strict=True):
            found.append(tuple(zip(ids.tolist(), learned.tolist(), strict=True)))
    assert sorted(found) == wanted
    assert len(blocks) < len(TALKS), "several in a row"
    assert blocks.facts["learned"] == sum(mine for talk in wanted for _, mine in talk)
    again = packed(tmp_path / "again")
    assert again.sha256 == blocks.sha256


def test_targets_are_the_learned_tokens_alone_in_both_layouts(tmp_path: Path) -> None:
    blocks = packed(tmp_path)
    row = blocks.row(0)
    assert row.learned is not None
    targets = targets_of(row.ids, row.pieces, row.learned)
    places = np.flatnonzero(targets != IGNORED) + 1
    assert places.tolist() == np.flatnonzero(row.learned).tolist()
    assert targets[places - 1].tolist() == row.ids[places].tolist()
    order = mix({"chat": blocks}, {"chat": "rest"}, tokens=None, epochs=2, seed=0, folder=tmp_path / "order")
    data = OrderRows(order)
    rows = [data[number] for number in range(4)]
    for flat in (False, True):
        batch = Collator(flat=flat)(rows)
        assert int((batch["targets"] != IGNORED).sum()) == data.counts(range(4)).targets
    assert order.tokens == 2 * blocks.tokens
    assert sum(data.counts(range(n, n + 1)).targets for n in range(len(order))) == 2 * blocks.facts["learned"]


def test_raw_text_is_mixed_in_with_every_token_learned(tmp_path: Path) -> None:
    texts = [TrainingText(str(n), "the dog sat on the log. " * 9) for n in range(30)]
    raw = pack(texts, WRITER.tokenizer, block=128, folder=tmp_path / "raw", seed=0, progress=quiet)
    shares: Any = {"chat": Mixture(start=0.5, end=0.5), "raw": "rest"}
    mix({"chat": packed(tmp_path), "raw": raw}, shares, tokens=None, epochs=1, seed=0, folder=tmp_path / "order")
    order = Order.open(tmp_path / "order")
    rows = [order.row(number) for number in range(len(order))]
    assert {row.source: row.learned is None for row in rows} == {0: False, 1: True}
    counts = OrderRows(order).counts(range(len(order)))
    places = sum(int((targets_of(row.ids, row.pieces, row.learned) != IGNORED).sum()) for row in rows)
    assert counts.targets == places < counts.tokens - len(rows)


def test_conversations_longer_than_a_block_are_named_and_never_cut(tmp_path: Path) -> None:
    long = Conversation("long", 99, (user("the cat"), assistant("sat on the mat. " * 60)))
    blocks = packed(tmp_path, [*TALKS, long])
    assert blocks.facts["conversations"] == len(TALKS)
    told = blocks.facts["too_long"]
    assert told["count"] == 1 and told["named"][0]["row"] == 99 and told["longest"] == told["named"][0]["tokens"] > 128
    with pytest.raises(
        UsageError, match=r"'chat': 1 example is longer than 128 tokens, the longest \d+: line 99 \('long'\)"
    ):
        packed(tmp_path / "refused", [*TALKS, long], too_long="refuse")
    with pytest.raises(UsageError, match="make the block larger"):
        packed(tmp_path / "none", [long])


def test_an_example_that_cannot_be_trained_on_is_named(tmp_path: Path) -> None:
    bad = Conversation("bad", 7, (user("a"), assistant("b<|im_end|>")))
    with pytest.raises(UsageError, match=r"'chat', line 7 \('bad'\): an answer spells the control token"):
        packed(tmp_path, [*TALKS, bad])


def test_a_mask_that_was_changed_is_found_out(tmp_path: Path) -> None:
    blocks = packed(tmp_path)
    file = blocks.folder / LEARNED
    told = bytearray(file.read_bytes())
    told[0] ^= 1
    file.write_bytes(told)
    with pytest.raises(DamagedError):
        blocks.verify()
    file.write_bytes(told[:-1])
    with pytest.raises(DamagedError):
        Blocks.open(blocks.folder)
