"""An engine in a child process of its own, as a LlamaIndex `LLM`: whatever the model does (a segmentation fault, all
memory), this process lives, the question that was being answered gets a sentence, and the next one a new child.
"""

import queue
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, is_dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

from llama_index.core.base.llms.types import ChatMessage, LLMMetadata, MessageRole
from llama_index.core.bridge.pydantic import Field, PrivateAttr

from app.engines.child import Child, CrashedError, failure
from app.engines.generating import POLL_SECONDS, Piece, Sampling, Stoppable, TimeLimits, _stats
from app.engines.speaker import Manners, unknown_role
from app.engines.speaking import Source, SpeakingLLM
from retrieval.errors import FathomError

if TYPE_CHECKING:
    from app.engines.embedded import EmbeddedModel
    from app.engines.local import LocalModel

COUNTS_KEPT = 4096
PATIENCE_TO_STOP = 0.1
"""Seconds a stopped child gets to hand over its counts; the caller is free within 0.2 in any case."""
MARGIN = 10.0
"""Seconds on top of the limits (which the child keeps) after which it is held to be stuck and is ended."""
MOST_CRASHES = 3
FIRST_PAUSE = 0.5
"""Seconds before the second start; each further one waits twice as long."""
LAST_PAUSE = 60.0
"""Seconds without a start after MOST_CRASHES in a row."""
_OF_MANNERS = ("max_new_tokens", "temperature", "repetition_penalty", "seed")
_OPTIONS = (*_OF_MANNERS, "top_p")
_ROLES = {MessageRole.SYSTEM: "system", MessageRole.DEVELOPER: "system", MessageRole.ASSISTANT: "assistant"}


@dataclass(frozen=True)
class Hello:
    """What a child tells of its model."""

    name: str
    window: int


class Keeper:
    """Keeps one child running: starts it, starts it again after a crash, and gives up on one that only crashes."""

    def __init__(self, spec: dict[str, Any], log: Path | None, tell: Callable[[str], None]) -> None:
        self._spec, self._log, self._tell = spec, log, tell
        self._guard = threading.Lock()
        self._child: Child | None = None
        self._known: Hello | None = None
        self._greeted: Child | None = None
        self._crashes = 0
        self._last_crash = 0.0
        self._closed = False

    def start(self) -> None:
        """Begin to load the model, without waiting for it."""
        with self._guard:
            self._running(lambda: False)

    @property
    def known(self) -> Hello | None:
        """What the first child told; None before that."""
        return self._known

    def child(self, stopped: Callable[[], bool] = lambda: False) -> Child | None:
        """A child with its model loaded; None where `stopped` said so meanwhile.

        Raises what the child says of a model that cannot be loaded, and FathomError where it only ever crashes.
        """
        while not self._guard.acquire(timeout=POLL_SECONDS):  # another thread waits for the same child
            if stopped():
                return None
        try:
            child = self._running(stopped)
            if child is None or child is self._greeted:
                return child
            while True:
                if stopped():
                    return None
                try:
                    reply = child.hello().get(timeout=POLL_SECONDS)
                except queue.Empty:
                    continue
                if isinstance(reply, dict) and "doing" in reply:
                    self._tell(str(reply["doing"])[:400])
                    continue
                break
            if isinstance(reply, CrashedError):
                self._note(child, reply)
                raise reply
            if error := failure(reply):
                self._drop(child)
                raise error
            self._known = Hello(str(reply["name"]), int(reply["window"]))
            self._greeted = child
            return child
        finally:
            self._guard.release()

    def _running(self, stopped: Callable[[], bool]) -> Child | None:
        if self._closed:
            raise FathomError("the language model was closed; open it again")
        if self._child is not None and (crash := self._child.ended()) is not None:
            self._note(self._child, crash)
        if self._child is None:
            pause = self._pause()
            if self._crashes >= MOST_CRASHES and pause > 0:
                name = self._known.name if self._known else self._spec["model"].get("model")
                named = f" ({name})" if name else ""
                log = f", or see {self._log}" if self._log is not None else ""
                raise FathomError(
                    f"the language model{named} crashed {self._crashes} times in a row; choose a smaller or another "
                    f"one with [engine] model{log} (it is tried again in {pause:.0f} s)"
                )
            until = time.monotonic() + pause
            while time.monotonic() < until:
                if stopped():
                    return None
                time.sleep(min(POLL_SECONDS, pause))
            if self._closed:
                raise FathomError("the language model was closed; open it again")
            self._child = Child(self._spec, self._log)
        return self._child

    def _pause(self) -> float:
        if not self._crashes:
            return 0.0
        wait = LAST_PAUSE if self._crashes >= MOST_CRASHES else FIRST_PAUSE * 2 ** (self._crashes - 1)
        return max(0.0, self._last_crash + wait - time.monotonic())

    def _note(self, child: Child, crash: CrashedError) -> None:
        """A crash, once for each child."""
        if self._child is child:
            self._drop(child)
            if not crash.by_us:
                self._crashes += 1
                self._last_crash = time.monotonic()

    def _drop(self, child: Child) -> None:
        child.close()
        if self._child is child:
            self._child = None

    def went_well(self) -> None:
        """An answer was finished: what crashed before is forgotten."""
        self._crashes = 0

    def ask(self, request: dict[str, Any], limits: TimeLimits, stop: Stoppable | None = None) -> Any:
        """The value of a request that has one reply. Raises what the child says, that it crashed or is stuck, and
        FathomError as soon as `stop` is set."""
        try:
            return self._ask(request, limits, stop)
        except CrashedError as crash:
            if crash.by_us:
                raise
        return self._ask(request, limits, stop)  # it may have been dying before it was asked

    def _ask(self, request: dict[str, Any], limits: TimeLimits, stop: Stoppable | None) -> Any:
        def stopped() -> bool:
            return stop is not None and stop.is_set()

        child = self.child(stopped)
        if child is None:
            raise FathomError("stopped before the language model was loaded")
        if stopped():
            raise FathomError("the language model was stopped")
        number, replies = child.ask(request)
        deadline = time.monotonic() + limits.queue + limits.total + MARGIN
        try:
            while True:
                try:
                    reply = replies.get(timeout=max(0.0, min(POLL_SECONDS, deadline - time.monotonic())))
                    break
                except queue.Empty:
                    if stopped():
                        child.send({"op": "stop", "id": number})
                        raise FathomError("the language model was stopped") from None
                    if time.monotonic() >= deadline:
                        raise self.stuck(child) from None
        finally:
            child.forget(number)
        if isinstance(reply, CrashedError):
            raise reply
        if error := failure(reply):
            raise error
        return reply.get("value")

    def stuck(self, child: Child) -> FathomError:
        """End a child that does not answer; the error to raise."""
        child.close()
        with self._guard:
            self._note(child, CrashedError("stuck"))
        return FathomError("the process of the language model did not answer and was ended; ask again, it starts anew")

    def close(self) -> None:
        """End the child for good."""
        self._closed = True
        child = self._child
        if child is not None:
            child.close()


class IsolatedLLM(SpeakingLLM):
    """A model in a child process; make one with `load_isolated`. See SpeakingLLM for its calls.

    Calls take `stop`, `max_new_tokens`, `temperature`, `top_p`, `seed`, `repetition_penalty` and `limits`
    (TimeLimits); a text or list as `stop` are texts that end the answer. What a call leaves open is as the fields say.
    """

    # Fields and no private attributes: a request of the API is answered by a copy of the engine that has others.
    max_new_tokens: int = Field(description="Longest answer, in tokens.")
    temperature: float = Field(description="0 is greedy.")
    repetition_penalty: float = Field(description="1 is none.")
    seed: int = Field(description="Used where the temperature is above 0.")
    top_p: float = Field(default=Sampling().top_p, description="Likewise.")

    _keeper: Keeper = PrivateAttr()
    _limits: TimeLimits = PrivateAttr()
    _count: Any = PrivateAttr()

    _roles: tuple[str, ...] = PrivateAttr()
    _role: str | None = PrivateAttr(default=None)
    _origin: "IsolatedLLM | None" = PrivateAttr(default=None)

    def __init__(self, keeper: Keeper, manners: Manners, roles: Sequence[str] = ()) -> None:
        super().__init__(**{name: getattr(manners, name) for name in _OF_MANNERS})
        self._keeper, self._limits, self._roles = keeper, manners.limits, tuple(roles)
        self._count = lru_cache(maxsize=COUNTS_KEPT)(
            lambda text: int(keeper.ask({"op": "count", "text": text}, manners.limits))
        )
        # When the object goes, and at the end of the interpreter; a parent that is killed ends the child's stdin.
        weakref.finalize(self, keeper.close)

    @classmethod
    def class_name(cls) -> str:
        return "fathom_isolated"

    @property
    def metadata(self) -> LLMMetadata:
        """Waits until the model is loaded. Raises what kept it from loading."""
        known = self._hello()
        return LLMMetadata(
            context_window=known.window,
            num_output=self.max_new_tokens,
            is_chat_model=True,
            model_name=self.model_name,
        )

    @property
    def model_name(self) -> str:
        """The model's own name, for people, with the role it answers in."""
        name = self._hello().name
        return name if self._role is None else f"{name} + {self._role}"

    @property
    def origin(self) -> "IsolatedLLM":
        """The engine that this is a view of; itself where it is none."""
        return self._origin or self

    @property
    def roles(self) -> tuple[str, ...]:
        """What `under` takes."""
        return self._roles

    def under(self, role: str) -> "IsolatedLLM":
        """The same model in the same process, answering with the adapter of a role. Closing it closes nothing.

        Raises UsageError for a role that there is no adapter for; what else is wrong with one the first call says.
        """
        if role not in self._roles:
            raise unknown_role(role, self._roles, "the engine's model")
        view = self.model_copy()
        view._role = role
        view._origin = self.origin  # whose end is the process's
        return view

    @property
    def context_window(self) -> int:
        """Tokens of prompt and answer together."""
        return self._hello().window

    @property
    def pid(self) -> int:
        """Of the process that holds the model, once it is loaded. Raises what kept it from loading."""
        child = self._keeper.child()
        assert child is not None, "nobody stopped the waiting"
        return child.pid

    def _hello(self) -> Hello:
        if self._keeper.known is None:
            self._keeper.child()
        assert self._keeper.known is not None
        return self._keeper.known

    def close(self) -> None:
        """End the child and let go of its memory; what runs gets a sentence. The object is of no more use."""
        if self._origin is None:
            self._keeper.close()

    def count_tokens(self, text: str) -> int:
        """Tokens of a text, without what a chat template adds."""
        return int(self._count(text))

    def render(self, messages: Sequence[ChatMessage]) -> str:
        """The prompt as the model's own chat template writes it, special tokens in the messages broken up."""
        return str(self._keeper.ask({"op": "render", "source": _plain(messages)}, self._limits))

    def choice_logprobs(
        self,
        prompts: Sequence[str | Sequence[ChatMessage]],
        choices: Sequence[str],
        *,
        stop: Stoppable | None = None,
    ) -> list[list[float]]:
        """For each prompt, ln P of each choice as what the model writes next: "yes" against "no", for reranking.

        A prompt that is a text is complete as it stands. Raises UsageError for a prompt beyond the window, and
        FathomError as soon as `stop` is set; the model is free for others at its next prompt then.
        """
        asked = [prompt if isinstance(prompt, str) else _plain(prompt) for prompt in prompts]
        request = {"op": "weigh", "prompts": asked, "choices": list(choices), "role": self._role}
        rows = self._keeper.ask(request, self._limits, stop)
        return [[float(value) for value in row] for row in rows]

    def _pieces(self, source: Source, kwargs: dict[str, Any]) -> Iterator[Piece]:
        options: dict[str, Any] = {name: getattr(self, name) for name in _OPTIONS}
        if kwargs.get("max_tokens"):
            options["max_new_tokens"] = int(kwargs["max_tokens"])
        options |= {name: kwargs[name] for name in _OPTIONS if kwargs.get(name) is not None}
        stop = kwargs.get("stop")
        if isinstance(stop, str | list | tuple):  # what other engines call stop
            options["stop"] = [stop] if isinstance(stop, str) else list(stop)
            stop = None
        if self._role is not None:
            options["role"] = self._role
        limits: TimeLimits = kwargs.get("limits") or self._limits
        request = {
            "op": "generate",
            "source": source if isinstance(source, str) else _plain(cast(Sequence[ChatMessage], source)),
            "options": options | {"limits": asdict(limits)},
        }
        return self._follow(request, limits, cast(Stoppable | None, stop))

    def _follow(self, request: dict[str, Any], limits: TimeLimits, stop: Stoppable | None) -> Iterator[Piece]:
        def stopped() -> bool:
            return stop is not None and stop.is_set()

        began = time.monotonic()
        child = None if stopped() else self._keeper.child(stopped)
        if child is None:
            yield Piece("", "stopped", _stats(0, 0, None, time.monotonic() - began))
            return
        number, replies = child.ask(request)
        deadline = time.monotonic() + limits.queue + limits.total + MARGIN
        first: float | None = None
        count = 0
        done = told = False
        try:
            while not done:
                if not told and stopped():  # then wait a moment for its last word
                    told = True
                    child.send({"op": "stop", "id": number})
                    deadline = time.monotonic() + PATIENCE_TO_STOP
                try:
                    reply = replies.get(timeout=max(0.0, min(POLL_SECONDS, deadline - time.monotonic())))
                except queue.Empty:
                    if time.monotonic() < deadline:
                        continue
                    if not told:
                        raise self._keeper.stuck(child) from None
                    reply = {
                        "text": "",
                        "finish": "stopped",
                        "stats": _stats(0, count, first, time.monotonic() - began),
                    }
                if isinstance(reply, CrashedError):
                    raise reply
                if error := failure(reply):
                    done = True
                    raise error
                piece = Piece(str(reply["text"]), reply.get("finish"), reply.get("stats"))
                first = first if first is not None else time.monotonic() - began
                count += 1
                if piece.finish is not None:
                    done = True
                    if piece.finish != "stopped":
                        self._keeper.went_well()
                yield piece
        finally:
            if not done:
                child.send({"op": "stop", "id": number})
            child.forget(number)


def load_isolated(
    engine: Literal["embedded", "local"],
    chosen: "EmbeddedModel | LocalModel",
    *,
    manners: Manners | None = None,
    log: Path | None = None,
    tell: Callable[[str], None] = lambda _: None,
) -> IsolatedLLM:
    """The engine over `chosen` in a child process, which loads it in the background: the first call waits for it and
    raises what kept it from loading.

    `log` is where the child's own words go; None is nowhere. `tell` gets a sentence for people where that call waits
    long, from the thread that waits.
    """
    manners = manners or Manners()
    spec = {"engine": engine, "model": _as_json(chosen), "manners": _as_json(manners)}
    keeper = Keeper(spec, log, tell)
    keeper.start()
    return IsolatedLLM(keeper, manners, tuple(chosen.adapters))


def _as_json(value: Any) -> Any:
    if is_dataclass(value) and not isinstance(value, type):
        return {name: _as_json(item) for name, item in asdict(value).items()}
    if isinstance(value, dict):
        return {name: _as_json(item) for name, item in value.items()}
    return str(value) if isinstance(value, Path) else value


def _plain(messages: Sequence[ChatMessage]) -> list[dict[str, str]]:
    return [{"role": _ROLES.get(message.role, "user"), "content": message.content or ""} for message in messages]
