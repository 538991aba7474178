"""What was written is kept: the same request is not asked twice, another one is, and a failure is no text."""

from pathlib import Path

import pytest
from scripted_chat import ScriptedChat

from adapt.instructions.writing.kept import KeptWriter, kept_beside
from adapt.instructions.writing.writer import Wanted, Written
from retrieval.errors import BusyError
from retrieval.prompts import Message


def wanted(text: str, temperature: float = 0.7, seed: int = 0, most: int = 64) -> Wanted:
    return Wanted((Message("user", text),), temperature, most, seed)


def test_a_text_is_asked_for_once_over_several_runs(tmp_path: Path) -> None:
    first = ScriptedChat(["one", Written("tw", "length", 2)])
    with KeptWriter(first, tmp_path / "k") as writer, pytest.raises(KeyboardInterrupt):
        writer.write([wanted("a"), wanted("b"), wanted("c")])
    second = ScriptedChat(["three"])
    with KeptWriter(second, tmp_path / "k") as writer:
        found = writer.write([wanted("a"), wanted("b"), wanted("c"), wanted("a")])
        assert (writer.asked, writer.reused) == (1, 3)
    assert found == [Written("one"), Written("tw", "length", 2), Written("three"), Written("one")]
    assert [one.messages[0].text for one in second.asked] == ["c"]


def test_another_seed_length_model_or_temperature_is_another_request(tmp_path: Path) -> None:
    chat = ScriptedChat(lambda _: "text")
    with KeptWriter(chat, tmp_path) as writer:
        writer.write([wanted("a"), wanted("a", seed=1), wanted("a", most=32), wanted("a", 0.5)])
        writer.write([wanted("a", 0.0), wanted("a", 0.0, seed=5)])  # greedy: the seed has no say
        assert len(chat.asked) == 5
    with KeptWriter(ScriptedChat(lambda _: "text", name="other"), tmp_path) as writer:
        writer.write([wanted("a")])
        assert writer.asked == 1
    with KeptWriter(ScriptedChat(lambda _: "text"), tmp_path, forget=True) as writer:
        writer.write([wanted("a")])
        assert writer.asked == 1


def test_what_failed_or_was_stopped_is_asked_again(tmp_path: Path) -> None:
    replies: list[str | Written] = [Written("", "failed", 0, "too long"), Written("ha", "stopped"), "x\ud800y"]
    with KeptWriter(ScriptedChat(replies), tmp_path) as writer:
        found = writer.write([wanted("a"), wanted("b"), wanted("c")])
        assert found[0].error == "too long"
        with pytest.raises(KeyboardInterrupt):  # the script is at its end: it was asked
            writer.write([wanted("a")])
    with KeptWriter(ScriptedChat(["A", "B"]), tmp_path) as writer:
        again = writer.write([wanted("a"), wanted("b"), wanted("c")])
    assert [one.text for one in again] == ["A", "B", "x\ufffdy"]  # half a character is no text


def test_two_runs_do_not_write_to_one_folder(tmp_path: Path) -> None:
    with KeptWriter(ScriptedChat([]), tmp_path), pytest.raises(BusyError, match="writing examples"):
        KeptWriter(ScriptedChat([]), tmp_path)
    assert kept_beside(Path("a/b.jsonl.gz")) == Path("a/b.written")
