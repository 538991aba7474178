"""Pieces of text → the eight calls of a LlamaIndex `LLM`: whole and streamed, chat and completion, sync and async."""

import asyncio
import threading
from abc import abstractmethod
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from typing import Any, ClassVar

from llama_index.core.base.llms.types import (
    ChatMessage,
    ChatResponse,
    ChatResponseAsyncGen,
    ChatResponseGen,
    CompletionResponse,
    CompletionResponseAsyncGen,
    CompletionResponseGen,
    MessageRole,
)
from llama_index.core.llms.callbacks import llm_chat_callback, llm_completion_callback
from llama_index.core.llms.custom import CustomLLM

from app.engines.generating import Piece

Source = str | Sequence[ChatMessage]
"""A prompt that is complete as it stands, or messages for the model's chat template."""
_END = object()


class SpeakingLLM(CustomLLM):
    """What an engine says piece by piece, in the forms LlamaIndex asks for; an engine writes `_pieces` alone.

    Every call takes `stop: threading.Event` (ends it within 0.2 s, the text so far is the answer). Closing a stream
    ends it as well. `raw` of the (last) response holds prompt_tokens, completion_tokens, total_tokens,
    first_token_seconds, total_seconds, tokens_per_second and finish_reason; `additional_kwargs` the token counts.
    """

    stoppable: ClassVar[bool] = True
    """Says to callers that `stop` is understood."""

    @abstractmethod
    def _pieces(self, source: Source, kwargs: dict[str, Any]) -> Iterator[Piece]:
        """Text as it is written; the last piece has `finish` and `stats`. Closing the iterator ends the generation."""

    def _pieces_async(self, source: Source, kwargs: dict[str, Any]) -> AsyncIterator[Piece]:
        """The same for an event loop. An engine that blocks is waited for on a thread."""
        return _from_thread(lambda stop: self._pieces(source, kwargs | {"stop": stop}), kwargs.get("stop"))

    @llm_completion_callback()  # type: ignore[untyped-decorator]
    def complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponse:
        """`formatted` means the prompt is complete; otherwise it becomes one user message."""
        return _completion(*_joined(list(self._pieces(_source(prompt, formatted), kwargs))))

    @llm_completion_callback()  # type: ignore[untyped-decorator]
    def stream_complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponseGen:
        pieces = self._pieces(_source(prompt, formatted), kwargs)

        def responses() -> CompletionResponseGen:
            text = ""
            for piece in pieces:
                text += piece.text
                yield _completion(text, _raw(piece), piece.text)

        return responses()

    @llm_chat_callback()  # type: ignore[untyped-decorator]
    def chat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponse:
        return _reply(*_joined(list(self._pieces(messages, kwargs))))

    @llm_chat_callback()  # type: ignore[untyped-decorator]
    def stream_chat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponseGen:
        pieces = self._pieces(messages, kwargs)

        def responses() -> ChatResponseGen:
            text = ""
            for piece in pieces:
                text += piece.text
                yield _reply(text, _raw(piece), piece.text)

        return responses()

    @llm_completion_callback()  # type: ignore[untyped-decorator]
    async def acomplete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponse:
        return _completion(*_joined([piece async for piece in self._pieces_async(_source(prompt, formatted), kwargs)]))

    @llm_completion_callback()  # type: ignore[untyped-decorator]
    async def astream_complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponseAsyncGen:
        pieces = self._pieces_async(_source(prompt, formatted), kwargs)

        async def responses() -> CompletionResponseAsyncGen:
            text = ""
            try:
                async for piece in pieces:
                    text += piece.text
                    yield _completion(text, _raw(piece), piece.text)
            finally:
                await pieces.aclose()  # type: ignore[attr-defined]

        return responses()

    @llm_chat_callback()  # type: ignore[untyped-decorator]
    async def achat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponse:
        return _reply(*_joined([piece async for piece in self._pieces_async(messages, kwargs)]))

    @llm_chat_callback()  # type: ignore[untyped-decorator]
    async def astream_chat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponseAsyncGen:
        pieces = self._pieces_async(messages, kwargs)

        async def responses() -> ChatResponseAsyncGen:
            text = ""
            try:
                async for piece in pieces:
                    text += piece.text
                    yield _reply(text, _raw(piece), piece.text)
            finally:
                await pieces.aclose()  # type: ignore[attr-defined]

        return responses()


def _source(prompt: str, formatted: bool) -> Source:
    return prompt if formatted else [ChatMessage(role=MessageRole.USER, content=prompt)]


def _raw(piece: Piece) -> dict[str, Any] | None:
    return None if piece.finish is None else {**(piece.stats or {}), "finish_reason": piece.finish}


def _joined(pieces: Sequence[Piece]) -> tuple[str, dict[str, Any] | None]:
    return "".join(piece.text for piece in pieces), _raw(pieces[-1]) if pieces else None


def _counts(raw: dict[str, Any] | None) -> dict[str, Any]:
    return {key: raw[key] for key in ("prompt_tokens", "completion_tokens", "total_tokens")} if raw else {}


def _completion(text: str, raw: dict[str, Any] | None, delta: str | None = None) -> CompletionResponse:
    return CompletionResponse(text=text, delta=delta, raw=raw, additional_kwargs=_counts(raw))


def _reply(text: str, raw: dict[str, Any] | None, delta: str | None = None) -> ChatResponse:
    message = ChatMessage(role=MessageRole.ASSISTANT, content=text)
    return ChatResponse(message=message, delta=delta, raw=raw, additional_kwargs=_counts(raw))


class _Stop:
    """Set when the caller's own flag is, or when the asynchronous call went away."""

    def __init__(self, given: Any) -> None:
        self.gone = threading.Event()
        self._given = given

    def is_set(self) -> bool:
        return self.gone.is_set() or (self._given is not None and self._given.is_set())


async def _from_thread(start: Callable[[Any], Iterator[Piece]], given: Any) -> AsyncIterator[Piece]:
    """A blocking iterator as an asynchronous one. When the task is cancelled or the stream closed, so is the
    generation: nothing keeps writing behind a request that went away."""
    stop = given if isinstance(given, str | list | tuple) else _Stop(given)
    iterator = await asyncio.to_thread(start, stop)
    step: asyncio.Future[Any] | None = None
    try:
        while True:
            step = asyncio.ensure_future(asyncio.to_thread(next, iterator, _END))
            item = await asyncio.shield(step)
            if item is _END:
                return
            yield item
    finally:
        if isinstance(stop, _Stop):
            stop.gone.set()
        if step is not None and not step.done():
            step.add_done_callback(lambda done: _close(iterator, done))  # a generator cannot be closed while it runs
        else:
            iterator.close()  # type: ignore[attr-defined]


def _close(iterator: Any, done: "asyncio.Future[Any]") -> None:
    if not done.cancelled():
        done.exception()  # nobody is left to hear of it; asking keeps asyncio from logging it as lost
    iterator.close()
