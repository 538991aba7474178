"""What to search for: the plan that planners make, those of them that need no model, and the one that condenses."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol

from retrieval.errors import FathomError
from retrieval.limited import Stop
from retrieval.prompts import Language, Message
from retrieval.rewriting.condensing import LanguageModelRewriter
from retrieval.rewriting.rules import leans, refers, with_previous

if TYPE_CHECKING:
    from llama_index.core.llms import LLM

Way = Literal["none", "previous", "condense", "plan"]
"""How a plan was made."""


@dataclass(frozen=True, slots=True)
class Plan:
    """`queries` are searched for and their hits joined, the first one first where they tie; `passage`, where there is
    one, is what an answer may say, and searched by meaning.

    `standalone` is the question that stands alone: reranking and quotations go by it. `sure_by` are the queries whose
    hits tell how sure an answer is. `note` is a word for why a model's text was not taken, "" where it was or none was
    asked: "empty", "too long", "prose", "strays", "unchanged", "form" or "language".
    """

    queries: tuple[str, ...]
    standalone: str
    note: str = ""
    passage: str = ""
    way: Way = "none"
    sure_by: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not self.sure_by:
            object.__setattr__(self, "sure_by", (self.standalone,))


@dataclass(frozen=True, slots=True)
class About:
    """What is known of the documents before a plan is made: their languages, the most frequent first, and pairs (short,
    long) of which the question has one."""

    languages: tuple[Language, ...] = ()
    forms: tuple[tuple[str, str], ...] = ()


class Planner(Protocol):
    """A question and the messages before it, oldest first → what to search for. Raises what its engine raises."""

    @property
    def way(self) -> Way:
        """ "none" and "previous" ask no model, and neither need be spared nor limited."""
        ...

    def __call__(
        self, question: str, history: Sequence[Message], about: About, *, stop: Stop | None = None
    ) -> Plan: ...


def plan_as_asked(question: str) -> Plan:
    """The question itself."""
    return Plan((question.strip(),), question.strip())


def plan_with_previous(question: str, history: Sequence[Message]) -> Plan:
    """The question and, in a conversation, it together with the one before ("and its price?")."""
    asked, together = question.strip(), with_previous(question, history)
    # What belongs to the question before says nothing of this one, unless this one leans on it; and a question that
    # points at another one says too little to choose sentences by ("and the second one?").
    return Plan(
        tuple(dict.fromkeys([asked, together])),
        together if refers(question) else asked,
        way="previous",
        sure_by=tuple(dict.fromkeys([asked, together])) if leans(question) else (asked,),
    )


class AsAsked:
    """The question as it was asked."""

    way: Way = "none"

    def __call__(self, question: str, history: Sequence[Message], about: About, *, stop: Stop | None = None) -> Plan:
        return plan_as_asked(question)


class WithPrevious:
    """The question, and it together with the one before."""

    way: Way = "previous"

    def __call__(self, question: str, history: Sequence[Message], about: About, *, stop: Stop | None = None) -> Plan:
        return plan_with_previous(question, history)


class Condensing:
    """One line by a language model in place of the question; what it cannot use becomes a plan with the question
    before."""

    way: Way = "condense"

    def __init__(self, llm: "LLM") -> None:
        self.llm = llm
        self.rewriter = LanguageModelRewriter(llm)

    def __call__(self, question: str, history: Sequence[Message], about: About, *, stop: Stop | None = None) -> Plan:
        found = self.rewriter.rewrite(question, history, stop=stop)
        if found.fallback:
            return noted(plan_with_previous(question, history), found.fallback)
        return Plan((found.text,), found.text, way="condense")


class Unavailable:
    """In the place of a planner whose engine is not there: raises what kept it away, wherever it would be asked."""

    way: Way = "condense"

    def __init__(self, error: FathomError) -> None:
        self.error = error

    def __call__(self, question: str, history: Sequence[Message], about: About, *, stop: Stop | None = None) -> Plan:
        raise self.error


def noted(plan: Plan, note: str) -> Plan:
    """The same plan, with the word for why it is no model's."""
    return Plan(plan.queries, plan.standalone, note, plan.passage, plan.way, plan.sure_by)
