"""SIGKILL at random moments of adding, updating, removing, optimising: nothing acknowledged may be lost or doubled."""

import json
import os
import random
import select
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

from torture.workload import State, check, churn, create, speak_to, state_after


def in_child(work: Callable[[int], None]) -> tuple[int, int]:
    """Fork a child that runs `work(descriptor)`; returns (pid, our end). The parent itself never starts a thread."""
    ours, theirs = os.pipe()
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            os.close(ours)
            work(theirs)
            code = 0
        except BaseException as error:
            os.write(theirs, json.dumps({"error": f"{type(error).__name__}: {error}"}).encode() + b"\n")
        finally:
            os._exit(code)
    os.close(theirs)
    return pid, ours


def read_lines(descriptor: int, until: float | None = None, *, first: bool = False) -> list[dict[str, object]]:
    """JSON lines until the end, until the time `until`, or with `first` until whole lines have come; a torn last line
    is an announcement that never came."""
    data = b""
    while True:
        wait = None if until is None else max(0.0, until - time.monotonic())
        if not select.select([descriptor], [], [], wait)[0]:
            break
        part = os.read(descriptor, 65536)
        if not part:
            break
        data += part
        if first and data.endswith(b"\n"):
            break
    return [json.loads(line) for line in data.split(b"\n")[:-1]]


def one_kill(folder: Path, state: State, seed: int) -> tuple[list[str], State, int]:
    """(problems, versions found, acknowledgements) of one writer's life and death."""
    chance = random.Random(seed)
    pid, pipe = in_child(lambda out: churn(folder, seed, speak_to(out)))
    # One in five dies while it opens the collection, the others somewhere in their work.
    if chance.random() < 0.2:
        lines = read_lines(pipe, time.monotonic() + chance.uniform(0.005, 0.2))
    else:
        lines = read_lines(pipe, time.monotonic() + 30, first=True)
        lines += read_lines(pipe, time.monotonic() + chance.uniform(0.0, 1.0))
    os.kill(pid, signal.SIGKILL)
    lines += read_lines(pipe)
    os.close(pipe)
    os.waitpid(pid, 0)
    problems = [str(line["error"]) for line in lines if "error" in line]
    state, under_way = state_after(lines, state)
    found, state = checked(folder, state, under_way)
    acknowledged = sum("done" in line for line in lines)
    return problems + found, state, acknowledged


def checked(folder: Path, state: State, under_way: State) -> tuple[list[str], State]:
    """`check` in a child of its own: (problems, versions found)."""

    def examine(out: int) -> None:
        found, versions = check(folder, state, under_way)
        speak_to(out)({"problems": found, "found": versions})

    pid, pipe = in_child(examine)
    (report,) = read_lines(pipe) or [{"error": "the check died"}]
    os.close(pipe)
    os.waitpid(pid, 0)
    if "error" in report:
        return [str(report["error"])], state
    return list(report["problems"]), dict(report["found"])  # type: ignore[call-overload]


def kills(folder: Path, count: int, seed: int = 1) -> dict[str, object]:
    """`count` kills over one collection that lives on."""
    create(folder / "torture")
    state: State = {}
    problems: list[str] = []
    acknowledged = 0
    for number in range(count):
        found, state, acks = one_kill(folder / "torture", state, seed * 100_000 + number)
        acknowledged += acks
        problems += [f"kill {number}: {problem}" for problem in found]
        if number % 50 == 49:
            print(f"  {number + 1} kills, {acknowledged} acknowledgements, {len(problems)} problems", file=sys.stderr)
    return {"kills": count, "acknowledged": acknowledged, "problems": problems}
