"""Support by a language model: the probability of its "yes" to whether the passage says so, one forward pass a pair.

It knows no engine but by its calls: `choice_logprobs`, and an adapter of its own under the role "support" where the
engine has one. A prompted model as checker: AIS (Rashkin et al. 2023, arXiv:2112.12870); by probabilities rather than
words, P(True) (Kadavath et al. 2022, arXiv:2207.05221).
"""

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from retrieval.errors import FathomError, UsageError
from retrieval.roles import SUPPORT, has_role, in_role
from retrieval.supporting.asking import SUPPORT_VERSION, VERDICTS, support_messages
from retrieval.supporting.checker import Odds

if TYPE_CHECKING:
    from llama_index.core.llms import LLM

MOST_LOGIT = 30.0


class LanguageModelChecker:
    """`supported` is P(yes) / (P(yes) + P(no)); such a model is not asked for contradictions."""

    def __init__(self, llm: "LLM") -> None:
        """Raises UsageError for an engine that shows no probabilities."""
        self._llm: Any = in_role(llm, SUPPORT)
        if not callable(getattr(self._llm, "choice_logprobs", None)):
            raise UsageError(
                f"the engine {type(llm).__name__} shows no probabilities, which checking by a language model needs; "
                'use the engine "local" or "server", or support = "lexical"'
            )
        self.name = str(getattr(self._llm, "model_name", "") or self._llm.metadata.model_name)
        self.described: Mapping[str, Any] = {
            "checker": "llm",
            "model": self.name,
            "role": SUPPORT if has_role(llm, SUPPORT) else "",
            "prompt_version": SUPPORT_VERSION,
        }

    def __call__(self, pairs: Sequence[tuple[str, str]]) -> list[Odds]:
        """Raises UsageError where the engine shows no probabilities, FathomError where it fails."""
        from llama_index.core.base.llms.types import ChatMessage, MessageRole

        if not pairs:
            return []
        chats = [
            [ChatMessage(role=MessageRole(one.role), content=one.text) for one in support_messages(claim, passage)]
            for claim, passage in pairs
        ]
        rows = self._llm.choice_logprobs(chats, list(VERDICTS))
        if len(rows) != len(pairs) or any(len(row) != len(VERDICTS) for row in rows):
            raise FathomError(f"the language model gave {len(rows)} verdicts for {len(pairs)} claims")
        return [Odds(_share(float(yes), float(no))) for yes, no in rows]


def _share(yes: float, no: float) -> float:
    """P(yes) of both; a model that would say neither bears nothing out."""
    if math.isnan(yes) or math.isnan(no) or yes == -math.inf:
        return 0.0
    return 1.0 / (1.0 + math.exp(-max(-MOST_LOGIT, min(MOST_LOGIT, yes - no))))
