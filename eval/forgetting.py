"""Records of two language models on the same texts and questions → what the second one gained and forgot.

It loads no model and reads no file.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from eval.figures.measures import better
from eval.figures.resampling import as_pair
from eval.figures.statistics import RESAMPLES, Estimate, Table, clusters_of, estimates, paired, table_of
from eval.runs.parts import Record
from retrieval.errors import UsageError


@dataclass(frozen=True, slots=True)
class Change:
    """One metric of model a and of model b. `change` is (b − a)/a where `relative` (a cost per byte), else b − a.

    `p` is the paired randomisation test's, two-sided. `worse` tells whether the whole interval lies on the bad side:
    forgetting that chance does not explain.
    """

    metric: str
    a: float | None
    b: float | None
    change: Estimate
    relative: bool
    p: float | None
    worse: bool


def forgetting_table(
    a: Mapping[str, Record], b: Mapping[str, Record], *, resamples: int = RESAMPLES, seed: int = 0
) -> list[Change]:
    """Every metric of two sets of records, from `eval.language` or `eval.choices`, compared item by item.

    The bytes of a text are the same for both models, so the relative change of bits per byte is itself a ratio of
    sums, Σ(bits_b − bits_a) / Σ bits_a, and its interval the bootstrap of that ratio over documents. Raises UsageError
    when the two were not measured on the same items.
    """
    done = [{key: record for key, record in side.items() if not record.get("error")} for side in (a, b)]
    odd = sorted(done[0].keys() ^ done[1].keys())
    if odd or not done[0]:
        said = f"{len(odd)} differ, for example {odd[0]!r}" if odd else "there are none"
        raise UsageError(f"forgetting is told from the same texts and questions under both models; {said}")
    left, right = table_of(done[0]), table_of(done[1])
    clusters = clusters_of(done[0])
    tests = paired(left, right, clusters=clusters, resamples=resamples, seed=seed)
    changes = []
    for metric, test in tests.items():
        ratio = _relative(metric, left, right)
        change = test.difference
        if ratio is not None:
            change = estimates({metric: ratio}, clusters=clusters, resamples=resamples, seed=seed)[metric]
            if not any(above for above, _ in ratio.values()):
                # Nothing changed in any text. `estimates` would take that for a share of which none was seen.
                change = replace(change, low=0.0, high=0.0)
        bound = change.low if better(metric) == "lower" else None if change.high is None else -change.high
        changes.append(
            Change(metric, test.a, test.b, change, ratio is not None, test.p, bound is not None and bound > 0)
        )
    return changes


def _relative(metric: str, left: Table, right: Table) -> dict[str, tuple[float, float]] | None:
    """(b − a, a) of each item; None for a metric that is a plain number. Raises UsageError where the bytes differ."""
    ratio: dict[str, tuple[float, float]] = {}
    for item, value in left[metric].items():
        one, other = as_pair(value), as_pair(right[metric].get(item))
        if not isinstance(value, tuple) or one is None or other is None:
            return None
        if one[1] != other[1]:
            raise UsageError(f"'{item}' is not the same text under both models ({one[1]:.0f} and {other[1]:.0f} bytes)")
        ratio[item] = (other[0] - one[0], one[0])
    return ratio
