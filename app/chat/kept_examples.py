"""The conversations that the chat keeps → examples to learn from, as the model was shown them. Only ever read here.

An answer counts as a person left it: what they asked again or reworded is left out, what came in its place is marked.
"""

import contextlib
import sqlite3
from collections.abc import Iterator
from pathlib import Path

from adapt.instructions.example import Example, ExampleFault, Message, Origin
from adapt.instructions.importing import Imported
from app.chat.answers import HISTORY_TURNS
from app.chat.conversations import TURN_COLUMNS, read_only, turn_of
from app.chat.turns import Turn
from retrieval.errors import DamagedError, UsageError
from retrieval.prompts import Message as Shown
from retrieval.prompts import answer_messages, closed_book_messages

FORM = "chat"
_MAGIC = b"SQLite format 3\0"
_QUOTE = "quote"


def is_chats(path: Path) -> bool:
    """Whether this is a database, as conversations are."""
    try:
        with path.open("rb") as file:
            return file.read(len(_MAGIC)) == _MAGIC
    except OSError:
        return False


def kept_examples(path: Path, into: Imported, *, licence: str = "") -> Iterator[Example]:
    """An example for each finished answer that a model wrote from passages, in the order of asking: the very prompt
    (retrieval/prompts.py) with the passages and the earlier turns, then the answer.

    A running chat is not disturbed. Raises UsageError where there is no such file, DamagedError where it is none of
    conversations.
    """
    if not path.is_file():
        raise UsageError(f"there is no file '{path}'; the chat keeps its conversations in the workspace")
    into.forms[path.name] = FORM
    try:
        with contextlib.closing(read_only(path)) as db:
            chats = [row[0] for row in db.execute("SELECT chat FROM turns GROUP BY chat ORDER BY min(id)")]
            for chat in chats:
                rows = db.execute(f"SELECT replaced, {TURN_COLUMNS} FROM turns WHERE chat = ? ORDER BY id", (chat,))
                yield from _of_chat([(row[0] is not None, turn_of(row[1:])) for row in rows], path, into, licence)
    except sqlite3.Error as error:
        raise DamagedError(
            f"{path} holds no conversations that can be read ({error}); close the chat and try again"
        ) from error


def _of_chat(turns: list[tuple[bool, Turn]], path: Path, into: Imported, licence: str) -> Iterator[Example]:
    earlier: list[Turn] = []
    for replaced, turn in turns:
        into.rows += 1
        where = f"{path.name} turn {turn.id}"
        if replaced:
            into.left_out.add("replaced", where, "was asked again or in other words; what came after counts")
            continue
        fault = _fault(turn)
        if fault is not None:
            into.left_out.add(fault[0], where, fault[1])
        else:
            try:
                yield _example(turn, earlier, path, licence)
                into.examples += 1
            except ExampleFault as found:
                into.left_out.add(found.reason, where, found.message)
        if turn.text.strip():
            earlier.append(turn)


def _fault(turn: Turn) -> tuple[str, str] | None:
    if turn.state != "done":
        return "unfinished", f"has no whole answer ({turn.state})"
    if turn.refused:
        return "refused", "was not answered; whether it could have been nobody has said"
    if turn.asked.quote or turn.model.endswith(_QUOTE) or not turn.model:
        return "quoted", "was answered with sentences of the documents, not by a model"
    return None


def _example(turn: Turn, earlier: list[Turn], path: Path, licence: str) -> Example:
    history = []
    for before in earlier[-HISTORY_TURNS:]:
        history += [Shown("user", before.question), Shown("assistant", before.text)]
    hits = turn.hits[: turn.given]
    shown = answer_messages(turn.question, hits, history) if hits else closed_book_messages(turn.question, history)
    messages = [*(Message(message.role, message.text) for message in shown), Message("assistant", turn.text)]
    checked = [citation.supported for citation in turn.citations]
    return Example.of(
        messages,
        origin=Origin("feedback", f"{path.name}#{turn.id}", turn.model[:200], licence),
        labels={"chat": turn.chat[:40], **({"edited": True} if turn.replaces is not None else {})},
        checks={"support": round(checked.count("yes") / len(checked), 3)} if turn.checked and checked else {},
    )
