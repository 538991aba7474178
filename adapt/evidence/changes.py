"""Two measurements on the same texts and questions → what changed, item by item, with intervals.

It measures nothing, and it knows no limit that a change should keep.
"""

from collections.abc import Mapping
from typing import Any, Literal

from adapt.evidence.measuring import Measurement
from eval.figures.resampling import as_pair
from eval.figures.statistics import Estimate, Table, clusters_of, estimates, paired, table_of
from eval.forgetting import Change, forgetting_table
from eval.runs.parts import Record
from retrieval.errors import UsageError

_Side = tuple[Mapping[str, str], Mapping[str, Record], Mapping[str, Record]]
"""Figure → metric, records of the base, records after."""


def compare(base: Measurement, after: Measurement, *, seed: int = 0) -> dict[str, Change]:
    """Every figure of both ("domain bits_per_byte"), paired by document or question; see `forgetting_table`.

    Raises UsageError where the two are not comparable: other texts, or another precision.
    """
    changes: dict[str, Change] = {}
    for names, before, now in _sides(base, after):
        table = {change.metric: change for change in forgetting_table(before, now, seed=seed)}
        changes |= {figure: table[metric] for figure, metric in names.items() if metric in table}
    return changes


def change_of(
    base: Measurement,
    after: Measurement,
    figure: str,
    against: Literal["value", "difference", "percent"],
    *,
    confidence: float = 0.95,
    seed: int = 0,
) -> Estimate | None:
    """One figure after a stage, its difference to the base, or the difference as a share of the base's figure.

    None where the figure is in neither. The share is Σ(b − a) / Σ a over the items, whose bytes are the same for both,
    and its interval the bootstrap of that ratio. Raises UsageError as `compare`.
    """
    for names, before, now in _sides(base, after):
        if figure not in names:
            continue
        metric = names[figure]
        left, right, clusters = _only(before, metric), _only(now, metric), clusters_of(now)
        if against == "value":
            return estimates(right, clusters=clusters, confidence=confidence, seed=seed)[metric]
        if against == "difference":
            return paired(left, right, clusters=clusters, confidence=confidence, seed=seed)[metric].difference
        ratio: dict[str, tuple[float, float]] = {}
        for item, value in left[metric].items():
            one, other = as_pair(value), as_pair(right[metric].get(item))
            if one is not None and other is not None:
                ratio[item] = (other[0] - one[0], one[0])
        return estimates({metric: ratio}, clusters=clusters, confidence=confidence, seed=seed)[metric]
    return None


def _only(records: Mapping[str, Record], metric: str) -> Table:
    return {metric: table_of(records).get(metric, {})}


def _sides(base: Measurement, after: Measurement) -> list[_Side]:
    """Those of the texts and those of the questions.

    Raises UsageError where the two measurements are of different texts or precisions.
    """
    if base.precision != after.precision:
        raise UsageError(
            f"'{base.label}' was measured in {base.precision} and '{after.label}' in {after.precision}, whose figures "
            "differ by more than some changes; measure both in one precision"
        )
    other = sorted(label for label, digest in base.data.items() if after.data.get(label) != digest)
    if other or base.data.keys() != after.data.keys():
        odd = ", ".join(other or sorted(base.data.keys() ^ after.data.keys()))
        raise UsageError(
            f"'{base.label}' and '{after.label}' were not measured on the same texts ({odd}); measure both again"
        )
    sides: list[_Side] = []
    for kind, names in base.names().items():
        before, now = base.records[kind], after.records.get(kind, {})
        if before.keys() != now.keys():
            items = sorted(before.keys() ^ now.keys())
            raise UsageError(
                f"'{base.label}' and '{after.label}' were not measured on the same {kind}: {len(items)} items differ, "
                f"for example {items[0][:80]!r}; measure both again"
            )
        sides.append((names, before, now))
    return sides


def figures_with_changes(base: Measurement, after: Measurement, *, seed: int = 0) -> dict[str, dict[str, Any]]:
    """Each figure of `after` beside the base's, as JSON: what a model's manifest and a report hold of it.

    `value, low, high` are after, `base, base_low, base_high` before; `change, change_low, change_high` their paired
    difference, in shares of the base's figure where `relative`; `p` of no change; `worse` where chance is no excuse.
    """
    found: dict[str, dict[str, Any]] = {}
    changes = compare(base, after, seed=seed)
    for name, figure in after.figures.items():
        before, change = base.figures.get(name), changes.get(name)
        one: dict[str, Any] = {"value": figure.value, "low": figure.low, "high": figure.high, "n": figure.n}
        if before is not None:
            one |= {"base": before.value, "base_low": before.low, "base_high": before.high}
        if change is not None:
            told = change.change
            one |= {"change": told.value, "change_low": told.low, "change_high": told.high}
            one |= {"relative": change.relative, "p": change.p, "worse": change.worse}
        found[name] = one
    return found
