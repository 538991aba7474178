"""This machine → what training has of it: cores, memory, GPUs, which precision it computes in, how fast it multiplies.

It knows no model and no recipe.
"""

import os
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

GIB = 1024**3
SECONDS = 0.15
"""How long multiplying is measured. The first products only warm up."""


@dataclass(frozen=True, slots=True)
class Gpu:
    """One GPU; sizes in bytes."""

    name: str
    memory: int
    free: int
    bf16: bool


@dataclass(frozen=True, slots=True)
class Machine:
    """What is there; sizes in bytes. `bf16` is whether the CPU has instructions for it."""

    cores: int
    memory: int
    free: int
    bf16: bool
    gpus: tuple[Gpu, ...] = ()

    @property
    def device(self) -> str:
        """Where training runs: on the GPUs where there is one."""
        return "cuda" if self.gpus else "cpu"

    @property
    def free_for_training(self) -> int:
        """Bytes one process may fill: of the smallest GPU, else of main memory."""
        return min((gpu.free for gpu in self.gpus), default=self.free)

    @property
    def computes_bf16(self) -> bool:
        return all(gpu.bf16 for gpu in self.gpus) if self.gpus else self.bf16

    def described(self) -> str:
        """For people, in one line."""
        memory = f"{self.cores} CPU cores, {self.free / GIB:.1f} GiB of memory free"
        if not self.gpus:
            return f"{memory}, no GPU, {'bf16' if self.bf16 else 'no bf16'}"
        names = ", ".join(f"{gpu.name} ({gpu.free / GIB:.0f} of {gpu.memory / GIB:.0f} GiB free)" for gpu in self.gpus)
        return f"{memory}; {names}"

    def as_json(self) -> dict[str, Any]:
        return asdict(self) | {"device": self.device}


def this_machine() -> Machine:
    """Look at the machine. torch is loaded, for it says which GPUs it can use."""
    import psutil
    import torch

    gpus = []
    for number in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(number)
        free, memory = torch.cuda.mem_get_info(number)
        gpus.append(Gpu(str(properties.name), int(memory), int(free), properties.major >= 8))
    memory = memory_total()
    flags = cpu_flags() or frozenset()
    bf16 = not flags.isdisjoint({"avx512_bf16", "amx_bf16", "bf16"})
    return Machine(cores(), memory, min(int(psutil.virtual_memory().available), memory), bf16, tuple(gpus))


def cores() -> int:
    """CPU cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def memory_total() -> int:
    """Bytes of main memory; in a container what it is given."""
    import psutil

    total = int(psutil.virtual_memory().total)
    try:  # A container's own limit is what counts.
        limit = Path("/sys/fs/cgroup/memory.max").read_text(encoding="ascii").strip()
    except OSError:
        return total  # no cgroup of version 2 here
    return min(total, int(limit)) if limit.isdigit() else total


def cpu_flags() -> frozenset[str] | None:
    """The CPU's words for what it can do; None where the system does not tell."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        return None
    for line in lines:
        key, _, value = line.partition(":")
        if key.strip().lower() in ("flags", "features"):
            return frozenset(value.split())
    return None


def matmul_rate(device: str, *, bf16: bool, rows: int, width: int, out: int) -> float:
    """Floating-point operations a second of (rows × width) · (width × out), the shape most of a training is spent in.

    The best of many products within `SECONDS`; on a CPU of one thread, times the cores: where others work beside,
    threads wait for each other, and a measurement of all of them at once was off by a factor of fifty.
    """
    import torch

    dtype = torch.bfloat16 if bf16 else torch.float32
    left = torch.randn(rows, width, device=device, dtype=dtype)
    right = torch.randn(width, out, device=device, dtype=dtype)
    on_gpu = device.startswith("cuda")
    threads = torch.get_num_threads()
    best, began, done = float("inf"), time.perf_counter(), 0
    if not on_gpu:
        torch.set_num_threads(1)
    try:
        while time.perf_counter() - began < SECONDS or done < 3:
            start = time.perf_counter()
            torch.mm(left, right)
            if on_gpu:
                torch.cuda.synchronize()
            done += 1
            if done > 1:
                best = min(best, time.perf_counter() - start)
    finally:
        torch.set_num_threads(threads)
    return 2 * rows * width * out / best * (1 if on_gpu else min(cores(), threads))
