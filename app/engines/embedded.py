"""The embedded engine: OpenVINO GenAI over a GGUF file or a folder exported for it. No server, no network.

It runs in a child process (worker.py); how a model is loaded and how it is run is in loading.py and openvino_writer.py.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from app.engines.loading import LoadedModel, load_model, require_loadable
from app.engines.openvino_writer import OpenVinoWriter
from app.engines.speaker import Manners, Speaker
from retrieval.errors import UsageError

if TYPE_CHECKING:
    import numpy as np

    from app.engines.isolated import IsolatedLLM


@dataclass(frozen=True)
class EmbeddedModel:
    """What to load: a GGUF file or an OpenVINO folder, None being the model that comes with Fathom; a LoRA adapter that
    always works, or several by role, of which one or none does at a time. `cache` keeps the converted model for quicker
    loads; `threads` 0 leaves it to the runtime."""

    model: Path | None = None
    adapter: Path | None = None
    adapters: Mapping[str, Path] = field(default_factory=dict)
    cache: Path | None = None
    threads: int = 0


class EmbeddedSpeaker(Speaker):
    """A model of OpenVINO GenAI; make one with `open_embedded`."""

    def __init__(self, model: LoadedModel, manners: Manners) -> None:
        # The tokenizer cuts off what is longer than it was made for, without a word; beyond that there is no window.
        window = min(model.context_window, _length(model.tokenizer, "a\n" * (model.context_window + 1)))
        self._tokenizer = model.tokenizer
        self._writer = OpenVinoWriter(model.pipeline, model.tokenizer, model.adapters)
        special = [name.decode("utf-8", "replace") for name in self._writer.vocabulary.control.values()]
        roles = [role for role in model.adapters if role is not None]
        super().__init__(model.name, window, self._writer, special, manners, roles)

    def count_tokens(self, text: str) -> int:
        """Tokens of a text, without what a chat template adds."""
        step = max(64, self.context_window // 4)  # characters; see __init__ for why a long text is counted in pieces
        return sum(_length(self._tokenizer, text[i : i + step]) for i in range(0, len(text), step))

    def _ids(self, text: str) -> "np.ndarray":
        import numpy as np

        return np.array(self._tokenizer.encode(text, add_special_tokens=False).input_ids.data, dtype=np.int64)

    def _tokenized(self, text: str) -> list[int]:
        return [int(token) for token in self._ids(text)[0]]

    def _weighed(self, questions: list[list[int]], answers: list[list[int]], role: str | None) -> list[list[float]]:
        # One at a time: together they are read in other pieces, and in bf16 the same prompt then gets another
        # probability (seen: .28 of ln P), for 8 % less time.
        import numpy as np

        return [self._writer.weigh(np.array([ids], dtype=np.int64), answers, role) for ids in questions]

    def _templated(self, messages: list[dict[str, str]]) -> str:
        if not self._tokenizer.chat_template:
            raise UsageError(f"the model {self.name} has no chat template; use an instruction-tuned model")
        return str(self._tokenizer.apply_chat_template(messages, add_generation_prompt=True))


def open_embedded(
    chosen: EmbeddedModel, manners: Manners, tell: Callable[[str], None] = lambda _: None
) -> EmbeddedSpeaker:
    """The model, loaded into this process. `tell` gets a sentence for people before what takes long.

    Raises MissingError, DamagedError, UsageError, FathomError."""
    loaded = load_model(
        chosen.model,
        cache=chosen.cache,
        threads=chosen.threads,
        adapter=chosen.adapter,
        adapters=chosen.adapters,
        tell=tell,
    )
    return EmbeddedSpeaker(loaded, manners)


def load_embedded(
    model: Path | None = None,
    *,
    adapter: Path | None = None,
    adapters: Mapping[str, Path] | None = None,
    cache: Path | None = None,
    threads: int = 0,
    log: Path | None = None,
    tell: Callable[[str], None] = lambda _: None,
    **manners: Any,
) -> "IsolatedLLM":
    """The embedded engine as a LlamaIndex `LLM`, in a process of its own that loads the model in the background.

    See EmbeddedModel for the first five; `manners` are the fields of Manners (max_new_tokens, temperature, limits …);
    `log` is where the process's own words go; `tell` gets a sentence for people where the first call waits long. The
    files are looked at here: raises MissingError, DamagedError, UsageError; what else is wrong with the model the first
    call says.
    """
    from app.engines.isolated import load_isolated

    require_loadable(model, adapter, adapters)
    chosen = EmbeddedModel(model, adapter, dict(adapters or {}), cache, threads)
    return load_isolated("embedded", chosen, manners=Manners(**manners), log=log, tell=tell)


def _length(tokenizer: Any, text: str) -> int:
    return int(tokenizer.encode(text, add_special_tokens=False).input_ids.shape[1])
