"""A model and the old tokens that each new one is made of → the model with rows for the new ones, in both matrices.

It knows no tokenizer and no text.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from retrieval.errors import UsageError

if TYPE_CHECKING:
    import torch


def tied(model: Any) -> bool:
    """Whether the model reads and writes with one matrix."""
    head = model.get_output_embeddings()
    return head is not None and head.weight is model.get_input_embeddings().weight


def add_rows(model: Any, first: int, splits: Sequence[Sequence[int]], *, multiple: int = 1) -> int:
    """Make room for tokens `first` … and set each row to the mean of the rows of its old tokens; returns the rows.

    `splits[i]` are the old ids of token first + i. A matrix that is longer than the tokenizer (Qwen's) gives its spare
    rows first; the rest is appended, rounded up to a multiple only if asked. The output matrix, where it is another
    one, and its bias get their own means. The mean is not rescaled to the norm of a row: in a tied model that more than
    doubled bits per byte (1.10 → 2.84, where the mean gives 1.20 and the default of transformers 1.49).
    Raises UsageError for a model without one input and one output matrix of the same length.
    """
    import torch

    old, head = model.get_input_embeddings(), model.get_output_embeddings()
    rows = old.weight.shape[0]
    if head is None or head.weight.shape[0] != rows or first > rows:
        raise UsageError(
            f"the model's matrices have {rows:,} and {0 if head is None else head.weight.shape[0]:,} rows and its "
            f"tokenizer {first:,} tokens, which do not belong together; give a causal language model with its tokenizer"
        )
    was_tied = tied(model)
    wanted = max(rows, -(-(first + len(splits)) // multiple) * multiple)
    if wanted != rows:
        # Without mean_resizing: every row but the padding is set below, and its covariance of all rows takes minutes.
        model.resize_token_embeddings(wanted, mean_resizing=False)
    with torch.no_grad():
        matrices = [model.get_input_embeddings().weight]
        head = model.get_output_embeddings()
        if not tied(model):
            matrices.append(head.weight)
        if getattr(head, "bias", None) is not None:
            matrices.append(head.bias)
        for matrix in matrices:
            matrix[first : first + len(splits)] = means(matrix, splits)
            if wanted > max(rows, first + len(splits)):  # padding: as likely as the average token, and never a target
                matrix[first + len(splits) :] = matrix[:first].float().mean(0).to(matrix.dtype)
    if tied(model) != was_tied or model.config.get_text_config().vocab_size != wanted:
        raise UsageError("resizing untied this model's matrices or lost its vocabulary size; it cannot be extended")
    return wanted


def means(matrix: "torch.Tensor", splits: Sequence[Sequence[int]]) -> "torch.Tensor":
    """The mean of the named rows, one for each split, computed in fp32 and returned in the matrix's precision."""
    import torch

    return torch.stack([matrix[list(split)].float().mean(0) for split in splits]).to(matrix.dtype)
