"""The body of a chat completion request, hostile bytes → a checked question, or a refusal that says what to mend.

It knows the OpenAI protocol and nothing of documents, engines or HTTP. What a server cannot do (tools, log
probabilities) is passed over, as servers do; what it can do and cannot read is refused.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from app.chat.render import plain
from retrieval.errors import UsageError
from retrieval.prompts import Message

MAX_BODY_BYTES = 1 << 20
"""A question with its conversation; far more than answering shows a model."""
MAX_PASSAGES = 50
_SILENT = ("system", "developer", "tool", "function")
"""Roles whose text is passed over: the instructions are Fathom's own, and it calls no tools."""
_EXTRAS = ("k", "passages", "checked")


class BadRequest(UsageError):
    """A request that cannot be answered; `param` is the field that is wrong, `status` the HTTP status."""

    def __init__(self, message: str, *, param: str | None = None, code: str = "invalid_value", status: int = 400):
        super().__init__(message)
        self.param, self.code, self.status = param, code, status


@dataclass(frozen=True, slots=True)
class Asked:
    """One request: the last message of the user is the question, those before it the history.

    `options` are temperature, top_p, seed and max_new_tokens as far as they were given. `k` None is the server's own
    number of passages. With `checked` a stream holds its text back until it is checked; `passages` adds those found.
    """

    model: str
    question: str
    history: tuple[Message, ...] = ()
    stream: bool = False
    usage: bool = False
    """Whether a stream ends with the token counts."""
    options: Mapping[str, float] = field(default_factory=dict)
    k: int | None = None
    passages: bool = False
    checked: bool = False


def read(body: bytes, *, longest_question: int) -> Asked:
    """Raises BadRequest."""
    if len(body) > MAX_BODY_BYTES:
        raise BadRequest(
            f"the request has {len(body):,} bytes and may have {MAX_BODY_BYTES:,}; send fewer messages",
            code="request_too_large",
            status=413,
        )
    try:
        said = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise BadRequest(f"the request is not JSON in UTF-8: {str(error)[:200]}", code="invalid_json") from error
    if not isinstance(said, dict):
        raise BadRequest(f"the request is a JSON {_kind(said)}; send an object with model and messages")
    model = said.get("model")
    if not isinstance(model, str) or not model.strip():
        raise BadRequest("model names what answers, as in 'fathom/default'; give it as text", param="model")
    question, history = _conversation(said.get("messages"), longest_question)
    options = _options(said)
    if _number(said, "n", 1, 128, whole=True) not in (None, 1):
        raise BadRequest("n is 1: a question has one answer here", param="n")
    stream_options = _object(said, "stream_options")
    extras = _object(said, "fathom")
    if unknown := [name for name in extras if name not in _EXTRAS]:
        raise BadRequest(
            f"fathom has no '{plain(unknown[0], 60)}'; known are {', '.join(_EXTRAS)}", param=f"fathom.{unknown[0]:.60}"
        )
    k = _number(extras, "k", 1, MAX_PASSAGES, whole=True, inside="fathom.")
    return Asked(
        model=model.strip(),
        question=question,
        history=history,
        stream=_flag(said, "stream"),
        usage=_flag(stream_options, "include_usage", inside="stream_options."),
        options=options,
        k=None if k is None else int(k),
        passages=_flag(extras, "passages", inside="fathom."),
        checked=_flag(extras, "checked", inside="fathom."),
    )


def _conversation(messages: Any, longest: int) -> tuple[str, tuple[Message, ...]]:
    if not isinstance(messages, list) or not messages:
        raise BadRequest(
            'messages is a list such as [{"role": "user", "content": "the question"}]; send at least one',
            param="messages",
        )
    spoken: list[Message] = []
    for number, message in enumerate(messages):
        where = f"messages[{number}]"
        if not isinstance(message, dict):
            raise BadRequest(f"{where} is a JSON {_kind(message)}; send an object with role and content", param=where)
        role = message.get("role")
        if role in _SILENT:
            continue
        if role not in ("user", "assistant"):
            raise BadRequest(
                f"{where} has the role {plain(json.dumps(role), 60)}; roles are system, user and assistant",
                param=f"{where}.role",
            )
        text = plain(_text(message.get("content"), role, f"{where}.content")).strip()
        if text or role == "user":
            spoken.append(Message(role, text))
    if not spoken or spoken[-1].role != "user":
        raise BadRequest("the last message is the user's question; it is missing", param="messages")
    question = spoken[-1].text
    if not question:
        raise BadRequest("the question is empty; write what you want to know", param="messages")
    if len(question) > longest:
        raise BadRequest(
            f"the question has {len(question):,} characters and may have {longest:,}; shorten it", param="messages"
        )
    return question, tuple(message for message in spoken[:-1] if message.text)


def _text(content: Any, role: str, where: str) -> str:
    """A message's text: a string, or the text parts that newer clients send. An assistant's may be missing."""
    if isinstance(content, str):
        return content
    if content is None and role == "assistant":
        return ""
    if not isinstance(content, list):
        raise BadRequest(f"{where} is a JSON {_kind(content)}; send text", param=where)
    texts = []
    for part in content:
        kind = part.get("type") if isinstance(part, dict) else None
        text = part.get("text") if isinstance(part, dict) else None
        if kind != "text" or not isinstance(text, str):
            raise BadRequest(
                f'{where} has a part that is no text; only {{"type": "text", "text": "…"}} can be read',
                param=where,
                code="unsupported_content",
            )
        texts.append(text)
    return "\n".join(texts)


def _options(said: Mapping[str, Any]) -> dict[str, float]:
    found = {
        "temperature": _number(said, "temperature", 0, 2),
        "top_p": _number(said, "top_p", 0, 1),
        "seed": _number(said, "seed", -(2**63), 2**63 - 1, whole=True),
    }
    for name in ("max_tokens", "max_completion_tokens"):  # the second is the first one's newer name and wins
        if (value := _number(said, name, 1, 2**31 - 1, whole=True)) is not None:
            found["max_new_tokens"] = value
    return {name: value for name, value in found.items() if value is not None}


def _number(
    said: Mapping[str, Any], name: str, least: float, most: float, *, whole: bool = False, inside: str = ""
) -> float | None:
    """The number at `name`, None where it is missing or null."""
    value = said.get(name)
    if value is None:
        return None
    right = int if whole else (int, float)
    # What is no number (NaN) is not between two numbers either; a JSON true is an int for Python.
    if isinstance(value, bool) or not isinstance(value, right) or not least <= value <= most:
        raise BadRequest(
            f"{inside}{name} is a{' whole' if whole else ''} number from {least:,} to {most:,}; "
            f"{plain(json.dumps(value), 40)} was given",
            param=f"{inside}{name}",
        )
    return value


def _flag(said: Mapping[str, Any], name: str, *, inside: str = "") -> bool:
    value = said.get(name)
    if value is not None and not isinstance(value, bool):
        raise BadRequest(
            f"{inside}{name} is true or false; {plain(json.dumps(value), 40)} was given", param=f"{inside}{name}"
        )
    return bool(value)


def _object(said: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    value = said.get(name)
    if value is not None and not isinstance(value, dict):
        raise BadRequest(f"{name} is an object; a JSON {_kind(value)} was given", param=name)
    return value or {}


def _kind(value: Any) -> str:
    kinds = {bool: "boolean", int: "number", float: "number", str: "string", list: "list", dict: "object"}
    return kinds.get(type(value), "null")
