"""What the chat keeps becomes examples: the very prompt the model was shown, and only answers that people left."""

from dataclasses import replace
from pathlib import Path

import pytest

from adapt.instructions.example import Example
from adapt.instructions.importing import Imported
from app.chat.conversations import Conversations
from app.chat.kept_examples import is_chats, kept_examples
from app.chat.turns import Asked, Turn
from retrieval.errors import DamagedError, UsageError
from retrieval.passages import Citation, Hit, Passage, Scores, Source
from retrieval.prompts import Message, answer_messages

PASSAGE = Passage(7, 3, 0, 0, 17, None, (), "Close the valve.", 5)
HIT = Hit(1, 0.9, PASSAGE, Source(3, "pump.md", "Pump", "md", "local", {}), Scores())
CITATION = Citation(1, "pump.md", "Pump", None, 0, 5, "Close", "yes", 7)


def answered(kept: Conversations, chat: str, question: str, text: str, **more: object) -> Turn:
    replaces = more.pop("replaces", None)
    turn = kept.begin(chat, question, more.pop("asked", Asked()), replaces)  # type: ignore[arg-type]
    facts = {"state": "done", "text": text, "model": "tiny", "hits": (HIT, HIT), "given": 1, "checked": True,
             "citations": (CITATION,)} | more  # fmt: skip
    turn = replace(turn, **facts)  # type: ignore[arg-type]
    kept.save(turn)
    kept.replace(turn)
    return turn


def imported(path: Path) -> tuple[list[Example], Imported]:
    into = Imported()
    return list(kept_examples(path, into, licence="ours")), into


def test_an_answer_becomes_the_prompt_that_was_shown_and_the_answer(tmp_path: Path) -> None:
    path = tmp_path / "chats.sqlite"
    kept = Conversations(path)
    first = answered(kept, "", "What is to be done?", "Close it [1].")
    answered(kept, first.chat, "And then?", "Nothing [1].")
    found, into = imported(path)  # while the chat has the file open
    history = [Message("user", "What is to be done?"), Message("assistant", "Close it [1].")]
    for example, question, earlier, text in (
        (found[0], "What is to be done?", [], "Close it [1]."), (found[1], "And then?", history, "Nothing [1]."),
    ):  # fmt: skip
        shown = answer_messages(question, [HIT], earlier)
        assert [(m.role, m.content) for m in example.messages[:-1]] == [(m.role, m.text) for m in shown]
        assert example.messages[-1].content == text and example.checks == {"support": 1.0}
        assert example.origin and example.origin.kind == "feedback" and example.origin.by == "tiny"
    assert into.forms == {"chats.sqlite": "chat"} and into.rows == into.examples == 2
    kept.close()


def test_what_people_took_back_or_no_model_wrote_is_left_out(tmp_path: Path) -> None:
    path = tmp_path / "chats.sqlite"
    kept = Conversations(path)
    old = answered(kept, "", "How?", "Badly [1].")
    chat = old.chat
    answered(kept, chat, "How, exactly?", "Well [1].", replaces=old.id)
    answered(kept, chat, "quote", "Close", model="quote")
    answered(kept, chat, "both", "Close", model="tiny+quote")
    answered(kept, chat, "refused", "The documents do not say.", refused=True)
    answered(kept, chat, "stopped", "Half", state="stopped")
    answered(kept, chat, "chosen", "Close", asked=Asked(quote=True))
    kept.close()
    found, into = imported(path)
    assert [example.messages[-1].content for example in found] == ["Well [1]."]
    assert found[0].labels == {"chat": chat, "edited": True}
    assert dict(into.left_out.counts) == {"replaced": 1, "quoted": 3, "refused": 1, "unfinished": 1}


def test_a_file_that_holds_no_conversations_says_so(tmp_path: Path) -> None:
    with pytest.raises(UsageError):
        imported(tmp_path / "gone.sqlite")
    (tmp_path / "x.sqlite").write_bytes(b"SQLite format 3\0" + b"x" * 200)
    assert is_chats(tmp_path / "x.sqlite")
    with pytest.raises(DamagedError, match="no conversations"):
        imported(tmp_path / "x.sqlite")
