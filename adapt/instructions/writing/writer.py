"""Chat messages → the texts that a language model writes to them, several at once where the engine can.

It knows engines as LlamaIndex models only, and nothing of what is written.
"""

import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol

from retrieval.errors import DamagedError, FathomError, MissingError
from retrieval.prompts import Message

if TYPE_CHECKING:
    from llama_index.core.llms import LLM

Finish = Literal["stop", "length", "repetition", "stopped", "failed", "unknown"]
_FINISHES: Mapping[str, Finish] = {
    "stop": "stop",
    "length": "length",
    "repetition": "repetition",
    "stopped": "stopped",
}
GIVE_UP_AFTER = 5
"""Requests in a row that an engine fails before it is held to be dead: one prompt may be too long, five hardly are."""
VERDICT_TOKENS = 16
"""Longest reply where one word is asked for. A model that thinks aloud first needs more."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """One text that is wanted. `seed` has no say at temperature 0; `max_tokens` is the longest text."""

    messages: tuple[Message, ...]
    temperature: float
    max_tokens: int
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Written:
    """What was written, as it came: hostile until checked.

    `finish`: "stop" (the model ended), "length" (cut off), "repetition" (it ran in circles and was stopped), "stopped"
    (somebody stopped it), "failed" (nothing was written, and `error` says why), "unknown" (the engine does not say).
    """

    text: str
    finish: Finish = "stop"
    tokens: int = 0
    """Of the text; 0 where the engine does not count."""
    error: str = ""


class Writer(Protocol):
    """A model that writes. Safe for many threads."""

    @property
    def name(self) -> str:
        """Of the model, for the origin of what it writes."""
        ...

    @property
    def at_once(self) -> int:
        """How many requests are worth handing over together."""
        ...

    def write(self, wanted: Sequence[Wanted]) -> list[Written]:
        """A text for each request, in their order. A request that fails by itself has an `error`.

        Raises FathomError where the engine cannot write at all.
        """
        ...


def written(writer: Writer, wanted: Wanted) -> Written:
    """One text. Raises FathomError where the engine failed."""
    found = writer.write([wanted])[0]
    if found.finish == "failed":
        raise FathomError(found.error)
    return found


class EngineWriter:
    """A `Writer` over a LlamaIndex model. `concurrency` requests are under way at once; above 1 is for servers."""

    def __init__(self, llm: "LLM", *, concurrency: int = 1, give_up_after: int = GIVE_UP_AFTER) -> None:
        self._llm = llm
        self._concurrency = max(1, concurrency)
        self._give_up_after = give_up_after
        self._failures = 0
        self._guard = threading.Lock()

    @property
    def name(self) -> str:
        """Waits until the model is loaded. Raises what kept it from loading."""
        return str(self._llm.metadata.model_name)

    @property
    def at_once(self) -> int:
        """The concurrency."""
        return self._concurrency

    def write(self, wanted: Sequence[Wanted]) -> list[Written]:
        """See `Writer`. Ctrl-C ends what is under way. Raises FathomError after `give_up_after` failures in a row,
        MissingError and DamagedError where the model cannot be loaded."""
        if self._concurrency == 1 or len(wanted) < 2:
            return [self._one(one, None) for one in wanted]
        stop = threading.Event()
        with ThreadPoolExecutor(min(self._concurrency, len(wanted)), "writing") as pool:
            waiting: list[Future[Written]] = []
            try:
                waiting = [pool.submit(self._one, one, stop) for one in wanted]
                return [future.result() for future in waiting]
            except BaseException:
                stop.set()  # the pool waits for its threads, and they for the engine
                for future in waiting:
                    future.cancel()
                raise

    def _one(self, wanted: Wanted, stop: threading.Event | None) -> Written:
        from llama_index.core.base.llms.types import ChatMessage, MessageRole

        options: dict[str, Any] = {"temperature": wanted.temperature, "max_tokens": wanted.max_tokens}
        if wanted.temperature > 0:  # engines that know no seed are not bothered with one at temperature 0
            options["seed"] = wanted.seed
        if stop is not None and getattr(self._llm, "stoppable", False):
            options["stop"] = stop
        chat = [ChatMessage(role=MessageRole(message.role), content=message.text) for message in wanted.messages]
        try:
            reply = self._llm.chat(chat, **options)
        except (MissingError, DamagedError):
            raise
        except FathomError as error:
            return self._failed(error)
        with self._guard:
            self._failures = 0
        raw = reply.raw if isinstance(reply.raw, Mapping) else {}
        finish = _FINISHES.get(str(raw.get("finish_reason")), "unknown")
        tokens = raw.get("completion_tokens")
        return Written(str(reply.message.content or ""), finish, int(tokens) if isinstance(tokens, int | float) else 0)

    def _failed(self, error: FathomError) -> Written:
        with self._guard:
            self._failures += 1
            failures = self._failures
        if failures >= self._give_up_after:
            raise FathomError(
                f"the engine failed {failures} times in a row, the last time with '{error}'; mend that and run the "
                "same command again, which goes on where it stopped"
            ) from error
        return Written("", "failed", 0, str(error))
