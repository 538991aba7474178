"""A word of the settings or of a command → the planner or rewriter behind it."""

import logging
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from retrieval.prompts import Message
from retrieval.rewriting.planning import Planning
from retrieval.rewriting.plans import About, AsAsked, Condensing, Planner, WithPrevious
from retrieval.rewriting.rules import Rewriter, as_asked, with_previous
from retrieval.roles import REWRITER, has_role, in_role

if TYPE_CHECKING:
    from llama_index.core.llms import LLM

AUTO = "auto"
RULES = ("none", "previous")
"""Words that never need a model."""

logger = logging.getLogger(__name__)


def planner_named(name: str | None, llm: "Callable[[str | None], LLM]", *, passage: bool = False) -> Planner:
    """The planner behind a word; `llm` gives the engine behind a word, None being the one that answers.

    none        the question as asked
    previous    it, and it together with the last question before it (None too)
    auto        the answering engine's adapter for rewriting where it has one, else "previous"
    model       the answering engine's adapter for rewriting where it has one, else a plan by that engine itself
    plan[:E]    a plan by the answering engine, or by the engine E
    E           the engine E condenses: an adapter trained for it, or whatever else it is

    With `passage` a plan has a passage as an answer may stand in one. Raises what `llm` raises.
    """
    if name == "none":
        return AsAsked()
    if name in (None, "previous"):
        return WithPrevious()
    assert name is not None
    if name in (AUTO, "model"):
        engine = llm(None)
        if has_role(engine, REWRITER):
            return Condensing(in_role(engine, REWRITER))
        return Planning(engine, passage=passage) if name == "model" else WithPrevious()
    if name == "plan" or name.startswith("plan:"):
        return Planning(llm(engine_word(name)), passage=passage)
    return Condensing(in_role(llm(name), REWRITER))


def engine_word(name: str) -> str | None:
    """The engine that a word for a planner with a model speaks of; None is the one that answers."""
    if name in (AUTO, "model", "plan"):
        return None
    return name.removeprefix("plan:") or None


def rewriter_named(name: str | None, llm: "Callable[[str | None], LLM]") -> Rewriter:
    """The same words, for whoever wants one question back."""
    if name == "none":
        return as_asked
    if name in (None, "previous"):
        return with_previous
    planner = planner_named(name, llm)
    if isinstance(planner, WithPrevious):
        return with_previous
    return planner.rewriter if isinstance(planner, Condensing) else PlannedQuestion(planner)


class PlannedQuestion:
    """A plan's own question as a rewriter; what fails leaves the question as asked."""

    def __init__(self, planner: Planner) -> None:
        self.planner = planner

    def __call__(self, question: str, history: Sequence[Message]) -> str:
        try:
            plan = self.planner(question, history, About())
        except Exception as error:  # an engine's client may raise anything; the question can still be searched
            logger.warning("the question was searched as asked: planning it failed (%s)", error)
            return question.strip()
        return question.strip() if plan.note else plan.standalone
