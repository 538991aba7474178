"""Token ids in → text pieces out, one generation at a time, with stop and time limits. It knows nothing of chats.

`LLMPipeline.generate` releases the interpreter lock while it works (`ContinuousBatchingPipeline.step` does not: a web
server in the same process stood still for each step), so it runs on a thread and hands its tokens over in a queue.
"""

import atexit
import codecs
import queue
import re
import threading
import time
import weakref
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol

from retrieval.embedding.no_telemetry import refuse_telemetry
from retrieval.errors import BusyError, FathomError

# Before the first import of OpenVINO, which reports home otherwise.
refuse_telemetry()

if TYPE_CHECKING:
    import openvino_genai


class Stoppable(Protocol):
    """A threading.Event, or whatever else can say that enough is enough."""

    def is_set(self) -> bool: ...


POLL_SECONDS = 0.05
"""How often a waiting consumer looks at its stop flag and its limits."""

FinishReason = Literal["stop", "length", "stopped", "repetition"]


@dataclass(frozen=True, slots=True)
class TimeLimits:
    """Seconds. `queue`: waiting for one's turn; `first_token`: reading the prompt; `total`: from the turn on."""

    queue: float = 120.0
    first_token: float = 60.0
    total: float = 300.0


@dataclass(frozen=True, slots=True)
class Piece:
    """A piece of text, never half a character. The last one has `finish` and `stats`.

    `finish`: "stop" (the model ended), "length" (its token budget did), "stopped" (somebody stopped it), "repetition"
    (it ran in circles). `stats`: prompt_tokens, completion_tokens, total_tokens, seconds and tokens_per_second.
    """

    text: str
    finish: FinishReason | None = None
    stats: dict[str, float] | None = None


class Vocabulary:
    """Token ids → text, byte by byte, so that a character split over tokens (Chinese, emoji) appears whole or not at
    all. OpenVINO's own `decode` drops the bytes of an unfinished character without a word."""

    def __init__(self, tokenizer: "openvino_genai.Tokenizer") -> None:
        table = {int(index): bytes(token) for token, index in tokenizer.get_vocab().items()}
        marks = {i: token for i, token in table.items() if re.fullmatch(rb"<[^<>]+>|\[[A-Z_]+\]", token)}
        self.control = {i: t for i, t in marks.items() if not tokenizer.decode([i], skip_special_tokens=True)}
        """Ids of the special tokens (`<|im_end|>`), with their spelling."""
        self._sentencepiece = any(token.startswith("▁".encode()) for token in list(table.values())[:20_000])
        self._bytes = {i: self._spelling(token) for i, token in table.items() if i not in self.control}

    def _spelling(self, token: bytes) -> bytes:
        if self._sentencepiece:
            if match := re.fullmatch(rb"<0x([0-9A-Fa-f]{2})>", token):
                return bytes([int(match[1], 16)])
            return token.replace("▁".encode(), b" ")
        return token

    def stream(self) -> "TextStream":
        """A fresh decoder for one answer."""
        return TextStream(self._bytes)


class TextStream:
    """Feed token ids, get the text that is complete so far."""

    def __init__(self, table: dict[int, bytes]) -> None:
        self._table = table
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def feed(self, ids: list[int]) -> str:
        return self._decoder.decode(b"".join(self._table.get(i, b"") for i in ids))

    def end(self) -> str:
        """What is left: a character the model never finished is dropped."""
        return self._decoder.decode(b"", final=True).rstrip("\ufffd")


class Turnstile:
    """Lets one through at a time, in the order of arrival. `threading.Lock` promises no order."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._line: deque[object] = deque()

    def enter(self, seconds: float, stop: Stoppable | None = None) -> bool:
        """Wait for the turn; False if stopped meanwhile. Raises BusyError after `seconds`. Pair with `leave`."""
        ticket = object()
        deadline = time.monotonic() + seconds
        with self._changed:
            self._line.append(ticket)
            try:
                while self._line[0] is not ticket:
                    if stop is not None and stop.is_set():
                        self._line.remove(ticket)
                        self._changed.notify_all()
                        return False
                    if time.monotonic() >= deadline:
                        raise BusyError(
                            f"the language model is busy: after {seconds:.0f} s there are still {len(self._line) - 1} "
                            "requests in line; try again in a moment"
                        )
                    self._changed.wait(POLL_SECONDS)
            except BaseException:
                self._line.remove(ticket)
                self._changed.notify_all()
                raise
        return True

    def leave(self) -> None:
        """Let the next one through."""
        with self._changed:
            self._line.popleft()
            self._changed.notify_all()


class _Job:
    """One running generation: its thread writes, its consumer reads. `cancelled` may be set from either side."""

    def __init__(self) -> None:
        self.cancelled = threading.Event()
        self.items: queue.SimpleQueue[list[int] | BaseException | None] = queue.SimpleQueue()
        self.thread: threading.Thread | None = None


class Generator:
    """Runs one pipeline for many callers."""

    def __init__(self, pipeline: "openvino_genai.LLMPipeline", tokenizer: "openvino_genai.Tokenizer") -> None:
        self._pipeline = pipeline
        self._turnstile = Turnstile()
        self._running: _Job | None = None
        self.vocabulary = Vocabulary(tokenizer)
        # A thread still inside OpenVINO when the interpreter goes down aborts the process.
        atexit.register(_at_exit, weakref.ref(self))

    def generate(
        self,
        ids: Any,
        *,
        max_new_tokens: int,
        options: dict[str, Any],
        limits: TimeLimits,
        stop: Stoppable | None = None,
    ) -> Iterator[Piece]:
        """Yield pieces; the last carries `finish` and `stats`. `ids` is an int64 array of shape (1, tokens).

        Closing the iterator or setting `stop` ends it within POLL_SECONDS; the model itself stops at its next token
        (at the first one, if it is still reading the prompt). Raises BusyError, and FathomError on a time limit.
        """
        if not self._turnstile.enter(limits.queue, stop):
            yield Piece("", "stopped", _stats(ids.shape[1], 0, None, 0.0))
            return
        job = _Job()
        try:
            job.thread = threading.Thread(
                target=self._work, args=(job, ids, max_new_tokens, options), name="generation", daemon=True
            )
            self._running = job
            job.thread.start()
        except BaseException:
            self._turnstile.leave()
            raise
        try:
            yield from self._follow(job, ids.shape[1], max_new_tokens, limits, stop)
        finally:
            job.cancelled.set()

    def _work(self, job: _Job, ids: Any, max_new_tokens: int, options: dict[str, Any]) -> None:
        """Runs on the job's thread; always leaves the turnstile."""
        try:
            import openvino
            import openvino_genai

            config = self._pipeline.get_generation_config()
            config.max_new_tokens = max_new_tokens
            for name, value in options.items():
                setattr(config, name, value)

            class Streamer(openvino_genai.StreamerBase):  # type: ignore[misc, name-defined]
                def write(self, token: int | list[int]) -> "openvino_genai.StreamingStatus":
                    if job.cancelled.is_set():
                        return openvino_genai.StreamingStatus.CANCEL
                    job.items.put([token] if isinstance(token, int) else list(token))
                    return openvino_genai.StreamingStatus.RUNNING

                def end(self) -> None:
                    pass

            if not job.cancelled.is_set():
                self._pipeline.generate(openvino.Tensor(ids), config, Streamer())
            job.items.put(None)
        except BaseException as error:
            job.items.put(error)
        finally:
            self._running = None
            self._turnstile.leave()

    def _follow(
        self, job: _Job, prompt: int, budget: int, limits: TimeLimits, stop: Stoppable | None
    ) -> Iterator[Piece]:
        began = time.monotonic()
        first: float | None = None
        count = 0
        text = self.vocabulary.stream()
        written: list[int] = []
        while True:
            if stop is not None and stop.is_set():
                job.cancelled.set()
                yield Piece(text.end(), "stopped", _stats(prompt, count, first, time.monotonic() - began))
                return
            try:
                item = job.items.get(timeout=POLL_SECONDS)
            except queue.Empty:
                _check(limits, time.monotonic() - began, first is None)
                continue
            if isinstance(item, BaseException):
                raise FathomError(
                    f"the language model failed while writing: {str(item).strip().splitlines()[-1][:300]}"
                    if str(item).strip()
                    else f"the language model failed while writing ({type(item).__name__})"
                ) from item
            if item is None:
                finish: FinishReason = "length" if count >= budget else "stop"
                yield Piece(text.end(), finish, _stats(prompt, count, first, time.monotonic() - began))
                return
            first = first if first is not None else time.monotonic() - began
            count += len(item)
            written += item
            if piece := text.feed(item):
                yield Piece(piece)
            if _in_circles(written):
                job.cancelled.set()
                yield Piece(text.end(), "repetition", _stats(prompt, count, first, time.monotonic() - began))
                return
            _check(limits, time.monotonic() - began, False)

    def close(self, seconds: float = 10.0) -> None:
        """Stop what runs and wait for its thread."""
        job = self._running
        if job is not None and job.thread is not None:
            job.cancelled.set()
            job.thread.join(seconds)


def _in_circles(ids: list[int]) -> bool:
    """Whether the text ends in the same 1 to 30 tokens over and over: at least 4 times and 24 tokens in all. Small
    models under greedy decoding do this until their budget is spent."""
    for period in range(1, 31):
        length = period * max(4, -(-24 // period))
        if length > len(ids):
            continue
        tail = ids[-length:]
        if tail[period:] == tail[:-period]:
            return True
    return False


def _at_exit(generator: "weakref.ref[Generator]") -> None:
    if (alive := generator()) is not None:
        alive.close()


def _check(limits: TimeLimits, seconds: float, waiting: bool) -> None:
    if waiting and seconds > limits.first_token:
        raise FathomError(
            f"the language model wrote nothing for {seconds:.0f} s (limit {limits.first_token:.0f} s); "
            "ask with fewer passages, or raise the limit"
        )
    if seconds > limits.total:
        raise FathomError(
            f"the language model was still writing after {seconds:.0f} s (limit {limits.total:.0f} s); "
            "ask for a shorter answer, or raise the limit"
        )


def _stats(prompt: int, count: int, first: float | None, seconds: float) -> dict[str, float]:
    """Seconds to the first token and in all; `tokens_per_second` counts writing only, without reading the prompt."""
    stats: dict[str, float] = {
        "prompt_tokens": prompt,
        "completion_tokens": count,
        "total_tokens": prompt + count,
        "total_seconds": round(seconds, 4),
    }
    if first is not None:
        stats["first_token_seconds"] = round(first, 4)
        if count > 1 and seconds > first:
            stats["tokens_per_second"] = round((count - 1) / (seconds - first), 2)
    return stats
