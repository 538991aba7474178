"""Turns per-query figures into intervals and paired tests; knows nothing of what the figures measure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

RESAMPLES = 10_000


@dataclass(frozen=True, slots=True)
class Interval:
    """A mean over `n` queries with its bootstrap interval `[low, high]`."""

    mean: float
    low: float
    high: float
    n: int


@dataclass(frozen=True, slots=True)
class PairedTest:
    """System b against system a on the same queries. `difference` is mean(b) − mean(a), `p` two-sided."""

    difference: Interval
    p: float


def bootstrap(
    values: Sequence[float], *, confidence: float = 0.95, resamples: int = RESAMPLES, seed: int = 0
) -> Interval:
    """Percentile bootstrap interval of a mean (Efron & Tibshirani 1993, ch. 13), resampling queries.

    Raises ValueError for no values or fewer than 1,000 resamples (the tails would be a handful of draws).
    """
    sample = np.asarray(values, dtype=np.float64)
    if sample.size == 0:
        raise ValueError("an interval needs at least one value")
    if resamples < 1_000:
        raise ValueError(f"{resamples} resamples are too few for an interval; use at least 1,000")
    means = np.empty(resamples)
    generator = np.random.default_rng(seed)
    # Rows in blocks of about a million draws, so that 10,000 resamples of 10,000 queries need no gigabyte.
    block = max(1, 1_000_000 // sample.size)
    for start in range(0, resamples, block):
        rows = min(block, resamples - start)
        drawn = generator.integers(0, sample.size, size=(rows, sample.size))
        means[start : start + rows] = sample[drawn].mean(axis=1)
    tail = (1 - confidence) / 2
    low, high = np.quantile(means, [tail, 1 - tail])
    return Interval(float(sample.mean()), float(low), float(high), int(sample.size))


def paired_test(
    a: Mapping[str, float], b: Mapping[str, float], *, resamples: int = RESAMPLES, seed: int = 0
) -> PairedTest:
    """Fisher's randomisation test on per-query differences (Smucker, Allan & Carterette 2007).

    Under the null hypothesis the two systems' scores of a query may be exchanged, so each difference keeps its size
    and takes a random sign. p counts the observed arrangement too and is never 0. Raises ValueError when the two
    systems were not measured on the same queries.
    """
    if a.keys() != b.keys():
        odd = sorted(a.keys() ^ b.keys())
        raise ValueError(f"a paired test needs the same queries on both sides; {len(odd)} differ, e.g. {odd[0]!r}")
    differences = np.array([b[query] - a[query] for query in sorted(a)], dtype=np.float64)
    interval = bootstrap(differences.tolist(), resamples=resamples, seed=seed)
    observed = abs(differences.sum())
    # A tolerance far below any real difference: sums of equal terms in another order differ in the last bits.
    threshold = observed - 1e-9 * max(1.0, float(np.abs(differences).sum()))
    generator = np.random.default_rng(seed)
    extreme = 0
    block = max(1, 1_000_000 // differences.size)
    for start in range(0, resamples, block):
        rows = min(block, resamples - start)
        signs = generator.integers(0, 2, size=(rows, differences.size), dtype=np.int8) * 2 - 1
        extreme += int(np.count_nonzero(np.abs(signs @ differences) >= threshold))
    return PairedTest(interval, (1 + extreme) / (1 + resamples))
