"""A support checker as a judge, and how well a judge's scores tell claims that are borne out from those that are not.

It knows no kind of checker.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from eval.data.samples import statements
from eval.figures.resampling import bounds
from eval.figures.selective import separation
from eval.judge_prompts import Asked
from retrieval.errors import UsageError
from retrieval.supporting.checker import YES

if TYPE_CHECKING:
    from retrieval.supporting.checker import SupportChecker

ENCODER, PROBABILITY = "encoder", "llm"
RESAMPLES = 2_000


def names_checker(word: str | None) -> bool:
    """Whether a word names a support checker: "encoder", "encoder:FOLDER", "llm" or "llm:ENGINE"."""
    return word is not None and word.partition(":")[0] in (ENCODER, PROBABILITY)


def checker_words(word: str) -> tuple[str, str | None]:
    """(what `retrieval.supporting.load` takes, the engine to ask) of such a word. Raises UsageError."""
    kind, _, rest = word.partition(":")
    if kind == ENCODER:
        return rest or ENCODER, None
    if kind == PROBABILITY:
        return PROBABILITY, rest or None
    raise UsageError(f"no support checker '{word[:80]}'; write encoder, encoder:FOLDER, llm or llm:ENGINE")


class CheckerJudge:
    """Verdicts of a support checker: yes where a passage bears the claim out with a probability of a half or more."""

    def __init__(self, checker: "SupportChecker") -> None:
        self._checker = checker
        self.identity: Mapping[str, Any] = {"judge": checker.name, **checker.described}

    def scored(self, asked: Asked) -> tuple[bool, float, str]:
        """(verdict, probability that one of the passages bears the claim out, why). Raises what the checker raises."""
        claims = (asked.statement,) if asked.kind == "supported" else statements(asked.answer)
        pairs = [(claim, passage) for claim in claims for passage in asked.passages]
        odds = self._checker(pairs)
        if not odds:
            return False, 0.0, "nothing was shown"
        best = max(odds, key=lambda one: one.supported)
        against = max(one.contradicted for one in odds)
        return best.verdict == "yes", best.supported, f"supported {best.supported:.2f}, contradicted {against:.2f}"


def told_apart(
    scores: Mapping[str, float],
    labels: Mapping[str, int],
    clusters: Mapping[str, str],
    *,
    threshold: float = YES,
    seed: int = 0,
) -> dict[str, Any]:
    """`auc`, the chance that a claim that is borne out has a higher score than one that is not, and
    `balanced_accuracy` at `threshold`, each {value, low, high}; `n` claims. {} without both kinds.

    95 % percentile bootstrap over clusters (claims of one document)."""
    keys = [key for key in scores if key in labels]
    given = np.array([scores[key] for key in keys])
    truth = np.array([labels[key] == 1 for key in keys], dtype=bool)
    if not truth.any() or truth.all():
        return {}
    groups: dict[str, list[int]] = {}
    for place, key in enumerate(keys):
        groups.setdefault(clusters[key], []).append(place)
    members = [np.array(group) for group in groups.values()]
    draw = np.random.default_rng(seed)
    drawn: dict[str, list[float]] = {"auc": [], "balanced_accuracy": []}
    for _ in range(RESAMPLES):
        places = np.concatenate([members[one] for one in draw.integers(0, len(members), len(members))])
        some = _figures(given[places], truth[places], threshold)
        for name, value in some.items():
            drawn[name].append(value)
    found: dict[str, Any] = {"n": len(keys), "threshold": threshold}
    for name, value in _figures(given, truth, threshold).items():
        low, high = bounds(np.array(drawn[name]), len(members), 0.95)
        found[name] = {"value": round(value, 4), "low": _rounded(low), "high": _rounded(high)}
    return found


def _figures(scores: np.ndarray, truth: np.ndarray, threshold: float) -> dict[str, float]:
    area = separation(scores.tolist(), truth.tolist())
    if area is None:
        return {}
    said = scores >= threshold
    return {"auc": area, "balanced_accuracy": float((said[truth].mean() + (~said[~truth]).mean()) / 2)}


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 4)


def right(verdict: bool | None, label: int) -> float | None:
    """1 where the judge says what people said; None where it said nothing."""
    return None if verdict is None else float(verdict == bool(label))


def scores_of(records: Mapping[str, Mapping[str, Any]], metric: str) -> dict[str, float]:
    """Id → the score of a sample's one verdict, of those that have a score."""
    found: dict[str, float] = {}
    for key, record in records.items():
        verdicts: Sequence[Mapping[str, Any]] = record["verdicts"]
        mine = [verdict["score"] for verdict in verdicts if verdict["metric"] == metric and "score" in verdict]
        if len(mine) == 1:
            found[key] = float(mine[0])
    return found
