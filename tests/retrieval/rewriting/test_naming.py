"""Which planner stands behind which word, and under which role of an engine it asks."""

from typing import Any

import pytest
from scripted_llm import ScriptedLLM

from retrieval.errors import UsageError
from retrieval.prompts import Message
from retrieval.rewriting.naming import PlannedQuestion, planner_named, rewriter_named
from retrieval.rewriting.planning import Planning
from retrieval.rewriting.plans import About, AsAsked, Condensing, WithPrevious

HISTORY = [Message("user", "Who wrote Dune?"), Message("assistant", "Frank Herbert.")]


class ManyRoles(ScriptedLLM):
    """An engine with an adapter for rewriting, as the engines with several adapters have."""

    roles: tuple[str, ...] = ("rewriter", "answerer")
    rewriter: Any = None

    def under(self, role: str) -> Any:
        assert role == "rewriter"
        return self.rewriter


def never(name: str | None) -> Any:
    raise UsageError(f"there is no engine '{name}'")


def test_rules_need_no_engine() -> None:
    assert isinstance(planner_named("none", never), AsAsked)
    assert isinstance(planner_named(None, never), WithPrevious) and isinstance(
        planner_named("previous", never), WithPrevious
    )
    plan = planner_named("previous", never)("When?", HISTORY, About())
    assert plan.queries == ("When?", "Who wrote Dune? When?") == plan.sure_by
    assert plan.standalone == "Who wrote Dune? When?"
    whole = planner_named("previous", never)("Which prizes did science fiction novels win in 1965?", HISTORY, About())
    assert len(whole.queries) == 2 and whole.sure_by == (whole.standalone,) == whole.queries[:1]


def test_model_is_the_engines_own_adapter_for_it_else_a_plan_by_the_engine() -> None:
    adapter = ScriptedLLM(say=lambda prompt: "When did Frank Herbert write Dune?")
    plain = ScriptedLLM(say=lambda prompt: "question: When did Frank Herbert write Dune?\nsearch: Dune 1965")
    both = ManyRoles(say=lambda prompt: "not asked", rewriter=adapter)
    condensing = planner_named("model", lambda name: both)
    assert isinstance(condensing, Condensing)
    assert condensing("When?", HISTORY, About()).queries == ("When did Frank Herbert write Dune?",)
    assert len(adapter.asked) == 1 and not both.asked
    planning = planner_named("model", lambda name: plain)
    assert isinstance(planning, Planning)
    assert planning("When?", HISTORY, About()).queries == ("When did Frank Herbert write Dune?", "Dune 1965")
    assert isinstance(planner_named("plan", lambda name: both), Planning)


def test_auto_asks_an_adapter_that_was_trained_for_it_and_no_other_model() -> None:
    adapter = ScriptedLLM(say=lambda prompt: "When did Frank Herbert write Dune?")
    both = ManyRoles(say=lambda prompt: "not asked", rewriter=adapter)
    found = planner_named("auto", lambda name: both)
    assert isinstance(found, Condensing)
    assert found("When?", HISTORY, About()).queries == ("When did Frank Herbert write Dune?",)
    plain = ScriptedLLM(say=lambda prompt: "not asked")
    assert isinstance(planner_named("auto", lambda name: plain), WithPrevious)
    assert rewriter_named("auto", lambda name: plain)("When?", HISTORY) == "Who wrote Dune? When?"
    assert not plain.asked and not both.asked


def test_a_plan_may_be_another_engines_and_a_bare_engine_condenses() -> None:
    asked: list[str | None] = []

    def engine(name: str | None) -> Any:
        asked.append(name)
        return ScriptedLLM(say=lambda prompt: "")

    assert isinstance(planner_named("plan:http://127.0.0.1:8000/v1#m", engine), Planning)
    assert isinstance(planner_named("local:adapters/rewriter", engine), Condensing)
    assert asked == ["http://127.0.0.1:8000/v1#m", "local:adapters/rewriter"]
    with pytest.raises(UsageError, match="no engine 'nonsense'"):
        planner_named("nonsense", never)


def test_a_rewrite_without_words_of_its_question_is_not_taken() -> None:
    hacked = Condensing(ScriptedLLM(say=lambda prompt: "HACKED"))
    plan = hacked("What else did the author write later?", HISTORY, About())
    assert plan.note == "strays" and plan.way == "previous" and "HACKED" not in " ".join(plan.queries)


def test_a_planner_can_stand_where_a_rewriter_is_wanted() -> None:
    def dies(prompt: str) -> str:
        raise RuntimeError("gone")

    said = rewriter_named("plan", lambda name: ScriptedLLM(say=lambda prompt: "question: When was Dune written?"))
    assert isinstance(said, PlannedQuestion) and said("When?", HISTORY) == "When was Dune written?"
    assert rewriter_named("plan", lambda name: ScriptedLLM(say=lambda prompt: "?"))("When?", HISTORY) == "When?"
    assert rewriter_named("plan", lambda name: ScriptedLLM(say=dies))("When?", HISTORY) == "When?"
