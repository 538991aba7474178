"""The embedded engine: a small language model inside this process, as a LlamaIndex `LLM`. No server, no network.

It turns messages into text; how a model is loaded and how it is run and stopped is in loading.py and generating.py.
"""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, cast

from llama_index.core.base.llms.types import ChatMessage, LLMMetadata, MessageRole
from llama_index.core.bridge.pydantic import Field, PrivateAttr

from app.engines.generating import Generator, Piece, TimeLimits
from app.engines.loading import LoadedModel, load_model
from app.engines.speaking import Source, SpeakingLLM
from retrieval.errors import UsageError

_ROLES = {MessageRole.SYSTEM: "system", MessageRole.DEVELOPER: "system", MessageRole.ASSISTANT: "assistant"}


class EmbeddedLLM(SpeakingLLM):
    """OpenVINO GenAI behind LlamaIndex's seam; make one with `load_embedded`. See SpeakingLLM for its calls."""

    model_name: str = Field(description="Name of the model.")
    context_window: int = Field(description="Tokens of prompt and answer together.")
    max_new_tokens: int = Field(default=320, description="Longest answer, in tokens.")
    temperature: float = Field(default=0.0, description="0 is greedy: the same prompt gives the same answer.")
    repetition_penalty: float = Field(default=1.05, description="1 is none.")
    seed: int = Field(default=0, description="Used where the temperature is above 0.")
    limits: TimeLimits = Field(default=TimeLimits(), description="Time limits, seconds.", exclude=True)

    _generator: Generator = PrivateAttr()
    _tokenizer: Any = PrivateAttr()
    _control: re.Pattern[str] = PrivateAttr()

    def __init__(self, model: LoadedModel, **settings: Any) -> None:
        # The tokenizer cuts off what is longer than it was made for, without a word; beyond that there is no window.
        window = model.context_window
        window = min(window, _length(model.tokenizer, "a\n" * (window + 1)))
        super().__init__(model_name=model.name, context_window=window, **settings)
        self._tokenizer = model.tokenizer
        self._generator = Generator(model.pipeline, model.tokenizer)
        names = [re.escape(name.decode("utf-8", "replace")) for name in self._generator.vocabulary.control.values()]
        self._control = re.compile("|".join(sorted(names, key=len, reverse=True)) or r"(?!)")

    @classmethod
    def class_name(cls) -> str:
        return "fathom_embedded"

    @property
    def metadata(self) -> LLMMetadata:
        return LLMMetadata(
            context_window=self.context_window,
            num_output=self.max_new_tokens,
            is_chat_model=True,
            model_name=self.model_name,
        )

    def close(self) -> None:
        """Stop what runs. The memory goes with the object."""
        self._generator.close()

    def count_tokens(self, text: str) -> int:
        """Tokens of a text, without what a chat template adds."""
        step = max(64, self.context_window // 4)  # characters; see __init__ for why a long text is counted in pieces
        return sum(_length(self._tokenizer, text[i : i + step]) for i in range(0, len(text), step))

    def render(self, messages: Sequence[ChatMessage]) -> str:
        """The prompt as the model's own chat template writes it.

        Special tokens spelled out inside a message (`<|im_end|>` in a document, say) are broken up: the tokenizer would
        read them as the real ones, and a document could end its turn and speak as the system.
        """
        if not self._tokenizer.chat_template:
            raise UsageError(f"the model {self.model_name} has no chat template; use an instruction-tuned model")
        rendered = [
            {"role": _ROLES.get(message.role, "user"), "content": self._plain(message.content or "")}
            for message in messages
        ]
        return str(self._tokenizer.apply_chat_template(rendered, add_generation_prompt=True))

    def _plain(self, text: str) -> str:
        # A broken-up token can close up again around a removed one, so nothing is removed: a space is put inside.
        return self._control.sub(lambda match: match[0][0] + " " + match[0][1:], text)

    def _pieces(self, source: Source, kwargs: dict[str, Any]) -> Iterator[Piece]:
        import numpy as np

        prompt = source if isinstance(source, str) else self.render(cast(Sequence[ChatMessage], source))
        ids = np.array(self._tokenizer.encode(prompt, add_special_tokens=False).input_ids.data, dtype=np.int64)
        if ids.shape[1] >= self.context_window:
            raise UsageError(
                f"the prompt has about {self.count_tokens(prompt):,} tokens and {self.model_name} reads "
                f"{self.context_window:,}; ask with fewer passages (--k), a shorter question, or a model with a larger "
                "window"
            )
        wanted = int(kwargs.get("max_new_tokens") or kwargs.get("max_tokens") or self.max_new_tokens)
        room = self.context_window - ids.shape[1]
        if ids.shape[1] == 0:
            raise UsageError("the prompt is empty; write a question")
        options: dict[str, Any] = {
            "apply_chat_template": False,
            "do_sample": False,
            "repetition_penalty": float(kwargs.get("repetition_penalty", self.repetition_penalty)),
        }
        temperature = float(kwargs.get("temperature", self.temperature))
        if temperature > 0:
            options |= {
                "do_sample": True,
                "temperature": temperature,
                "top_p": float(kwargs.get("top_p", 0.95)),
                "rng_seed": int(kwargs.get("seed", self.seed)),
            }
        stop = kwargs.get("stop")
        if isinstance(stop, str | list | tuple):  # what other engines call stop
            options["stop_strings"] = {stop} if isinstance(stop, str) else set(stop)
            stop = None
        return self._generator.generate(
            ids,
            max_new_tokens=min(wanted, room),
            options=options,
            limits=kwargs.get("limits") or self.limits,
            stop=stop,
        )


def load_embedded(
    model: Path | None = None, *, cache: Path | None = None, threads: int = 0, **settings: Any
) -> EmbeddedLLM:
    """The embedded engine over a GGUF file or an OpenVINO folder; None is the model that comes with Fathom.

    `cache` keeps the converted model for quicker loads. `settings` are EmbeddedLLM's fields (max_new_tokens,
    temperature, limits …). Raises MissingError, DamagedError.
    """
    return EmbeddedLLM(load_model(model, cache=cache, threads=threads), **settings)


def _length(tokenizer: Any, text: str) -> int:
    return int(tokenizer.encode(text, add_special_tokens=False).input_ids.shape[1])
