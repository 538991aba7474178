"""What every run of a recipe shares: a name that can be a folder, and an end at the next safe place when asked to."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from app.commands.options import Run
from retrieval.errors import UsageError


def run_name_of(name: str) -> str:
    """A name that can be a folder of runs and a model. Raises UsageError."""
    from eval.runs.plans import RUN_NAME

    if not RUN_NAME.fullmatch(name) or len(name) > 60:
        raise UsageError(f"{name[:80]!r} cannot name a run; use up to 60 letters, digits, '-', '_' and '.'")
    return name


class Asked:
    """Whether somebody wishes the run to stop: `event` for the parts, `number` of the signal for the exit code."""

    def __init__(self) -> None:
        self.event = threading.Event()
        self.number: int | None = None


@contextmanager
def stopping(run: Run) -> Iterator[Asked]:
    """Ctrl-C and SIGTERM ask for an end at the next safe place, where a checkpoint is written; the second time they
    end it at once."""
    asked = Asked()

    def ask(number: int, frame: Any) -> None:
        if asked.event.is_set():
            raise KeyboardInterrupt
        asked.number = number
        asked.event.set()
        run.terminal.note("stopping at the next safe place; again to stop at once")

    if threading.current_thread() is not threading.main_thread():
        yield asked
        return
    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
