"""Messages → what a language model writes, in one call, through LlamaIndex's seam. It knows no prompt."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from retrieval.limited import Stop
from retrieval.prompts import Message

if TYPE_CHECKING:
    from llama_index.core.llms import LLM


def asked_of(llm: "LLM", messages: Sequence[Message], *, max_tokens: int, stop: Stop | None = None) -> str:
    """The model's reply, greedy, at most so long. `stop` ends it where the engine can be stopped; other engines would
    send the flag along to their server. Raises what the engine raises."""
    from llama_index.core.base.llms.types import ChatMessage, MessageRole

    chat = [ChatMessage(role=MessageRole(message.role), content=message.text) for message in messages]
    options: dict[str, Any] = {"temperature": 0.0, "max_tokens": max_tokens}
    if stop is not None and getattr(llm, "stoppable", False):
        options["stop"] = stop
    return str(llm.chat(chat, **options).message.content or "")
