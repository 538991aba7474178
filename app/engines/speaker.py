"""A model in this process → text, piece by piece, from messages or a prompt. What an engine's own child process runs.

It knows no LlamaIndex (which takes two seconds to load) and no runtime: an engine writes `_ids`, `_templated` and
`count_tokens`, and brings a Writer.
"""

import re
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from app.engines.generating import Generator, Piece, Sampling, Stoppable, TimeLimits, Writer
from eval.models.chat_prompts import Message, broken_up, marks, prompt
from retrieval.errors import UsageError

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True)
class Manners:
    """How a model answers unless a call says otherwise."""

    max_new_tokens: int = 320
    """Longest answer, in tokens."""
    temperature: float = 0.0
    """0 is greedy: the same prompt gives the same answer."""
    repetition_penalty: float = 1.05
    """1 is none."""
    seed: int = 0
    """Used where the temperature is above 0."""
    limits: TimeLimits = TimeLimits()


class Speaker(ABC):
    """One loaded model. Safe for many threads: they wait in line."""

    def __init__(
        self, name: str, context_window: int, writer: Writer, special: Iterable[str], manners: Manners
    ) -> None:
        """`context_window` counts tokens of prompt and answer together; `special` are the tokens no text may spell."""
        self.name = name
        self.context_window = context_window
        self.manners = manners
        self._generator = Generator(writer)
        self._special: re.Pattern[str] = marks(special)

    @abstractmethod
    def _ids(self, text: str) -> "np.ndarray":
        """Tokens of a complete prompt, int64 of shape (1, tokens); special tokens in it are the real ones."""

    @abstractmethod
    def _templated(self, messages: list[dict[str, str]]) -> str:
        """The model's own chat template over the messages, as the runtime applies it. Raises what that raises."""

    @abstractmethod
    def count_tokens(self, text: str) -> int:
        """Tokens of a text, without what a chat template adds."""

    def render(self, messages: Sequence[Message]) -> str:
        """The prompt as the model's own chat template writes it, special tokens in the messages broken up."""
        plain = [
            {"role": message["role"], "content": broken_up(message["content"], self._special)} for message in messages
        ]
        return prompt(self._templated, plain, model=self.name)

    def pieces(
        self, source: str | Sequence[Message], options: Mapping[str, Any], *, stop: Stoppable | None = None
    ) -> Iterator[Piece]:
        """Text as it is written, from a complete prompt or from messages; the last piece has `finish` and `stats`.

        `options`: max_new_tokens, temperature, top_p, seed, repetition_penalty, stop (texts), limits (TimeLimits).
        Raises UsageError for what the model cannot read; see Generator.generate for the rest.
        """
        text = source if isinstance(source, str) else self.render(source)
        ids = self._ids(text)
        length = int(ids.shape[1])
        if length >= self.context_window:
            raise UsageError(
                f"the prompt has about {self.count_tokens(text):,} tokens and {self.name} reads "
                f"{self.context_window:,}; ask with fewer passages (--k), a shorter question, or a model with a larger "
                "window"
            )
        if length == 0:
            raise UsageError("the prompt is empty; write a question")
        mine = self.manners
        sampling = Sampling(
            temperature=float(options.get("temperature", mine.temperature)),
            seed=int(options.get("seed", mine.seed)),
            repetition_penalty=float(options.get("repetition_penalty", mine.repetition_penalty)),
            stop=tuple(options.get("stop", ())),
        )
        if "top_p" in options:
            sampling = replace(sampling, top_p=float(options["top_p"]))
        wanted = int(options.get("max_new_tokens", mine.max_new_tokens))
        return self._generator.generate(
            ids,
            max_new_tokens=min(wanted, self.context_window - length),
            sampling=sampling,
            limits=options.get("limits", mine.limits),
            stop=stop,
        )

    def choice_logprobs(self, prompts: Sequence[str | Sequence[Message]], choices: Sequence[str]) -> list[list[float]]:
        """For each prompt, ln P of each choice as what the model writes next: "yes" against "no", say.

        Raises UsageError where the runtime shows no probabilities.
        """
        raise UsageError(
            f"the embedded engine shows no probabilities of {self.name}; use the engine 'local' "
            '([engine] name = "local"), which does'
        )

    def close(self) -> None:
        """Stop what runs. The memory goes with the object."""
        self._generator.close()
