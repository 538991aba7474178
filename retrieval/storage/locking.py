"""One writer per collection, across every process and thread: an flock that the kernel frees when its holder dies."""

import fcntl
import json
import os
import time
from pathlib import Path
from types import TracebackType

from retrieval.errors import BusyError


class WriterLock:
    """Holds `path` exclusively until `release`. The file's text says who holds it; the lock itself is the kernel's.

    SQLite up to 3.51.2 can corrupt a WAL database when two connections checkpoint at once, so this lock guards more
    than our own files: nobody opens the catalogue for writing without it.
    """

    def __init__(self, path: Path, *, doing: str, wait: float = 0.0, guarded: str | None = None) -> None:
        """Acquire. `wait` is in seconds; raises BusyError naming the holder when it runs out.

        `guarded` says what is locked where that is no collection, and then no option to wait either.
        """
        self._path = path
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        deadline = time.monotonic() + wait
        while True:
            try:
                fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() >= deadline:
                    holder = self._holder()
                    os.close(self._fd)
                    what = guarded or f"the collection '{path.parent.name}'"
                    remedy = "try again when it has finished" + ("" if guarded else ", or add --wait SECONDS")
                    raise BusyError(f"{what} is being changed by {holder}; {remedy}") from None
                time.sleep(min(0.05, max(0.0, deadline - time.monotonic())))
        text = json.dumps({"pid": os.getpid(), "doing": doing, "since": time.strftime("%Y-%m-%d %H:%M:%S")})
        try:
            os.ftruncate(self._fd, 0)
            os.pwrite(self._fd, text.encode(), 0)
        except OSError:
            # The note is for people; a full disk must not stop a writer that may be about to free space.
            os.ftruncate(self._fd, 0)

    def _holder(self) -> str:
        try:
            note = json.loads(os.pread(self._fd, 1000, 0))
            return f"process {int(note['pid'])} ({str(note['doing'])[:60]}) since {str(note['since'])[:19]}"
        except (ValueError, KeyError, TypeError):
            return "another process"

    def release(self) -> None:
        """Give the lock back. Calling it twice does nothing."""
        if self._fd >= 0:
            os.ftruncate(self._fd, 0)
            os.close(self._fd)
            self._fd = -1

    def __enter__(self) -> "WriterLock":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()
