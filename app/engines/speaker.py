"""A model in this process → text, piece by piece, from messages or a prompt. What an engine's own child process runs.

It knows no LlamaIndex (which takes two seconds to load) and no runtime: an engine writes `_ids`, `_templated` and
`count_tokens`, and brings a Writer.
"""

import re
import time
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

from app.engines.generating import Generator, Piece, Sampling, Stoppable, TimeLimits, Writer
from eval.models.chat_prompts import Message, broken_up, marks, prompt
from retrieval.errors import FathomError, UsageError

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

    weighed_at_once: ClassVar[int] = 1
    """Prompts that are weighed together."""

    def __init__(
        self,
        name: str,
        context_window: int,
        writer: Writer,
        special: Iterable[str],
        manners: Manners,
        roles: Iterable[str] = (),
    ) -> None:
        """`context_window` counts tokens of prompt and answer together; `special` are the tokens no text may spell;
        `roles` are the names of the adapters that may be asked for."""
        self.name = name
        self.context_window = context_window
        self.manners = manners
        self.roles = tuple(roles)
        self._generator = Generator(writer)
        self._special: re.Pattern[str] = marks(special)

    @abstractmethod
    def _ids(self, text: str) -> "np.ndarray":
        """Tokens of a complete prompt, int64 of shape (1, tokens)."""

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

        `options`: max_new_tokens, temperature, top_p, seed, repetition_penalty, stop (texts), limits (TimeLimits) and
        role. Raises UsageError for what the model cannot read; see Generator.generate for the rest.
        """
        role = options.get("role")
        self.require_role(role)
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
            role=role,
            stop=stop,
        )

    def choice_logprobs(
        self,
        prompts: Sequence[str | Sequence[Message]],
        choices: Sequence[str],
        *,
        role: str | None = None,
        stop: Stoppable | None = None,
    ) -> list[list[float]]:
        """For each prompt, ln P of each choice as what the model writes next: "yes" against "no", say.

        Raises UsageError for a prompt beyond the window, no choices and an unknown role, FathomError when stopped or
        beyond the time limit, between two prompts.
        """
        self.require_role(role)
        answers = [self._tokenized(choice) for choice in choices]
        if not answers or not all(answers):
            raise UsageError("give choices to weigh, none of them empty")
        questions = [self._tokenized(prompt if isinstance(prompt, str) else self.render(prompt)) for prompt in prompts]
        longest = max(map(len, questions), default=1) + max(map(len, answers)) - 1
        # A tokenizer may cut off what is beyond the window: what fills it to the last token may have been cut.
        if longest >= self.context_window or not all(questions):
            raise UsageError(
                f"a prompt has 1 to {self.context_window - 1:,} tokens for {self.name}, and the longest has "
                f"{longest:,} or more; shorten it"
            )
        limits = self.manners.limits
        with self._generator.turn(limits):
            end = time.monotonic() + limits.total
            found: list[list[float]] = []
            for begin in range(0, len(questions), self.weighed_at_once):
                if stop is not None and stop.is_set():
                    raise FathomError(f"stopped after {begin} of {len(questions)} prompts")
                if time.monotonic() > end:
                    raise FathomError(
                        f"the language model had weighed {begin} of {len(questions)} prompts after "
                        f"{limits.total:.0f} s (its limit); give fewer at a time"
                    )
                found += self._weighed(questions[begin : begin + self.weighed_at_once], answers, role)
            return found

    def require_role(self, role: str | None) -> None:
        """Raises UsageError for a role that the model has no adapter for."""
        if role is not None and role not in self.roles:
            raise unknown_role(role, self.roles, self.name)

    @abstractmethod
    def _tokenized(self, text: str) -> list[int]:
        """Tokens of a text; special tokens in it are the real ones."""

    @abstractmethod
    def _weighed(self, questions: list[list[int]], answers: list[list[int]], role: str | None) -> list[list[float]]:
        """For each question, ln P of each answer as what follows it. The model is ours while this runs."""

    def close(self) -> None:
        """Stop what runs. The memory goes with the object."""
        self._generator.close()


def unknown_role(role: str, roles: Sequence[str], name: str) -> UsageError:
    """What to say of a role that there is no adapter for."""
    there = f"it has {', '.join(roles)}" if roles else "it has none"
    return UsageError(
        f"there is no adapter '{role[:80]}' on {name} ({there}); name its folder or the registered adapter under "
        "[engine] adapters in fathom.toml"
    )
