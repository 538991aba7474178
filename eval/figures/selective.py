"""Confidences and losses of answers → the risk–coverage curve, its area with an interval, thresholds. Knows no model.

Coverage c is the share of answers kept when the least confident are withheld; risk is the mean loss of those kept
(El-Yaniv & Wiener 2010; Geifman & El-Yaniv 2017).
"""

from collections.abc import Hashable, Sequence
from typing import Any

import numpy as np

RESAMPLES = 1_000
RISKS = (0.05, 0.1, 0.2)
POINTS = 200
"""Points of a curve that are kept for plots."""

Array = np.ndarray[Any, np.dtype[np.float64]]


def selective_risks(confidence: Sequence[float], loss: Sequence[float]) -> Array:
    """Risk at coverage 1/n, 2/n … 1. Among equal confidences the risk is what a random order gives on average, so that
    no order in a file decides. Raises ValueError for unequal lengths, none at all, or what is not finite."""
    scores, losses = _checked(confidence, loss)
    return _risks(scores, losses)


def _risks(scores: Array, losses: Array) -> Array:
    order = np.argsort(-scores, kind="stable")
    ranked, paid = scores[order], losses[order]
    _, inverse, counts = np.unique(-ranked, return_inverse=True, return_counts=True)
    # The mean loss of a group of ties in each of its places: the expectation over all orders of the group.
    paid = (np.bincount(inverse, weights=paid) / counts)[inverse]
    return np.asarray(np.cumsum(paid) / np.arange(1, len(paid) + 1), dtype=np.float64)


def aurc(confidence: Sequence[float], loss: Sequence[float]) -> float:
    """Area under the risk–coverage curve: the mean of the risks at all coverages. Lower is better."""
    return float(selective_risks(confidence, loss).mean())


def excess_aurc(confidence: Sequence[float], loss: Sequence[float]) -> float:
    """AURC above that of a confidence which puts every smaller loss first (E-AURC, Geifman, Uziel & El-Yaniv 2019):
    what the confidence costs, apart from how often the answers are wrong. 0 is best."""
    scores, losses = _checked(confidence, loss)
    return float(_risks(scores, losses).mean() - _risks(-losses, losses).mean())


def separation(confidence: Sequence[float], right: Sequence[bool]) -> float | None:
    """Chance that a right one is more confident than a wrong one (AUROC; ties count half). None without both kinds."""
    chosen = np.asarray(right, dtype=bool)
    positives, negatives = int(chosen.sum()), int((~chosen).sum())
    if not positives or not negatives:
        return None
    _, inverse, counts = np.unique(np.asarray(confidence, dtype=np.float64), return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[inverse]  # the mean rank of a group of ties
    return float((ranks[chosen].sum() - positives * (positives + 1) / 2) / (positives * negatives))


def risk_coverage(
    confidence: Sequence[float],
    loss: Sequence[float],
    *,
    clusters: Sequence[Hashable] | None = None,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> dict[str, Any]:
    """Everything a report shows of selective answering, ready for JSON.

    `AURC`, `E-AURC` and `AURC_interval` (95 %, percentile bootstrap over `clusters`), `coverage` and `risk` (the curve,
    at most POINTS points), and `thresholds`: for each of RISKS the lowest confidence that keeps the risk below it on
    these very answers, with the coverage it leaves. Such a threshold is fitted: confirm it on other questions.
    """
    scores, losses = _checked(confidence, loss)
    risks = _risks(scores, losses)
    n = len(risks)
    shown = np.unique(np.linspace(0, n - 1, min(n, POINTS)).round().astype(int))
    return {
        "n": n,
        "AURC": float(risks.mean()),
        "AURC_interval": _interval(scores, losses, clusters, resamples, seed),
        "E-AURC": float(risks.mean() - _risks(-losses, losses).mean()),
        "coverage": [round((i + 1) / n, 4) for i in shown.tolist()],
        "risk": [round(float(risks[i]), 4) for i in shown],
        "thresholds": [_threshold(scores, risks, limit) for limit in RISKS],
    }


def _interval(
    scores: Array, losses: Array, clusters: Sequence[Hashable] | None, resamples: int, seed: int
) -> list[float]:
    members: dict[Hashable, list[int]] = {}
    for index in range(len(scores)):
        members.setdefault(index if clusters is None else clusters[index], []).append(index)
    groups = [np.asarray(found) for found in members.values()]
    generator = np.random.default_rng(seed)
    areas = np.empty(resamples)
    for sample in range(resamples):
        drawn = np.concatenate([groups[i] for i in generator.integers(0, len(groups), len(groups))])
        areas[sample] = _risks(scores[drawn], losses[drawn]).mean()
    low, high = np.quantile(areas, [0.025, 0.975])
    return [float(low), float(high)]


def _threshold(scores: Array, risks: Array, limit: float) -> dict[str, float | None]:
    ranked = np.sort(scores)[::-1]
    # A threshold cannot cut between equal confidences: only the last of a group is a place to stop.
    ends = np.append(ranked[1:] < ranked[:-1], True)
    kept = np.flatnonzero(ends & (risks <= limit))
    if not kept.size:
        return {"risk": limit, "confidence": None, "coverage": 0.0}
    last = int(kept[-1])
    return {"risk": limit, "confidence": float(ranked[last]), "coverage": (last + 1) / len(risks)}


def _checked(confidence: Sequence[float], loss: Sequence[float]) -> tuple[Array, Array]:
    scores, losses = np.asarray(confidence, dtype=np.float64), np.asarray(loss, dtype=np.float64)
    if scores.shape != losses.shape or scores.ndim != 1:
        raise ValueError(f"{scores.size} confidences and {losses.size} losses; there must be one of each per answer")
    if not scores.size:
        raise ValueError("a risk–coverage curve needs at least one answer")
    if not (np.isfinite(scores).all() and np.isfinite(losses).all()):
        raise ValueError("a confidence or a loss is not finite")
    return scores, losses
