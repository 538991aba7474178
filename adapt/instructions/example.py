"""One example to learn from: a conversation with where it comes from; and a file of them, one JSON object a line, read
and checked row by row. It knows no template and no model."""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from adapt.corpus.rows import numbered_rows
from retrieval.errors import ReadingError
from retrieval.reading.folder import shown

ROLES = ("system", "user", "assistant")


@dataclass(frozen=True, slots=True)
class Message:
    """What one of them says. `role` is one of ROLES."""

    role: str
    content: str


@dataclass(frozen=True, slots=True)
class Example:
    """A conversation: at most one system message, first; then user and assistant in turn, an answer last."""

    id: str
    messages: tuple[Message, ...]
    origin: Mapping[str, Any] = field(default_factory=dict)
    labels: Mapping[str, Any] = field(default_factory=dict)
    checks: Mapping[str, Any] = field(default_factory=dict)
    review: Mapping[str, Any] = field(default_factory=dict)


def example_id(messages: Sequence[Message]) -> str:
    """The same for the same messages: 16 hex digits of their SHA-256."""
    said = json.dumps([[message.role, message.content] for message in messages], ensure_ascii=False)
    return hashlib.sha256(said.encode("utf-8", "surrogatepass")).hexdigest()[:16]


def read_examples(path: Path) -> Iterator[Example]:
    """The examples of a .jsonl file (gzipped or not). Raises ReadingError with the file and the row."""
    for number, row in numbered_rows(path):
        yield _example(row, shown(str(path)), number)


def _example(row: Mapping[str, Any], path: str, number: int) -> Example:
    def wrong(why: str) -> ReadingError:
        return ReadingError(path, "example", f"row {number} {why}.")

    given = row.get("messages")
    if not isinstance(given, list) or not given:
        raise wrong('has no list "messages"')
    messages = []
    for place, item in enumerate(given):
        role, content = (item.get("role"), item.get("content")) if isinstance(item, dict) else (None, None)
        if role not in ROLES:
            raise wrong(f"has a message of the role {str(role)[:40]!r}; roles are {', '.join(ROLES)}")
        if not isinstance(content, str) or not content.strip():
            raise wrong(f"has an empty message ({role}, message {place + 1})")
        messages.append(Message(role, content))
    turns = messages[1:] if messages[0].role == "system" else messages
    for place, message in enumerate(turns):
        wanted = ("user", "assistant")[place % 2]
        if message.role != wanted:
            said = "a second system message" if message.role == "system" else f"{message.role} where {wanted} speaks"
            raise wrong(f"has {said}; after a system message, user and assistant take turns, the user first")
    if len(turns) % 2 or not turns:
        raise wrong("does not end with an answer of the assistant")
    notes = {}
    for name in ("origin", "labels", "checks", "review"):
        notes[name] = row.get(name) or {}
        if not isinstance(notes[name], dict):
            raise wrong(f'has "{name}" that is no object')
    return Example(str(row.get("id") or example_id(messages)), tuple(messages), **notes)
