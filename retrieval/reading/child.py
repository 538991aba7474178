"""One parsing process as its parent sees it: started, asked with a deadline, judged when it dies. Knows no format.

The process is started by exec, never by fork alone, so that a parent with threads and a model in memory can have it.
"""

import json
import os
import selectors
import signal
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from retrieval.errors import FathomError
from retrieval.reading.limits import MIB, ReadingLimits
from retrieval.reading.normalising import one_line
from retrieval.reading.refusal import Refusal

_ROOT = Path(__file__).resolve().parents[2]
_START_SECONDS = 60.0
_MAX_HEADER = 64 * MIB
_KEPT_STDERR = 4_000
_TICK = 0.2  # seconds between looks at the cancel flag
_PIECE = 1 << 18


class DeadError(Exception):
    """The process ended before its answer did."""


class Child:
    """A running worker. Not for several threads at once; `close` or `kill` it when done."""

    def __init__(self, limits: ReadingLimits) -> None:
        """Start the process and wait until it is confined. Raises FathomError if it does not come up."""
        self.limits = limits
        self.files = 0
        self._stderr = b""
        # A bare environment: no key or proxy of the parent's reaches a parser. One BLAS thread, one malloc arena:
        # each further one reserves address space, which is what RLIMIT_AS counts.
        environment = {
            "PATH": "/usr/bin:/bin",
            "PYTHONPATH": str(_ROOT),
            "PYTHONUTF8": "1",
            "OPENBLAS_NUM_THREADS": "1",
            "OMP_NUM_THREADS": "1",
            "MALLOC_ARENA_MAX": "1",
        }
        command = [sys.executable, "-P", "-s", "-B", "-m", "retrieval.reading.worker", json.dumps(asdict(limits))]
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd="/",
            env=environment,
            bufsize=0,
            process_group=0,  # out of the terminal's group: Ctrl-C goes to the parent alone
        )
        assert self._process.stdin and self._process.stdout and self._process.stderr
        self._to, self._from, self._err = (
            self._process.stdin.fileno(),
            self._process.stdout.fileno(),
            self._process.stderr.fileno(),
        )
        for handle in (self._to, self._from, self._err):
            os.set_blocking(handle, False)
        try:
            hello, _ = self._exchange([], time.monotonic() + _START_SECONDS, None)
        except (DeadError, TimeoutError) as problem:
            self.kill()
            raise FathomError(
                f"The process that reads files could not start ({self.last_words() or 'no reason given'}); "
                "run `fathom doctor`."
            ) from problem
        except BaseException:
            self.kill()
            raise
        self.network = str(hello.get("network", ""))
        self.rss_mb = int(hello.get("rss_mb", 0))

    def ask(
        self,
        name: str,
        data: bytes,
        cancel: threading.Event | None = None,
        *,
        page: Mapping[str, Any] | None = None,
    ) -> tuple[dict[str, Any], bytes]:
        """The worker's answer (header, text as UTF-8) to one file; for a `page` (page_image.py) its facts and pixels.

        Raises Refusal ("time", "memory", "crash", "cancelled"); the process is then dead and must be replaced.
        """
        request = {"name": name, "size": len(data)} | ({} if page is None else {"page": dict(page)})
        packed = json.dumps(request).encode("ascii")
        self.files += 1
        try:
            reply, text = self._exchange(
                [struct.pack(">I", len(packed)) + packed, data], time.monotonic() + self.limits.wall_seconds, cancel
            )
        except TimeoutError as problem:
            self.kill()
            raise _too_slow(f"{self.limits.wall_seconds:g} seconds") from problem
        except DeadError as problem:
            raise self._judge_death() from problem
        except BaseException:  # Ctrl-C in the middle of a frame: nobody could say where the next one begins
            self.kill()
            raise
        self.rss_mb = int(reply.get("rss_mb", 0))
        return reply, text

    def usable(self) -> bool:
        """False if the process is gone, or has read or grown enough to be replaced."""
        if self._process.returncode is not None or self._process.poll() is not None:
            return False
        return self.files < self.limits.files_per_process and self.rss_mb < self.limits.grown_mb

    def last_words(self) -> str:
        """The end of what the process wrote to stderr, on one line."""
        return one_line(self._stderr.decode("utf-8", "replace")[-300:])

    def close(self) -> None:
        """End the process by ending its input; kill it if that is not enough."""
        if self._process.returncode is None and self._process.stdin is not None:
            self._process.stdin.close()
            try:
                self._process.wait(timeout=1.0)
            except subprocess.TimeoutExpired:
                self._process.kill()
        self.kill()

    def kill(self) -> None:
        """End the process now, whatever it does, and take its exit status."""
        if self._process.returncode is None:
            self._process.kill()
            self._process.wait()
        for stream in (self._process.stdin, self._process.stdout, self._process.stderr):
            if stream is not None:
                stream.close()

    def _judge_death(self) -> Refusal:
        """Why the process died, from its signal and its peak memory."""
        until = time.monotonic() + 1.0
        pid, status, usage = os.wait4(self._process.pid, os.WNOHANG)
        while not pid and time.monotonic() < until:
            time.sleep(0.01)
            pid, status, usage = os.wait4(self._process.pid, os.WNOHANG)
        if not pid:  # it closed its end and lives on
            self._process.kill()
            pid, status, usage = os.wait4(self._process.pid, 0)
        code = os.waitstatus_to_exitcode(status)
        self._process.returncode = code
        peak = usage.ru_maxrss // 1024
        self.kill()
        if code == -signal.SIGXCPU:
            return _too_slow(f"{self.limits.cpu_seconds} seconds of processor time")
        if code == -signal.SIGKILL or peak > self.limits.memory_mb * 0.6:
            return Refusal("memory", f"needs more memory than the {self.limits.memory_mb:,} MB allowed; split it.")
        name = signal.Signals(-code).name if code < 0 else f"exit status {code}"
        words = f": {self.last_words()}" if self._stderr else ""
        return Refusal("crash", f"made its parser crash ({name}{words}); it is probably damaged, save it again.")

    def _exchange(
        self, pieces: list[bytes], deadline: float, cancel: threading.Event | None
    ) -> tuple[dict[str, Any], bytes]:
        """Send `pieces`, receive one frame, and drain stderr, all at once: none of the three pipes may fill up."""
        sending = [memoryview(piece) for piece in pieces if piece]
        received = bytearray()
        length: int | None = None
        header: dict[str, Any] | None = None
        with selectors.DefaultSelector() as selector:
            selector.register(self._from, selectors.EVENT_READ)
            selector.register(self._err, selectors.EVENT_READ)
            if sending:
                selector.register(self._to, selectors.EVENT_WRITE)
            while True:
                left = deadline - time.monotonic()
                if left <= 0:
                    raise TimeoutError
                if cancel is not None and cancel.is_set():
                    self.kill()
                    raise Refusal("cancelled", "was being read when the work was stopped.")
                for key, _ in selector.select(min(left, _TICK)):
                    if key.fd == self._to:
                        self._send(sending, selector)
                    elif key.fd == self._err:
                        self._drain(selector)
                    else:
                        self._receive(received)
                if length is None and len(received) >= 4:
                    (length,) = struct.unpack(">I", received[:4])
                    if length > _MAX_HEADER:
                        raise self._nonsense()
                if length is not None and header is None and len(received) >= 4 + length:
                    header = self._header(bytes(received[4 : 4 + length]))
                    del received[: 4 + length]
                if header is not None and len(received) >= header["size"]:
                    return header, bytes(received[: header["size"]])

    def _header(self, packed: bytes) -> dict[str, Any]:
        """A worker taken over by a hostile file may answer anything; believe nothing."""
        try:
            header = json.loads(packed)
        except (ValueError, RecursionError):
            raise self._nonsense() from None
        size = header.get("size") if isinstance(header, dict) else None
        if not isinstance(size, int) or not 0 <= size <= self.limits.max_text_mb * MIB:
            raise self._nonsense()
        return header

    def _nonsense(self) -> Refusal:
        self.kill()
        return Refusal("crash", "made its parser answer nonsense; it is damaged or hostile, leave it out.")

    def _receive(self, received: bytearray) -> None:
        piece = os.read(self._from, _PIECE)
        if not piece:
            raise DeadError
        received += piece

    def _send(self, sending: list[memoryview], selector: selectors.BaseSelector) -> None:
        try:
            sent = os.write(self._to, sending[0][:_PIECE])
        except BlockingIOError:
            return
        except BrokenPipeError:
            raise DeadError from None
        sending[0] = sending[0][sent:]
        if not sending[0]:
            sending.pop(0)
        if not sending:
            selector.unregister(self._to)

    def _drain(self, selector: selectors.BaseSelector) -> None:
        piece = os.read(self._err, _PIECE)
        if piece:
            self._stderr = (self._stderr + piece)[-_KEPT_STDERR:]
        else:
            selector.unregister(self._err)


def _too_slow(limit: str) -> Refusal:
    return Refusal("time", f"was not read within {limit}; split it or raise the limit.")
