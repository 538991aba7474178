"""A number of tokens → prompts of that length, no two with the same beginning; it knows no engine but its counter.

A server that keeps the state of prompts it has seen (vLLM's prefix cache is on as it comes) would otherwise be measured
at remembering.
"""

import random
from collections.abc import Callable
from typing import TYPE_CHECKING

from retrieval.errors import UsageError

if TYPE_CHECKING:
    from llama_index.core.llms import LLM

_SUBJECTS = "river harbour engine teacher forest council library garden merchant valley bridge painter".split()
_VERBS = "follows carries repairs describes crosses measures protects gathers remembers opens".split()
_OBJECTS = "letters machines shadows harvests windows stories gardens instruments records mountains".split()
_TIMES = ("in winter", "before dawn", "every seventh year", "without a word", "after the flood", "for good reasons")
TASK = "\n\nContinue this chronicle with many more sentences of the same kind."


def counter(llm: "LLM") -> Callable[[str], int]:
    """The engine's own count of tokens; four characters each where it has none."""
    count = getattr(llm, "count_tokens", None)
    return count if callable(count) else lambda text: len(text) // 4 + 1


def prompt(tokens: int, count: Callable[[str], int], *, seed: int) -> str:
    """About `tokens` tokens (at most 20 off) of made-up sentences that begin unlike those of any other seed, and a task
    that asks for a long answer. What a chat template adds is not counted."""
    draw = random.Random(seed)
    room = tokens - count(TASK)
    if room < 10:
        raise UsageError(f"a prompt of {tokens} tokens is too short to measure with; give 40 or more")
    text, written = f"{draw.randrange(10**6)}.", 0
    while (written := count(text)) < room:
        # Sentences have about ten tokens; the last few are added one at a time.
        for _ in range(max(1, (room - written) // 16)):
            subject, verb, thing = draw.choice(_SUBJECTS), draw.choice(_VERBS), draw.choice(_OBJECTS)
            text += f" The {subject} {verb} {thing} {draw.choice(_TIMES)}."
    return text + TASK
