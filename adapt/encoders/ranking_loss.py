"""Vectors of questions and of their passages → the loss of ranking each passage first among the batch's.

Multiple negatives ranking (Henderson et al. 2017, arXiv:1705.00652). It knows no model and no text.
"""

from typing import Any


def ranking_loss(queries: Any, passages: Any, allowed: Any, temperature: float) -> Any:
    """Mean of −ln softmax over a row's passages of its own one, a scalar tensor.

    `queries` (n, d) and `passages` (m, d), m ≥ n, are L2-normalised; passage i belongs to question i, those from n on
    are negatives for all. `allowed` (n, m) bool says which passages count against which question: False where one may
    answer it too (the same document, nearly the same text). A question's own always counts.
    """
    import torch

    count = len(queries)
    scores = queries @ passages.T / temperature
    own = torch.eye(count, len(passages), dtype=torch.bool, device=scores.device)
    scores = scores.masked_fill(~(allowed | own), float("-inf"))
    return torch.nn.functional.cross_entropy(scores, torch.arange(count, device=scores.device))
