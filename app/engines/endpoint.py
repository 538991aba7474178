"""One OpenAI-compatible address: requests out, pieces of text in, with time limits, retries and a way to hang up.

All endpoints share one background thread with an event loop, so that hundreds of requests cost one thread, and hanging
up is the cancellation of a task: httpx then closes the connection, which is what makes a server abort (vLLM does). It
knows no prompts and no LlamaIndex.
"""

import asyncio
import ipaddress
import queue
import random
import threading
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlsplit

from app.engines.event_stream import EventStream, NotAnEvent
from app.engines.generating import POLL_SECONDS, Piece, Stoppable, TimeLimits, _stats
from app.engines.refusals import NoSuchAddress, cut_off, not_the_protocol, refused, too_slow, unreachable
from retrieval.errors import BusyError, FathomError, UsageError

if TYPE_CHECKING:
    import httpx

T = TypeVar("T")
RETRIED = frozenset({429, 502, 503, 504})
"""The server is there and busy or starting: the same request may succeed in a moment."""
RETRIES = 3
FIRST_WAIT = 0.5
"""Seconds before the first retry; each further one waits twice as long, give or take a quarter."""
LONGEST_WAIT = 20.0
KEEP_ALIVE = 2.0
"""Seconds. Servers drop idle connections after 5 (uvicorn, vLLM): before that, or a request meets a closed one."""
MAX_BODY_BYTES = 4 << 20
MAX_ANSWER_BYTES = 64 << 20


def address(url: str) -> str:
    """The base address without a slash at its end, `/v1` where it names no path. Raises UsageError."""
    example = "as in http://127.0.0.1:8000/v1"
    try:
        parts = urlsplit(url.strip())
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise UsageError(f"'{url[:80]}' is not an address ({error}); write it {example}") from error
    if parts.username or parts.password or parts.query:
        raise UsageError(
            "the address of a server holds no name, password or key, which would be shown in reports; set "
            "FATHOM_ENGINE_API_KEY in the environment"
        )
    if parts.scheme not in ("http", "https") or not host or any(ord(character) <= 32 for character in url.strip()):
        raise UsageError(f"'{url[:80]}' is not the address of a server; write it {example}")
    place = f"[{host}]" if ":" in host else host
    return f"{parts.scheme}://{place}{f':{port}' if port else ''}{parts.path.rstrip('/') or '/v1'}"


def origin(url: str) -> tuple[str, str, int]:
    """Scheme, host and port: what decides whether two addresses are one server."""
    parts = urlsplit(url)
    return parts.scheme, (parts.hostname or "").rstrip("."), parts.port or {"http": 80, "https": 443}[parts.scheme]


def is_loopback(url: str) -> bool:
    """Whether the address is this machine's own, where no proxy may stand between."""
    host = (urlsplit(url).hostname or "").rstrip(".")
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")


@dataclass(slots=True)
class _Tally:
    """What is known so far of one answer."""

    began: float
    prompt: int
    prompt_exact: bool = False
    count: int = 0
    first: float | None = None
    half: str = ""
    """The first half of a character that a server cut in two (UTF-16 surrogates in JSON)."""

    def whole(self, text: str) -> str:
        """`text` with the half before it, without the half at its end."""
        text, self.half = self.half + text, ""
        if "\ud800" <= text[-1:] <= "\udbff":
            text, self.half = text[:-1], text[-1]
        return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")

    def stats(self) -> dict[str, float]:
        return _stats(self.prompt, self.count, self.first, time.monotonic() - self.began)


@dataclass(slots=True)
class _Call:
    """One request on its way. `put` hands a piece, an exception or None (the end) to whoever waits for it."""

    path: str
    body: dict[str, Any]
    limits: TimeLimits
    put: Callable[[Piece | BaseException | None], None]
    tally: _Tally
    problem: str = field(default="")
    """Why the last attempt failed, for the sentence when time runs out."""


class Endpoint:
    """`url` as `address` gives it. `concurrency` requests are under way at once; others wait in line here."""

    def __init__(
        self,
        url: str,
        *,
        api_key: str | None = None,
        connect_seconds: float = 5.0,
        concurrency: int = 64,
        retries: int = RETRIES,
    ) -> None:
        self.url = url
        self.concurrency = concurrency
        self.known_models: tuple[str, ...] = ()
        self._key = api_key
        self._connect_seconds = connect_seconds
        self._retries = retries
        self._client: httpx.AsyncClient | None = None
        self._slots = asyncio.Semaphore(concurrency)
        self._waiting = 0

    # --- plain requests --------------------------------------------------------------------------------------------

    def get(self, path: str, *, seconds: float = 10.0) -> Any:
        """JSON of `url` + `path`. Raises FathomError in words."""
        return _wait(self._plain("GET", self.url + path, None, seconds))

    def has(self, path: str) -> bool:
        """Whether there is anything at `url` + `path`, be it only for another method."""
        try:
            self.get(path)
        except NoSuchAddress:
            return False
        except FathomError:
            return True
        return True

    def post(self, url: str, body: Mapping[str, Any], *, seconds: float = 10.0) -> Any:
        """JSON that `url` (a whole address) answers to `body`."""
        return _wait(self._plain("POST", url, body, seconds))

    async def _plain(self, method: str, url: str, body: Mapping[str, Any] | None, seconds: float) -> Any:
        import httpx

        try:
            async with asyncio.timeout(seconds):
                async with self._opened().stream(method, url, json=body) as response:
                    return await self._json(response)
        except (httpx.TransportError, TimeoutError) as error:
            raise unreachable(self.url, error, seconds) from error

    async def _json(self, response: "httpx.Response") -> Any:
        import json

        data = bytearray()
        async for received in response.aiter_bytes():
            data += received
            if len(data) > MAX_BODY_BYTES:
                raise not_the_protocol(self.url, f"a body of more than {MAX_BODY_BYTES:,} bytes")
        if response.status_code != 200:
            raise refused(self.url, response.status_code, bytes(data), response.headers, self.known_models, self._key)
        try:
            return json.loads(data)
        except (ValueError, RecursionError) as error:
            raise not_the_protocol(self.url, repr(bytes(data[:60]))) from error

    def _opened(self) -> "httpx.AsyncClient":
        import httpx

        if self._client is None:
            headers = {"User-Agent": "fathom", "Accept-Encoding": "identity"}
            if self._key:
                headers["Authorization"] = f"Bearer {self._key}"
            self._client = httpx.AsyncClient(
                headers=headers,
                timeout=httpx.Timeout(None, connect=self._connect_seconds),  # the others are kept by _generate
                limits=httpx.Limits(max_connections=None, keepalive_expiry=KEEP_ALIVE),
                trust_env=not is_loopback(self.url),
            )
        return self._client

    def close(self) -> None:
        """Hang up on everything. The endpoint can be used again."""

        async def closing() -> None:
            client, self._client = self._client, None
            if client is not None:
                await client.aclose()

        _wait(closing())

    # --- generation ------------------------------------------------------------------------------------------------

    def stream(
        self, path: str, body: dict[str, Any], *, prompt: int, limits: TimeLimits, stop: Stoppable | None = None
    ) -> Iterator[Piece]:
        """Pieces of the answer to `body`; the last has `finish` and `stats`. `prompt` is a guess at its tokens.

        Closing the iterator or setting `stop` hangs up within POLL_SECONDS. Raises BusyError, FathomError, UsageError.
        """
        items: queue.SimpleQueue[Piece | BaseException | None] = queue.SimpleQueue()
        call = _Call(path, body, limits, items.put, _Tally(time.monotonic(), prompt))
        task = None if _is_set(stop) else asyncio.run_coroutine_threadsafe(self._deliver(call), _loop())
        try:
            while task is not None and not _is_set(stop):
                try:
                    piece = _checked(items.get(timeout=POLL_SECONDS))
                except queue.Empty:
                    continue
                if piece is None:
                    return
                yield piece
            yield Piece("", "stopped", call.tally.stats())
        finally:
            if task is not None:
                task.cancel()

    async def stream_async(
        self, path: str, body: dict[str, Any], *, prompt: int, limits: TimeLimits, stop: Stoppable | None = None
    ) -> AsyncIterator[Piece]:
        """`stream` for the caller's own event loop; no thread waits for it."""
        here = asyncio.get_running_loop()
        items: asyncio.Queue[Piece | BaseException | None] = asyncio.Queue()

        def put(item: Piece | BaseException | None) -> None:
            if not here.is_closed():
                here.call_soon_threadsafe(items.put_nowait, item)

        call = _Call(path, body, limits, put, _Tally(time.monotonic(), prompt))
        task = None if _is_set(stop) else asyncio.run_coroutine_threadsafe(self._deliver(call), _loop())
        try:
            while task is not None and not _is_set(stop):
                try:
                    piece = _checked(await asyncio.wait_for(items.get(), POLL_SECONDS))
                except TimeoutError:
                    continue
                if piece is None:
                    return
                yield piece
            yield Piece("", "stopped", call.tally.stats())
        finally:
            if task is not None:
                task.cancel()

    async def _deliver(self, call: _Call) -> None:
        """Runs on the background loop; whatever happens is put, but for a cancellation, which nobody waits for."""
        try:
            await self._generate(call)
            call.put(None)
        except asyncio.CancelledError:
            raise
        except BaseException as error:
            call.put(error)

    async def _generate(self, call: _Call) -> None:
        import httpx

        limits = call.limits
        try:
            self._waiting += 1
            async with asyncio.timeout(limits.queue):
                await self._slots.acquire()
        except TimeoutError as error:
            raise BusyError(
                f"the language model is busy: after {limits.queue:g} s there are still {self._waiting - 1} requests "
                "in line; try again in a moment"
            ) from error
        finally:
            self._waiting -= 1
        call.tally.began = time.monotonic()
        clock = asyncio.timeout(min(limits.first_token, limits.total))
        try:
            async with clock:
                response = await self._accepted(call)
                try:
                    await self._read(call, response, clock)
                finally:
                    await response.aclose()
        except TimeoutError as error:
            raise too_slow(limits, call.tally.first is None, call.problem) from error
        except httpx.TransportError as error:
            raise cut_off(self.url, call.tally.count) from error
        finally:
            self._slots.release()

    async def _accepted(self, call: _Call) -> "httpx.Response":
        """A response that began with 200, after as many attempts as it takes. Nothing has been said to anyone yet."""
        import httpx

        client = self._opened()
        for attempt in range(self._retries + 1):
            wait = FIRST_WAIT * 2**attempt * random.uniform(0.75, 1.25)
            failure: FathomError
            try:
                response = await client.send(
                    client.build_request("POST", self.url + call.path, json=call.body), stream=True
                )
            except (httpx.ConnectError, httpx.ConnectTimeout) as error:
                failure = unreachable(self.url, error, self._connect_seconds)
            else:
                if response.status_code == 200:
                    return response
                try:
                    await self._json(response)
                except FathomError as error:
                    failure = error
                finally:
                    await response.aclose()
                if response.status_code not in RETRIED:
                    raise failure
                wait = max(wait, _asked_wait(response.headers.get("retry-after", "")))
            call.problem = str(failure)
            if attempt == self._retries:
                raise failure
            await asyncio.sleep(min(wait, LONGEST_WAIT))
        raise AssertionError("the last attempt returns or raises")

    async def _read(self, call: _Call, response: "httpx.Response", clock: asyncio.Timeout) -> None:
        import json

        kind = response.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind == "application/json":  # a server that does not stream
            self._take(call, await self._json(response), clock)
            return
        if kind != "text/event-stream":
            raise not_the_protocol(self.url, f"content of the type '{kind[:40]}'")
        stream, size, finish = EventStream(), 0, None
        try:
            async for received in response.aiter_bytes():
                size += len(received)
                if size > MAX_ANSWER_BYTES:
                    raise not_the_protocol(self.url, f"an answer of more than {MAX_ANSWER_BYTES:,} bytes")
                for data in stream.feed(received):
                    if data.strip() == "[DONE]":
                        self._finish(call, finish or "stop")
                        return
                    finish = self._event(call, json.loads(data), clock) or finish
            for data in stream.end():
                if data.strip() != "[DONE]":
                    finish = self._event(call, json.loads(data), clock) or finish
                elif finish is None:
                    finish = "stop"
        except (NotAnEvent, ValueError, RecursionError) as error:
            raise not_the_protocol(self.url, str(error)[:80]) from error
        if finish is None:
            raise cut_off(self.url, call.tally.count)
        self._finish(call, finish)

    def _event(self, call: _Call, event: Any, clock: asyncio.Timeout) -> str | None:
        """Take one chunk; the finish reason where it has one. Raises ValueError for what is no chunk."""
        if not isinstance(event, dict):
            raise ValueError(f"an event that is {type(event).__name__}")
        if event.get("error") or event.get("object") == "error":
            raise refused(self.url, 200, event, {}, self.known_models, self._key)
        tally, before = call.tally, call.tally.count
        usage = event.get("usage")
        if isinstance(usage, dict) and isinstance(usage.get("prompt_tokens"), int):
            tally.prompt, tally.prompt_exact = usage["prompt_tokens"], True
            tally.count = max(tally.count, int(usage.get("completion_tokens") or 0))
        choices = event.get("choices")
        if not isinstance(choices, list) or not choices:
            return None
        choice = choices[0] if isinstance(choices[0], dict) else {}
        delta = choice.get("delta") or choice.get("message") or {}
        text = choice.get("text") or delta.get("content") or ""
        if not isinstance(text, str):
            raise ValueError(f"text that is {type(text).__name__}")
        thought = delta.get("reasoning_content") or delta.get("reasoning")
        if (text or thought) and tally.count == before and not tally.prompt_exact:
            tally.count += 1  # servers that report nothing on the way send a token an event, as a rule
        if tally.first is None and (text or thought or tally.count):
            tally.first = time.monotonic() - tally.began
            clock.reschedule(asyncio.get_running_loop().time() + call.limits.total - tally.first)
        if text := tally.whole(text):
            call.put(Piece(text))
        finish = choice.get("finish_reason")
        return finish if isinstance(finish, str) else None

    def _take(self, call: _Call, whole: Any, clock: asyncio.Timeout) -> None:
        finish = self._event(call, whole, clock)
        if finish is None:
            raise not_the_protocol(self.url, "an answer without choices")
        self._finish(call, finish)

    def _finish(self, call: _Call, finish: str) -> None:
        call.put(Piece("", finish, call.tally.stats()))  # type: ignore[arg-type]


def _is_set(stop: Stoppable | None) -> bool:
    return stop is not None and stop.is_set()


def _checked(item: Piece | BaseException | None) -> Piece | None:
    if isinstance(item, BaseException):
        raise item
    return item


def _asked_wait(text: str) -> float:
    """Seconds of a Retry-After header; a date, which only caches send, is none."""
    return float(text) if text.isascii() and text.isdecimal() and len(text) < 6 else 0.0


@cache
def _loop() -> asyncio.AbstractEventLoop:
    """The background loop of this process."""
    loop = asyncio.new_event_loop()
    threading.Thread(target=loop.run_forever, name="endpoints", daemon=True).start()
    return loop


def _wait(coroutine: Coroutine[Any, Any, T]) -> T:
    task = asyncio.run_coroutine_threadsafe(coroutine, _loop())
    try:
        return task.result()
    except BaseException:
        task.cancel()  # Ctrl-C
        raise
