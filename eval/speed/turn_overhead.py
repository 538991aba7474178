"""What an answer takes to its first word beyond its engine: search, packing, prompt, page server and the way there.

Three ways: the answering path in one process over an engine that answers at once, the same over the embedded engine
(where the time of the model is taken away, measured on the very same messages), and through the running chat's API.
"""

import json
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from eval.models.packaged import packaged_model
from eval.runs.parts import Progress
from eval.speed.chat_clients import client_of, through_api
from eval.speed.chat_server import (
    PRECISION,
    Scripted,
    chatting,
    free_port,
    questions_for,
    started,
    workspace_with,
)
from eval.speed.chat_turn import OURS, answer_of
from eval.speed.measuring import Figure, Measurement, median, percentile
from retrieval.errors import FathomError

TARGET_MS = 100.0
AT_ONCE = Scripted(first=0.0, tokens=20, gap=0.0)
WARM_UP = 3


def measure(*, passages: int = 100_000, questions: int = 20, progress: Progress | None = None) -> Measurement:
    """Over a collection of `passages`."""
    workspace, collection = workspace_with(passages, progress)
    return measure_in(workspace, collection, questions=questions, progress=progress)


def measure_in(
    workspace: Path,
    collection: str,
    *,
    questions: int,
    embedded: bool = True,
    precision: str | None = PRECISION,
    progress: Progress | None = None,
) -> Measurement:
    """The same on a collection that is there. Raises FathomError where no question got a written answer."""
    asked = questions_for(workspace, collection, questions + WARM_UP)
    file = workspace / "questions.json"
    file.write_text(json.dumps(asked), encoding="utf-8")
    shared = ["overhead", "--workspace", str(workspace), "--collection", collection, "--prompts", str(file)]
    shared += ["--warm-up", str(WARM_UP), *(("--precision", precision) if precision else ())]
    figures: list[Figure] = []
    details: dict[str, Any] = {"collection": collection, "questions": len(asked) - WARM_UP}

    def told(done: int) -> None:
        if progress is not None:
            progress("ways", done, 3)

    port = free_port()
    url = f"http://127.0.0.1:{port}/v1"
    how = ["--first", str(AT_ONCE.first), "--tokens", str(AT_ONCE.tokens), "--gap", str(AT_ONCE.gap)]
    with started(["eval.speed.scripted_engine", str(port), *how], f"{url}/models", {}):
        found = answer_of([OURS, *shared, "--url", url])
    figures += _figures("answering path, engine that answers at once", found["rows"])
    details["answering path"] = found
    told(1)
    with chatting(workspace, AT_ONCE, precision=precision) as running:
        rows = through_the_api(running.page, running.engine, collection, asked)
    figures += _figures("through the page's server, engine that answers at once", rows)
    details["page's server"] = {"rows": rows}
    told(2)
    if embedded:
        packaged_model()  # raises MissingError before the work
        found = answer_of([OURS, *shared])
        figures += _figures("answering path, embedded engine", found["rows"])
        details["embedded"] = found
    told(3)
    return Measurement("turn-overhead", "python -m eval.speed turn-overhead", tuple(figures), details)


def through_the_api(page: str, engine: str, collection: str, asked: Sequence[str]) -> list[dict[str, float]]:
    """Each question through the running chat, and its very messages to the engine alone."""
    rows = []
    with client_of(page) as client, client_of(engine) as direct:
        ask = through_api(client, collection)
        for number, question in enumerate(asked):
            whole = ask(question, threading.Event())
            body = direct.get("/last").json()
            began = time.perf_counter()
            with direct.stream("POST", "/v1/chat/completions", json=body) as response:
                lines = response.iter_lines()
                next(lines)
                alone = time.perf_counter() - began
                for _ in lines:  # to the end, so that the connection can be used again
                    continue
            if number >= WARM_UP and whole.first is not None:
                rows.append(
                    {
                        "answer_ms": whole.first * 1e3,
                        "engine_ms": alone * 1e3,
                        "overhead_ms": (whole.first - alone) * 1e3,
                    }
                )
    return rows


def _figures(way: str, rows: Sequence[Mapping[str, float]]) -> list[Figure]:
    if not rows:
        raise FathomError(f"no question got a written answer ({way}); ask more of them with --questions")
    overhead = [row["overhead_ms"] for row in rows]
    # The same clock, in the same answer: says what the app takes even where the model's own time varies by more.
    before = [row["answer_ms"] - row["first_token"] for row in rows if "first_token" in row]
    return [
        Figure(f"to the first word beyond the engine, {way}, median", median(overhead), "ms", TARGET_MS),
        Figure(f"to the first word beyond the engine, {way}, p95", percentile(overhead, 95), "ms"),
        Figure(f"to the first word, {way}, median", median([row["answer_ms"] for row in rows]), "ms"),
        *([Figure(f"until the engine is asked, {way}, median", median(before), "ms")] if before else ()),
    ]
