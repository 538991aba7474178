"""A frozen model whose new rows alone can be trained: the rows as small matrices of their own, put in place as it runs.

It knows no text, no loss and no optimizer.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from adapt.vocabulary.rows import tied

if TYPE_CHECKING:
    import torch


class NewRows:
    """Rows `first` … of a model's matrices. `input` is float32 of (new tokens, width); `output` the same, and the same
    object where the model ties them.

    Nothing old is trained, so neither a gradient nor a state of the optimizer is ever made for the old rows: a gradient
    of the whole matrix, with all but a few rows masked, would take 1.5 GB for a model of 4 B.
    """

    def __init__(self, model: Any, first: int, count: int) -> None:
        import torch

        self.model, self.first, self.count = model, first, count
        model.requires_grad_(False)
        self.tied = tied(model)
        self.hidden: torch.Tensor | None = None
        """What the output matrix was given last: the model's last hidden states."""
        inside, outside = model.get_input_embeddings().weight, model.get_output_embeddings().weight
        self.input = torch.nn.Parameter(inside[first : first + count].detach().float().clone())
        self.output = (
            self.input if self.tied else torch.nn.Parameter(outside[first : first + count].detach().float().clone())
        )

    def parameters(self) -> "dict[str, torch.Tensor]":
        """What there is to train, by name."""
        return {"input": self.input} if self.tied else {"input": self.input, "output": self.output}

    @contextmanager
    def in_place(self) -> "Iterator[None]":
        """The model runs with these rows, and gradients reach them."""
        reading, writing = self.model.get_input_embeddings(), self.model.get_output_embeddings()
        hooks = [reading.register_forward_hook(self._read), writing.register_forward_hook(self._write)]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()
            self.hidden = None

    def write_back(self) -> None:
        """The rows into the model's matrices, in their precision."""
        import torch

        end = self.first + self.count
        with torch.no_grad():
            inside = self.model.get_input_embeddings().weight
            inside[self.first : end] = self.input.to(inside.dtype)
            if not self.tied:
                outside = self.model.get_output_embeddings().weight
                outside[self.first : end] = self.output.to(outside.dtype)

    def _read(self, module: Any, arguments: tuple[Any, ...], read: "torch.Tensor") -> "torch.Tensor":
        ids = arguments[0]
        new = (ids >= self.first) & (ids < self.first + self.count)
        return read.index_put((new,), self.input[ids[new] - self.first].to(read.dtype))

    def _write(self, module: Any, arguments: tuple[Any, ...], logits: "torch.Tensor") -> "torch.Tensor":
        import torch

        self.hidden = arguments[0]
        end = self.first + self.count
        bias = None if module.bias is None else module.bias[self.first : end]
        new = torch.nn.functional.linear(arguments[0], self.output.to(arguments[0].dtype), bias)
        return torch.cat((logits[..., : self.first], new.to(logits.dtype), logits[..., end:]), dim=-1)
