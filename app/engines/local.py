"""The local engine: any language model of transformers on this machine's CPU or GPU, in 4 bits and under an adapter of
peft if so wished, with its probabilities.

It runs in a child process (worker.py). Slower than the embedded engine on a CPU; it is for what that one cannot:
models without a GGUF, adapters, CUDA, logits.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from app.engines.speaker import Manners, Speaker
from app.engines.torch_writer import TorchWriter
from eval.models.chat_prompts import special_tokens
from eval.models.language_models import judge_adapter, load_parts, locate
from retrieval.errors import UsageError

if TYPE_CHECKING:
    import numpy as np

    from app.engines.isolated import IsolatedLLM
    from eval.models.likelihood import TransformersModel

UNKNOWN_CONTEXT = 4096


@dataclass(frozen=True)
class LocalModel:
    """What to load: a folder with safetensors, OWNER/NAME of the hub, or a GGUF file, None being the model that comes
    with Fathom; an adapter of peft for it. `precision` auto is fp32 on a CPU and bf16 on a GPU."""

    model: str | None = None
    adapter: Path | None = None
    adapters: Mapping[str, Path] = field(default_factory=dict)
    """LoRA adapters by role, of which one or none works at a time."""
    cache: Path | None = None
    threads: int = 0
    device: str = "auto"
    precision: str = "auto"
    download: bool = False
    """Whether a model that is not on this machine may be fetched from the hub."""


class LocalSpeaker(Speaker):
    """A model of transformers; make one with `open_local`."""

    weighed_at_once = 32

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        *,
        name: str,
        precision: str,
        manners: Manners,
        roles: Sequence[str] = (),
    ) -> None:
        if not getattr(tokenizer, "is_fast", False):
            raise UsageError(f"the model '{name}' has no fast tokenizer (tokenizer.json); use another")
        self._model, self._tokenizer, self._precision = model, tokenizer, precision
        self._writer = TorchWriter(model, tokenizer, roles)
        window = _window(model, tokenizer)
        super().__init__(name, window, self._writer, special_tokens(tokenizer), manners, roles)

    def count_tokens(self, text: str) -> int:
        """Tokens of a text, without what a chat template adds."""
        return len(self._tokenized(text))

    def _tokenized(self, text: str) -> list[int]:
        return list(self._tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])

    def _ids(self, text: str) -> "np.ndarray":
        import numpy as np

        return np.array([self._tokenized(text)], dtype=np.int64)

    def _templated(self, messages: list[dict[str, str]]) -> str:
        if not self._tokenizer.chat_template:
            raise UsageError(f"the model {self.name} has no chat template; use an instruction-tuned model")
        # `enable_thinking` is a word of Qwen3's template and unknown to others: an answer is wanted, not its drafts.
        return str(
            self._tokenizer.apply_chat_template(
                messages, tokenize=False, add_generation_prompt=True, enable_thinking=False
            )
        )

    @cached_property
    def _likelihood(self) -> "TransformersModel":
        from eval.models.likelihood import TransformersModel

        return TransformersModel(
            self._model, self._tokenizer, name=self.name, weights=self.name, precision=self._precision
        )

    def _weighed(self, questions: list[list[int]], answers: list[list[int]], role: str | None) -> list[list[float]]:
        """Answers of one token each cost one pass for a question, questions of like length together; longer ones are
        summed over their tokens."""
        with self._writer.under(role):
            if all(len(answer) == 1 for answer in answers):
                found = self._likelihood.next_logprobs(questions, [answer[0] for answer in answers])
                return [[float(value) for value in row] for row in found]
            rows = []
            for question in questions:
                told = self._likelihood.branches(
                    [[*question, *answer] for answer in answers], since=[len(question)] * len(answers)
                )
                rows.append([float(row[len(question) :].sum()) for row in told])
            return rows


def open_local(chosen: LocalModel, manners: Manners) -> LocalSpeaker:
    """The model, loaded into this process. Raises MissingError, UsageError, DamagedError."""
    from retrieval.embedding.load import EmbeddingSettings

    _require_one(chosen.adapter, chosen.adapters)
    place = locate(chosen.model, chosen.adapter, download=chosen.download)
    if chosen.threads:
        import torch

        torch.set_num_threads(chosen.threads)
    cache = chosen.cache or EmbeddingSettings().cache_folder()
    model, tokenizer, precision = load_parts(
        place, cache=cache, device=chosen.device, precision=chosen.precision, roles=chosen.adapters
    )
    roles = tuple(chosen.adapters)
    return LocalSpeaker(model, tokenizer, name=place.name, precision=precision, manners=manners, roles=roles)


def load_local(
    model: str | None = None,
    *,
    adapter: Path | None = None,
    adapters: Mapping[str, Path] | None = None,
    cache: Path | None = None,
    log: Path | None = None,
    threads: int = 0,
    device: str = "auto",
    precision: str = "auto",
    download: bool = False,
    **manners: Any,
) -> "IsolatedLLM":
    """The local engine as a LlamaIndex `LLM`, in a process of its own that loads the model in the background.

    See LocalModel; `manners` are the fields of Manners (max_new_tokens, temperature, limits …); `log` is where the
    process's own words go. The files are looked at here, unless they may have to be fetched: raises MissingError,
    UsageError, DamagedError; what else is wrong with the model the first call says.
    """
    from app.engines.isolated import load_isolated

    roles = dict(adapters or {})
    _require_one(adapter, roles)
    for one in roles.values():
        judge_adapter(one)
    if not download:
        locate(model, adapter, download=False)
    chosen = LocalModel(model, adapter, roles, cache, threads, device, precision, download)
    return load_isolated("local", chosen, manners=Manners(**manners), log=log)


def _require_one(adapter: Path | None, adapters: Mapping[str, Path]) -> None:
    if adapter is not None and adapters:
        raise UsageError("an adapter that always works and adapters by role exclude each other; give one of them")


def _window(model: Any, tokenizer: Any) -> int:
    """Tokens of prompt and answer together, beside those that an adapter puts before them."""
    from eval.models.likelihood import virtual_tokens

    config = model.config.get_text_config()
    for said in (getattr(config, "max_position_embeddings", None), tokenizer.model_max_length):
        if isinstance(said, int) and 0 < said < 1 << 30:
            return said - virtual_tokens(model)
    return UNKNOWN_CONTEXT
