"""The data card says what is in a file of examples, by counting, and escapes what comes from it."""

from pathlib import Path

import pytest
from fakes import HashingEmbedder

from adapt.instructions.card import card_of, facts_of
from adapt.instructions.checking import Checks, check
from adapt.instructions.example import Example, Message, Origin, write_examples
from adapt.instructions.reviews import Reviews
from eval.runs.parts import Progress
from retrieval.errors import ReadingError

QUIET: Progress = lambda *_: None  # noqa: E731


def facts(path: Path) -> dict:
    return facts_of(path, lambda text: len(text.split()), tokenizer="words", progress=QUIET)


def test_a_card_counts_what_is_there(tmp_path: Path) -> None:
    path = tmp_path / "e.jsonl"
    english = [Message("user", "one two three"), Message("assistant", "The valve lets steam into the turbine.")]
    chinese = [Message("system", "s"), Message("user", "阀门？"), Message("assistant", "阀门控制蒸汽的流量和方向。")]
    origin = Origin("rows", "a|b.csv#7", "<b>mine</b>", "CC BY 4.0")
    write_examples(
        path,
        [
            Example.of(english, origin=origin, labels={"unanswerable": False}, checks={"support": 0.5}),
            Example.of(english, origin=origin),
            Example.of(chinese, checks={"support": 1.0, "masked": {"EMAIL": 2}}),
        ],
    )
    reviews = Reviews(path)
    reviews.decide(reviews.order[1], "rejected", seen=0)
    found = facts(path)
    assert found["examples"] == 3 and found["repeated"] == 1 and found["with_system"] == 1
    assert found["kinds"] == {"rows": 2, "not stated": 1} and found["sources"] == {"a|b.csv": 2, "not stated": 1}
    assert found["languages"] == {"en": 2, "zh": 1}
    assert found["tokens"]["question"] == {"least": 1, "p5": 1, "median": 3, "p95": 3, "most": 3, "sum": 7}
    assert found["scores"] == {"support": {"examples": 2, "mean": 0.75, "least": 0.5, "most": 1.0}}
    assert found["masked"] == {"EMAIL": 2} and found["review"] == {"open": 2, "rejected": 1}
    assert found["labels"] == {"unanswerable: false": 1}
    card = card_of(found)
    assert found["sha256"] in card and "CC BY 4.0" in card and "a\\|b.csv" in card
    assert "<b>" not in card.replace("\\<b>", "") and "\n\n\n" not in card
    assert "No check of Fathom wrote this file" in card and "1 rejected examples" in card


def test_a_card_tells_of_the_check_that_wrote_the_file(tmp_path: Path) -> None:
    path, out = tmp_path / "e.jsonl", tmp_path / "ok.jsonl"
    messages = [Message("user", "q"), Message("assistant", "a")]
    write_examples(path, [Example.of(messages), Example.of(messages)])
    checks = Checks(near=None, similar=None)
    check(path, checks, out=out, embedder=lambda: HashingEmbedder(), cache=tmp_path, progress=QUIET)
    card = card_of(facts(out))
    assert "Written by 'fathom data check'" in card and "word for word" in card
    write_examples(out, [Example.of([Message("user", "q2"), Message("assistant", "a")])])
    assert facts(out)["checked"] is None


def test_an_empty_file_has_no_card(tmp_path: Path) -> None:
    write_examples(tmp_path / "e.jsonl", [])
    with pytest.raises(ReadingError, match="no example"):
        facts(tmp_path / "e.jsonl")
