"""A language model that says what a test tells it to, behind LlamaIndex's seam, and keeps what it was asked."""

from collections.abc import Callable, Sequence
from typing import Any

from llama_index.core.base.llms.types import ChatMessage, ChatResponse, CompletionResponse, LLMMetadata, MessageRole
from llama_index.core.llms.custom import CustomLLM


class ScriptedLLM(CustomLLM):
    """`say` turns the text of the last message into a reply, or raises; `asked` holds (messages, options) per call."""

    say: Callable[[str], str]
    asked: list[tuple[list[ChatMessage], dict[str, Any]]] = []

    @property
    def metadata(self) -> LLMMetadata:
        return LLMMetadata(model_name="scripted", is_chat_model=True)

    def chat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponse:
        self.asked.append((list(messages), kwargs))
        reply = self.say(str(messages[-1].content))
        return ChatResponse(message=ChatMessage(role=MessageRole.ASSISTANT, content=reply))

    def complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponse:
        raise NotImplementedError

    def stream_complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> Any:
        raise NotImplementedError
