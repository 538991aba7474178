"""The settings of one `dapt` stage → the same stage under each method of tuning: the rows of the table of methods.

It trains nothing and measures nothing.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from adapt.recipe import Dapt, Freezing, LearningRate, Method
from retrieval.errors import UsageError

RANK = 16
PROMPTS_THAT_VOTE = 3


@dataclass(frozen=True)
class MethodRow:
    """One row. `seeds` are counted from the recipe's: with several, that many adapters are trained and vote; `drops`
    is the share of the lowest layers whose adapters are left out when it is measured."""

    name: str
    described: str
    settings: Dapt
    seeds: int = 1
    drops: float = 0.0


_ROWS: tuple[tuple[str, str, Method, float], ...] = (
    ("full", "all weights", Method(), 1.0),
    ("bitfit", "biases alone", Method(kind="bitfit"), 10.0),
    ("lora", f"rank {RANK}, all linear layers", Method(kind="lora", r=RANK), 10.0),
    ("rslora", f"rank {4 * RANK}, α/√r", Method(kind="lora", r=4 * RANK, rslora=True, alpha=RANK), 10.0),
    ("dora", f"rank {RANK}, magnitudes apart", Method(kind="lora", r=RANK, dora=True), 10.0),
    ("pissa", f"rank {RANK}, begun as singular vectors", Method(kind="lora", r=RANK, init="pissa"), 2.0),
    ("adalora", f"rank {RANK * 3 // 2} pruned to {RANK}", Method(kind="adalora", r=RANK), 100.0),
    ("qlora", f"rank {RANK} on NF4, scales in 8 bits", Method(kind="qlora", r=RANK), 10.0),
    (
        "qlora, from its error",
        f"rank {RANK} on NF4, begun as what 4 bits lose",
        Method(kind="qlora", r=RANK, init="error"),
        10.0,
    ),
    ("houlsby", "behind attention and MLP, width / 16", Method(kind="houlsby"), 10.0),
    ("pfeiffer", "behind the MLP, width / 16", Method(kind="pfeiffer"), 10.0),
    ("prefix", "20 tokens' keys and values in each layer", Method(kind="prefix"), 50.0),
    ("prompt", "20 embeddings before every text", Method(kind="prompt"), 100.0),
    ("p_tuning", "20 embeddings from a small network", Method(kind="p_tuning"), 10.0),
    ("ia3", "scales of keys, values and MLP", Method(kind="ia3"), 100.0),
)
"""Name, words, method and its peak learning rate by that of full training. Few weights that begin as nothing want a
high rate (Lester et al. 2021 used 0.3 for prompts); PiSSA begins with the base's own largest directions."""


def method_rows(base: Dapt, *, layers: int, only: Sequence[str] = (), wide: Sequence[str] = ()) -> list[MethodRow]:
    """Every method as a row of the same work. `layers` are the base model's; `only` names rows, none named: all; `wide`
    are the layers that the row "qlora, partly" does not hold in 4 bits. Raises UsageError for rows that there are not.
    """

    def changed(method: Method, times: float, **more: object) -> Dapt:
        peak = LearningRate(**{**base.lr.model_dump(), "peak": base.lr.peak * times})
        return base.model_copy(update={"method": method, "lr": peak, **more})

    rows = [MethodRow(name, words, changed(method, times)) for name, words, method, times in _ROWS]
    upper = "the upper half of the layers"
    rows[1:1] = [
        MethodRow("freeze", upper, changed(Method(), 1.0, freeze=Freezing(layers=layers // 2, embeddings=True))),
        MethodRow(
            "unfreeze",
            "layers join from the top",
            changed(Method(), 1.0, freeze=Freezing(layers=layers // 2, unfreeze=True)),
        ),
    ]
    by_name = {row.name: row for row in rows}
    words = "v, down and the last layer not in 4 bits" if not wide else "some layers not in 4 bits"
    partly = Method(kind="qlora", r=RANK, wide=tuple(wide) or ("v_proj", "down_proj", f"layers.{layers - 1}"))
    rate = by_name["qlora"].settings.lr.peak / base.lr.peak
    place = [row.name for row in rows].index("qlora") + 1
    rows.insert(place, MethodRow("qlora, partly", words, changed(partly, rate)))
    rows.append(MethodRow("houlsby, half dropped", "AdapterDrop", by_name["houlsby"].settings, drops=0.5))
    votes = f"majority of {PROMPTS_THAT_VOTE} prompts"
    rows.append(MethodRow("prompts that vote", votes, by_name["prompt"].settings, seeds=PROMPTS_THAT_VOTE))
    known = [row.name for row in rows]
    odd = [name for name in only if name not in known]
    if odd:
        raise UsageError(f"there is no row '{odd[0]}'; there are {', '.join(known)}")
    return [row for row in rows if not only or row.name in only]
