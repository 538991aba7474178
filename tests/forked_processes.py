"""Processes of a training, forked from one that has torch, transformers and peft in memory: half a second, not ten.

They stand where torchrun's do: same module, same variables of the environment, own process each. torchrun itself starts
the processes of tests/adapt/training/test_processes.py and tests/adapt/test_scale_page.py.
"""

import multiprocessing
import os
import runpy
import socket
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

PRELOADED = (
    "accelerate.state", "peft", "torch.distributed.fsdp", "transformers.models.llama.modeling_llama",
    "adapt.forgetting.anchors", "adapt.training.methods", "adapt.training.train", "adapt.training.trainer",
)  # fmt: skip
_FORKING = multiprocessing.get_context("forkserver")
_FORKING.set_forkserver_preload(list(PRELOADED))


class ForkedProcesses:
    """What adapt/training/launching.py wants of torchrun's agent. `first` is called in each process before anything."""

    def __init__(
        self,
        command: Sequence[str],
        *,
        stdout: Any,
        env: Mapping[str, str],
        first: Callable[[], None] | None = None,
        **_: Any,
    ) -> None:
        words = [str(word) for word in command]
        count = next(int(word.partition("=")[2]) for word in words if word.startswith("--nproc-per-node="))
        worker = words[words.index("-m", words.index(f"--nproc-per-node={count}")) + 1 :]
        self.processes = forked(worker, count, env, first, Path(os.readlink(f"/proc/self/fd/{stdout.fileno()}")))
        self.pid = self.processes[0].pid
        self.returncode: int | None = None

    def poll(self) -> int | None:
        """When one falls, all do."""
        codes = [process.exitcode for process in self.processes]
        if any(codes):
            for process in self.processes:
                process.terminate()
        if None in codes:
            return None
        self.returncode = max(codes, key=abs)
        return self.returncode

    def wait(self) -> None:
        for process in self.processes:
            process.join()


def forked(
    command: Sequence[str],
    count: int,
    env: Mapping[str, str],
    first: Callable[[], None] | None = None,
    log: Path | None = None,
) -> list[Any]:
    """`command` (a module or a file, and its words) in so many processes that can find each other."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    shared = {**env, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": str(count)}
    processes = [
        _FORKING.Process(
            target=_run, args=(list(command), {**shared, "RANK": str(n), "LOCAL_RANK": str(n)}, first, log)
        )
        for n in range(count)
    ]
    for process in processes:
        process.start()
    return processes


def _run(command: list[str], env: dict[str, str], first: Callable[[], None] | None, log: Path | None) -> None:
    import torch

    os.environ.clear()
    os.environ.update(env)
    torch.set_num_threads(1)
    if log is not None:
        said = os.open(log, os.O_WRONLY | os.O_APPEND)
        os.dup2(said, 1)
        os.dup2(said, 2)
    if first is not None:
        first()
    sys.argv = command
    file = command[0].endswith(".py")
    (runpy.run_path if file else runpy.run_module)(command[0], run_name="__main__")
