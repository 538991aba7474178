"""Figures by item → sums over what is drawn together → the same sums of many resamples. It knows no test and no mean.

A mean is a ratio too, of the sum of its values and their number, so that means, clustered means, means over the items
that have a value, and bits per byte need no cases of their own.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.special import ndtr, stdtrit

BLOCK = 1 << 18
"""Draws held at once: 2 MB of counts stay in a core's cache and bound the memory whatever the number of resamples."""
LARGEST = 1e150
"""No measurement is larger, and sums of larger figures would overflow."""
Array = npt.NDArray[np.float64]
Figures = Mapping[str, Mapping[str, Any]]
"""`figures[metric][item]`: whatever `as_pair` understands."""


def as_pair(value: Any) -> tuple[float, float] | None:
    """(numerator, denominator) of a figure; None for what is missing, not finite or no number at all."""
    above, below = value if isinstance(value, tuple | list) and len(value) == 2 else (value, 1.0)
    try:
        pair = float(above), float(below)
    except (TypeError, ValueError, OverflowError):  # None, or what a damaged record holds
        return None
    return pair if abs(pair[0]) <= LARGEST and abs(pair[1]) <= LARGEST else None  # false for NaN


def units_of(table: Figures, clusters: Mapping[str, str] | None) -> dict[str, int]:
    """item → the number of what is drawn with it. Sorted, so that draws do not depend on the order of the records."""
    clusters = clusters or {}
    numbers: dict[tuple[bool, str], int] = {}
    return {
        # A cluster may bear the name of an item.
        item: numbers.setdefault((item in clusters, clusters.get(item, item)), len(numbers))
        for item in sorted({item for values in table.values() for item in values})
    }


@dataclass(frozen=True, slots=True)
class Sums:
    """Numerators and denominators by unit and metric, (units, metrics); 0 where a metric has no value.

    `filled` says which units have any part in the figure (0 of 0 has none), `count` how many items have a value.
    """

    above: Array
    below: Array
    filled: npt.NDArray[np.bool_]
    count: npt.NDArray[np.int64]

    @classmethod
    def of(cls, table: Figures, units: Mapping[str, int]) -> "Sums":
        shape = (max(units.values(), default=-1) + 1, len(table))
        sums = cls(np.zeros(shape), np.zeros(shape), np.zeros(shape, dtype=bool), np.zeros(len(table), dtype=np.int64))
        for column, values in enumerate(table.values()):
            told = [(units[item], pair) for item, value in values.items() if (pair := as_pair(value)) is not None]
            rows = np.array([row for row, _ in told], dtype=np.int64)
            pairs = np.array([pair for _, pair in told], dtype=np.float64).reshape(-1, 2)
            np.add.at(sums.above[:, column], rows, pairs[:, 0])
            np.add.at(sums.below[:, column], rows, pairs[:, 1])
            sums.filled[rows[pairs.any(axis=1)], column] = True
            sums.count[column] = len(told)
        return sums


def resampled(units: Array, resamples: int, seed: int) -> Array:
    """Sums of `units` (n, columns) over `resamples` draws of n with replacement: (resamples, columns).

    Counting how often each unit was drawn makes it a matrix product: 10,000 × 10,000 draws of ten ratios take seconds
    where gathering the values takes a minute.
    """
    if resamples < 1_000:
        raise ValueError(f"{resamples} resamples are too few for an interval; use at least 1,000")
    size, columns = units.shape
    sums = np.zeros((resamples, columns))
    if not units.size:
        return sums
    generator = np.random.default_rng(seed)
    step = max(1, BLOCK // size)
    for start in range(0, resamples, step):
        rows = min(step, resamples - start)
        drawn = generator.integers(0, size, size=(rows, size))
        drawn += np.arange(0, rows * size, size)[:, None]
        counts = np.bincount(drawn.ravel(), minlength=rows * size).reshape(rows, size)
        sums[start : start + rows] = counts.astype(np.float64) @ units
    return sums


def divided(above: Array, below: Array) -> Array:
    """above / below, NaN where there is nothing to divide by."""
    return np.divide(above, below, out=np.full_like(above, np.nan), where=below != 0)


def ratio(above: float, below: float) -> float | None:
    return float(above / below) if below else None


def bounds(drawn: Array, units: int, confidence: float) -> tuple[float, float] | tuple[None, None]:
    """Quantiles of the drawn figures, at tails that make up for few units.

    The plain percentile interval is too narrow by sqrt((n − 1)/n) and takes z where t belongs; moving the tails mends
    both ("expanded percentile", Hesterberg 2015, The American Statistician 69:371).
    """
    told = drawn[np.isfinite(drawn)]
    if units < 2 or not told.size:
        return None, None
    tail = float(ndtr(math.sqrt(units / (units - 1)) * stdtrit(units - 1, (1 - confidence) / 2)))
    low, high = np.quantile(told, [tail, 1 - tail])
    return float(low), float(high)


def unanimous(value: float, units: int, confidence: float) -> tuple[float, float] | tuple[None, None]:
    """All right or all wrong: every resample is the sample again, yet 20 of 20 does not prove 100 %.

    The exact binomial bound (Clopper & Pearson 1934) of `units` equal outcomes.
    """
    if units < 2:
        return None, None
    bound = ((1 - confidence) / 2) ** (1 / units)
    return (bound, 1.0) if value else (0.0, 1 - bound)
