"""Prompts of given lengths, one after another → milliseconds to the first token and tokens a second after it."""

import threading
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from eval.runs.parts import PartFolder, Progress, Record
from eval.runs.running import run_items
from eval.speed.asking import of_engine
from eval.speed.measuring import median
from eval.speed.prompts import counter, prompt

if TYPE_CHECKING:
    from llama_index.core.llms import LLM


def measure(
    llm: "LLM",
    folder: PartFolder,
    progress: Progress,
    *,
    prompt_tokens: tuple[int, ...],
    new_tokens: int,
    repeats: int,
    seed: int,
) -> Mapping[str, Any]:
    """One record for each length and repeat, the lengths in turns; returns the table of medians.

    The first request of a process pays for what is made once (compiled kernels, connections) and is not counted.
    """
    count, ask = counter(llm), of_engine(llm, new_tokens)
    items = [(length, repeat) for repeat in range(repeats) for length in prompt_tokens]
    if len(folder.done()) < len(items):
        of_engine(llm, 4)(prompt(min(prompt_tokens), count, seed=seed - 1), threading.Event())

    def do(item: tuple[int, int]) -> Record:
        length, repeat = item
        text = prompt(length, count, seed=seed * 1_000_003 + repeat * 1_009 + length)
        asked = ask(text, threading.Event())
        first_ms = None if asked.first is None else asked.first * 1e3
        timings = {"total": asked.total * 1e3} | ({} if first_ms is None else {"first_token": first_ms})
        # The first token is written when the prompt has been read.
        reading = None if not asked.first or asked.prompt_tokens is None else asked.prompt_tokens / asked.first
        return {
            "text": text[:200],
            "cluster": None,
            "metrics": {
                f"{length}_tokens_first_token_ms": first_ms,
                f"{length}_tokens_decode_tokens_per_second": asked.decode,
            },
            "timings": {f"{length} tokens, {name}": value for name, value in timings.items()},
            "error": None,
            "length": length,
            "first_token_ms": first_ms,
            "total_ms": asked.total * 1e3,
            "decode_tokens_per_second": asked.decode,
            "prefill_tokens_per_second": reading,
            "prompt_tokens": asked.prompt_tokens,
            "completion_tokens": asked.completion_tokens,
        }

    run_items(
        folder,
        items,
        do,
        identify=lambda item: f"{item[0]}-tokens-{item[1] + 1}",
        total=len(items),
        what="prompts",
        progress=progress,
    )
    return {"model": llm.metadata.model_name, "table": table(folder.done(), prompt_tokens)}


_COLUMNS = ("first_token_ms", "decode_tokens_per_second", "prefill_tokens_per_second", "total_ms")


def table(records: Mapping[str, Record], lengths: tuple[int, ...]) -> list[dict[str, Any]]:
    """A row for each length: medians over its repeats, None where nothing was measured."""
    rows = []
    for length in lengths:
        own = [record for record in records.values() if record["length"] == length]
        row: dict[str, Any] = {"prompt": length, "repeats": len(own)}
        for name in (*_COLUMNS, "prompt_tokens", "completion_tokens"):
            values = [record[name] for record in own if record[name] is not None]
            row[name] = median(values) if values else None
        rows.append(row)
    return rows
