"""The child process of an engine as its parent sees it: started, asked, listened to, ended. It knows no LlamaIndex.

It is started by exec, never by fork alone, so that a parent with threads and models in memory can have it.
"""

import itertools
import os
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from app.engines.frames import NotAFrameError, packed, read_frame
from retrieval import errors

_ROOT = Path(__file__).resolve().parents[2]
_KINDS = {
    kind.__name__: kind
    for kind in (
        errors.FathomError,
        errors.UsageError,
        errors.BusyError,
        errors.MissingError,
        errors.MismatchError,
        errors.DamagedError,
    )
}
MAX_LOG_BYTES = 1 << 20
"""A log larger than this is begun anew."""
_SECONDS_TO_GO = 2.0

Reply = dict[str, Any]


class CrashedError(errors.FathomError):
    """The process ended with something still asked of it. `by_us`: it was closed."""

    def __init__(self, message: str, *, by_us: bool = False) -> None:
        super().__init__(message)
        self.by_us = by_us


class Child:
    """One running child. Safe for many threads."""

    def __init__(self, spec: dict[str, Any], log: Path | None = None) -> None:
        """Start it with the model that `spec` names; `log` is where its stderr goes, None nowhere.

        Returns at once: `hello` waits for the model. Raises FathomError where no process can be started.
        """
        self._log = log
        self._numbers = itertools.count(1)
        self._waiting: dict[int, queue.SimpleQueue[Reply | CrashedError]] = {}
        self._guard = threading.Lock()
        self._sending: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self._hello: queue.SimpleQueue[Reply | CrashedError] = queue.SimpleQueue()
        self._closed = False
        self._crash: CrashedError | None = None
        self._mourned = threading.Event()
        with _stderr(log) as stderr:
            try:
                self._process = subprocess.Popen(
                    [sys.executable, "-P", "-m", "app.engines.worker"],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=stderr,
                    env=_environment(),
                    process_group=0,  # out of the terminal's group: Ctrl-C goes to the parent alone
                )
            except OSError as error:
                raise errors.FathomError(
                    f"the process of the language model cannot be started ({error.strerror}); run 'fathom doctor'"
                ) from error
        self._waiting[0] = self._hello
        self._sending.put(packed(spec))
        for work in (self._write, self._read):
            threading.Thread(target=work, name=f"engine{work.__name__}", daemon=True).start()

    @property
    def pid(self) -> int:
        """Of the process."""
        return self._process.pid

    def ended(self) -> CrashedError | None:
        """How it ended; None while it runs."""
        if not self._mourned.is_set() and self._process.poll() is not None:
            self._mourned.wait(_SECONDS_TO_GO)  # the thread that reads is about to find out
        return self._crash

    def hello(self) -> "queue.SimpleQueue[Reply | CrashedError]":
        """Where the first words of the child come: perhaps what it is `doing`, then `name` and `window` of its model,
        or why there is none."""
        return self._hello

    def ask(self, request: dict[str, Any]) -> "tuple[int, queue.SimpleQueue[Reply | CrashedError]]":
        """Send a request; (its number, where its replies come). `forget` it when done."""
        number = next(self._numbers)
        replies: queue.SimpleQueue[Reply | CrashedError] = queue.SimpleQueue()
        with self._guard:
            if self._crash is not None:
                raise CrashedError(str(self._crash), by_us=self._crash.by_us)
            self._waiting[number] = replies
        self.send(request | {"id": number})
        return number, replies

    def send(self, value: dict[str, Any]) -> None:
        """Hand a frame to the thread that writes: nobody waits for a child that does not read. Raises UsageError."""
        try:
            self._sending.put(packed(value))
        except NotAFrameError as error:
            raise errors.UsageError(f"the prompt is too long to be read ({error}); ask with less text") from error

    def forget(self, number: int) -> None:
        """Let later replies to a request fall."""
        with self._guard:
            self._waiting.pop(number, None)

    def close(self) -> None:
        """End the process now, whatever it does; whoever waits for it gets a CrashedError."""
        self._closed = True
        self._sending.put(None)
        self._process.kill()
        try:
            self._process.wait(_SECONDS_TO_GO)
        except subprocess.TimeoutExpired:  # inside a system call that cannot be interrupted; the kernel ends it later
            return

    def _write(self) -> None:
        assert self._process.stdin is not None
        try:
            with self._process.stdin as stream:
                while (data := self._sending.get()) is not None:
                    stream.write(data)
                    stream.flush()
        except OSError:
            return  # it is gone, which the reading thread finds out and tells

    def _read(self) -> None:
        assert self._process.stdout is not None
        nonsense = ""
        with self._process.stdout as stream:
            try:
                while (reply := read_frame(stream)) is not None:
                    with self._guard:
                        replies = self._waiting.get(int(reply["id"]))
                    if replies is not None:
                        replies.put(reply)
            except (NotAFrameError, KeyError, TypeError, ValueError) as error:
                nonsense = f"it sent nonsense: {error}"
                self._process.kill()
        self._mourn(nonsense)

    def _mourn(self, nonsense: str) -> None:
        """Tell everyone who waits."""
        try:
            code = self._process.wait(_SECONDS_TO_GO)
        except subprocess.TimeoutExpired:  # it closed its end and lives on
            self._process.kill()
            code = self._process.wait()
        self._sending.put(None)
        how = nonsense or _how(code)
        log = f"; what it said stands in {self._log}" if self._log is not None else ""
        message = (
            "the language model was closed while it was asked; ask again"
            if self._closed
            else f"the process of the language model ended unexpectedly ({how}); ask again, and it starts anew{log}"
        )
        with self._guard:
            self._crash = crash = CrashedError(message, by_us=self._closed)
            waiting, self._waiting = list(self._waiting.values()), {}
        self._mourned.set()
        for replies in waiting:
            replies.put(crash)


def failure(reply: Reply) -> errors.FathomError | None:
    """The error that a reply tells of."""
    if "error" not in reply:
        return None
    return _KINDS.get(str(reply["error"]), errors.FathomError)(str(reply.get("message", ""))[:4000])


def _how(code: int) -> str:
    if code == -signal.SIGKILL:
        return "killed, as happens when memory runs out"
    try:
        return f"by {signal.Signals(-code).name}" if code < 0 else f"exit status {code}"
    except ValueError:
        return f"by signal {-code}"


def _environment() -> dict[str, str]:
    """The parent's (models, proxies and CUDA are found by it) without keys, with this very code first on the path."""
    environment = {name: value for name, value in os.environ.items() if not name.endswith(("_API_KEY", "_TOKEN"))}
    if "HF_TOKEN" in os.environ:  # a gated model may be fetched with it
        environment["HF_TOKEN"] = os.environ["HF_TOKEN"]
    before = environment.get("PYTHONPATH")
    environment["PYTHONPATH"] = f"{_ROOT}{os.pathsep}{before}" if before else str(_ROOT)
    return environment | {"PYTHONUTF8": "1", "HF_HUB_DISABLE_TELEMETRY": "1", "TOKENIZERS_PARALLELISM": "false"}


@contextmanager
def _stderr(log: Path | None) -> Iterator[int | IO[bytes]]:
    if log is None:
        yield subprocess.DEVNULL
        return
    try:
        log.parent.mkdir(parents=True, exist_ok=True)
        fresh = log.exists() and log.stat().st_size > MAX_LOG_BYTES
        stream = log.open("wb" if fresh else "ab")
    except OSError:  # a log that cannot be written is no reason to answer nothing
        yield subprocess.DEVNULL
        return
    with stream:
        yield stream
