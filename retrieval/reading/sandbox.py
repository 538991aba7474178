"""Turns the process it is called in into one that can parse and nothing else. Called once, by worker.py.

Layers, strongest first: a network namespace without interfaces (where the kernel allows it), resource limits, an audit
hook that refuses sockets, processes and writing from Python. None of them is needed for a well-behaved parser.
"""

import ctypes
import os
import resource
import signal
import sys
from typing import Any

from retrieval.reading.limits import MIB, ReadingLimits

_CLONE_NEWUSER = 0x10000000
_CLONE_NEWNET = 0x40000000
_PR_SET_NO_NEW_PRIVS = 38

# Prefixes of audit events (https://docs.python.org/3/library/audit_events.html) that no parser has a use for.
_FORBIDDEN = (
    "socket.",
    "subprocess.",
    "os.system",
    "os.exec",
    "os.fork",
    "os.posix_spawn",
    "os.spawn",
    "os.startfile",
    "os.kill",
    "pty.",
    "os.remove",
    "os.rename",
    "os.rmdir",
    "os.mkdir",
    "os.link",
    "os.symlink",
    "os.truncate",
    "os.chmod",
    "os.chown",
    "os.utime",
    "shutil.",
    "tempfile.",
    "ftplib.",
    "smtplib.",
    "urllib.",
    "http.",
    "webbrowser.",
)
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND


def confine(limits: ReadingLimits) -> str:
    """Apply every layer. Returns how the network is closed: "namespace" (by the kernel) or "hook" (in Python only)."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    network = _leave_network()
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    _lower(resource.RLIMIT_NOFILE, 64)
    _lower(resource.RLIMIT_NPROC, 0)  # no further process or thread (root is exempt from this one)
    _lower(resource.RLIMIT_AS, limits.memory_mb * MIB)
    sys.addaudithook(_refuse)
    return network


def allow_cpu(seconds: int) -> None:
    """From now on, this much processor time until SIGXCPU ends the process."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    _, hard = resource.getrlimit(resource.RLIMIT_CPU)
    soft = int(used.ru_utime + used.ru_stime) + 1 + seconds
    resource.setrlimit(resource.RLIMIT_CPU, (soft if hard == resource.RLIM_INFINITY else min(soft, hard), hard))


def resident_mb() -> int:
    """Memory this process holds now."""
    try:
        with open("/proc/self/statm", encoding="ascii") as file:
            return int(file.read().split()[1]) * resource.getpagesize() // MIB
    except OSError:  # no /proc: the peak is an upper bound
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


def _leave_network() -> str:
    try:
        libc = ctypes.CDLL(None, use_errno=True)
        libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
        # With a user namespace an ordinary user may do it, and root loses its rights outside on the way.
        if libc.unshare(_CLONE_NEWUSER | _CLONE_NEWNET) == 0 or libc.unshare(_CLONE_NEWNET) == 0:
            return "namespace"
    except (OSError, AttributeError):  # not Linux
        pass
    return "hook"


def _lower(what: int, value: int) -> None:
    _, hard = resource.getrlimit(what)
    if hard != resource.RLIM_INFINITY:
        value = min(value, hard)
    resource.setrlimit(what, (value, value))


def _refuse(event: str, arguments: tuple[Any, ...]) -> None:
    if event == "open":
        flags = arguments[2] if len(arguments) > 2 else 0
        if isinstance(flags, int) and flags & _WRITING:
            raise PermissionError("a parser may not write files")
    elif event.startswith(_FORBIDDEN):
        raise PermissionError(f"a parser may not use {event}")
