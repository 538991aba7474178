"""Two commands in turns (A B A B …), each in its own environment → medians, ratios with intervals, every run.

For a measurement against a peer that anybody can repeat. What the commands do is theirs; each may print as its last
line {"figures": {name: number}}, and those are compared too.
"""

import json
import math
import os
import shlex
import shutil
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import IO, Any

from eval.figures.statistics import RESAMPLES
from eval.runs.parts import PartFolder, Progress, Record
from eval.runs.running import run_items
from eval.speed.measuring import median, single_thread
from retrieval.errors import FathomError, MissingError, UsageError

KEPT = 256 * 1024
"""Bytes kept of the end of each output."""
TAIL = 600
"""Characters of an error's end that are shown."""
LATE = 30.0
"""Seconds after its own limit in which the measuring process must have ended."""
MEASURED = ("wall_s", "cpu_s", "peak_mb")


@dataclass(frozen=True)
class Side:
    """A command as it will be run: its words, and an environment held to one passive thread."""

    name: str
    command: tuple[str, ...]
    environment: Mapping[str, str] = field(repr=False)


@dataclass(frozen=True)
class TimedRun:
    """One run. `cpu_s` is user and system time of the whole process tree, `peak_mb` the largest of its processes (10^6
    bytes). `error` says in words what went wrong; the other figures then stand for what was seen until then."""

    wall_s: float
    user_s: float
    system_s: float
    peak_mb: float
    exit_code: int | None
    left_behind: int = 0
    figures: Mapping[str, float] = field(default_factory=dict)
    error: str | None = None

    @property
    def cpu_s(self) -> float:
        return self.user_s + self.system_s


def side(name: str, line: str, python: Path | None = None) -> Side:
    """One command line, split as a shell would and never given to one.

    `python` is the interpreter of the command's own environment: it takes the place of a leading "python", is put
    before a script that ends in .py, and its folder is searched first. Without it that is the interpreter of this
    process. Raises UsageError, MissingError.
    """
    try:
        words = shlex.split(line)
    except ValueError as error:
        raise UsageError(f"the command of {name} cannot be split into words ({error}): {line[:200]}") from error
    if not words:
        raise UsageError(f"the command of {name} is empty; give a program with its arguments, quoted as one word")
    # Not resolved: the link inside a virtual environment is what makes it one.
    interpreter = Path(os.path.abspath(python.expanduser() if python else sys.executable))
    if not interpreter.is_file():
        raise MissingError(f"the interpreter {interpreter} of {name} is not there; make its environment first")
    environment = single_thread()
    if python is not None:  # another environment: nothing of this one may be imported there
        for variable in ("PYTHONPATH", "PYTHONHOME"):
            environment.pop(variable, None)
        environment["VIRTUAL_ENV"] = str(interpreter.parent.parent)
    environment["PATH"] = os.pathsep.join([str(interpreter.parent), environment.get("PATH", os.defpath)])
    if words[0] in ("python", "python3"):
        words[0] = str(interpreter)
    elif words[0].endswith(".py"):
        words.insert(0, str(interpreter))
    program = shutil.which(words[0], path=environment["PATH"])
    if program is None:
        raise MissingError(f"the program '{words[0][:80]}' of {name} is not there; give its path, or install it")
    if words[0] == str(interpreter) and len(words) > 1 and words[1].endswith(".py") and not Path(words[1]).is_file():
        raise MissingError(f"the script '{words[1][:200]}' of {name} is not there; paths begin at {Path.cwd()}")
    return Side(name, (program, *words[1:]), environment)


def run_timed(which: Side, seconds: float) -> TimedRun:
    """One run, ended after `seconds` with everything it started. Raises FathomError only if measuring itself failed."""
    read, write = os.pipe()
    script = Path(__file__).with_name("alone.py")
    command = [sys.executable, "-I", "-S", str(script), str(write), str(seconds), *which.command]
    with open(read, "rb") as answers:
        try:
            process = subprocess.Popen(
                command,
                env=dict(which.environment),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                pass_fds=(write,),
            )
        finally:
            os.close(write)
        assert process.stdout is not None and process.stderr is not None
        ends = [_End(process.stdout), _End(process.stderr)]
        try:
            process.wait(seconds + LATE)
        except BaseException:  # Ctrl-C, or a measuring process that does not answer
            process.terminate()
            process.wait(LATE)
            raise
        said, errors = (end.text() for end in ends)
        answer = answers.read()
    if not answer:
        raise FathomError(f"the measurement of {which.name} ended without a result: {errors[-TAIL:]}")
    found: dict[str, Any] = json.loads(answer)
    problem = _problem(which, found, seconds, errors)
    return TimedRun(
        wall_s=found.get("wall_s", 0.0),
        user_s=found.get("user_s", 0.0),
        system_s=found.get("system_s", 0.0),
        peak_mb=found.get("peak_mb", 0.0),
        exit_code=found.get("exit_code"),
        left_behind=found["left_behind"],
        figures={} if problem else last_figures(said),
        error=problem,
    )


def _problem(which: Side, found: Mapping[str, Any], seconds: float, errors: str) -> str | None:
    tail = f"; the end of its stderr: {errors.strip()[-TAIL:]}" if errors.strip() else "; it wrote nothing to stderr"
    if "error" in found:
        return f"{which.name} could not be started: {found['error']}"
    if found["timed_out"]:
        return f"{which.name} was still running after {seconds:g} s and was ended{tail}"
    if found["exit_code"] is None:
        return f"{which.name} was stopped{tail}"
    if found["exit_code"] < 0:
        return f"{which.name} was killed by signal {-found['exit_code']}{tail}"
    if found["exit_code"] > 0:
        return f"{which.name} ended with exit code {found['exit_code']}{tail}"
    return None


class _End:
    """Reads a pipe to its end, so that the writer never waits, and keeps the last of it."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._kept: deque[bytes] = deque()
        self._size = 0
        self._thread = threading.Thread(target=self._read, args=(stream,), daemon=True)
        self._thread.start()

    def _read(self, stream: IO[bytes]) -> None:
        with stream:
            while data := os.read(stream.fileno(), 65536):
                self._kept.append(data)
                self._size += len(data)
                while self._size - len(self._kept[0]) > KEPT:
                    self._size -= len(self._kept.popleft())

    def text(self) -> str:
        self._thread.join(LATE)
        return b"".join(self._kept)[-KEPT:].decode("utf-8", "replace")


def last_figures(output: str) -> dict[str, float]:
    """The numbers of the last line, if it is a JSON object: those of its "figures", or all of its own, with a dot
    between the names of nested ones."""
    lines = output.strip().splitlines()
    try:
        said = json.loads(lines[-1]) if lines else None
    except (ValueError, RecursionError):
        return {}
    if not isinstance(said, dict):
        return {}
    return dict(_numbers(said["figures"] if isinstance(said.get("figures"), dict) else said, "", 3))


def _numbers(values: Mapping[str, Any], before: str, depth: int) -> list[tuple[str, float]]:
    found: list[tuple[str, float]] = []
    for name, value in values.items():
        if isinstance(value, dict) and depth > 1:
            found += _numbers(value, f"{before}{name}.", depth - 1)
        elif isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
            found.append((f"{before}{name}"[:80], float(value)))
    return found


def measure(
    ours: Side, peer: Side, folder: PartFolder, progress: Progress, *, repeats: int, timeout: float, seed: int = 0
) -> Mapping[str, Any]:
    """A record for each turn, ours first; returns medians, ratios and every run. A turn in which a side fails or hangs
    is an error, two in a row end the measurement."""

    def turn(number: int) -> Record:
        record: Record = {"id": f"turn-{number}", "text": f"turn {number}", "cluster": None, "runs": {}}
        runs: list[TimedRun] = []
        for name, which in (("ours", ours), ("peer", peer)):
            runs.append(run_timed(which, timeout))
            record["runs"][name] = asdict(runs[-1]) | {"cpu_s": runs[-1].cpu_s}
            if runs[-1].error:
                raise FathomError(runs[-1].error)
        own, other = runs
        return record | {
            "metrics": {
                "cpu_ratio": [other.cpu_s, own.cpu_s],
                "wall_ratio": [other.wall_s, own.wall_s],
                **{f"{name}_wall_s": run.wall_s for name, run in zip(("ours", "peer"), runs, strict=True)},
                **{f"{name}_cpu_s": run.cpu_s for name, run in zip(("ours", "peer"), runs, strict=True)},
            },
            "timings": {"ours": own.wall_s * 1e3, "peer": other.wall_s * 1e3},
            "error": None,
        }

    run_items(
        folder,
        range(1, repeats + 1),
        turn,
        identify=lambda number: f"turn-{number}",
        total=repeats,
        what="turns",
        progress=progress,
        give_up_after=2,
    )
    turns = [record["runs"] for record in folder.done().values()]
    sides = {
        name: [{key: runs[name][key] for key in MEASURED} | runs[name]["figures"] for runs in turns]
        for name in ("ours", "peer")
    }
    return {
        "commands": {"ours": list(ours.command), "peer": list(peer.command)},
        "compared": compared(sides["ours"], sides["peer"], seed=seed),
        "runs": [
            {"turn": number, "side": name, **run} for number, runs in enumerate(turns, 1) for name, run in runs.items()
        ],
    }


def compared(
    ours: Sequence[Mapping[str, float]], peer: Sequence[Mapping[str, float]], *, seed: int = 0
) -> dict[str, Any]:
    """Figures of paired turns → {figure: {"ours", "peer", "ratio", "low", "high"}}, medians and their ratio peer/ours.

    The 95 % interval is the percentile bootstrap over turns (both sides of a turn are drawn together, for they shared
    the machine's mood); None with fewer than three turns. A figure that only one side has is left out.
    """
    names = [name for name in ours[0] if all(name in turn for turn in (*ours, *peer))] if ours and peer else []
    return {name: _ratio([turn[name] for turn in ours], [turn[name] for turn in peer], seed) for name in names}


def _ratio(ours: Sequence[float], peer: Sequence[float], seed: int) -> dict[str, float | None]:
    import numpy as np

    own, others = median(ours), median(peer)
    found: dict[str, float | None] = {"ours": own, "peer": others, "ratio": None, "low": None, "high": None}
    if own > 0:
        found["ratio"] = others / own
    if own > 0 and min(ours) > 0 and len(ours) >= 3:
        drawn = np.random.default_rng(seed).integers(0, len(ours), size=(RESAMPLES, len(ours)))
        ratios = np.median(np.asarray(peer)[drawn], axis=1) / np.median(np.asarray(ours)[drawn], axis=1)
        found["low"], found["high"] = (float(bound) for bound in np.percentile(ratios, (2.5, 97.5)))
    return found
