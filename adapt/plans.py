"""What a plan says: of each stage tokens, steps, speed, memory, disk; of the recipe what makes it impossible here.

Only the nouns, and how a stage is put in words; adapt/planning.py fills them.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from adapt.amounts import Amount
from adapt.corpus.shares import Shares
from adapt.costs import ModelFacts, Need, kind_in_words, total
from adapt.machine import Machine
from adapt.recipe import Dapt, Recipe, Sft, Tapt, Training
from retrieval.errors import UsageError

if TYPE_CHECKING:
    from adapt.chat.looking import Sample


@dataclass(frozen=True)
class StagePlan:
    """One stage. None is what could not be told, as its base or its texts are not here. Sizes in bytes; `sources` are
    the tokens of each source, `basis` says where the speed comes from."""

    name: str
    kind: str
    described: str
    tokens: int | None = None
    about: bool = True
    sources: Mapping[str, int] | None = None
    rows: int | None = None
    steps: int | None = None
    tokens_per_second: float | None = None
    seconds: float | None = None
    basis: str = ""
    memory: tuple[Need, ...] = ()
    disk: tuple[Need, ...] = ()
    learned: float | None = None
    """Share of the conversations' tokens that is learned."""
    samples: "tuple[Sample, ...]" = ()
    """Of each source of conversations one, as it is learned."""

    def as_json(self) -> dict[str, Any]:
        plain = {key: value for key, value in vars(self).items() if key not in ("memory", "disk", "samples")}
        return plain | {
            "memory": {"bytes": total(list(self.memory)), "needs": [need.as_json() for need in self.memory]},
            "disk": {"bytes": total(list(self.disk)), "needs": [need.as_json() for need in self.disk]},
            "samples": [sample.as_json() for sample in self.samples],
        }


@dataclass(frozen=True)
class Plan:
    """The whole of it. With `refusals` the recipe cannot run here; `remarks` are worth knowing."""

    recipe: Recipe
    machine: Machine
    base: ModelFacts | None
    amounts: Mapping[str, Amount | None]
    stages: tuple[StagePlan, ...]
    measuring: float | None
    """Seconds that measuring the base and each stage takes."""
    refusals: tuple[str, ...]
    remarks: tuple[str, ...]

    @property
    def seconds(self) -> float | None:
        """Of all stages and of measuring; None where one of them cannot be told."""
        parts = [self.measuring, *(stage.seconds for stage in self.stages)]
        known = [part for part in parts if part is not None]
        return sum(known) if len(known) == len(parts) else None

    def require(self) -> None:
        """Raises UsageError where the recipe cannot run."""
        if self.refusals:
            raise UsageError("\n".join(self.refusals))

    def as_json(self) -> dict[str, Any]:
        """Ready for JSON."""
        base = None
        if self.base is not None:
            names = ("parameters", "rows", "width", "layers", "tied", "window")
            base = {name: getattr(self.base, name) for name in names}
        return {
            "recipe": self.recipe.name,
            "base": {"name": self.recipe.base, **(base or {})},
            "machine": self.machine.as_json(),
            "sources": {name: found and found.as_json() for name, found in self.amounts.items()},
            "stages": [stage.as_json() for stage in self.stages],
            "measuring_seconds": self.measuring,
            "seconds": self.seconds,
            "refusals": list(self.refusals),
            "remarks": list(self.remarks),
        }


def mean_shares(settings: Dapt | Tapt | Sft) -> dict[str, float]:
    """The share of each source in all tokens of a stage."""
    return Shares(settings.mix).until(1.0)


def method_in_words(settings: Training) -> str:
    """What is trained and what keeps it from forgetting: "lora of rank 64 + kl"."""
    words = [kind_in_words(settings.method)]
    if settings.expand is not None:
        words = [f"{settings.expand.layers} new layers" + ("" if settings.expand.only_new else " and all others")]
    if settings.freeze.layers or settings.freeze.embeddings:
        words.append("some frozen")
    words += [name for name in ("kl", "l2sp", "ewc") if getattr(settings.keep, name) is not None]
    return " + ".join(words)


def mixture_in_words(settings: Dapt | Tapt | Sft) -> str:
    """ "domain 25% → 80%, general 75% → 20%"."""
    shares = Shares(settings.mix)
    begin, end = shares.at(0.0), shares.at(1.0)
    return ", ".join(_span(name, begin[name], end[name]) for name in settings.mix)


def _span(name: str, begin: float, end: float) -> str:
    return f"{name} {begin:.0%}" if abs(begin - end) < 0.005 else f"{name} {begin:.0%} → {end:.0%}"
