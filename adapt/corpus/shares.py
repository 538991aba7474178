"""Mixtures → which share of the tokens each source has at every place of a training, and how long the texts last.

It knows names, curves and numbers of tokens; no text and no row.
"""

import math
from collections.abc import Mapping

from adapt.recipe import Mixture, Mixtures
from retrieval.errors import UsageError

_TOLERANCE = 1e-6
_PLACES = 1000
"""Places at which shares that must add up are added up."""


class Shares:
    """Shares of the tokens by source, over a stage from 0 (its first token) to 1 (its last).

    Raises UsageError for shares that do not add up to 1 everywhere, and for more than one "rest".
    """

    def __init__(self, shares: Mixtures) -> None:
        self.names = tuple(shares)
        self._curves = {name: mixture for name, mixture in shares.items() if isinstance(mixture, Mixture)}
        rest = [name for name in self.names if name not in self._curves]
        self._rest = rest[0] if rest else None
        if not shares or len(rest) > 1:
            raise UsageError(f'a mixture has sources, and one of them at most is "rest"; found {_said(shares)}')
        for place in (step / _PLACES for step in range(_PLACES + 1)):
            together = sum(share_at(mixture, place) for mixture in self._curves.values())
            if together > 1 + _TOLERANCE or (self._rest is None and together < 1 - _TOLERANCE):
                raise UsageError(
                    f"the shares {_said(shares)} add up to {together:.3f} after {place:.0%} of the tokens; they must "
                    'be 1 everywhere: give one source "rest"'
                )

    def at(self, place: float) -> dict[str, float]:
        """Shares at `place`, which add up to 1."""
        return self._with_rest({name: share_at(mixture, place) for name, mixture in self._curves.items()}, 1.0)

    def until(self, place: float) -> dict[str, float]:
        """Integrals of the shares from 0 to `place`: a stage of T tokens has used T · until(place) of each source."""
        return self._with_rest({name: share_until(mixture, place) for name, mixture in self._curves.items()}, place)

    def _with_rest(self, known: dict[str, float], whole: float) -> dict[str, float]:
        if self._rest is not None:
            known = {**known, self._rest: max(0.0, whole - sum(known.values()))}
        return {name: known[name] for name in self.names}


def share_at(mixture: Mixture, place: float) -> float:
    """The share at a place from 0 to 1."""
    reached = _reached(mixture, _ramp(mixture, place))
    return mixture.start + (mixture.end - mixture.start) * reached


def share_until(mixture: Mixture, place: float) -> float:
    """The integral of `share_at` from 0 to `place`."""
    width = 1 - mixture.hold
    risen = width * _risen(mixture, _ramp(mixture, place)) + max(0.0, place - width)
    return mixture.start * place + (mixture.end - mixture.start) * risen


def largest(tokens: Mapping[str, int], shares: Mixtures, epochs: float) -> int:
    """Tokens of the longest stage in which no source is read more than `epochs` times, given each one's tokens.

    Raises UsageError for names that do not fit, and where no source with a share has any text.
    """
    planned = _checked(tokens, shares).until(1.0)
    able = [tokens[name] * epochs / mean for name, mean in planned.items() if mean > _TOLERANCE]
    return math.floor(min(able) * (1 + 1e-12))


def require_possible(tokens: Mapping[str, int], shares: Mixtures, epochs: float, wanted: int) -> None:
    """Raises UsageError where a stage of `wanted` tokens needs more of a source than `epochs` readings of it give:
    which source runs out where, how many tokens are possible, and how many epochs would be needed."""
    possible = largest(tokens, shares, epochs)
    if wanted <= possible:
        return
    known = _checked(tokens, shares)
    scarce = {name: runs_out(known, name, tokens[name] * epochs, wanted) for name in known.names}
    name, place = min(scarce.items(), key=lambda item: item[1])
    needed = max(wanted * mean / tokens[other] for other, mean in known.until(1.0).items() if mean > _TOLERANCE)
    raise UsageError(
        f"'{name}' has {tokens[name]:,} tokens and, read {epochs:g} times, runs out after {place:.0%} of the "
        f"{wanted:,} tokens of this mixture; {possible:,} tokens are possible, or set epochs to {_up(needed)}"
    )


def runs_out(shares: Shares, name: str, tokens: float, wanted: int) -> float:
    """The place, from 0 to 1, at which a stage of `wanted` tokens has used `tokens` of a source; 2 for never."""
    if wanted * shares.until(1.0)[name] <= tokens:
        return 2.0
    low, high = 0.0, 1.0
    for _ in range(50):
        middle = (low + high) / 2
        low, high = (middle, high) if wanted * shares.until(middle)[name] <= tokens else (low, middle)
    return low


def _checked(tokens: Mapping[str, int], shares: Mixtures) -> Shares:
    known = Shares(shares)
    missing, extra = sorted(set(shares) - set(tokens)), sorted(set(tokens) - set(shares))
    if missing or extra:
        what = f"there is no source '{missing[0]}'" if missing else f"source '{extra[0]}' has no share"
        raise UsageError(f"{what}; the mixture names {', '.join(known.names)}, the texts {', '.join(tokens)}")
    empty = [name for name, mean in known.until(1.0).items() if mean > _TOLERANCE and tokens[name] <= 0]
    if empty:
        raise UsageError(f"source '{empty[0]}' has a share of the mixture and no text")
    return known


def _ramp(mixture: Mixture, place: float) -> float:
    """How far the curve is through, from 0 to 1, before the hold."""
    width = 1 - mixture.hold
    return min(1.0, place / width) if width > 0 else 1.0


def _reached(mixture: Mixture, ramp: float) -> float:
    """From 0 (the share of the start) to 1 (that of the end)."""
    if mixture.curve == "linear":
        return ramp
    if mixture.curve == "cosine":
        return (1 - math.cos(math.pi * ramp)) / 2
    return _stair(min(int(ramp * mixture.steps), mixture.steps - 1), mixture.steps)


def _risen(mixture: Mixture, ramp: float) -> float:
    """The integral of `_reached` from 0 to `ramp`."""
    if mixture.curve == "linear":
        return ramp * ramp / 2
    if mixture.curve == "cosine":
        return ramp / 2 - math.sin(math.pi * ramp) / (2 * math.pi)
    steps = mixture.steps
    current = min(int(ramp * steps), steps - 1)
    below = sum(_stair(stair, steps) for stair in range(current)) / steps
    return below + (ramp - current / steps) * _stair(current, steps)


def _stair(stair: int, steps: int) -> float:
    """Height of a stair: the first is the start, the last the end; a single one is the end."""
    return stair / (steps - 1) if steps > 1 else 1.0


def _up(number: float) -> str:
    """Two decimals, never less than the number."""
    return f"{math.ceil(number * 100) / 100:g}"


def _said(shares: Mixtures) -> str:
    return ", ".join(
        f"{name}: {share if isinstance(share, str) else f'{share.start:g} → {share.end:g}'}"
        for name, share in shares.items()
    )
