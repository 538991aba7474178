"""A condition in words (`nDCG@10>=-0.01`) and a figure → passed or failed, and by how much. It computes no figure."""

import math
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Literal, cast

from eval.figures.measures import format_difference, format_value
from eval.figures.statistics import Estimate
from retrieval.errors import UsageError

Relation = Literal[">=", ">", "<=", "<"]
ROUNDING = 1e-12
""".63 − .62 is not quite .01 to a computer; it is to whoever wrote the gate."""
FORM = "write it like 'nDCG@10>=-0.01', 'scifact/nDCG@10>0', 'abs:faithfulness>=0.8' or 'F1>=-0.01@95'"
_GATE = re.compile(
    r"(?P<absolute>abs:)?(?:(?P<part>[^/]+)/)?(?P<metric>[^/<>=]*[^/<>=\s])\s*(?P<relation>>=|<=|>|<)\s*"
    r"(?P<bound>[^@\s]+)\s*(?:@(?P<confidence>[\d.]+)\s*%?)?"
)


@dataclass(frozen=True, slots=True)
class Gate:
    """`[abs:][PART/]METRIC>=NUMBER[@CONFIDENCE]`: what the difference b − a, or with `abs:` the figure of b, must keep.

    With a confidence (a share here, percent in the text) the whole interval must keep it: for `>=` its lower end.
    """

    text: str
    absolute: bool
    part: str | None
    metric: str
    relation: Relation
    bound: float
    confidence: float | None

    def holds(self, value: float) -> bool:
        return keeps(value, self.relation, self.bound)


@dataclass(frozen=True, slots=True)
class Verdict:
    """A gate applied to one part. `value` is what was held against the bound; None where there was nothing."""

    gate: str
    part: str
    metric: str
    value: float | None
    passed: bool
    said: str


def parse_gate(text: str) -> Gate:
    """Raises UsageError that shows the form of a gate."""
    found = _GATE.fullmatch(text.strip())
    if found is None:
        raise UsageError(f"'{text[:120]}' is no gate; {FORM}")
    bound = _number(found["bound"])
    if bound is None:
        raise UsageError(f"'{found['bound'][:40]}' in the gate '{text[:120]}' is no number; {FORM}")
    confidence = _number(found["confidence"]) if found["confidence"] else None
    if found["confidence"] and (confidence is None or not 50 <= confidence < 100):
        raise UsageError(
            f"'@{found['confidence'][:20]}' in the gate '{text[:120]}' is no confidence; give percent from 50 to below "
            "100, such as @95"
        )
    return Gate(
        text=text.strip(),
        absolute=bool(found["absolute"]),
        part=found["part"],
        metric=found["metric"].strip(),
        relation=cast(Relation, found["relation"]),
        bound=bound,
        confidence=confidence / 100 if confidence else None,
    )


def keeps(value: float, relation: str, bound: float) -> bool:
    """Whether `value` is >=, >, <= or < `bound`; the last bits of a difference do not decide."""
    slack = ROUNDING * max(1.0, abs(bound)) * (-1 if relation in (">", "<") else 1)
    return value >= bound - slack if relation[0] == ">" else value <= bound + slack


def _number(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def refuse_unknown(gates: Iterable[Gate], metrics: Mapping[str, Iterable[str]]) -> None:
    """Raise UsageError for a gate on a part or a metric that neither run has. `metrics[part]` are those either has."""
    for gate in gates:
        parts = [part for part in metrics if gate.part is None or gate.part in names_of(part)]
        if not parts:
            raise UsageError(f"the gate '{gate.text}' names no part of the comparison; it has {', '.join(metrics)}")
        known = dict.fromkeys(metric for part in parts for metric in metrics[part])
        if gate.metric not in known:
            raise UsageError(f"the gate '{gate.text}' names no metric that was measured; there are {', '.join(known)}")


def pair_name(a: str, b: str) -> str:
    """What a pair of parts is called."""
    return a if a == b else f"{a} → {b}"


def names_of(pair: str) -> tuple[str, ...]:
    """What a gate may call a pair of parts by."""
    return (pair, *pair.split(" → "))


def judged(gate: Gate, part: str, known: Iterable[str], again: Callable[[Gate], Estimate | None]) -> Verdict | None:
    """The gate on one part; None if it speaks of another part, or of a metric (not among `known`) this kind has not.

    `again` computes the difference, or the figure of b, with the gate's own confidence.
    """
    if (gate.part is not None and gate.part not in names_of(part)) or gate.metric not in known:
        return None
    estimate = again(gate)
    value = None if estimate is None else estimate.value
    if estimate is not None and value is not None and gate.confidence is not None:
        value = estimate.low if gate.relation[0] == ">" else estimate.high
    form = format_value if gate.absolute else format_difference
    wanted = f"{gate.relation} {form(gate.metric, gate.bound)}"
    what = gate.metric if gate.absolute else f"the difference in {gate.metric}"
    if estimate is None or estimate.value is None:
        said = f"{what} could not be told, {wanted} is asked for"
        return Verdict(gate.text, part, gate.metric, None, False, said)
    if value is None:
        said = f"{what} has no interval: {estimate.n} items in one cluster, or a single one, do not give any"
        return Verdict(gate.text, part, gate.metric, None, False, said)
    passed = gate.holds(value)
    said = f"{what} is {form(gate.metric, estimate.value)}"
    if gate.confidence is not None:
        end = "lower" if gate.relation[0] == ">" else "upper"
        said += f", the {end} end of its {100 * gate.confidence:g} % interval {form(gate.metric, value)}"
    said += f"; {wanted} is asked for"
    if not passed:
        said += f", missed by {format_value(gate.metric, abs(value - gate.bound))}"
    if estimate.missing:
        said += f" ({estimate.missing} of {estimate.n + estimate.missing} items have no value to compare)"
    return Verdict(gate.text, part, gate.metric, value, passed, said)
