"""How far a judge agrees with people, with intervals, and what its mean is worth once they have corrected it.

It takes paired labels and numbers; it knows no judge, no prompt and no metric.
"""

from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from scipy.special import stdtrit  # type: ignore[import-untyped]

Weights = Literal["linear", "quadratic"]
Array = npt.NDArray[np.float64]
_BLOCK = 4_000_000
"""Numbers drawn at a time, so that 10,000 resamples of 10,000 clusters need no gigabyte."""


@dataclass(frozen=True, slots=True)
class Agreement:
    """Two raters over the same `n` items. `table[i][j]` counts items that `people` call `classes[i]` and `judge` calls
    `classes[j]`.

    kappa     Cohen's κ, chance-corrected agreement, None where both raters gave one and the same class throughout
    low, high percentile bootstrap interval of κ; None where κ is None in nearly every resample
    ac1       Gwet's AC1, which stays meaningful where one class is rare and κ falls although raters agree
    precision, recall  per class, people's labels taken as the truth; None where nothing was called or is of the class
    """

    n: int
    classes: tuple[str, ...]
    table: tuple[tuple[int, ...], ...]
    observed: float
    kappa: float | None
    low: float | None
    high: float | None
    ac1: float | None
    precision: Mapping[str, float | None]
    recall: Mapping[str, float | None]

    def to_json(self) -> dict[str, Any]:
        """Ready for JSON: counts as they are, shares to four digits, `interval` [low, high]."""
        return {
            "n": self.n,
            "classes": list(self.classes),
            "table": [list(row) for row in self.table],
            "agreement": _rounded(self.observed),
            "kappa": _rounded(self.kappa),
            "interval": [_rounded(self.low), _rounded(self.high)],
            "ac1": _rounded(self.ac1),
            "precision": {name: _rounded(value) for name, value in self.precision.items()},
            "recall": {name: _rounded(value) for name, value in self.recall.items()},
        }


def agreement(
    people: Sequence[Hashable],
    judge: Sequence[Hashable],
    *,
    classes: Sequence[Hashable] | None = None,
    clusters: Sequence[str] | None = None,
    weights: Weights | None = None,
    resamples: int = 10_000,
    confidence: float = 0.95,
    seed: int = 0,
) -> Agreement:
    """Agreement of a judge with people, item by item.

    `classes` fixes the order, which weighted κ needs (else: sorted). Items that share a cluster (claims of one
    document) are resampled together. Raises ValueError for nothing to compare, unequal lengths or an unknown class.
    """
    if len(people) != len(judge) or (clusters is not None and len(clusters) != len(people)):
        raise ValueError(f"{len(people)} labels of people do not pair with {len(judge)} of the judge")
    if not people:
        raise ValueError("agreement needs at least one item that both have labelled")
    names = list(classes) if classes is not None else sorted({*people, *judge}, key=str)
    place = {name: number for number, name in enumerate(names)}
    strangers = {*people, *judge} - place.keys()
    if strangers:
        raise ValueError(f"unknown class {sorted(map(str, strangers))[0]!r}; known are {', '.join(map(str, names))}")
    size = len(names)
    groups = {name: number for number, name in enumerate(dict.fromkeys(clusters or map(str, range(len(people)))))}
    counts = np.zeros((len(groups), size, size))
    for number, (truth, said) in enumerate(zip(people, judge, strict=True)):
        group = groups[clusters[number]] if clusters is not None else number
        counts[group, place[truth], place[said]] += 1
    whole = counts.sum(axis=0)
    low, high = _interval(counts, weights, resamples, confidence, seed)
    labels = tuple(map(str, names))
    kappa = float(_kappa(whole[None], weights)[0])
    return Agreement(
        n=len(people),
        classes=labels,
        table=tuple(tuple(int(cell) for cell in row) for row in whole),
        observed=float(np.trace(whole) / len(people)),
        kappa=None if np.isnan(kappa) else kappa,
        low=low,
        high=high,
        ac1=gwet_ac1(whole),
        precision={name: _share(whole[i, i], whole[:, i].sum()) for i, name in enumerate(labels)},
        recall={name: _share(whole[i, i], whole[i].sum()) for i, name in enumerate(labels)},
    )


def cohen_kappa(table: Sequence[Sequence[float]] | Array, weights: Weights | None = None) -> float | None:
    """κ = 1 − observed disagreement / disagreement by chance (Cohen 1960; weighted: Cohen 1968).

    `weights` count a disagreement by the distance of the classes, "linear", or its square. None where chance alone
    cannot disagree.
    """
    value = float(_kappa(np.asarray(table, dtype=np.float64)[None], weights)[0])
    return None if np.isnan(value) else value


def gwet_ac1(table: Sequence[Sequence[float]] | Array) -> float | None:
    """AC1 of a square table of counts (Gwet 2008, Br J Math Stat Psychol 61). None for fewer than two classes."""
    counts = np.asarray(table, dtype=np.float64)
    total, size = counts.sum(), len(counts)
    if size < 2 or not total:
        return None
    mean = (counts.sum(axis=0) + counts.sum(axis=1)) / (2 * total)
    chance = float((mean * (1 - mean)).sum() / (size - 1))
    return float((np.trace(counts) / total - chance) / (1 - chance))


def _kappa(tables: Array, weights: Weights | None) -> Array:
    """κ of each (size, size) table of counts in a stack; NaN where it is undefined."""
    size = tables.shape[-1]
    if weights is None:
        cost = 1.0 - np.eye(size)
    else:
        distance = np.abs(np.subtract.outer(np.arange(size), np.arange(size))).astype(np.float64)
        cost = distance if weights == "linear" else distance**2
    totals = tables.sum(axis=(1, 2))
    chance = (tables.sum(axis=2)[:, :, None] * tables.sum(axis=1)[:, None, :] * cost).sum(axis=(1, 2)) / totals
    seen = (tables * cost).sum(axis=(1, 2))
    defined = chance > 0
    return np.where(defined, 1 - seen / np.where(defined, chance, 1.0), np.nan)


def _interval(
    counts: Array, weights: Weights | None, resamples: int, confidence: float, seed: int
) -> tuple[float | None, float | None]:
    """Percentile bootstrap over clusters: a draw is how often each cluster occurs, so its table is one product."""
    groups, size, _ = counts.shape
    if groups < 2:
        return None, None
    flat = counts.reshape(groups, -1)
    generator = np.random.default_rng(seed)
    values: list[Array] = []
    done = 0
    while done < resamples:
        rows = min(max(1, _BLOCK // groups), resamples - done)
        drawn = generator.multinomial(groups, np.full(groups, 1 / groups), size=rows).astype(np.float64)
        values.append(_kappa((drawn @ flat).reshape(rows, size, size), weights))
        done += rows
    found = np.concatenate(values)
    found = found[~np.isnan(found)]
    # A resample in which everybody always says the same has no κ. Few of them are the tail of a rare class; many mean
    # that the data cannot tell.
    if found.size < resamples / 2:
        return None, None
    tail = (1 - confidence) / 2
    low, high = np.quantile(found, [tail, 1 - tail])
    return float(low), float(high)


@dataclass(frozen=True, slots=True)
class CorrectedMean:
    """The mean that people would have given, from a judge's word on `n` items and people's on `labelled` of them.

    `judged` is the judge's own mean, `bias` what people's labels say it is off by, `power` the weight the judge got:
    1 trusts it fully, 0 leaves people's labels alone.
    """

    mean: float
    low: float
    high: float
    judged: float
    bias: float
    power: float
    labelled: int
    n: int


def corrected_mean(
    labels: Sequence[float],
    judged: Sequence[float],
    unlabelled: Sequence[float],
    *,
    confidence: float = 0.95,
    power: float | None = None,
) -> CorrectedMean:
    """Prediction-powered estimate of a mean (Angelopoulos et al., Science 382, 2023; power tuning: arXiv 2311.01453).

    `labels[i]` and `judged[i]` are people's and the judge's word on the same item, `unlabelled` the judge's on the
    rest; all are in [0, 1]. The interval holds whatever the judge is like, as long as the labelled items are a random
    sample of all; with `power` None the judge's weight is what makes it shortest, so a useless judge costs nothing.
    Raises ValueError for unequal lengths, fewer than two labels or values that are not finite.
    """
    truth, said, rest = (np.asarray(values, dtype=np.float64) for values in (labels, judged, unlabelled))
    if truth.size != said.size:
        raise ValueError(f"{truth.size} labels do not pair with {said.size} judgements")
    if truth.size < 2:
        raise ValueError(f"a corrected mean needs at least two labels; {truth.size} given")
    if not all(np.isfinite(values).all() for values in (truth, said, rest)):
        raise ValueError("labels and judgements must be finite numbers; leave out what could not be told")
    n, m = truth.size, rest.size
    everything = np.concatenate([said, rest])
    if power is None:
        spread = float(everything.var(ddof=1))
        shared = float(np.cov(truth, said, ddof=1)[0, 1])
        power = float(np.clip(shared / ((1 + n / m) * spread), 0.0, 1.0)) if m and spread > 0 else 0.0
    elif not m:
        power = 0.0
    mean = float((truth - power * said).mean()) + (power * float(rest.mean()) if m else 0.0)
    corrections = truth - power * said
    # A judge that errs on one item in ten is right on all of 15 in a fifth of the draws, and the plain interval is then
    # far too sure (81 % coverage in simulation). One imagined item a full label off the mean keeps it honest (97 %);
    # among 100 labels it adds a few per cent of width.
    variance = (float(corrections.var(ddof=0)) * n + 1.0) / n**2
    if m > 1:
        variance += power**2 * float(rest.var(ddof=1)) / m
    reach = float(stdtrit(n - 1, (1 + confidence) / 2)) * variance**0.5
    return CorrectedMean(
        mean=mean,
        low=mean - reach,
        high=mean + reach,
        judged=float(everything.mean()),
        bias=float((said - truth).mean()),
        power=power,
        labelled=int(n),
        n=int(n + m),
    )


def majority(labels: Sequence[int]) -> int:
    """What most say; of a tie, the stricter 0. For items that several people have labelled."""
    counts = Counter(labels)
    return int(counts[1] > counts[0])


def _share(part: float, whole: float) -> float | None:
    return float(part / whole) if whole else None


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 4)
