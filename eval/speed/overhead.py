"""What measuring itself costs: the runner beside the bare calls, and the statistics of a large run. CPU time."""

import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from eval.data.datasets import load_dataset
from eval.figures.statistics import Value, estimates, paired
from eval.retrieval import RetrievalPart
from eval.runs.parts import PartFolder, Tools
from eval.search.indexed import indexed
from eval.search.pipelines import Pipeline, Searcher
from eval.speed.measuring import BENCH, Figure, Measurement
from retrieval.collection import SearchSettings
from retrieval.embedding.embedder import Embedder

Progress = Callable[[str, int, int], None]
SHARE, SECONDS = 5.0, 10.0


def measure_runner(
    dataset: Path, embedder: Callable[[], Embedder], *, repeats: int = 5, progress: Progress | None = None
) -> Measurement:
    """A hybrid evaluation with records, figures and run files, beside the same searches alone, in turns."""
    model = embedder()
    tools = Tools(cache=BENCH / "sets", embedder=lambda: model)
    found = load_dataset(dataset)
    part = RetrievalPart(dataset)
    quiet: Progress = lambda stage, done, total: None  # noqa: E731

    def bare() -> float:
        with indexed(found, model, tools.cache, settings=SearchSettings()) as collection:
            searcher = Searcher(collection, Pipeline.parse(part.pipeline), k=part.k, rerank_depth=1)
            searcher.warm_up()
            began = time.process_time()
            for text in found.queries.values():
                searcher(text)
            return time.process_time() - began

    def whole(folder: Path) -> float:
        clock: dict[str, float] = {}

        def told(stage: str, done: int, total: int) -> None:
            # From the first query on: opening the index is the same for both.
            if stage == "searching" and done == 0:
                clock["began"] = time.process_time()

        part.prepare(tools).run(PartFolder(folder), told)
        return time.process_time() - clock["began"]

    bare()
    turns: list[dict[str, float]] = []
    for turn in range(repeats):
        with tempfile.TemporaryDirectory() as folder:
            turns.append({"bare": bare(), "whole": whole(Path(folder) / "part")})
        (progress or quiet)("turns", turn + 1, repeats)
    ratios = [100 * (turn["whole"] / turn["bare"] - 1) for turn in turns]
    figures = (
        Figure(f"{found.name}, {len(found.queries)} hybrid searches alone", _median(turns, "bare"), "s CPU"),
        Figure("the same as a measurement: records, figures, run files", _median(turns, "whole"), "s CPU"),
        Figure("overhead of the runner", statistics.median(ratios), "%", SHARE),
    )
    return Measurement("overhead", "python -m eval.speed overhead", figures, {"turns": turns})


def measure_statistics(queries: int = 10_000, resamples: int = 10_000, metrics: int = 10) -> Measurement:
    """Intervals of one run and the comparison of two, of drawn values."""
    generator = np.random.default_rng(0)
    names = [f"q{number}" for number in range(queries)]
    tables: list[dict[str, dict[str, Value]]] = []
    for _ in range(2):
        values = generator.random((metrics, queries)).tolist()
        tables.append({f"metric{i}": dict(zip(names, row, strict=True)) for i, row in enumerate(values)})
    seconds: dict[str, Any] = {}
    for name, work in (
        ("intervals", lambda: estimates(tables[0], resamples=resamples)),
        ("comparison", lambda: paired(tables[0], tables[1], resamples=resamples)),
    ):
        began = time.process_time()
        work()
        seconds[name] = time.process_time() - began
    label = f"{queries:,} queries, {metrics} metrics, {resamples:,} resamples"
    figures = (
        Figure(f"intervals of {label}", seconds["intervals"], "s CPU", SECONDS),
        Figure(f"paired comparison of {label}", seconds["comparison"], "s CPU", SECONDS),
    )
    return Measurement("statistics", "python -m eval.speed overhead", figures, seconds)


def _median(turns: list[dict[str, float]], name: str) -> float:
    return float(statistics.median(turn[name] for turn in turns))
