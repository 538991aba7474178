"""Many candidates, a few items each, then the better ones on more: successive halving. Knows nothing of what is tuned.

Karnin, Koren & Somekh 2013; Jamieson & Talwalkar 2016 (arXiv:1502.07943). Here the resource is the number of items
(questions) a candidate has been scored on, so that a score once computed is never computed again.
"""

import math
import random
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

C = TypeVar("C", bound=Hashable)
LEAST_ITEMS = 30
"""A first rung on fewer items would decide by chance: the standard error of a mean over 30 is about .07 for nDCG."""


@dataclass(frozen=True, slots=True)
class Trial(Generic[C]):
    """A candidate, its scores by item, and the last rung it reached (0 is the first)."""

    candidate: C
    scores: Mapping[str, float]
    rung: int

    @property
    def mean(self) -> float:
        return sum(self.scores.values()) / len(self.scores)


def rungs(candidates: int, items: int, factor: int = 3, least: int = LEAST_ITEMS) -> list[int]:
    """Items a candidate has been scored on after each rung; the last is all of them."""
    sizes = [items]
    survivors = candidates
    while survivors > 1 and math.ceil(sizes[0] / factor) >= least:
        sizes.insert(0, math.ceil(sizes[0] / factor))
        survivors = math.ceil(survivors / factor)
    return sizes


def evaluations(candidates: int, items: int, factor: int = 3, least: int = LEAST_ITEMS) -> int:
    """Scores that `successive_halving` will compute: what its progress is counted in."""
    total, before, left = 0, 0, candidates
    for size in rungs(candidates, items, factor, least):
        total += left * (size - before)
        before, left = size, _kept(left, factor)
    return total


def successive_halving(
    candidates: Sequence[C],
    items: Sequence[str],
    score: Callable[[C, Sequence[str]], Mapping[str, float]],
    *,
    factor: int = 3,
    least: int = LEAST_ITEMS,
    seed: int = 0,
) -> list[Trial[C]]:
    """Trials, best first: by the rung they reached, then by mean score; of equals the earlier candidate.

    `candidates[0]` is what is in use now: it is never dropped, so that the winner can be compared with it on every
    item. `score(candidate, items)` gives a score for each item, higher is better. Raises ValueError without candidates
    or items.
    """
    if not candidates or not items:
        raise ValueError("halving needs at least one candidate and one item")
    order = sorted(items)
    random.Random(seed).shuffle(order)
    place = {candidate: number for number, candidate in enumerate(dict.fromkeys(candidates))}
    known: dict[C, dict[str, float]] = {candidate: {} for candidate in place}
    reached = dict.fromkeys(place, 0)
    alive = list(place)
    for rung, size in enumerate(rungs(len(alive), len(order), factor, least)):
        if rung:
            alive.sort(key=lambda c: (-_mean(known[c]), place[c]))
            alive = alive[: _kept(len(alive), factor)]
            if candidates[0] not in alive:
                alive[-1] = candidates[0]
        for candidate in alive:
            missing = [item for item in order[:size] if item not in known[candidate]]
            known[candidate].update(score(candidate, missing))
            reached[candidate] = rung
    best = sorted(place, key=lambda c: (-reached[c], -_mean(known[c]), place[c]))
    return [Trial(candidate, known[candidate], reached[candidate]) for candidate in best]


def _kept(alive: int, factor: int) -> int:
    return max(2, math.ceil(alive / factor)) if alive > 1 else 1


def _mean(scores: Mapping[str, float]) -> float:
    return sum(scores.values()) / len(scores)
