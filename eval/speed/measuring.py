"""What every measurement shares: single-thread worker processes, clocks, figures against targets, the result file.

On a shared machine wall time says more about the neighbours than about the code, so work is timed as CPU seconds of
one-thread processes run in turns (A B A B), and reported as medians and ratios. OpenMP must wait passively: spinning
threads under contention cost three to four times the work itself.
"""

import json
import math
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal

from retrieval.errors import FathomError, MissingError

BENCH = Path("build/bench")
"""Corpora and indexes made for measuring; may be deleted at any time."""
RESULTS = Path("build/results")
VERSIONS = ("torch", "transformers", "sentence-transformers", "openvino", "nncf", "faiss-cpu", "tantivy", "numpy")


@dataclass(frozen=True, slots=True)
class Figure:
    """One measured number; `target` None where the design names none. `better` says which side of it is reached."""

    what: str
    value: float
    unit: str
    target: float | None = None
    better: Literal["lower", "higher"] = "lower"

    @property
    def reached(self) -> bool | None:
        if self.target is None:
            return None
        return self.value <= self.target if self.better == "lower" else self.value >= self.target


@dataclass(frozen=True, slots=True)
class Measurement:
    """The figures of one command, how to get them again, and everything they were computed from."""

    name: str
    command: str
    figures: tuple[Figure, ...]
    details: Mapping[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "command": self.command,
            "figures": [{**asdict(figure), "reached": figure.reached} for figure in self.figures],
            "details": dict(self.details),
            "machine": machine(),
        }


def machine() -> dict[str, Any]:
    """Where and with what a figure was made."""
    versions = {}
    for name in VERSIONS:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            versions[name] = "absent"
    return {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "load": [round(load, 2) for load in os.getloadavg()],
        "python": platform.python_version(),
        "versions": versions,
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        for line in cpuinfo.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor()


_HELD = {
    "OMP_NUM_THREADS": "1",
    "OMP_WAIT_POLICY": "PASSIVE",
    "MKL_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "RAYON_NUM_THREADS": "1",
}


def single_thread() -> dict[str, str]:
    """This process's environment with every library held to one passive thread, off line."""
    return os.environ | _HELD | {"HF_HUB_OFFLINE": "1"}


def free_threads() -> dict[str, str]:
    """This process's environment without what holds libraries to one thread, off line: what a user's process has, for
    measurements of what a person waits for."""
    return {name: value for name, value in os.environ.items() if name not in _HELD} | {"HF_HUB_OFFLINE": "1"}


def run_worker(name: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Runs a Fathom worker (eval/speed/workers.py) in a fresh one-thread process; returns the JSON it answers."""
    command = [sys.executable, "-m", "eval.speed.workers", name, json.dumps(dict(arguments))]
    return _answer(command, f"worker {name}")


def run_peer(arguments: Sequence[str | Path]) -> dict[str, Any]:
    """Runs the stock pipeline in its own environment. Raises MissingError when that is not installed."""
    from eval.baselines.install import baseline_python

    python = baseline_python()
    if not python.exists():
        raise MissingError(f"{python} is missing; `python -m eval.baselines.install` makes the peers' environment.")
    script = Path(__file__).parents[1] / "baselines" / "llama_index_stock.py"
    return _answer([str(python), str(script), *map(str, arguments)], "peer")


def _answer(command: list[str], what: str) -> dict[str, Any]:
    done = subprocess.run(command, env=single_thread(), capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise FathomError(f"The {what} ended with {done.returncode}: {done.stderr.strip()[-2000:]}")
    answer = json.loads(done.stdout.strip().splitlines()[-1])
    if not isinstance(answer, dict):
        raise FathomError(f"The {what} answered {type(answer).__name__}, not an object.")
    return answer


def percentile(values: Sequence[float], percent: float) -> float:
    """The smallest value with at least `percent` of all values at or below it (nearest rank: p99 is a real query)."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(len(ordered) * percent / 100) - 1)]


def median(values: Sequence[float]) -> float:
    return float(statistics.median(values))


def resident_mb() -> float:
    """Memory of this process now, in MB (10^6 bytes), pages of mapped files included."""
    with open("/proc/self/statm", encoding="ascii") as statm:
        return int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6


def memory_mb(processes: Sequence[int]) -> tuple[float, float]:
    """(RSS, PSS) of some processes together now, in MB (10^6 bytes), pages of mapped files included. A page that
    several processes have counts whole in the RSS of each, and in PSS by its share. Raises FathomError."""
    sums = {"Rss:": 0, "Pss:": 0}
    for pid in processes:
        try:
            lines = Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii", errors="replace").splitlines()
        except OSError as error:
            raise FathomError(
                f"the memory of process {pid} cannot be read ({error.strerror}); it is measured on Linux, while the "
                "process runs, by who started it"
            ) from error
        for words in map(str.split, lines):
            if words and words[0] in sums:
                sums[words[0]] += int(words[1])  # KiB
    return sums["Rss:"] * 1024 / 1e6, sums["Pss:"] * 1024 / 1e6


def folder_mb(folder: Path) -> float:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / 1e6


def write_result(measurement: Measurement, folder: Path = RESULTS) -> Path:
    """`folder/NAME.json`, overwritten."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{measurement.name}.json"
    path.write_text(json.dumps(measurement.to_json(), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return path
