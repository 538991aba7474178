"""A row of a known set of conversations (ShareGPT, OpenAI, Alpaca, Self-Instruct's seeds) → its messages.

Roles are only mended where there is one way to read them, and each mending is named. It knows no file.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from adapt.instructions.example import ExampleFault, Message, Origin, Role, example_of, require_turns
from eval.data.texts import storable

_ROLES: Mapping[str, Role] = {
    **dict.fromkeys(("human", "user", "prompter", "用户"), "user"),
    **dict.fromkeys(("gpt", "assistant", "chatgpt", "bot", "model", "bing", "bard", "claude", "助手"), "assistant"),
    **dict.fromkeys(("system", "developer", "系统"), "system"),
}
MENDED = {
    "joined": "two user messages in a row became one",
    "open-end": "messages after the last answer were cut off",
    "blank-system": "an empty system message was left out",
    "half-characters": "halves of characters became U+FFFD",
}


@dataclass
class Found:
    """What a row holds: messages of one or several conversations, with labels, and the names of what was mended."""

    messages: list[Message]
    labels: dict[str, Any] = field(default_factory=dict)
    mended: list[str] = field(default_factory=list)
    origin: Origin | None = None
    """Where the row itself says so."""


Reading = Callable[[Mapping[str, Any]], list[Found]]


def is_sharegpt(row: Mapping[str, Any]) -> bool:
    """{"conversations": [{"from", "value"}]}"""
    found = row.get("conversations")
    return isinstance(found, list) and all(isinstance(turn, dict) and "from" in turn for turn in found[:3])


def is_openai(row: Mapping[str, Any]) -> bool:
    """{"messages": [{"role", "content"}]}"""
    found = row.get("messages", row.get("conversations"))
    return isinstance(found, list) and all(isinstance(turn, dict) and "role" in turn for turn in found[:3])


def is_alpaca(row: Mapping[str, Any]) -> bool:
    """{"instruction", "input", "output"} or {"instruction", "instances": [{"input", "output"}]}"""
    return "instruction" in row and ("output" in row or isinstance(row.get("instances"), list))


def is_examples(row: Mapping[str, Any]) -> bool:
    """Fathom's own examples."""
    return "id" in row and is_openai(row) and not set(row) - {"id", "messages", "origin", "labels", "checks", "review"}


def from_sharegpt(row: Mapping[str, Any]) -> list[Found]:
    """Raises ExampleFault."""
    turns = [("system", row["system"])] if row.get("system") else []
    for number, turn in enumerate(_list(row, "conversations"), 1):
        if not isinstance(turn, dict) or "from" not in turn or "value" not in turn:
            raise ExampleFault("form", f"has a turn {number} without 'from' and 'value'")
        turns.append((turn["from"], turn["value"]))
    return [_found(turns)]


def from_openai(row: Mapping[str, Any]) -> list[Found]:
    """Contents may be lists of text parts. Tools, pictures and weights of 0 cannot be kept. Raises ExampleFault."""
    if row.get("tools") or row.get("functions"):
        raise ExampleFault("tools", "calls tools, which examples do not hold")
    turns = []
    for number, turn in enumerate(_list(row, "messages" if "messages" in row else "conversations"), 1):
        if not isinstance(turn, dict) or "role" not in turn:
            raise ExampleFault("form", f"has a message {number} without a 'role'")
        if turn.get("tool_calls") or turn.get("function_call"):
            raise ExampleFault("tools", f"calls a tool in message {number}, which examples do not hold")
        if turn.get("weight") == 0:
            raise ExampleFault("weight", f"has message {number} with weight 0: such an answer must not be learnt")
        turns.append((turn["role"], _parts(turn.get("content"), number)))
    return [_found(turns)]


def from_alpaca(row: Mapping[str, Any]) -> list[Found]:
    """`input` follows the instruction after a blank line; `history` is pairs of earlier questions and answers. A row
    with `instances` gives one conversation for each. Raises ExampleFault."""
    earlier: list[tuple[Any, Any]] = [("system", row["system"])] if row.get("system") else []
    for number, pair in enumerate(row.get("history") or [], 1):
        if not isinstance(pair, list) or len(pair) != 2:
            raise ExampleFault("form", f"has a {number}th entry of 'history' that is no pair of question and answer")
        earlier += [("user", pair[0]), ("assistant", pair[1])]
    instruction = row["instruction"]
    found = []
    for instance in row["instances"] if isinstance(row.get("instances"), list) else [row]:
        if not isinstance(instance, dict) or "output" not in instance:
            raise ExampleFault("form", "has an instance without 'output'")
        given = instance.get("input") or ""
        if not isinstance(instruction, str) or not isinstance(given, str):
            raise ExampleFault("form", "has something else than text for 'instruction' or 'input'")
        question = f"{instruction.strip()}\n\n{given.strip()}" if given.strip() else instruction
        made = _found([*earlier, ("user", question), ("assistant", instance["output"])])
        if isinstance(row.get("is_classification"), bool):
            made.labels["classification"] = row["is_classification"]
        if isinstance(row.get("name"), str) and 0 < len(row["name"]) <= 100:
            made.labels["task"] = storable(row["name"])
        found.append(made)
    return found


def from_examples(row: Mapping[str, Any]) -> list[Found]:
    """An example of Fathom's; its checks and its review are left behind, since they were about another file."""
    example = example_of(row)
    return [Found(list(example.messages), dict(example.labels), [], example.origin)]


def mended_turns(turns: Sequence[tuple[Any, Any]]) -> tuple[list[Message], list[str]]:
    """(role, content) pairs as messages that take turns, and what was mended (keys of `MENDED`). Raises ExampleFault.

    Two user messages in a row are one that was sent in two parts. Two answers in a row may be one or two versions, and
    an answer without a question may be anything: those are not guessed at.
    """
    mended: list[str] = []
    messages: list[Message] = []
    for number, (word, content) in enumerate(turns, 1):
        role = _ROLES.get(word.strip().lower()) if isinstance(word, str) else None
        if role is None:
            raise ExampleFault("roles", f"has the role {str(word)[:40]!r} in message {number}")
        if isinstance(content, str) and content != storable(content):
            content = storable(content)
            mended.append("half-characters")
        if role == "system" and isinstance(content, str) and not content.strip():
            mended.append("blank-system")
            continue
        message = Message(role, content)
        if role == "user" and messages and messages[-1].role == "user":
            messages[-1] = Message("user", f"{messages[-1].content}\n\n{content}")
            mended.append("joined")
        else:
            messages.append(message)
    last = next((at for at in range(len(messages), 0, -1) if messages[at - 1].role == "assistant"), 0)
    if last and last < len(messages) and all(message.role == "user" for message in messages[last:]):
        del messages[last:]
        mended.append("open-end")
    require_turns(messages)
    return messages, list(dict.fromkeys(mended))


def _found(turns: Sequence[tuple[Any, Any]]) -> Found:
    messages, mended = mended_turns(turns)
    return Found(messages, {}, mended)


def _list(row: Mapping[str, Any], name: str) -> list[Any]:
    found = row.get(name)
    if not isinstance(found, list) or not found:
        raise ExampleFault("form", f"has no list of messages in {name!r}")
    return found


def _parts(content: Any, number: int) -> Any:
    """A text, or its parts where all of them are text."""
    if not isinstance(content, list):
        return content
    parts = [part for part in content if isinstance(part, dict) and part.get("type") == "text"]
    texts = [part["text"] for part in parts if isinstance(part.get("text"), str)]
    if len(texts) != len(content):
        raise ExampleFault("not-text", f"has a picture, a sound or a file in message {number}")
    return "".join(texts)
