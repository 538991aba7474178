"""Chat messages → the text as a language model writes it, piece by piece; a finished draft → the same without what a
small model says twice. It knows neither passages nor citations.
"""

import re
import threading
from collections.abc import Generator, Sequence
from typing import TYPE_CHECKING, Any

from retrieval.prompts import Message
from retrieval.sentences import sentence_spans

if TYPE_CHECKING:
    from llama_index.core.llms import LLM


def generate(
    llm: "LLM", messages: Sequence[Message], stop: threading.Event | None
) -> Generator[tuple[str, dict[str, Any]], None, None]:
    """(delta, raw) pairs; `raw` is what the engine reports with its last one."""
    from llama_index.core.base.llms.types import ChatMessage, MessageRole

    chat = [ChatMessage(role=MessageRole(message.role), content=message.text) for message in messages]
    # Other engines would send the flag along to their server.
    options = {"stop": stop} if stop is not None and getattr(llm, "stoppable", False) else {}
    responses = llm.stream_chat(chat, **options)
    try:
        for response in responses:
            yield response.delta or "", response.raw if isinstance(response.raw, dict) else {}
    finally:
        close = getattr(responses, "close", None)
        if close is not None:
            close()


def tidy(text: str, *, cut: bool) -> str:
    """Without sentences said twice (small models run in circles) and, if the answer was `cut` off at its length,
    without the half sentence at its end, as long as a whole one stays."""
    spans = sentence_spans(text)
    if cut and len(spans) > 1 and not text.rstrip().endswith((".", "!", "?", "。", "！", "？", "]")):
        text = text[: spans[-1][0]].rstrip()
        spans = spans[:-1]
    parts: list[str] = []
    seen: set[str] = set()
    position = 0
    for start, end in spans:
        key = re.sub(r"\W+", " ", text[start:end].casefold()).strip()
        if key not in seen:
            parts.append(text[position:end])
        seen.add(key)
        position = end
    parts.append(text[position:])
    return "".join(parts).strip()
