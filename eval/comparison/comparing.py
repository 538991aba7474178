"""Two runs → what differs between them, item by item, with intervals and tests. It reads no file and prints nothing.

It knows one thing of the kinds of part: which files they name are what a system wrote, and not what it was measured on.
"""

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

from eval.comparison.gates import Gate, Verdict, judged, pair_name, parse_gate, refuse_unknown
from eval.figures.measures import better, in_order
from eval.figures.resampling import as_pair
from eval.figures.statistics import (
    RESAMPLES,
    Estimate,
    Table,
    clusters_of,
    estimates,
    holm,
    over_seeds,
    paired,
    table_of,
)
from eval.runs.parts import Record
from retrieval.errors import UsageError

if TYPE_CHECKING:
    from eval.runs.executing import PartResult, RunResult

WORST = 10
OUTPUTS = ("predictions", "run")
"""Settings that name what some system wrote. It differs between runs, which is what they are compared for."""
ERRORS = "errors"
"""The share of items without a result: a run must not win by failing on the hard ones."""
ALIKE = 1e-9
"""Differences below this are rounding; the item is a tie."""


@dataclass(frozen=True, slots=True)
class Row:
    """One metric of two parts, over the items that both have a value for. `difference` is b − a.

    `adjusted` is p after Holm's correction over the family of `main` metrics (one of each part: what the comparison was
    made for) or that of all the others. `wins` are items on which b is better, whichever way the metric points.
    """

    metric: str
    main: bool
    a: Estimate
    b: Estimate
    difference: Estimate
    p: float | None
    adjusted: float | None
    wins: int
    ties: int
    losses: int
    effect: float | None
    detectable: float | None

    @property
    def significant(self) -> bool:
        return self.adjusted is not None and self.adjusted < 0.05


@dataclass(frozen=True, slots=True)
class Change:
    """An item that came out differently: the main metric and the record of either side."""

    id: str
    text: str
    a: float
    b: float
    before: Record
    after: Record


@dataclass(frozen=True, slots=True)
class PartComparison:
    """Part `a` of one run against part `b` of the other. `seeds` is how many runs of either part were averaged.

    `timings[stage]` has p50, p90, p99 in ms of both sides and the interval of the mean difference. `settings` are those
    that differ, as (a, b). `regressions` come worst first, `improvements` best first, by `metric`.
    """

    a: str
    b: str
    kind: str
    items: int
    seeds: tuple[int, int]
    metric: str | None
    rows: tuple[Row, ...]
    timings: Mapping[str, Mapping[str, Any]]
    settings: Mapping[str, tuple[Any, Any]]
    regressions: tuple[Change, ...]
    improvements: tuple[Change, ...]

    @property
    def name(self) -> str:
        return pair_name(self.a, self.b)


@dataclass(frozen=True, slots=True)
class Comparison:
    """Run a against run b. `only_a` and `only_b` are parts that the other run has not."""

    a: str
    b: str
    parts: tuple[PartComparison, ...]
    only_a: tuple[str, ...] = ()
    only_b: tuple[str, ...] = ()
    gates: tuple[Verdict, ...] = field(default=())

    @property
    def passed(self) -> bool:
        return all(verdict.passed for verdict in self.gates)

    def to_json(self) -> dict[str, Any]:
        return asdict(self) | {"passed": self.passed}


@dataclass(frozen=True, slots=True)
class _Side:
    """One part as one or several seeds left it."""

    name: str
    parts: tuple["PartResult", ...]
    tables: tuple[Table, ...]
    relies_on: Mapping[str, Any]

    @property
    def first(self) -> "PartResult":
        return self.parts[0]


def compare(
    a: "RunResult",
    b: "RunResult",
    *,
    parts: Sequence[tuple[str, str]] | None = None,
    gates: Iterable[str | Gate] = (),
    worst: int = WORST,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Comparison:
    """Every part that both runs have, or the pairs `parts` of (name in a, name in b), metric by metric.

    Parts `NAME@0`, `NAME@1` … are one part under several seeds and compared as such. Raises UsageError for runs on
    different data, items or kinds of part, for no part in common, and for a gate that is none or names no metric.
    """
    sides_a, sides_b = _sides(a), _sides(b)
    chosen = parts if parts is not None else [(name, name) for name in sides_a if name in sides_b]
    if not chosen and len(sides_a) == len(sides_b) == 1:
        chosen = [(next(iter(sides_a)), next(iter(sides_b)))]
    if not chosen:
        raise UsageError(
            f"'{a.name}' and '{b.name}' have no part in common: one has {_listed(sides_a)}, the other "
            f"{_listed(sides_b)}; say which belong together with --parts NAME=NAME"
        )
    wanted = [gate if isinstance(gate, Gate) else parse_gate(gate) for gate in gates]
    pairs = [(_side(sides_a, name, a.name), _side(sides_b, other, b.name)) for name, other in chosen]
    for left, right in pairs:
        _refuse_different(left, right, a.name, b.name)
    known = {pair_name(left.name, right.name): _metrics_of(left, right) for left, right in pairs}
    refuse_unknown(wanted, known)
    found = _corrected([_compared(left, right, worst, resamples, seed) for left, right in pairs])
    used_a, used_b = {left.name for left, _ in pairs}, {right.name for _, right in pairs}
    verdicts = []
    for gate in wanted:
        for part, (left, right) in zip(found, pairs, strict=True):
            again = partial(_again, left=left, right=right, resamples=resamples, seed=seed)
            verdict = judged(gate, part.name, known[part.name], again)
            verdicts += [verdict] if verdict else []
    return Comparison(
        a=a.name,
        b=b.name,
        parts=tuple(found),
        # Named pairs are all that was asked for; the rest of either run is then not news.
        only_a=tuple(name for name in sides_a if name not in used_a) if parts is None else (),
        only_b=tuple(name for name in sides_b if name not in used_b) if parts is None else (),
        gates=tuple(verdicts),
    )


# --- what may be compared --------------------------------------------------------------------------------------------


def _sides(run: "RunResult") -> dict[str, _Side]:
    groups: dict[str, list[PartResult]] = {}
    for name, part in run.parts.items():
        groups.setdefault(re.sub(r"@\d+$", "", name), []).append(part)
    sides = {}
    for base, members in groups.items():
        name = base if len(members) > 1 else members[0].name
        fact = run.manifest.get("parts", {}).get(members[0].name, {})
        relies_on = {
            f"{topic}.{key}": value
            for topic, found in fact.get("relies_on", {}).items()
            for key, value in (found if isinstance(found, dict) else {"is": found}).items()
        }
        sides[name] = _Side(name, tuple(members), tuple(map(_table, members)), relies_on)
    return sides


def _table(part: "PartResult") -> Table:
    """As `table_of`, with the metric that every part has: whether an item has no result at all."""
    fine = {item: record for item, record in part.records.items() if not record.get("error")}
    return {**table_of(fine), ERRORS: {item: float(item not in fine) for item in part.records}}


def _side(sides: Mapping[str, _Side], name: str, run: str) -> _Side:
    if name in sides:
        return sides[name]
    for side in sides.values():  # one seed of several
        for part, table in zip(side.parts, side.tables, strict=True):
            if part.name == name:
                return _Side(name, (part,), (table,), side.relies_on)
    raise UsageError(f"'{run}' has no part '{name}'; it has {_listed(sides)}")


def _refuse_different(left: _Side, right: _Side, a: str, b: str) -> None:
    """Raise UsageError unless both measured the same items of the same data in the same way."""
    where = f"part '{left.name}'" if left.name == right.name else f"'{left.name}' and '{right.name}'"
    for part in (*left.parts, *right.parts):
        if part.kind != left.first.kind:
            raise UsageError(
                f"{where}: '{a}' measured {left.first.kind} and '{b}' {part.kind}; only the same kind can be compared"
            )
    for part in (*left.parts[1:], *right.parts):
        _refuse_other_data(where, left.first, part, a, b)
        _refuse_other_items(where, left.first, part, a, b)


def _refuse_other_data(where: str, one: "PartResult", other: "PartResult", a: str, b: str) -> None:
    # A file may lie elsewhere in the other run: its content decides.
    left, right = _inputs(one), _inputs(other)
    if Counter(left.values()) == Counter(right.values()):
        return
    alone = {file: left[file] for file in left if left[file] not in right.values()}
    extra = {file: right[file] for file in right if right[file] not in left.values()}
    for file, digest in alone.items():
        for twin, changed in extra.items():
            if PurePath(file).name == PurePath(twin).name:
                raise UsageError(
                    f"{where}: {file} was not the same for '{a}' and '{b}' (SHA-256 {digest[:12]}… and "
                    f"{changed[:12]}…); runs on different data cannot be compared, measure both on the same"
                )
    file, run = next(iter([(file, a) for file in alone] + [(file, b) for file in extra]), ("a file", a))
    raise UsageError(f"{where}: {file} was measured for '{run}' only; runs on different data cannot be compared")


def _inputs(part: "PartResult") -> dict[str, str]:
    """File → SHA-256 of what the part was measured on, without what is itself some system's work."""
    outputs = [str(part.settings[name]) for name in OUTPUTS if part.settings.get(name)]
    return {
        file: digest
        for file, digest in part.data.items()
        if not any(PurePath(file).is_relative_to(output) for output in outputs)
    }


def _refuse_other_items(where: str, one: "PartResult", other: "PartResult", a: str, b: str) -> None:
    for part, run in ((one, a), (other, b)):
        if len(part.records) < part.items:
            raise UsageError(
                f"{where}: '{run}' holds {len(part.records)} of {part.items} items; run it again, it continues where "
                "it stopped"
            )
    odd = sorted(one.records.keys() ^ other.records.keys())
    if odd:
        raise UsageError(
            f"{where}: '{a}' and '{b}' were measured on different items, {len(odd)} are in one only, for example "
            f"{odd[0][:80]!r}; measure both on the same"
        )
    for item, record in one.records.items():
        if record.get("text") != other.records[item].get("text"):
            raise UsageError(f"{where}: item {item[:80]!r} asks something else in '{a}' than in '{b}'")


def _metrics_of(left: _Side, right: _Side) -> list[str]:
    """Every metric that either side has, and percentiles of its timings (`search.p50`): what a gate may name."""
    metrics = dict.fromkeys(metric for side in (left, right) for table in side.tables for metric in table)
    timings = [
        f"{stage}.{percentile}"
        for stage, values in (left.first.timings | right.first.timings).items()
        for percentile in values
    ]
    return [*metrics, *timings]


def _again(gate: Gate, *, left: _Side, right: _Side, resamples: int, seed: int) -> Estimate | None:
    """What the gate speaks of, with its own confidence; None where one side has no such metric."""
    stage, _, percentile = gate.metric.rpartition(".")
    if stage in left.first.timings or stage in right.first.timings:
        before, after = (side.first.timings.get(stage, {}).get(percentile) for side in (left, right))
        value = after if gate.absolute or after is None or before is None else after - before
        return Estimate(value, None, None, len(right.first.records))
    options: dict[str, Any] = {
        "clusters": clusters_of(left.first.records),
        "resamples": resamples,
        "seed": seed,
        "confidence": gate.confidence or 0.95,
    }
    sides = [
        [{gate.metric: table[gate.metric]} for table in side.tables if gate.metric in table] for side in (left, right)
    ]
    if len(sides[1]) < len(right.tables) or (len(sides[0]) < len(left.tables) and not gate.absolute):
        return None
    if gate.absolute:
        if len(sides[1]) == 1:
            return estimates(sides[1][0], **options)[gate.metric]
        return over_seeds(sides[1], **options)[gate.metric].estimate
    if len(sides[0]) == len(sides[1]) == 1:
        return paired(sides[0][0], sides[1][0], **options)[gate.metric].difference
    return over_seeds(sides[1], sides[0], **options)[gate.metric].estimate


def _listed(sides: Mapping[str, _Side]) -> str:
    return ", ".join(f"'{name}'" for name in sides) or "none"


# --- one part --------------------------------------------------------------------------------------------------------


def _compared(left: _Side, right: _Side, worst: int, resamples: int, seed: int) -> PartComparison:
    clusters = clusters_of(left.first.records)
    names = [metric for metric in left.tables[0] if all(metric in table for table in (*left.tables, *right.tables))]
    shown = in_order(left.first.kind, names)
    main = next((metric for metric in shown if metric != ERRORS), None)
    rows = _rows(left, right, shown, main, clusters, resamples, seed)
    worse, improved = _changes(left, right, main, worst) if main else ((), ())
    return PartComparison(
        a=left.name,
        b=right.name,
        kind=left.first.kind,
        items=len(left.first.records),
        seeds=(len(left.parts), len(right.parts)),
        metric=main,
        rows=tuple(rows),
        timings=_timings(left.first, right.first, clusters, resamples, seed),
        settings=_differing(left, right),
        regressions=worse,
        improvements=improved,
    )


def _differing(left: _Side, right: _Side) -> dict[str, tuple[Any, Any]]:
    """What was set otherwise, and which models and settings it rested on that are not the same."""
    a, b = ({**dict(side.first.settings), **side.relies_on} for side in (left, right))
    return {key: (a.get(key), b.get(key)) for key in a | b if a.get(key) != b.get(key)}


def _rows(
    left: _Side,
    right: _Side,
    names: Sequence[str],
    main: str | None,
    clusters: Mapping[str, str],
    resamples: int,
    seed: int,
) -> list[Row]:
    options: dict[str, Any] = {"clusters": clusters, "resamples": resamples, "seed": seed}
    tables = [[{name: table[name] for name in names} for table in side.tables] for side in (left, right)]
    rows = []
    if len(left.tables) == len(right.tables) == 1:
        for metric, test in paired(tables[0][0], tables[1][0], **options).items():
            counts = _tally(left, right, metric)
            rows.append(
                Row(
                    metric,
                    metric == main,
                    *test.sides,
                    test.difference,
                    test.p,
                    None,
                    *counts,
                    test.effect,
                    test.detectable,
                )
            )
        return rows
    sides = [over_seeds(side, **options) for side in tables]
    for metric, gap in over_seeds(tables[1], tables[0], **options).items():
        counts = _tally(left, right, metric)
        one, other = (side[metric].estimate for side in sides)
        rows.append(Row(metric, metric == main, one, other, gap.estimate, gap.p, None, *counts, None, gap.detectable))
    return rows


def _item_values(side: _Side, metric: str) -> dict[str, float]:
    """Each item's own figure, averaged over the seeds; items without one under some seed are left out."""
    values = {}
    for item in side.tables[0][metric]:
        pairs = [as_pair(table[metric].get(item)) for table in side.tables]
        figures = [above / below for above, below in filter(None, pairs) if below]
        if len(figures) == len(side.tables):
            values[item] = sum(figures) / len(figures)
    return values


def _gains(left: _Side, right: _Side, metric: str) -> list[tuple[float, str, float, float]]:
    """(how much better b is, item, a, b) of every item both have a figure of its own for."""
    before, after = _item_values(left, metric), _item_values(right, metric)
    sign = 1 if better(metric) == "higher" else -1
    return [(sign * (after[item] - value), item, value, after[item]) for item, value in before.items() if item in after]


def _tally(left: _Side, right: _Side, metric: str) -> tuple[int, int, int]:
    gains = [gain for gain, *_ in _gains(left, right, metric)]
    wins, losses = sum(gain > ALIKE for gain in gains), sum(gain < -ALIKE for gain in gains)
    return wins, len(gains) - wins - losses, losses


def _changes(left: _Side, right: _Side, metric: str, most: int) -> tuple[tuple[Change, ...], tuple[Change, ...]]:
    """The items that lost most and those that gained most, of equals the first by id."""

    def changes(sign: int) -> tuple[Change, ...]:
        moved = sorted((sign * gain, item, a, b) for gain, item, a, b in _gains(left, right, metric))
        return tuple(
            Change(
                item,
                str(left.first.records[item].get("text") or ""),
                a,
                b,
                left.first.records[item],
                right.first.records[item],
            )
            for gain, item, a, b in moved[:most]
            if gain < -ALIKE
        )

    return changes(1), changes(-1)


def _timings(
    left: "PartResult", right: "PartResult", clusters: Mapping[str, str], resamples: int, seed: int
) -> dict[str, dict[str, Any]]:
    """Stages that both timed: percentiles of each, and b − a of the mean over the items, in ms."""
    tables = [
        table_of({item: {"metrics": record.get("timings")} for item, record in part.records.items()})
        for part in (left, right)
    ]
    tests = paired(*tables, clusters=clusters, resamples=resamples, seed=seed)
    return {
        stage: {
            "a": dict(left.timings[stage]),
            "b": dict(right.timings[stage]),
            "difference": asdict(tests[stage].difference) if stage in tests else None,
        }
        for stage in left.timings
        if stage in right.timings
    }


def _corrected(parts: Sequence[PartComparison]) -> list[PartComparison]:
    """Holm's correction over two families.

    Eight retrieval measures that rise and fall together would drown the one
    that was asked about, so the main metrics of all parts are a family of their own, as primary outcomes are in trials
    (EMA 2016, multiplicity guideline); everything else, looked at because it is there, is the other. A metric on which
    no item differs could never have been found different and is no test (Tarone 1990).
    """
    adjusted: dict[tuple[int, str], float] = {}
    for main in (True, False):
        chances = {
            f"{number} {row.metric}": row.p
            for number, part in enumerate(parts)
            for row in part.rows
            if row.main is main and row.p is not None and (row.p < 1 or row.wins or row.losses)
        }
        for key, p in holm(chances).items():
            number, _, metric = key.partition(" ")
            adjusted[int(number), metric] = p
    return [
        replace(part, rows=tuple(replace(row, adjusted=adjusted.get((number, row.metric), row.p)) for row in part.rows))
        for number, part in enumerate(parts)
    ]
