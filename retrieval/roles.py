"""An engine and a job → the engine under the adapter that was trained for that job, where it has one.

An engine with adapters has `roles` and `under(role)`; any other LlamaIndex LLM has neither. A view of an engine names
it as its `origin`.
"""

from typing import Any

ANSWERER, REWRITER, RERANKER, SUPPORT = "answerer", "rewriter", "reranker", "support"


def has_role(llm: Any, role: str) -> bool:
    """Whether the engine has an adapter for the job."""
    return role in tuple(getattr(llm, "roles", ()))


def origin_of(llm: Any) -> Any:
    """The engine that a view of it (under a role, with other options) shares its model with; itself if it is none."""
    return getattr(llm, "origin", None) or llm


def in_role(llm: Any, role: str) -> Any:
    """The engine under its adapter for the job, else itself."""
    return llm.under(role) if has_role(llm, role) else llm
