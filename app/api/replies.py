"""Answering events → the objects of OpenAI's chat completions, whole or as chunks of a stream, and errors as they are
written there. It knows nothing of HTTP.

`fathom` holds what the protocol has no place for: whether it was refused, the checked citations, the queries, timings.
"""

import json
import re
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from app.api.requests import Asked
from app.commands.answer import answer_as_json
from retrieval.passages import Answer
from retrieval.support import MARKER

_HALF_MARKER = re.compile(r"[ \t]{0,3}(?:[\[【［][\s\d,，、;\-–]{0,24})?\Z")
"""The end of a text that the next piece may turn into a citation."""


@dataclass(slots=True)
class Reply:
    """One answer on its way to a client. `longest` is the engine's budget of tokens, 0 where nobody knows it."""

    asked: Asked
    longest: int = 0
    id: str = field(default_factory=lambda: f"chatcmpl-{uuid.uuid4().hex}")
    created: int = field(default_factory=lambda: int(time.time()))

    def whole(self, answer: Answer) -> dict[str, Any]:
        """The answer to a request that did not ask for a stream."""
        message = {"role": "assistant", "content": answer.text, "refusal": None}
        choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": self.finish(answer)}
        return {
            **self._frame("chat.completion"),
            "choices": [choice],
            "usage": usage(answer),
            "fathom": self.extras(answer),
        }

    def chunk(self, text: str | None = None, *, role: str | None = None) -> dict[str, Any]:
        """A piece of text."""
        delta = {name: value for name, value in (("role", role), ("content", text)) if value is not None}
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": None}
        return {**self._frame("chat.completion.chunk"), "choices": [choice]}

    def last(self, answer: Answer) -> dict[str, Any]:
        """The chunk that ends the text."""
        choice = {"index": 0, "delta": {}, "logprobs": None, "finish_reason": self.finish(answer)}
        return {**self._frame("chat.completion.chunk"), "choices": [choice], "fathom": self.extras(answer)}

    def counts(self, answer: Answer) -> dict[str, Any]:
        """The chunk after the last one, for clients that asked for token counts."""
        return {**self._frame("chat.completion.chunk"), "choices": [], "usage": usage(answer)}

    def extras(self, answer: Answer) -> dict[str, Any]:
        """What `ask --json` prints; the passages where they were asked for."""
        return {
            name: value for name, value in answer_as_json(answer).items() if name != "passages" or self.asked.passages
        }

    def finish(self, answer: Answer) -> str:
        """ "length" where the model wrote until its budget was spent and the answer is its own."""
        budget = int(self.asked.options.get("max_new_tokens") or self.longest)
        if self.longest:
            budget = min(budget, self.longest)
        spent = answer.timings.get("completion_tokens", 0) >= budget > 0
        return "length" if spent and not answer.refused and not replaced(answer) else "stop"

    def _frame(self, kind: str) -> dict[str, Any]:
        return {"id": self.id, "object": kind, "created": self.created, "model": self.asked.model}


def replaced(answer: Answer) -> bool:
    """Whether sentences of the sources stand in the place of what the model wrote."""
    return answer.model.endswith("+quote")


def usage(answer: Answer) -> dict[str, int]:
    """Tokens that the language model read and wrote; none where it was not asked."""
    read, written = (int(answer.timings.get(name, 0)) for name in ("prompt_tokens", "completion_tokens"))
    return {"prompt_tokens": read, "completion_tokens": written, "total_tokens": read + written}


@dataclass(slots=True)
class Draft:
    """The text of a stream as the model writes it. A number that belongs to none of the `given` passages never leaves;
    which of the others are right is known at the end only."""

    given: int
    sent: str = ""
    _held: str = ""

    def feed(self, text: str) -> str:
        """What can be sent now: without the end, if that may become a citation."""
        self._held += text
        end = _HALF_MARKER.search(self._held)
        cut = end.start() if end else len(self._held)
        now, self._held = self._held[:cut], self._held[cut:]
        return self._send(MARKER.sub(lambda match: self._kept(match, now), now))

    def end(self, answer: Answer) -> str:
        """What is left to send once the answer is checked.

        What was written cannot be taken back, so an answer that replaces it follows it in a paragraph of its own.
        """
        rest = self._send(self._held)
        self._held = ""
        if answer.text.startswith(self.sent):
            return rest + self._send(answer.text[len(self.sent) :])
        if answer.refused or replaced(answer):
            fence = "\n```" if self.sent.count("```") % 2 else ""  # what follows is no part of its code
            return rest + self._send(f"{fence}\n\n{answer.text}")
        return rest

    def _send(self, text: str) -> str:
        self.sent += text
        return text

    def _kept(self, match: re.Match[str], text: str) -> str:
        before = self.sent + text[: match.start()]
        code = before.count("```") % 2 or before.rpartition("\n")[2].count("`") % 2
        right = all(1 <= int(number) <= self.given for number in re.findall(r"\d+", match[1]))
        return match[0] if right or code else ""


def error_body(message: str, *, kind: str, code: str | None = None, param: str | None = None) -> dict[str, Any]:
    """An error as the protocol writes it."""
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


def event(data: Mapping[str, Any]) -> bytes:
    """One event of the stream."""
    return b"data: " + encoded(data) + b"\n\n"


DONE = b"data: [DONE]\n\n"


def encoded(data: Mapping[str, Any]) -> bytes:
    """JSON in UTF-8; half a character (a lone surrogate of a file name, say) becomes a question mark."""
    return json.dumps(data, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace")
