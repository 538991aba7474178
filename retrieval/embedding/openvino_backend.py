"""A converted model → vectors on the CPU through OpenVINO; and which precision this CPU runs best, by measurement.

Imports openvino and numpy only, so that a search starts fast. Knows nothing of texts.
"""

import json
import queue
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from retrieval.embedding.no_telemetry import import_openvino
from retrieval.embedding.probes import least_cosine
from retrieval.embedding.stored import read_sealed, write_sealed

TOKENS_PER_BATCH = 2048
"""Measured on 1 thread: 1024 and 2048 cost the same CPU time per passage, 8192 a tenth more (caches)."""

MIN_COSINE_OF_BF16 = 0.999
MAX_SLOWER = 1.05
SELF_TEST_SECONDS = 2.0
SELF_TEST_VERSION = 1

Hint = Literal["f32", "bf16"]
Batch = tuple[np.ndarray, np.ndarray]


class OpenVinoEncoder:
    """A compiled model. Threads that call at once each get an inference request; OpenVINO queues them on its cores."""

    tokens_per_batch = TOKENS_PER_BATCH

    def __init__(self, model: Path, hint: Hint, threads: int) -> None:
        """`model`: an OpenVINO .xml beside its .bin. `threads`: 0 is every core."""
        self._compiled = compiled(model, hint, threads)
        self._idle: queue.SimpleQueue = queue.SimpleQueue()

    def __call__(self, ids: np.ndarray, mask: np.ndarray) -> np.ndarray:
        """(batch, tokens) int64 → (batch, dimension) float32."""
        try:
            request = self._idle.get_nowait()
        except queue.Empty:
            request = self._compiled.create_infer_request()
        try:
            return np.array(request.infer([ids, mask], share_inputs=True, share_outputs=True)[0], dtype=np.float32)
        finally:
            self._idle.put(request)


def compiled(model: Path, hint: Hint, threads: int) -> Any:
    """OpenVINO's compiled model of an .xml beside its .bin, one stream. `threads`: 0 is every core."""
    options: dict[str, Any] = {
        "INFERENCE_PRECISION_HINT": hint,
        "PERFORMANCE_HINT": "LATENCY",
        "NUM_STREAMS": 1,
        # Pinned, two processes on one machine would both sit on the first cores.
        "ENABLE_CPU_PINNING": False,
    }
    if threads:
        options["INFERENCE_NUM_THREADS"] = threads
    return import_openvino().Core().compile_model(str(model), "CPU", options)


@dataclass(frozen=True, slots=True)
class SelfTest:
    """bf16 against fp32 on this CPU: lowest cosine, and how many times as fast. `bf16` says which to take."""

    bf16: bool
    cosine: float
    speedup: float


def self_test(model: Path, batch: Callable[[], Batch], *, weights: str, threads: int, cache: Path) -> SelfTest:
    """Whether bf16 is as good as fp32 on this CPU and no slower; measured once for a CPU, a model and a version.

    `batch` gives ids and mask of the probe texts, each (batch, tokens) int64.
    """
    return remembered_test(lambda: _measure(model, *batch(), threads), weights=weights, cache=cache)


def remembered_test(measure: Callable[[], SelfTest], *, weights: str, cache: Path) -> SelfTest:
    """`measure()` where the CPU says that it has bf16, kept for this CPU, these weights and this version.

    CPUs without bf16 arithmetic run the hint as fp32 or slower, so the CPU's own word and 2 seconds of running decide,
    not the model's name.
    """
    openvino = import_openvino()
    core = openvino.Core()
    abilities = core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    key = [SELF_TEST_VERSION, core.get_property("CPU", "FULL_DEVICE_NAME"), sorted(abilities), openvino.__version__]
    place = cache / "self-tests" / f"{weights[:32]}.json"
    known = read_sealed(place)
    if known is not None:
        record = json.loads(known)
        if record["key"] == key:
            return SelfTest(**record["result"])
    result = measure() if "BF16" in abilities else SelfTest(bf16=False, cosine=0.0, speedup=0.0)
    values = {"bf16": result.bf16, "cosine": result.cosine, "speedup": result.speedup}
    write_sealed(place, json.dumps({"key": key, "result": values}).encode())
    return result


def _measure(model: Path, ids: np.ndarray, mask: np.ndarray, threads: int) -> SelfTest:
    exact, half = (OpenVinoEncoder(model, hint, threads) for hint in ("f32", "bf16"))
    cosine = least_cosine(_directions(exact(ids, mask)), _directions(half(ids, mask)))
    return judged(cosine, speedup(lambda: exact(ids, mask), lambda: half(ids, mask)))


def judged(cosine: float, faster: float) -> SelfTest:
    """bf16 is taken where it gives nearly the same and is not slower."""
    return SelfTest(cosine >= MIN_COSINE_OF_BF16 and faster * MAX_SLOWER >= 1.0, cosine, faster)


def speedup(exact: Callable[[], object], half: Callable[[], object]) -> float:
    """How many times as fast the second is, by the fastest of alternating runs: other work on the machine slows some
    of them, never speeds one up."""
    fastest = [float("inf"), float("inf")]
    end = time.perf_counter() + SELF_TEST_SECONDS
    while True:
        for which, run in enumerate((exact, half)):
            start = time.perf_counter()
            run()
            fastest[which] = min(fastest[which], time.perf_counter() - start)
        if time.perf_counter() > end:
            return fastest[0] / fastest[1]


def _directions(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
