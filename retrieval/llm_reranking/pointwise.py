"""A query and its hits → for each the probability that a language model says "yes" to its relevance: one forward pass a
passage, what the prompts begin with read once by engines that can. It knows no engine but by its calls.

Pointwise relevance by the likelihood of a verdict: Nogueira et al. 2020 (arXiv:2003.06713), Zhuang et al. 2023
(arXiv:2310.14122).
"""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from retrieval.errors import FathomError, UsageError
from retrieval.llm_reranking.calibration import Platt
from retrieval.llm_reranking.judging import JUDGE_VERSION, MAX_PASSAGE, VERDICTS, judge_messages
from retrieval.llm_reranking.outcome import MOST_LOGIT, Reranked, as_reranker, name_of, scores_behind, sigmoid
from retrieval.passages import Hit

if TYPE_CHECKING:
    from llama_index.core.llms import LLM

FIRST = 4
"""Passages of the first request where there is a time limit: it tells how long the others will take."""
SURE = 0.9
"""Probability from which a passage counts as surely relevant for the early stop."""
_ROOM = 400
"""Tokens left for query, frame and chat template where a window is small."""
_SPARE = 0.9
"""Of the time left, the share that is planned with."""


class PointwiseReranker:
    """Scores are P(yes) / (P(yes) + P(no)), or with `calibration` the probability of relevance; both in [0, 1].

    `seconds` is the time after which no further passage is read: those left keep their order behind the others.
    `enough` stops earlier, once so many passages read have `SURE` or more. The first `enough` of the result are then
    surely relevant, but a later passage might have been better still: for answers that need some relevant passages in
    any order, off by default. `counting` counts the tokens of every prompt, which asks the engine once more for each.
    """

    def __init__(
        self,
        llm: "LLM",
        *,
        calibration: Platt | None = None,
        seconds: float | None = None,
        enough: int | None = None,
        counting: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Raises UsageError for an engine that shows no probabilities and for limits that leave nothing to do."""
        self.llm: Any = as_reranker(llm)
        if not callable(getattr(self.llm, "choice_logprobs", None)):
            raise UsageError(
                f"the engine {type(llm).__name__} shows no probabilities, which judging passages one by one needs; use "
                'the engine "local" or "server", or rerank by lists (llm:listwise)'
            )
        if (seconds is not None and not seconds > 0) or (enough is not None and enough < 1):
            raise UsageError(f"a time limit of {seconds} s and {enough} passages: both must be above 0")
        self.calibration, self.seconds, self.enough, self.counting = calibration, seconds, enough, counting
        self._clock = clock

    @property
    def calibrated(self) -> bool:
        """Whether one threshold means relevant."""
        return self.calibration is not None

    @property
    def described(self) -> dict[str, Any]:
        """What decides the scores, for records."""
        fitted = None if self.calibration is None else [self.calibration.slope, self.calibration.offset]
        return {
            "kind": "llm pointwise",
            "model": name_of(self.llm),
            "prompt_version": JUDGE_VERSION,
            "calibration": fitted,
            "seconds": self.seconds,
            "enough": self.enough,
        }

    def __call__(self, query: str, hits: Sequence[Hit]) -> list[float]:
        """One score for each hit, in their order. Raises what `rerank` raises."""
        return list(self.rerank(query, hits).scores)

    def rerank(self, query: str, hits: Sequence[Hit], *, seconds: float | None = None) -> Reranked:
        """`seconds` in place of the reranker's own limit. Raises UsageError where the engine shows no probabilities,
        FathomError where it fails."""
        began = self._clock()
        limit = seconds if seconds is not None else self.seconds
        most = self._most_characters() if hits else 0
        logits: list[float | None] = []
        calls = tokens = 0
        note = ""
        while len(logits) < len(hits):
            size = self._next_size(len(logits), len(hits), limit, self._clock() - began)
            if size < 1:
                note = f"{len(logits)} of {len(hits)} passages were read in {limit:g} s"
                break
            some = hits[len(logits) : len(logits) + size]
            prompts = [judge_messages(query, _cut(hit, most)) for hit in some]
            logits += self._asked(prompts)
            calls += 1
            if self.counting:
                tokens += sum(self.llm.count_tokens("\n".join(one.text for one in prompt)) for prompt in prompts)
            if self.enough is not None and len(logits) < len(hits):
                sure = sum(score is not None and score >= SURE for score in map(self._score, logits))
                if sure >= self.enough:
                    note = f"{len(logits)} of {len(hits)} passages were read, {sure} of them surely relevant"
                    break
        found = [*map(self._score, logits), *[None] * (len(hits) - len(logits))]
        strange = sum(logit is None for logit in logits)
        if strange:
            note = "; ".join(filter(None, [note, f"to {strange} passages the model says neither yes nor no"]))
        return Reranked(
            scores_behind(found),
            tuple(score is not None for score in found),
            note,
            calls,
            self._clock() - began,
            tokens if self.counting else None,
            0 if self.counting else None,
        )

    def _score(self, logit: float | None) -> float | None:
        if logit is None:
            return None
        return self.calibration(logit) if self.calibration is not None else sigmoid(logit)

    def _asked(self, prompts: Sequence[Sequence[Any]]) -> list[float | None]:
        """ln P(yes) - ln P(no) for each; None where the engine gives neither a probability."""
        from llama_index.core.base.llms.types import ChatMessage, MessageRole

        chats = [[ChatMessage(role=MessageRole(one.role), content=one.text) for one in prompt] for prompt in prompts]
        rows = self.llm.choice_logprobs(chats, list(VERDICTS))
        if len(rows) != len(prompts) or any(len(row) != len(VERDICTS) for row in rows):
            raise FathomError(f"the language model gave {len(rows)} verdicts for {len(prompts)} passages")
        return [_difference(*map(float, row)) for row in rows]

    def _next_size(self, done: int, total: int, seconds: float | None, spent: float) -> int:
        """How many passages to ask for next; 0 where there is no time left. All at once where nothing can end it
        early, so that what they begin with is read once."""
        size = total - done
        if self.enough is not None:
            size = min(size, max(FIRST, self.enough))
        if seconds is None:
            return size
        if not done:
            return min(size, FIRST)
        return min(size, 2 * done, math.floor((seconds - spent) * _SPARE * done / max(spent, 1e-9)))

    def _most_characters(self) -> int:
        """Of a passage. A token is half a character at worst in Chinese."""
        return max(40, min(MAX_PASSAGE, (int(self.llm.metadata.context_window) - _ROOM) // 2))


def _cut(hit: Hit, most: int) -> Hit:
    text = hit.passage.text
    return hit if len(text) <= most else replace(hit, passage=replace(hit.passage, text=text[:most]))


def _difference(yes: float, no: float) -> float | None:
    """A logit within ±MOST_LOGIT; None where both are impossible."""
    if math.isnan(yes) or math.isnan(no) or (math.isinf(yes) and math.isinf(no)):
        return None
    return max(-MOST_LOGIT, min(MOST_LOGIT, yes - no))
