"""An engine's adapter does the job it was trained for, and an engine without one does it itself."""

from typing import Any

from retrieval.roles import has_role, in_role


class Adapted:
    roles = ("answerer", "rewriter")

    def under(self, role: str) -> Any:
        return f"under {role}"


def test_an_engine_with_an_adapter_for_the_job_answers_under_it() -> None:
    engine = Adapted()
    assert has_role(engine, "answerer") and in_role(engine, "answerer") == "under answerer"
    assert not has_role(engine, "reranker") and in_role(engine, "reranker") is engine


def test_any_other_engine_stays_itself() -> None:
    engine = object()
    assert not has_role(engine, "answerer") and in_role(engine, "answerer") is engine
