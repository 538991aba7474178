"""A limit in words ("general bits_per_byte <= +1%") and two measurements → kept or crossed, with a sentence each.

It measures nothing and knows no stage.
"""

import difflib
import math
import re
from collections.abc import Collection, Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal, cast

from eval.comparison.gates import keeps
from eval.figures.measures import format_difference, format_value
from retrieval.errors import UsageError

if TYPE_CHECKING:
    from adapt.evidence.measuring import Measurement
    from eval.figures.statistics import Estimate

Relation = Literal[">=", ">", "<=", "<"]
Against = Literal["value", "difference", "percent"]
"""What is held against the bound: the metric after the stage, its difference to the base, or that in percent of it."""
CHOICES = "choices"
"""The label of the multiple-choice questions. No text bears it."""
TEXT_METRICS = ("bits_per_byte", "tokens_per_byte")
CHOICE_METRICS = ("choice_accuracy", "choice_accuracy_norm")
FORM = (
    "write it like 'general bits_per_byte <= +1%' (change against the base), 'choices choice_accuracy >= -0.02' "
    "(difference to the base) or 'general bits_per_byte <= 1.2' (the figure itself); '@95' behind it holds the end of "
    "the 95 % interval against the limit"
)
_GATE = re.compile(
    r"(?P<label>\S+)\s+(?P<metric>[^\s<>=]+)\s*(?P<relation><=|>=|<|>)\s*(?P<bound>[^\s%@]+)\s*(?P<percent>%)?"
    r"\s*(?:@\s*(?P<confidence>[\d.]+)\s*%?)?"
)
_NUMBER = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)(e[+-]?\d+)?", re.IGNORECASE)
# What word processors and Chinese keyboards make of the signs.
_PLAIN = str.maketrans({"−": "-", "–": "-", "≤": "<=", "≥": ">=", "％": "%", "＋": "+"})


@dataclass(frozen=True, slots=True)
class Gate:
    """`LABEL METRIC OP VALUE[%] [@CONFIDENCE]`. `bound` is a share where `against` is "percent" (+1% is .01).

    A sign makes it a difference to the base; without one it is the figure itself. `confidence` is a share: the end of
    that interval of the difference which is nearer to breaking the gate is held against the bound, not the figure.
    """

    text: str
    label: str
    metric: str
    relation: Relation
    bound: float
    against: Against
    confidence: float | None = None

    @property
    def figure(self) -> str:
        """What the gate speaks of, as measurements name it."""
        return f"{self.label} {self.metric}"

    def holds(self, value: float) -> bool:
        return keeps(value, self.relation, self.bound)


@dataclass(frozen=True, slots=True)
class GateResult:
    """A gate applied. `value` is what was held against the bound; None where it could not be told, which fails."""

    gate: str
    passed: bool
    value: float | None
    said: str

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def parse_gate(text: str) -> Gate:
    """Raises UsageError that says what is wrong and shows the form of a gate."""
    plain = text.translate(_PLAIN).strip()
    found = _GATE.fullmatch(plain)
    if found is None:
        raise UsageError(f"'{text[:120]}' is no gate; {FORM}")
    bound, percent = found["bound"], bool(found["percent"])
    if not _NUMBER.fullmatch(bound) or not math.isfinite(float(bound)):
        raise UsageError(f"'{bound[:40]}' in the gate '{text[:120]}' is no number; {FORM}")
    signed = bound[0] in "+-" or (percent and float(bound) == 0)
    if percent and not signed:
        raise UsageError(
            f"the gate '{text[:120]}' has a percentage without a sign, which could mean two things; write +{bound}% "
            "for a change against the base, or the figure itself without %"
        )
    label, metric = found["label"], found["metric"]
    metrics = CHOICE_METRICS if label == CHOICES else TEXT_METRICS
    if metric not in metrics:
        raise UsageError(
            f"the gate '{text[:120]}' speaks of '{metric[:40]}', which is not measured of '{label[:40]}'"
            f"{_nearest(metric, metrics)}; there are {', '.join(metrics)}"
        )
    confidence = float(found["confidence"]) if found["confidence"] and _NUMBER.fullmatch(found["confidence"]) else None
    if found["confidence"] and (confidence is None or not 50 <= confidence < 100):
        raise UsageError(
            f"'@{found['confidence'][:20]}' in the gate '{text[:120]}' is no confidence; give percent from 50 to below "
            "100, such as @95"
        )
    return Gate(
        text=plain,
        label=label,
        metric=metric,
        relation=cast(Relation, found["relation"]),
        bound=float(bound) / 100 if percent else float(bound),
        against="percent" if percent else "difference" if signed else "value",
        confidence=confidence / 100 if confidence else None,
    )


def refuse_unknown(gates: Iterable[Gate], labels: Collection[str]) -> None:
    """Raise UsageError for a gate on a text that will not be measured. `labels` are those of the texts, and "choices"
    where questions are asked."""
    for gate in gates:
        if gate.label not in labels:
            known = ", ".join(sorted(labels)) or "nothing"
            raise UsageError(
                f"the gate '{gate.text[:120]}' speaks of '{gate.label[:40]}', which is not measured"
                f"{_nearest(gate.label, labels)}; measured are {known}"
            )


def _nearest(word: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(word, list(known), n=1)
    return f" (did you mean '{near[0]}'?)" if near else ""


def judge(gates: Sequence[str], base: "Measurement", after: "Measurement") -> list[GateResult]:
    """Each gate against the recipe's base and a stage's result, measured on the same texts.

    Raises UsageError for what is no gate, or for two measurements that cannot be compared.
    """
    return [_judged(parse_gate(text), base, after) for text in gates]


def _judged(gate: Gate, base: "Measurement", after: "Measurement") -> GateResult:
    from adapt.evidence.changes import change_of

    found = change_of(base, after, gate.figure, gate.against, confidence=gate.confidence or 0.95)
    word, limit = _WANTED[gate.relation], _said(gate, gate.bound)
    if found is None or found.value is None:
        why = "was not measured" if found is None else "could not be told"
        return GateResult(gate.text, False, None, f"{gate.figure} {why}, and the gate {word} {limit}")
    said = f"{gate.figure} {_happened(gate, found)}, and the gate {word} {limit}"
    value: float | None = found.value
    if gate.confidence is not None:
        value = found.low if gate.relation[0] == ">" else found.high
        said += f" for the {'lower' if gate.relation[0] == '>' else 'upper'} end of the interval"
    if value is None:
        return GateResult(gate.text, False, None, f"{said}, which one document alone does not give")
    return GateResult(gate.text, gate.holds(value), value, said)


_WANTED = {"<=": "allows at most", "<": "allows less than", ">=": "asks for at least", ">": "asks for more than"}


def _happened(gate: Gate, found: "Estimate") -> str:
    """ "rose by 2.10 % (+1.60 % … +2.70 %)"."""
    assert found.value is not None
    ends = f" ({_said(gate, found.low)} … {_said(gate, found.high)})" if found.low is not None else ""
    if gate.against == "value":
        return f"is {_said(gate, found.value)}{ends}"
    size = _said(gate, abs(found.value)).lstrip("+")
    if not re.search("[1-9]", size):
        return f"did not change{ends}"
    return f"{'fell' if found.value < 0 else 'rose'} by {size}{ends}"


def _said(gate: Gate, value: float | None) -> str:
    """A figure, a difference or a share as the gate's reader wrote the limit."""
    if value is None:
        return "–"
    if gate.against == "percent":
        return f"{100 * value:+.2f} %" if value else "0 %"
    return (format_value if gate.against == "value" else format_difference)(gate.metric, value)
