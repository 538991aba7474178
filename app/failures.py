"""An exception → one sentence for the person, an exit code for the program, and a traceback log only where we erred."""

import errno
import os
import sqlite3
import sys
import time
import traceback
from collections.abc import Sequence
from pathlib import Path

from retrieval.errors import FathomError

FAILED = 1
WRONG_USAGE = 2
DONE_WITH_ERRORS = 3
STOPPED = 130  # 128 + SIGINT
CLOSED_PIPE = 141  # 128 + SIGPIPE
TERMINATED = 143  # 128 + SIGTERM

_OWN = ("app", "adapt", "eval", "retrieval")
_SYSTEM_WORDS = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the disk quota is used up",
    errno.EROFS: "the file system is read-only",
    errno.EACCES: "permission is denied",
    errno.EPERM: "the operation is not permitted",
    errno.EMFILE: "too many files are open",
    errno.ENOMEM: "memory is used up",
}
_REMEDIES = {
    errno.ENOSPC: "free some space and run the command again; everything finished so far is kept",
    errno.EDQUOT: "free some space and run the command again; everything finished so far is kept",
    errno.EROFS: "choose another place with --workspace",
    errno.EACCES: "check who owns the file, or choose another place with --workspace",
}


def describe(error: BaseException, workspace: Path) -> tuple[str, int]:
    """(sentence, exit code). An error that nobody foresaw is logged with its traceback under `workspace`/logs."""
    if isinstance(error, FathomError):
        return str(error), error.exit_code
    if isinstance(error, OSError) and error.errno in _SYSTEM_WORDS:
        where = f" ({error.filename})" if error.filename else ""
        remedy = _REMEDIES.get(error.errno, "run the command again")
        return f"{_SYSTEM_WORDS[error.errno]}{where}; {remedy}", FAILED
    if isinstance(error, sqlite3.OperationalError) and "disk is full" in str(error):
        return f"{_SYSTEM_WORDS[errno.ENOSPC]}; {_REMEDIES[errno.ENOSPC]}", FAILED
    if isinstance(error, ModuleNotFoundError) and error.name and not error.name.startswith(_OWN):
        package = error.name.partition(".")[0]
        return (
            f"the package '{package}' is not installed; 'fathom doctor' says what is missing and how to get it",
            FAILED,
        )
    kind = type(error).__name__
    if kind == "SafetensorError":  # not imported for it: most commands load no weights
        return f"a file of weights is damaged ({str(error)[:200]}); 'fathom model verify' says which", FAILED
    return f"an unexpected error of the kind {kind} occurred; {_log(error, workspace / 'logs')}", FAILED


def _log(error: BaseException, folder: Path) -> str:
    name = f"{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}.log"
    text = "".join(
        [f"fathom {' '.join(map(repr, sys.argv[1:]))}\nPython {sys.version}\n\n", *traceback.format_exception(error)]
    )
    try:
        folder.mkdir(parents=True, exist_ok=True)
        # 0600: a traceback may quote a document.
        descriptor = os.open(folder / name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w", encoding="utf-8", errors="backslashreplace") as stream:
            stream.write(text)
    except OSError as problem:
        return f"its details could not be written to {folder} ({problem.strerror}): {str(error)[:200]}"
    return f"its details are in {folder / name}"


def option_of(arguments: Sequence[str], name: str) -> str | None:
    """Value of `--name` in raw arguments ("" for a bare flag), for errors that occur before or after parsing."""
    for place, argument in enumerate(arguments):
        if argument == "--":
            return None
        if argument == name:
            return arguments[place + 1] if place + 1 < len(arguments) else ""
        if argument.startswith(f"{name}="):
            return argument.partition("=")[2]
    return None
