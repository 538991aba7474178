"""Messages and a model's own chat template → the prompt, whatever the template thinks of system messages. It knows no
template language: `apply` is the runtime's own.

Gemma's and older Mistral templates refuse a system message, and others drop it without a word: then its text goes in
front of the first user message, where those models were taught to read instructions.
"""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from retrieval.errors import UsageError

Message = Mapping[str, str]
"""`role` ("system", "user" or "assistant") and `content`."""

_AMONG_MARKS = re.compile(r"<[^<>\n]{1,80}>|\[/?[A-Z_]{2,40}\]|<</?[A-Z]+>>")


def marks(names: Iterable[str]) -> re.Pattern[str]:
    """Matches the special tokens `names` (longest first), for `broken_up`."""
    ordered = sorted({name for name in names if len(name) > 1}, key=len, reverse=True)
    return re.compile("|".join(map(re.escape, ordered)) or r"(?!)")


def looks_special(token: str) -> bool:
    """Whether a token is spelled as those are that steer a model: `<tool_call>`, `[INST]`, `<<SYS>>`."""
    return _AMONG_MARKS.fullmatch(token) is not None


def special_tokens(tokenizer: Any) -> set[str]:
    """What no text may spell, of a tokenizer of transformers: its special tokens, and added ones that look so."""
    special = set(tokenizer.all_special_tokens)
    for token in tokenizer.added_tokens_decoder.values():
        if token.special or looks_special(token.content):
            special.add(token.content)
    return special


def broken_up(text: str, special: re.Pattern[str]) -> str:
    """The text with a space inside each special token that it spells out: the tokenizer would read it as the real one,
    and a document could end its turn and speak as the system.

    A broken-up token can close up again around a removed one, so nothing is removed.
    """
    return special.sub(lambda match: match[0][0] + " " + match[0][1:], text)


def prompt(apply: Callable[[list[dict[str, str]]], str], messages: Sequence[Message], *, model: str) -> str:
    """The messages as the template writes them, the opening of the answer included.

    Raises UsageError where the template takes them neither as they are nor with the system text folded in.
    """
    plain = [dict(message) for message in messages]
    instructions = [message["content"].strip() for message in plain if message["role"] == "system"]
    reason: Exception | None = None
    first: str | None = None
    for attempt in (plain, folded(plain)):
        try:
            text = apply(attempt)
        # jinja2's TemplateError, OpenVINO's RuntimeError, or what a strange template makes of its input: a TypeError.
        except Exception as error:
            reason = error
            continue
        if all(instruction in text for instruction in instructions):
            return text
        first = first or text
    if first is not None:  # it rewrites what it is given
        return first
    words = str(reason).strip().splitlines()[-1][:200] if str(reason).strip() else type(reason).__name__
    raise UsageError(
        f"the chat template of the model {model} cannot write this conversation ({words}); use an instruction-tuned "
        "model with a chat template of its own"
    ) from reason


def folded(messages: Sequence[Message]) -> list[dict[str, str]]:
    """The same conversation for the strictest templates: no system message, and user and assistant taking turns, the
    user first."""
    instructions = "\n\n".join(message["content"] for message in messages if message["role"] == "system")
    turns: list[dict[str, str]] = []
    for message in messages:
        if message["role"] == "system":
            continue
        if turns and turns[-1]["role"] == message["role"]:
            turns[-1]["content"] += "\n\n" + message["content"]
        else:
            turns.append(dict(message))
    if not turns or turns[0]["role"] != "user":
        turns.insert(0, {"role": "user", "content": "" if instructions else "…"})
    if instructions:  # as OpenVINO's template engine does it by itself, so that both engines read the same
        turns[0]["content"] = "\n".join(filter(None, (instructions, turns[0]["content"])))
    return turns
