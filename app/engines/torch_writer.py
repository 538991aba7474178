"""transformers as a Writer: token ids in, token ids out through `generate`, on CPU or GPU."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from app.engines.generating import Sampling

if TYPE_CHECKING:
    import numpy as np


class _CancelledError(Exception):
    """Leaves a forward pass that nobody waits for."""


class TorchWriter:
    """`model.generate` lets the interpreter lock go inside torch's operations. Not for several threads at once."""

    def __init__(self, model: Any, tokenizer: Any, roles: Iterable[str] = ()) -> None:
        """`roles` are names of the adapters that the model of peft has, of which one or none works at a time."""
        from torch.nn import ModuleList
        from transformers import GenerationConfig

        self._model, self._tokenizer = model, tokenizer
        said = getattr(model, "generation_config", None)
        ends = _numbers(getattr(said, "eos_token_id", None)) | _numbers(tokenizer.eos_token_id)
        self._ends = frozenset(ends)
        pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else min(ends, default=None)
        # Nothing else of a model's generation_config.json: transformers would take from it whatever a call leaves open
        # (beams, penalties, sampling), and the file is a stranger's.
        self._config = {"eos_token_id": sorted(ends) or None, "pad_token_id": pad}
        model.generation_config = GenerationConfig(**self._config)
        if hasattr(model, "get_base_model"):  # under virtual tokens peft 0.21 lets the inner model's count
            model.get_base_model().generation_config = GenerationConfig(**self._config)
        self._cancelled: Callable[[], bool] = lambda: False
        self._roles = frozenset(roles)
        lists = [module for module in model.modules() if isinstance(module, ModuleList)]
        for layer in max(lists, key=len, default=()):
            layer.register_forward_pre_hook(self._look)

    def _look(self, *_: Any) -> None:
        """Before every layer: reading a long prompt takes seconds, and is left in the middle."""
        if self._cancelled():
            raise _CancelledError

    @contextmanager
    def under(self, role: str | None) -> Iterator[None]:
        """The model with the adapter of a role, for as long as the block runs; None is without any of them."""
        if not self._roles:
            yield
        elif role is None:
            with self._model.disable_adapter():
                yield
        else:
            self._model.set_adapter(role)
            yield

    def stream(self) -> "TailStream":
        """A fresh decoder for one answer."""
        return TailStream(self._tokenizer)

    def write(
        self,
        ids: "np.ndarray",
        *,
        max_new_tokens: int,
        sampling: Sampling,
        role: str | None = None,
        emit: Callable[[list[int]], None],
        cancelled: Callable[[], bool],
    ) -> None:
        """See Writer."""
        import torch
        from transformers import GenerationConfig, StoppingCriteria, StoppingCriteriaList, set_seed

        ends = self._ends

        class Watch(StoppingCriteria):
            """Called after every token."""

            def __call__(self, written: Any, scores: Any, **_: Any) -> Any:
                token = int(written[0, -1])
                if token not in ends:
                    emit([token])
                return torch.full((len(written),), cancelled(), device=written.device)

        chosen: dict[str, Any] = {"repetition_penalty": sampling.repetition_penalty, "do_sample": False}
        if sampling.temperature > 0:
            set_seed(sampling.seed)
            chosen |= {
                "do_sample": True,
                "temperature": sampling.temperature,
                "top_p": sampling.top_p,
                "top_k": 0,
            }
        if sampling.stop:
            chosen["stop_strings"] = list(sampling.stop)
        given = torch.from_numpy(ids).to(self._model.device)
        self._cancelled = cancelled
        try:
            with self.under(role), torch.inference_mode():
                self._model.generate(
                    input_ids=given,
                    attention_mask=torch.ones_like(given),
                    generation_config=GenerationConfig(max_new_tokens=max_new_tokens, **self._config, **chosen),
                    stopping_criteria=StoppingCriteriaList([Watch()]),
                    tokenizer=self._tokenizer if sampling.stop else None,
                )
        except _CancelledError:
            return
        finally:
            self._cancelled = lambda: False


class TailStream:
    """Feed token ids, get the text that is complete so far, as the tokenizer itself decodes it in its context."""

    def __init__(self, tokenizer: Any) -> None:
        from tokenizers.decoders import DecodeStream

        self._tokenizer = tokenizer.backend_tokenizer
        self._stream = DecodeStream(skip_special_tokens=True)

    def feed(self, ids: list[int]) -> str:
        return "".join(self._stream.step(self._tokenizer, i) or "" for i in ids)

    def end(self) -> str:
        """A character that the model never finished is dropped."""
        return ""


def _numbers(value: Any) -> set[int]:
    if value is None:
        return set()
    return {int(item) for item in value} if isinstance(value, list | tuple) else {int(value)}
