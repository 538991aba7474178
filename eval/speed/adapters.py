"""One base with more and more adapters on it → memory of its process and seconds of its answers, adapters idle or not.

Every figure is of a fresh process in which the base and each role have answered, so that what a role takes at its first
answer is counted. It knows no engine: whoever opens one says which processes hold it.
"""

import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from eval.runs.parts import PartFolder, Progress, Record
from eval.runs.running import run_items
from eval.speed.asking import Asked, of_engine
from eval.speed.measuring import median, memory_mb
from eval.speed.prompts import counter, prompt

if TYPE_CHECKING:
    from llama_index.core.llms import LLM

BASE = "base"
"""How the model without an adapter is called in tables and records."""


@dataclass(frozen=True)
class Adapted:
    """A running engine. `llm` has `under(role)`; `processes` tells the ids of those that hold the model."""

    llm: "LLM"
    processes: Callable[[], Sequence[int]]


Open = Callable[[Sequence[str]], AbstractContextManager[Adapted]]
"""Roles → a fresh engine with their adapters and no others, closed at the end."""


def measure(
    opened: Open,
    roles: Sequence[str],
    folder: PartFolder,
    progress: Progress,
    *,
    counts: Sequence[int],
    prompt_tokens: int,
    new_tokens: int,
    repeats: int,
    seed: int,
) -> Mapping[str, Any]:
    """One record for each number of adapters (the first so many of `roles`) and repeat, in turns; returns the table of
    medians. In each the base and then every role answers one prompt, the second time on the clock."""
    items = [(count, repeat) for repeat in range(repeats) for count in counts]

    def do(item: tuple[int, int]) -> Record:
        count, repeat = item
        with opened(roles[:count]) as engine:
            llm: Any = engine.llm
            # The same prompt whatever is on the model: its answer with adapters is the one without, but for rounding.
            text = prompt(prompt_tokens, counter(llm), seed=seed * 1_000_003 + repeat)
            model = llm.metadata.model_name
            asked: dict[str, Asked] = {}
            for _ in range(2):  # what is made once is not counted
                for role in (None, *roles[:count]):
                    one = llm if role is None else llm.under(role)
                    asked[role or BASE] = of_engine(one, new_tokens)(text, threading.Event())
            rss, pss = memory_mb(engine.processes())
        told = {name: _times(one) for name, one in asked.items()}
        base = told[BASE]
        return {
            "text": text[:200],
            "cluster": None,
            "metrics": {
                f"{count}_adapters_pss_mb": pss,
                f"{count}_adapters_rss_mb": rss,
                f"{count}_adapters_base_first_token_ms": base["first_token_ms"],
                f"{count}_adapters_base_decode_tokens_per_second": base["decode_tokens_per_second"],
            },
            "timings": {f"{count} adapters, {name}": one["total_ms"] for name, one in told.items()},
            "error": None,
            "model": model,
            "adapters": count,
            "pss_mb": pss,
            "rss_mb": rss,
            "asked": told,
        }

    run_items(
        folder,
        items,
        do,
        identify=lambda item: f"{item[0]}-adapters-{item[1] + 1}",
        total=len(items),
        what="engines",
        progress=progress,
    )
    done = folder.done()
    model = next((record["model"] for record in done.values()), None)
    return {"model": model, "roles": list(roles), "adapted": table(done, roles, counts)}


def table(records: Mapping[str, Record], roles: Sequence[str], counts: Sequence[int]) -> list[dict[str, Any]]:
    """A row for each number of adapters: medians of memory (MB), and for the base and each role those of its answer."""
    rows = []
    for count in counts:
        own = [record for record in records.values() if record["adapters"] == count]
        row: dict[str, Any] = {"adapters": list(roles[:count]), "repeats": len(own)}
        row |= {name: _median([record[name] for record in own]) for name in ("pss_mb", "rss_mb")}
        row["asked"] = {
            name: {figure: _median([record["asked"][name][figure] for record in own]) for figure in _FIGURES}
            for name in (BASE, *roles[:count])
        }
        rows.append(row)
    return rows


_FIGURES = ("first_token_ms", "decode_tokens_per_second", "total_ms", "prompt_tokens", "completion_tokens")


def _times(asked: Asked) -> dict[str, float | None]:
    first = None if asked.first is None else asked.first * 1e3
    values = (first, asked.decode, asked.total * 1e3, asked.prompt_tokens, asked.completion_tokens)
    return dict(zip(_FIGURES, values, strict=True))


def _median(values: Sequence[float | None]) -> float | None:
    there = [value for value in values if value is not None]
    return median(there) if there else None
