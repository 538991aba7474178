"""A language model that weighs two words as a test tells it to, by the text of the last message."""

import math
from collections.abc import Callable, Sequence
from typing import Any

from scripted_llm import ScriptedLLM

from retrieval.passages import Hit, Passage, Scores, Source


class ScriptedJudge(ScriptedLLM):
    """`weigh` gives for a prompt's text the probability of the first choice; the second has the rest.

    `batches` holds how many prompts came in each call.
    """

    weigh: Callable[[str], float]
    say: Callable[[str], str] = lambda text: ""
    batches: list[int] = []

    def choice_logprobs(self, prompts: Sequence[Sequence[Any]], choices: Sequence[str]) -> list[list[float]]:
        assert len(choices) == 2
        self.batches.append(len(prompts))
        rows = []
        for prompt in prompts:
            share = self.weigh(str(prompt[-1].content))
            rows.append([math.log(share) if share else -math.inf, math.log1p(-share) if share < 1 else -math.inf])
        return rows

    def count_tokens(self, text: str) -> int:
        return len(text.split())


def hits_of(*texts: str) -> list[Hit]:
    """One hit for each text, in this order."""
    return [
        Hit(
            n,
            1 / n,
            Passage(n, n, 0, 0, len(text), None, (), text, 1),
            Source(n, f"{n}.txt", "", "txt", "", {}),
            Scores(),
        )
        for n, text in enumerate(texts, 1)
    ]


def order_of(scores: Sequence[float]) -> list[int]:
    """Places from the highest score to the lowest, equal ones as they stand."""
    return sorted(range(len(scores)), key=lambda place: -scores[place])
