"""Examples of judging a passage and the model that was trained on others → its calibration, with what it mends. It
knows no files."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from adapt.instructions.example import Example
from eval.figures.selective import separation
from eval.runs.parts import Progress
from retrieval.errors import UsageError
from retrieval.llm_reranking.calibration import Platt, fit_platt
from retrieval.llm_reranking.judging import JUDGE_VERSION, VERDICTS
from retrieval.llm_reranking.outcome import as_reranker, sigmoid

AT_ONCE = 16
"""Prompts in one request."""


@dataclass(frozen=True, slots=True)
class Calibrated:
    """The two numbers, and how well the model tells relevant passages: `auc` is the probability that it thinks more of
    a relevant passage than of another one, `loss_before` and `loss_after` are nats a pair."""

    platt: Platt
    auc: float
    loss_before: float
    loss_after: float


def calibrated(llm: Any, examples: Iterable[Example], *, progress: Progress = lambda *_: None) -> Calibrated:
    """Fit on the verdicts of examples that the model was not trained on.

    Raises UsageError for examples of something else or of another prompt, for too few, and for an engine that shows no
    probabilities; FathomError where the model thinks no better of relevant passages.
    """
    prompts: list[list[Any]] = []
    relevant: list[bool] = []
    for example in examples:
        verdict = example.messages[-1].content
        version = example.origin.by if example.origin else ""
        if verdict not in VERDICTS or version != JUDGE_VERSION:
            raise UsageError(
                f"the example {example.id} judges no passage with the prompt {JUDGE_VERSION} (it ends in "
                f"{verdict[:40]!r}); make the examples with 'fathom data judgements'"
            )
        prompts.append(_chat(example))
        relevant.append(verdict == VERDICTS[0])
    asked = as_reranker(llm)
    if not callable(getattr(asked, "choice_logprobs", None)):
        raise UsageError(f"the engine {type(llm).__name__} shows no probabilities; use the engine 'local'")
    logits: list[float] = []
    for start in range(0, len(prompts), AT_ONCE):
        rows = asked.choice_logprobs(prompts[start : start + AT_ONCE], list(VERDICTS))
        logits += [float(yes) - float(no) for yes, no in rows]
        progress("judging", len(logits), len(prompts))
    if not all(map(math.isfinite, logits)):
        raise UsageError("the engine gives verdicts no probability; use one that shows all of them, such as 'local'")
    platt = fit_platt(logits, relevant)
    area = separation(logits, relevant)
    assert area is not None, "fit_platt refuses examples of one kind alone"
    before, after = ([told(logit) for logit in logits] for told in (sigmoid, platt))
    return Calibrated(platt, area, _loss(before, relevant), _loss(after, relevant))


def _chat(example: Example) -> list[Any]:
    from llama_index.core.base.llms.types import ChatMessage, MessageRole

    return [ChatMessage(role=MessageRole(one.role), content=one.content) for one in example.messages[:-1]]


def _loss(told: Sequence[float], relevant: Sequence[bool]) -> float:
    return -sum(math.log(p if yes else 1 - p) for p, yes in zip(told, relevant, strict=True)) / len(told)
