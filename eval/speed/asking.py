"""One request to an engine, or to the whole way from question to checked answer → when it began to speak and ended.

What asks does not matter here: one after another (generation.py) or many at once (serving.py).
"""

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from llama_index.core.llms import LLM

    from retrieval.answering import AnswerSettings
    from retrieval.collection import Collection
    from retrieval.passages import Mode


@dataclass(frozen=True, slots=True)
class Asked:
    """Seconds from the request on, waiting in line included. `first` is None where nothing was written; tokens where
    the engine counts none. `decode` is tokens a second after the first one."""

    first: float | None
    total: float
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    decode: float | None = None


Ask = Callable[[str, threading.Event], Asked]
"""(question, stop) → its times. Setting `stop` ends it early. Raises what the engine raises."""


def of_engine(llm: "LLM", new_tokens: int) -> Ask:
    """The question as the only message, answered in at most `new_tokens` tokens."""
    from llama_index.core.base.llms.types import ChatMessage, MessageRole

    def ask(question: str, stop: threading.Event) -> Asked:
        options: dict[str, Any] = {"stop": stop} if getattr(llm, "stoppable", False) else {}
        began = time.perf_counter()
        first, raw = None, None
        message = ChatMessage(role=MessageRole.USER, content=question)
        for response in llm.stream_chat([message], max_new_tokens=new_tokens, **options):
            if first is None and response.delta:
                first = time.perf_counter() - began
            raw = response.raw if isinstance(response.raw, Mapping) else raw
        return _asked(first, time.perf_counter() - began, raw or {})

    return ask


def of_collection(
    llm: "LLM", collection: "Collection", settings: "AnswerSettings | None", *, mode: "Mode", k: int
) -> Ask:
    """Search, answer, checked citations, as the chat page does it."""
    from retrieval.answering import Finished, Token, answer_stream

    embedder = None if mode == "lexical" else collection.embedder()

    def ask(question: str, stop: threading.Event) -> Asked:
        began = time.perf_counter()
        first, counts = None, {}
        for event in answer_stream(
            question,
            collection=collection,
            llm=llm,
            k=k,
            search_mode=mode,
            embedder=embedder,
            settings=settings,
            stop=stop,
        ):
            if isinstance(event, Token) and first is None:
                first = time.perf_counter() - began
            elif isinstance(event, Finished):
                counts = dict(event.answer.timings)
        return _asked(first, time.perf_counter() - began, counts)

    return ask


def _asked(first: float | None, total: float, counts: Mapping[str, Any]) -> Asked:
    prompt, written = counts.get("prompt_tokens"), counts.get("completion_tokens")
    decode = counts.get("tokens_per_second")
    if decode is None and first is not None and written is not None and written > 1 and total > first:
        decode = (written - 1) / (total - first)
    return Asked(
        first,
        total,
        None if prompt is None else int(prompt),
        None if written is None else int(written),
        None if decode is None else float(decode),
    )
