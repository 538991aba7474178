"""Ranked lists in, one ranked list out. Scores are always "higher is better"."""

from collections.abc import Mapping, Sequence


def min_max(scores: Mapping[int, float]) -> dict[int, float]:
    """Scale to [0, 1] by this list's own minimum and maximum; a list of equal scores becomes all 1."""
    if not scores:
        return {}
    low, high = min(scores.values()), max(scores.values())
    if high <= low:
        return dict.fromkeys(scores, 1.0)
    return {key: (value - low) / (high - low) for key, value in scores.items()}


def convex(dense: Mapping[int, float], lexical: Mapping[int, float], dense_weight: float) -> dict[int, float]:
    """`w · minmax(dense) + (1 − w) · minmax(lexical)`, Bruch et al. 2023 (arXiv:2210.11934).

    A passage that a leg did not score counts 0 there. Chosen over reciprocal rank fusion because it keeps how far
    apart the scores are; docs/results.md has both on our sets.
    """
    scaled_dense, scaled_lexical = min_max(dense), min_max(lexical)
    return {
        key: dense_weight * scaled_dense.get(key, 0.0) + (1.0 - dense_weight) * scaled_lexical.get(key, 0.0)
        for key in scaled_dense.keys() | scaled_lexical.keys()
    }


def reciprocal_rank(
    lists: Sequence[Sequence[int]], *, weights: Sequence[float] | None = None, k: float = 10.0
) -> dict[int, float]:
    """Weighted reciprocal rank fusion, ranks from 1 (Cormack et al. 2009), for more than two lists.

    Raises ValueError where there is not one weight for each list.
    """
    weights = [1.0] * len(lists) if weights is None else weights
    if len(weights) != len(lists):
        raise ValueError(f"{len(lists)} lists but {len(weights)} weights")
    fused: dict[int, float] = {}
    for ranking, weight in zip(lists, weights, strict=True):
        for rank, key in enumerate(ranking, start=1):
            fused[key] = fused.get(key, 0.0) + weight / (k + rank)
    return fused


def ranked(scores: Mapping[int, float], k: int) -> list[tuple[int, float]]:
    """The k best, best first; equal scores go to the smaller id, so that a ranking never depends on chance."""
    return sorted(scores.items(), key=lambda item: (-item[1], item[0]))[:k]
