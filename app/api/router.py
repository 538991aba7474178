"""The routes of the OpenAI-compatible API: each collection is a model that answers from its documents.

    GET  /v1/models                 fathom/COLLECTION, and fathom/COLLECTION+quote, which needs no language model
    POST /v1/chat/completions       the last message is the question; whole, or as a stream of events

It answers through the page's own path and knows neither Gradio nor what stands behind that path.
"""

import asyncio
import hmac
import logging
import threading
import time
import unicodedata
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar, cast

from fastapi import APIRouter, Request
from starlette.responses import Response, StreamingResponse

from app.api.following import Followed
from app.api.replies import DONE, Draft, Reply, encoded, error_body, event
from app.api.requests import Asked, BadRequest, read
from app.chat.engine import EngineStatus
from app.chat.render import plain
from retrieval.answering import AnswerEvent, Finished, Searched, Token
from retrieval.errors import BusyError, FathomError, MissingError, UsageError
from retrieval.passages import Answer
from retrieval.prompts import Message

_log = logging.getLogger(__name__)
T = TypeVar("T")

OWNER = "fathom"
QUOTE = "+quote"
MAX_REQUESTS = 64
"""Answers under way or waiting for a thread; the next one is refused at once and may come again."""
RETRY_SECONDS = 2
_EVENT_HEADERS = {"cache-control": "no-cache", "x-accel-buffering": "no"}


class Engine(Protocol):
    """The language model behind the answers, as far as it must be known here."""

    @property
    def status(self) -> EngineStatus: ...

    @property
    def model(self) -> Any: ...


class Answering(Protocol):
    """Answers from a collection; with `quote` in the sources' sentences, where a model that is ready does no more than
    reword a follow-up. `options` as in `Asked`."""

    def __call__(
        self,
        question: str,
        *,
        collection: str,
        quote: bool,
        k: int,
        history: Sequence[Message],
        stop: threading.Event,
        options: Mapping[str, float] | None = None,
    ) -> Iterator[AnswerEvent]: ...


class Served(Protocol):
    """What is served: the page's parts, or anything that has these four of them."""

    @property
    def collections(self) -> Callable[[], Sequence[str]]: ...

    @property
    def answer(self) -> Answering: ...

    @property
    def engine(self) -> Engine: ...

    @property
    def default_k(self) -> int: ...


def api_router(parts: Served, pool: Executor, *, longest_question: int, key: str | None = None) -> APIRouter:
    """The routes, to be included in the page's application. Answers run on `pool`; with a `key` every request must
    show it."""
    served = _Api(parts, pool, longest_question, key)
    router = APIRouter()
    router.add_api_route("/v1/models", served.models, methods=["GET"])
    router.add_api_route("/v1/models/{name:path}", served.model, methods=["GET"])
    router.add_api_route("/v1/chat/completions", served.complete, methods=["GET", "POST"])
    return router


@dataclass(frozen=True, slots=True)
class _Model:
    collection: str
    quote: bool = False

    @property
    def id(self) -> str:
        return f"{OWNER}/{self.collection}{QUOTE if self.quote else ''}"


class _Api:
    def __init__(self, parts: Served, pool: Executor, longest_question: int, key: str | None) -> None:
        self._parts = parts
        self._pool = pool
        self._longest = longest_question
        self._key = key
        self._began = int(time.time())
        self._runs: set[Followed[AnswerEvent]] = set()

    # --- routes ----------------------------------------------------------------------------------------------------

    async def models(self, request: Request) -> Response:
        """Every collection, as itself and in its own words."""
        return await self._answered(request, self._list)

    async def model(self, request: Request) -> Response:
        """One of them."""
        return await self._answered(request, self._one)

    async def complete(self, request: Request) -> Response:
        """An answer."""
        return await self._answered(request, self._complete)

    async def _answered(self, request: Request, answer: Callable[[Request], Awaitable[Response]]) -> Response:
        """What `answer` gives, or what it raises as an error of the protocol."""
        try:
            self._require_key(request)
            return await answer(request)
        except Exception as error:
            return _refusal(error)

    def _require_key(self, request: Request) -> None:
        if self._key is None:
            return
        scheme, _, shown = request.headers.get("authorization", "").partition(" ")
        same = hmac.compare_digest(shown.strip().encode("latin-1", "replace"), self._key.encode("utf-8"))
        if scheme.lower() != "bearer" or not same:
            raise BadRequest(
                "this server answers those who show its key; send the header 'Authorization: Bearer KEY' with what "
                "FATHOM_CHAT_API_KEY holds there",
                code="invalid_api_key",
                status=401,
            )

    async def _list(self, request: Request) -> Response:
        return _json({"object": "list", "data": [self._card(model) for model in await self._models()]})

    async def _one(self, request: Request) -> Response:
        return _json(self._card(await self._found(request.path_params["name"])))

    async def _complete(self, request: Request) -> Response:
        if request.method != "POST":
            raise BadRequest("send a POST with model and messages", code="method_not_allowed", status=405)
        asked = read(await request.body(), longest_question=self._longest)
        model = await self._found(asked.model)
        if not model.quote:
            self._require_engine(model)
        run = self._started(asked, model)
        reply = Reply(asked, longest=0 if model.quote else _longest_answer(self._parts.engine.model))
        # Closed when this function or the stream ends, however that comes: nothing writes for nobody.
        events = cast("AsyncGenerator[AnswerEvent, None]", run.events())
        try:
            if not asked.stream:
                return _json(reply.whole(await _unless_gone(request, _last(events))))
            # Until there is something to say, what goes wrong can still be said with a status of its own.
            before = await _unless_gone(request, _up_to_text(events, checked=asked.checked))
        except BaseException:
            await events.aclose()
            raise
        return StreamingResponse(
            _stream(reply, before, events), media_type="text/event-stream", headers=dict(_EVENT_HEADERS)
        )

    # --- models and answers ----------------------------------------------------------------------------------------

    async def _models(self) -> list[_Model]:
        names = await asyncio.to_thread(self._parts.collections)  # it looks into folders
        return [_Model(name, quote) for name in names for quote in (False, True)]

    def _card(self, model: _Model) -> dict[str, Any]:
        # As vLLM writes a variant of a model: a client that is told of one collection takes it without being told how.
        parent = _Model(model.collection).id if model.quote else None
        return {"id": model.id, "object": "model", "created": self._began, "owned_by": OWNER, "parent": parent}

    async def _found(self, name: str) -> _Model:
        there = {model.id: model for model in await self._models()}
        found = there.get(unicodedata.normalize("NFC", name))
        if found is None:
            names = f"there are {', '.join(list(there)[:20])}"
            known = names if there else "no collection is there yet; make one with 'fathom index sync FOLDER'"
            raise BadRequest(
                f"there is no model '{plain(name, 120)}'; {known}", param="model", code="model_not_found", status=404
            )
        return found

    def _require_engine(self, model: _Model) -> None:
        status = self._parts.engine.status
        if status.state == "ready":
            return
        instead = f"or ask {_Model(model.collection, quote=True).id}, which quotes the documents without it"
        if status.state in ("idle", "loading"):
            raise BusyError(f"the language model is still loading; ask again in some seconds, {instead}")
        raise MissingError(f"there is no language model ({status.detail}); mend that and start anew, {instead}")

    def _started(self, asked: Asked, model: _Model) -> Followed[AnswerEvent]:
        self._runs = {run for run in self._runs if not run.wait(0)}
        if len(self._runs) >= MAX_REQUESTS:
            raise BadRequest(
                f"{MAX_REQUESTS} answers are under way or waiting; try again in a moment",
                code="rate_limit_exceeded",
                status=429,
            )
        run = Followed[AnswerEvent](
            lambda stop: self._parts.answer(
                asked.question,
                collection=model.collection,
                quote=model.quote,
                k=asked.k or self._parts.default_k,
                history=asked.history,
                stop=stop,
                options=asked.options,
            ),
            self._pool,
        )
        self._runs.add(run)
        return run


class _Gone(Exception):
    """The client hung up."""


class _Cut(FathomError):
    """The events ended before the answer did."""

    def __init__(self) -> None:
        super().__init__("the answer was ended before it was finished, as the server is closing; ask again")


def _longest_answer(model: Any) -> int:
    return int(model.metadata.num_output or 0) if model is not None else 0


async def _last(events: AsyncGenerator[AnswerEvent, None]) -> Answer:
    async for item in events:
        if isinstance(item, Finished):
            await events.aclose()
            return item.answer
    raise _Cut


async def _up_to_text(events: AsyncGenerator[AnswerEvent, None], *, checked: bool) -> list[AnswerEvent]:
    """The events up to the first that has something to send."""
    before: list[AnswerEvent] = []
    async for item in events:
        if not (checked and isinstance(item, Token)):
            before.append(item)
        if isinstance(item, Finished) or (isinstance(item, Token) and not checked):
            return before
    raise _Cut


async def _unless_gone(request: Request, work: Awaitable[T]) -> T:
    """What `work` gives; it is cancelled when the client hangs up, which raises _Gone."""
    working = asyncio.ensure_future(work)
    leaving = asyncio.ensure_future(_hung_up(request))
    try:
        await asyncio.wait({working, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            return working.result()
        raise _Gone
    finally:
        for task in (working, leaving):
            task.cancel()
        await asyncio.gather(working, leaving, return_exceptions=True)


async def _hung_up(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def _stream(
    reply: Reply, before: Sequence[AnswerEvent], events: AsyncGenerator[AnswerEvent, None]
) -> AsyncGenerator[bytes, None]:
    """Events of the protocol. When the client hangs up this is cancelled, and with it the answer."""
    draft = Draft(0)
    try:
        yield event(reply.chunk("", role="assistant"))
        async for item in _chained(before, events):
            if isinstance(item, Searched):
                draft.given = item.given or len(item.hits)
            elif isinstance(item, Token):
                if text := draft.feed(item.text):
                    yield event(reply.chunk(text))
            elif isinstance(item, Finished):
                if text := draft.end(item.answer):
                    yield event(reply.chunk(text))
                yield event(reply.last(item.answer))
                if reply.asked.usage:
                    yield event(reply.counts(item.answer))
                break
        else:
            raise _Cut
    except Exception as error:
        yield event(_described(error)[1])
    finally:
        await events.aclose()
    yield DONE


async def _chained(
    before: Sequence[AnswerEvent], events: AsyncGenerator[AnswerEvent, None]
) -> AsyncGenerator[AnswerEvent, None]:
    for item in before:
        yield item
    async for item in events:
        yield item


def _described(error: Exception) -> tuple[int, dict[str, Any]]:
    """(HTTP status, body) of what went wrong."""
    sentence = str(error)
    if isinstance(error, BadRequest):
        kind = {401: "authentication_error", 429: "rate_limit_error"}.get(error.status, "invalid_request_error")
        return error.status, error_body(sentence, kind=kind, code=error.code, param=error.param)
    if isinstance(error, UsageError):
        return 400, error_body(sentence, kind="invalid_request_error", code="invalid_request")
    if isinstance(error, BusyError):
        return 503, error_body(sentence, kind="server_error", code="busy")
    if isinstance(error, MissingError):
        return 503, error_body(sentence, kind="server_error", code="unavailable")
    if isinstance(error, FathomError):
        return 500, error_body(sentence, kind="server_error", code="failed")
    _log.error("answering failed", exc_info=error)
    words = f"something went wrong that should not have ({type(error).__name__}); the server's log says where"
    return 500, error_body(words, kind="server_error", code="unexpected")


def _refusal(error: Exception) -> Response:
    if isinstance(error, _Gone):
        return Response(status_code=499)  # as nginx notes it; nobody reads it
    status, body = _described(error)
    headers = {}
    if status in (429, 503):
        headers["retry-after"] = str(RETRY_SECONDS)
    if status == 401:
        headers["www-authenticate"] = "Bearer"
    if status == 405:
        headers["allow"] = "POST"
    return _json(body, status, headers)


def _json(data: Mapping[str, Any], status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    return Response(encoded(data), status, dict(headers or {}), media_type="application/json")
