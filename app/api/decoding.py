"""What one request says of decoding, and the engine → the same engine with those defaults; nothing is loaded again."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

from retrieval.roles import origin_of

if TYPE_CHECKING:
    from llama_index.core.llms import LLM


def with_options(llm: "LLM", options: Mapping[str, float] | None) -> "LLM":
    """The engine as it is, or a view of it: one that shares the loaded model and differs in its own settings.

    An option that this kind of engine has no setting for is passed over. `max_new_tokens` can only shorten: the longest
    answer is for whoever runs the engine to say, and the room for passages in the prompt is what that leaves.
    """
    fields = type(llm).model_fields
    chosen = {name: value for name, value in (options or {}).items() if name in fields}
    if "max_new_tokens" in chosen:
        chosen["max_new_tokens"] = min(chosen["max_new_tokens"], getattr(llm, "max_new_tokens"))  # noqa: B009
    # A shallow copy: the generator, its queue and the tokenizer are private attributes, and stay the same objects.
    if not chosen:
        return llm
    view = llm.model_copy(update=chosen)
    if "_origin" in type(llm).__private_attributes__:
        view._origin = origin_of(llm)  # type: ignore[attr-defined]  # closing the view closes nothing
    return view
