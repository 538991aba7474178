"""One command → its wall time, its CPU time with that of everything it started, its peak memory: one line of JSON.

    python -I -S alone.py FD SECONDS COMMAND …

A small process of its own, for three reasons. Linux counts the memory of the forking process into the peak of the
child it becomes (`setmax_mm_hiwater_rss` at exec), so a large parent would be measured. As a "child subreaper" it
inherits orphans, so that what a command leaves behind is ended and counted too. And it can wait without polling.
Only the standard library: it starts with the interpreter in 10 ms.
"""

import ctypes
import json
import os
import signal
import subprocess
import sys
import time
from typing import NoReturn

PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36


class Interrupted(BaseException):
    """A signal that ends the measurement: SIGALRM when time is up, SIGTERM when the caller goes."""


def adopt() -> None:
    """Become the parent of orphans below, and end with the caller. Linux only; elsewhere orphans are not counted."""
    if sys.platform == "linux":
        libc = ctypes.CDLL(None)
        libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
        libc.prctl(PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)


def children() -> list[int]:
    """Processes whose parent is this one."""
    found = []
    for name in os.listdir("/proc") if os.path.isdir("/proc") else []:
        if name.isdecimal():
            try:
                with open(f"/proc/{name}/stat", "rb") as stat:
                    if int(stat.read().rpartition(b")")[2].split()[1]) == os.getpid():
                        found.append(int(name))
            except OSError:  # it ended meanwhile
                continue
    return found


def interrupt(number: int, frame: object) -> NoReturn:
    raise Interrupted(number)


def main() -> None:
    out, seconds, command = int(sys.argv[1]), float(sys.argv[2]), sys.argv[3:]
    os.set_inheritable(out, False)
    adopt()
    for number in (signal.SIGALRM, signal.SIGTERM, signal.SIGINT):
        signal.signal(number, interrupt)
    answer: dict[str, object] = {"timed_out": False, "left_behind": 0}
    usages = []
    began = time.perf_counter()
    try:
        child = subprocess.Popen(command, start_new_session=True)  # a group of its own, to be ended whole
    except OSError as error:
        answer["error"] = error.strerror or str(error)
        os.write(out, json.dumps(answer).encode())
        return
    try:
        signal.setitimer(signal.ITIMER_REAL, seconds)
        _, status, usage = os.wait4(child.pid, 0)
        signal.setitimer(signal.ITIMER_REAL, 0)
        usages.append(usage)
        answer["exit_code"] = os.waitstatus_to_exitcode(status)
    except Interrupted as why:
        answer["timed_out"] = why.args[0] == signal.SIGALRM
        answer["exit_code"] = None
    answer["wall_s"] = time.perf_counter() - began
    for number in (signal.SIGALRM, signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)
    try:
        os.killpg(child.pid, signal.SIGKILL)
    except ProcessLookupError:
        answer["left_behind"] = 0
    while left := children():  # what they started in turn becomes ours when they end
        for pid in left:
            os.kill(pid, signal.SIGKILL)
        for pid in left:
            usages.append(os.wait4(pid, 0)[2])
            answer["left_behind"] = int(str(answer["left_behind"])) + (pid != child.pid)
    answer["user_s"] = sum(usage.ru_utime for usage in usages)
    answer["system_s"] = sum(usage.ru_stime for usage in usages)
    unit = 1 if sys.platform == "darwin" else 1024
    answer["peak_mb"] = max((usage.ru_maxrss for usage in usages), default=0) * unit / 1e6
    os.write(out, json.dumps(answer).encode())


if __name__ == "__main__":
    main()
