"""The settings of one `dapt` stage → the same stage under each remedy against forgetting: the rows of the table.

It trains nothing and measures nothing.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from adapt.recipe import Anchor, Dapt, Distance, Expansion, Freezing, Keep, LearningRate, Method, Mixture
from retrieval.errors import UsageError

PLAIN = "no replay"
"""The row that the others are held against."""
LORA_FASTER = 5.0
"""Peak learning rate of LoRA by that of full training. An adapter wants about ten times as much in large models
(Biderman et al. 2024, arXiv:2405.09673); a small model's own is high already."""


@dataclass(frozen=True)
class Weights:
    """How strongly the remedies that have a weight pull, where the recipe does not say."""

    kl: float = 0.3
    l2sp: float = 0.1
    ewc: float = 10.0  # nine in ten weights have less than .3 of the mean Fisher information, so more than L2-SP


@dataclass(frozen=True)
class Row:
    """One row of the table. `settings` are those of its stage."""

    name: str
    described: str
    settings: Dapt


def rows_of(
    base: Dapt,
    *,
    tokens: int,
    layers: int,
    domain: str = "domain",
    general: str = "general",
    weights: Weights | None = None,
    only: tuple[str, ...] = (),
) -> list[Row]:
    """Every remedy as a row, with `tokens` tokens in all, whatever they are of: the same work for each.

    Replay is the recipe's own mixture. Remedies other than replay are added to training on the domain alone, each by
    itself, so that a row shows one thing; KL needs general rows to be taken on and stands with replay. `layers` are the
    base model's. `only` names rows to leave the others out; the plain one always stays, the others are measured by it.
    Raises UsageError for a recipe without a general source and for rows that there are not.
    """
    mixed = [name for name in base.mix if name in (domain, general)]
    if len(mixed) < 2:
        raise UsageError(
            f"the recipe's mixture has {', '.join(base.mix)}; the table needs both '{domain}' and '{general}' in it"
        )
    chosen = weights or Weights()
    bare = base.model_copy(
        update={
            "tokens": tokens,
            "method": Method(),
            "keep": Keep(),
            "expand": None,
            "freeze": Freezing(),
        }
    )
    plain = bare.model_copy(update={"mix": {domain: "rest"}})
    kl = base.keep.kl or Distance(weight=chosen.kl, on=(general,))
    l2sp = base.keep.l2sp or Anchor(weight=chosen.l2sp)
    ewc = base.keep.ewc or Anchor(weight=chosen.ewc, on=general)
    lora = base.method if base.method.kind == "lora" else Method(kind="lora", r=64)
    expand = base.expand or Expansion(layers=min(4, layers))
    lower = Freezing(layers=max(1, layers // 2), embeddings=True)

    def changed(stage: Dapt, **changes: object) -> Dapt:
        return stage.model_copy(update=changes)

    known_to_ewc = {domain: "rest", ewc.on: Mixture(start=0.0, end=0.0)}  # read by the Fisher pass, never trained on
    makers: Mapping[str, Callable[[], tuple[str, Dapt]]] = {
        PLAIN: lambda: ("the domain alone", plain),
        "replay": lambda: (f"the recipe's mixture with '{general}'", bare),
        "replay + KL": lambda: (
            f"and KL from the old model on it, weight {kl.weight:g}",
            changed(bare, keep=Keep(kl=kl)),
        ),
        "L2-SP": lambda: (f"the domain alone, weight {l2sp.weight:g}", changed(plain, keep=Keep(l2sp=l2sp))),
        "EWC": lambda: (
            f"the domain alone, weight {ewc.weight:g}, Fisher over {ewc.tokens:,} tokens",
            changed(plain, keep=Keep(ewc=ewc), mix=known_to_ewc),
        ),
        "expansion": lambda: (
            f"the domain alone, {expand.layers} new layers trained",
            changed(plain, expand=expand.model_copy(update={"only_new": True})),
        ),
        "LoRA": lambda: (
            f"the domain alone, rank {lora.r}, {LORA_FASTER:g} × the learning rate",
            changed(plain, method=lora, lr=_faster(base.lr)),
        ),
        "frozen layers": lambda: (
            f"the domain alone, the lower {lower.layers} of {layers} layers and the embeddings frozen",
            changed(plain, freeze=lower),
        ),
    }
    unknown = [name for name in only if name not in makers]
    if unknown:
        raise UsageError(f"there is no row '{unknown[0]}'; there are: {', '.join(makers)}")
    found = []
    for name, make in makers.items():
        if not only or name in only or name == PLAIN:
            described, settings = make()
            # Checked again as a whole: model_copy checks nothing.
            found.append(Row(name, described, Dapt.model_validate(settings.model_dump(by_alias=False))))
    return found


def _faster(lr: LearningRate) -> LearningRate:
    return lr.model_copy(update={"peak": lr.peak * LORA_FASTER})
