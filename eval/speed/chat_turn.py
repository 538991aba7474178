"""One chat turn of the embedded engine beside llama.cpp: the same GGUF, the same prompts, in turns (A B A B …).

Both sides are programs of their own, each in its own environment, and both use as many threads: this is what a person
waits for, so wall time is measured, on a machine that has nothing else to do.
"""

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from eval.baselines import llama_cpp_turns
from eval.baselines.install import baseline_python
from eval.models.packaged import packaged_model
from eval.runs.parts import Progress
from eval.speed.beside import Side, TimedRun, compared, run_timed
from eval.speed.measuring import BENCH, Figure, Measurement, free_threads
from retrieval.errors import FathomError, MissingError

OURS = "app.commands.evaluation.turns"
"""A program of the floor above, started as one: nothing of it is imported here."""
FASTER, DECODING, FIRST_TOKEN_MS = 3.0, 0.9, 1_500.0
SECONDS = 900.0
"""After which a side is ended."""
SPARE = 64
"""Tokens of llama.cpp's window beyond prompt and answer."""


def measure(
    *,
    tokens: int = 1500,
    new_tokens: int = 100,
    prompts: int = 3,
    repeats: int = 3,
    threads: int = 2,
    model: Path | None = None,
    progress: Progress | None = None,
    work: Path = BENCH / "chat-turn",
) -> Measurement:
    """Medians of each side over `repeats` turns of `prompts` prompts, and their ratios.

    Raises MissingError where llama.cpp's environment or the model is missing, FathomError where a side fails.
    """
    python = baseline_python(name="llama-cpp")
    if not python.exists():
        raise MissingError(f"{python} is missing; 'python -m eval.baselines.install llama-cpp' makes it (4 minutes)")
    gguf = (model or packaged_model()).absolute()
    work.mkdir(parents=True, exist_ok=True)
    file = (work / "prompts.json").absolute()
    shared = ["--workspace", str(work.absolute()), "--model", str(gguf), "--threads", str(threads)]
    shared += ["--new-tokens", str(new_tokens)]
    # One more than is timed: the first one warms up.
    made = answer_of([OURS, "prompts", *shared, "--tokens", str(tokens), "--count", str(prompts + 1)])
    file.write_text(json.dumps(made["prompts"]), encoding="utf-8")
    command = (sys.executable, "-m", OURS, "turns", *shared, "--prompts", str(file))
    ours = Side("the embedded engine", command, free_threads())
    window = str(tokens + new_tokens + SPARE)
    peer = [str(python), llama_cpp_turns.__file__, "--model", str(gguf), "--prompts", str(file), "--window", window]
    peer += ["--threads", str(threads), "--new-tokens", str(new_tokens)]
    # Nothing of this environment may be imported there.
    apart = {name: value for name, value in free_threads().items() if not name.startswith("PYTHON")}
    theirs = Side("llama.cpp", tuple(peer), apart)
    runs: dict[str, list[Mapping[str, float]]] = {"ours": [], "peer": []}
    for number in range(repeats):
        for name, which in (("ours", ours), ("peer", theirs)):
            timed = _timed(which)
            runs[name].append({**timed.figures, "peak_mb": timed.peak_mb})
        same_work(runs["ours"][-1], runs["peer"][-1], new_tokens)
        if progress is not None:
            progress("turns", number + 1, repeats)
    found = compared(runs["ours"], runs["peer"])
    return Measurement(
        "chat-turn",
        f"python -m eval.speed chat-turn --repeats {repeats}",
        figures_of(found, f"{tokens:,} tokens in, {new_tokens} out"),
        {"model": gguf.name, "threads": threads, "compared": found, "runs": runs},
    )


def same_work(ours: Mapping[str, float], peer: Mapping[str, float], new_tokens: int) -> None:
    """Raises FathomError where the two sides did not read the same prompts or write as much."""
    for name in ("prompt_tokens", "new_tokens"):
        if ours[name] != peer[name]:
            raise FathomError(
                f"the sides did not do the same: {name} is {ours[name]:g} here and {peer[name]:g} in llama.cpp; the "
                "model's tokenizer is read differently, so take another GGUF"
            )
    if ours["new_tokens"] != new_tokens:
        raise FathomError(f"{ours['new_tokens']:g} tokens were written instead of {new_tokens}; run it again")


def figures_of(found: Mapping[str, Mapping[str, float | None]], turn: str) -> tuple[Figure, ...]:
    """The table of a comparison."""

    def value(name: str, side: str) -> float:
        return float(found[name][side] or 0.0)

    figures = []
    for name, what, unit in (
        ("first_token_ms", "first token", "ms"),
        ("prompt_tokens_per_second", "reading", "tokens/s"),
        ("decode_tokens_per_second", "writing", "tokens/s"),
        ("total_ms", "whole turn", "ms"),
        ("load_s", "loading", "s"),
        ("peak_mb", "memory", "MB"),
    ):
        target = FIRST_TOKEN_MS if name == "first_token_ms" else None
        figures.append(Figure(f"{turn}: {what}, embedded engine", value(name, "ours"), unit, target))
        figures.append(Figure(f"{turn}: {what}, llama.cpp", value(name, "peer"), unit))
    faster = value("total_ms", "peer") / value("total_ms", "ours")
    decoding = value("decode_tokens_per_second", "ours") / value("decode_tokens_per_second", "peer")
    figures.append(Figure(f"{turn}: whole turn, times as fast as llama.cpp", faster, "×", FASTER, "higher"))
    figures.append(Figure(f"{turn}: writing, share of llama.cpp's", decoding, "×", DECODING, "higher"))
    return tuple(figures)


def _timed(which: Side) -> TimedRun:
    timed = run_timed(which, SECONDS)
    if timed.error:
        raise FathomError(timed.error)
    return timed


def answer_of(words: Sequence[str], *, seconds: float = SECONDS) -> dict[str, Any]:
    """What `python -m` with these words answers: the JSON of its last line. Raises FathomError with its last words."""
    command = [sys.executable, "-m", *words]
    done = subprocess.run(command, env=free_threads(), capture_output=True, text=True, timeout=seconds, check=False)
    if done.returncode != 0:
        raise FathomError(f"{words[0]} ended with exit code {done.returncode}: {done.stderr.strip()[-2000:]}")
    answer: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return answer
