"""A call that may hang → its result in time, or the reason why there is none. It knows nothing of what is called."""

import queue
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, Protocol, TypeVar, cast

T = TypeVar("T")

POLL_SECONDS = 0.05
"""How often a waiting caller looks whether it was stopped."""
Trouble = Literal["too_slow", "busy", "failed", "stopped"]


class Stop(Protocol):
    """A threading.Event, or whatever else can say that enough is enough."""

    def is_set(self) -> bool: ...


class NotDone(Exception):
    """There is no result. `why` is a stable word; `error` what the call raised, where it did."""

    def __init__(self, why: Trouble, error: BaseException | None = None) -> None:
        super().__init__(str(error) if error is not None else why)
        self.why: Trouble = why
        self.error = error


@dataclass(frozen=True, slots=True)
class _Either:
    """Stopped by whoever waits, or by whoever asked in the first place."""

    mine: threading.Event
    theirs: Stop | None

    def is_set(self) -> bool:
        return self.mine.is_set() or (self.theirs is not None and self.theirs.is_set())


_overdue: Counter[int] = Counter()
"""Calls that ran over their limit and have not ended, by what was called. A thread holds what it calls, so that an id
is not given away while it counts."""
_guard = threading.Lock()


def limited(part: Any, call: Callable[[Stop], T], seconds: float, *, stop: Stop | None = None) -> T:
    """What `call` returns, within `seconds`; it runs on a thread of its own and is given a flag that is set when the
    time is over, or when `stop` says so, so that what can end early does.

    Threads cannot be killed. What ran over and goes on is left alone, and as long as it does, further calls of the same
    `part` are refused: one that hangs costs one thread, not one for each question. Raises NotDone.
    """
    key = id(part)
    with _guard:
        if _overdue[key] > 0:
            raise NotDone("busy")
    over = threading.Event()
    results: queue.SimpleQueue[tuple[bool, Any]] = queue.SimpleQueue()
    state = {"ended": False, "overdue": False}

    def work(held: Any) -> None:
        try:
            results.put((True, call(_Either(over, stop))))
        except BaseException as error:  # whatever it is, the one who waits must learn of it
            results.put((False, error))
        finally:
            with _guard:
                state["ended"] = True
                if state["overdue"]:
                    _overdue[key] -= 1
            del held

    threading.Thread(target=work, args=(part,), name="limited", daemon=True).start()
    deadline = time.monotonic() + seconds
    while True:
        try:
            done, value = results.get(timeout=max(0.0, min(POLL_SECONDS, deadline - time.monotonic())))
        except queue.Empty:
            stopped = stop is not None and stop.is_set()
            if not stopped and time.monotonic() < deadline:
                continue
            over.set()
            with _guard:
                if not state["ended"]:
                    state["overdue"] = True
                    _overdue[key] += 1
            raise NotDone("stopped" if stopped else "too_slow") from None
        if done:
            return cast(T, value)
        raise NotDone("failed", value) from value
