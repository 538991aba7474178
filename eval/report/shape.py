"""A run, and how it compares with another → the parts of a report in order: measures, stages, differences, counts.

Numbers only; how they are drawn and worded is for other files.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from eval.comparison.comparing import ALIKE, Comparison, PartComparison, Row
from eval.figures.measures import better, describe, format_value, in_order
from eval.figures.statistics import Estimate, clusters_of, holm, paired, table_of
from eval.report.items import gain, value_of, values_of
from eval.report.text import line, mapping, number
from eval.runs.parts import Record

if TYPE_CHECKING:
    from eval.runs.executing import PartResult, RunResult

VIEWS = frozenset({"span", "passages"})
"""Before a measure of the same search counted another way; no stage whose gain could be told."""
PERCENTILES = ("p50", "p90", "p99")


@dataclass(frozen=True, slots=True)
class Figure:
    """One measure of a part. `stage` is "" for the whole pipeline; `measure` the metric without its stage."""

    metric: str
    stage: str
    measure: str
    estimate: Estimate

    @property
    def name(self) -> str:
        return line(self.metric, 60)

    @property
    def meaning(self) -> str:
        return describe(self.measure)

    @property
    def lower_is_better(self) -> bool:
        return better(self.measure) == "lower"

    @property
    def is_share(self) -> bool:
        """Whether value and interval lie in [0, 1], so that a common scale can show them."""
        known = [end for end in (self.estimate.value, self.estimate.low, self.estimate.high) if end is not None]
        return (
            bool(known) and min(known) >= 0 and max(known) <= 1 and not self.measure.endswith(("_ms", "_s", "_seconds"))
        )

    def text(self, value: float | None) -> str:
        return format_value(self.measure, value)

    @property
    def value(self) -> str:
        return self.text(self.estimate.value)

    @property
    def interval(self) -> str:
        """ "[low, high]", or "" where there is none."""
        if self.estimate.low is None or self.estimate.high is None:
            return ""
        return f"[{self.text(self.estimate.low)}, {self.text(self.estimate.high)}]"

    @property
    def with_interval(self) -> str:
        """ "0.712 [0.670, 0.752]"."""
        return f"{self.value} {self.interval}".rstrip()


@dataclass(frozen=True, slots=True)
class Step:
    """The whole pipeline (b) against one of its stages alone (a)."""

    stage: str
    row: Row


@dataclass(frozen=True, slots=True)
class Compared:
    """A part of two runs. `pairs` are (before, now) of the main measure, one for each item both have.

    `place` is that of the part in the report, None where several seeds were compared as one.
    """

    comparison: PartComparison
    place: int | None
    pairs: tuple[tuple[float, float], ...]

    @property
    def main(self) -> Row | None:
        return next((row for row in self.comparison.rows if row.metric == self.comparison.metric), None)

    @property
    def unchanged(self) -> bool:
        """Whether no figure of any item differs."""
        return not any(row.wins or row.losses for row in self.comparison.rows)

    @property
    def gains(self) -> list[float]:
        """How much better each item is now, whichever way the measure points."""
        metric = split_stage(self.comparison.metric or "")[1]
        return [change for before, now in self.pairs if (change := gain(metric, before, now)) is not None]


@dataclass(frozen=True, slots=True)
class Shaped:
    """A part of the report. `figures` begin with the main one; `stages` are in the order of the pipeline."""

    place: int
    result: "PartResult"
    figures: tuple[Figure, ...]
    stages: tuple[str, ...]
    latencies: tuple[tuple[str, float, float, float], ...]
    steps: tuple[Step, ...] = ()

    @property
    def name(self) -> str:
        return line(self.result.name, 80)

    @property
    def kind(self) -> str:
        return line(self.result.kind, 30)

    @property
    def main(self) -> Figure | None:
        return self.figures[0] if self.figures else None

    @property
    def whole(self) -> tuple[Figure, ...]:
        """The measures of the whole pipeline."""
        return tuple(figure for figure in self.figures if not figure.stage)

    @property
    def errors(self) -> int:
        return self.result.errors

    @property
    def done(self) -> int:
        return len(self.result.records) - self.errors

    @property
    def wanted(self) -> int:
        """Items the part has in all; never fewer than it has records."""
        return max(int(number(self.result.items) or 0), len(self.result.records))


def split_stage(metric: str) -> tuple[str, str]:
    """ "lexical:nDCG@10" → ("lexical", "nDCG@10"); a metric without a stage has ""."""
    stage, _, measure = metric.rpartition(":")
    return stage, measure


def figure_of(row: Row, estimate: Estimate | None = None) -> Figure:
    """A row's difference, or another estimate of its metric, as it is worded and formatted."""
    return Figure(row.metric, *split_stage(row.metric), estimate or row.difference)


def direction(row: Row) -> str:
    """ "better", "worse" or "equal", whichever way the measure points."""
    change = gain(split_stage(row.metric)[1], row.a.value, row.b.value)
    return "equal" if change is None or abs(change) <= ALIKE else "better" if change > 0 else "worse"


def shape(run: "RunResult") -> list[Shaped]:
    """All parts of a run in their order."""
    return [_part(place, result) for place, result in enumerate(run.parts.values())]


def _part(place: int, result: "PartResult") -> Shaped:
    figures = _figures(result)
    return Shaped(
        place=place,
        result=result,
        figures=tuple(figures),
        stages=tuple(dict.fromkeys(figure.stage for figure in figures if figure.stage)),
        latencies=tuple(_latencies(result.timings)),
        steps=tuple(_steps(result, figures)),
    )


def _figures(result: "PartResult") -> list[Figure]:
    """The kind's headline first; of a pipeline with stages the whole before its stages, in the order they came."""
    split = {metric: split_stage(metric) for metric in result.estimates}
    measures = in_order(result.kind, list(dict.fromkeys(measure for _, measure in split.values())))
    stages = list(dict.fromkeys(stage for stage, _ in split.values()))
    return [
        Figure(metric, stage, measure, result.estimates[metric])
        for stage in sorted(stages, key=lambda stage: (stage != "", stages.index(stage)))
        for measure in measures
        for metric in [f"{stage}:{measure}" if stage else measure]
        if metric in result.estimates
    ]


def _latencies(timings: Any) -> list[tuple[str, float, float, float]]:
    rows = []
    for stage, found in mapping(timings).items():
        p50, p90, p99 = (number(mapping(found).get(name)) for name in PERCENTILES)
        if p50 is not None and p90 is not None and p99 is not None:
            rows.append((line(stage, 18), p50, p90, p99))
    return rows


def _steps(result: "PartResult", figures: Sequence[Figure]) -> list[Step]:
    """The whole pipeline against each of its stages on the main measure: what the further steps bring."""
    main = figures[0] if figures else None
    if main is None or main.stage:
        return []
    table = table_of({key: record for key, record in result.records.items() if not record.get("error")})
    own = table.get(main.metric)
    # A stage whose figures are those of the whole is its last step.
    others = {
        figure.stage: table[figure.metric]
        for figure in figures
        if figure.stage and not VIEWS & set(figure.stage.split(":"))
        if figure.measure == main.measure and figure.metric in table and table[figure.metric] != own
    }
    if own is None or not others:
        return []
    tests = paired(others, dict.fromkeys(others, own), clusters=clusters_of(result.records))
    adjusted = holm({stage: test.p for stage, test in tests.items() if test.p is not None})
    steps = []
    for stage, test in tests.items():
        told = [gain(main.measure, value_of(others[stage].get(item)), value_of(value)) for item, value in own.items()]
        gains = [change for change in told if change is not None]
        wins, losses = sum(change > ALIKE for change in gains), sum(change < -ALIKE for change in gains)
        row = Row(
            metric=main.metric,
            main=False,
            a=test.sides[0],
            b=test.sides[1],
            difference=test.difference,
            p=test.p,
            adjusted=adjusted.get(stage),
            wins=wins,
            ties=len(gains) - wins - losses,
            losses=losses,
            effect=test.effect,
            detectable=test.detectable,
        )
        steps.append(Step(line(stage, 40), row))
    return steps


def compared(run: "RunResult", against: "RunResult", comparison: Comparison) -> list[Compared]:
    """Each part of a comparison of `against` (a) with `run` (b), with its items' values."""
    places = {name: place for place, name in enumerate(run.parts)}
    found = []
    for part in comparison.parts:
        before, now = against.parts.get(part.a), run.parts.get(part.b)
        pairs = _pairs(before.records, now.records, part.metric) if before and now and part.metric else []
        found.append(Compared(part, places.get(part.b), tuple(pairs)))
    return found


def _pairs(before: Mapping[str, Record], now: Mapping[str, Record], metric: str) -> list[tuple[float, float]]:
    pairs = []
    for identifier, record in now.items():
        old, new = values_of(before.get(identifier, {})).get(metric), values_of(record).get(metric)
        if old is not None and new is not None:
            pairs.append((old, new))
    return pairs
