"""Items → one record each, in a part's folder: skips what is done, keeps what is finished, several at once if asked.

It knows nothing of what an item is or how it is measured.
"""

import errno
import queue
import threading
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import TypeVar

from eval.runs.parts import PartFolder, Progress, Record
from retrieval.errors import FathomError, UsageError

T = TypeVar("T")

LOOK_AHEAD = 2
"""Items taken from the source beyond those being worked on, so that no thread waits for the next to be read."""
GRACE = 1.0
"""Seconds that items in the making are given when a run is stopped; those that finish in time are kept."""
# What the person has to mend before any item can go on: it ends the run, where other errors end an item.
_FATAL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EMFILE, errno.ENFILE, errno.ENOMEM})


@dataclass(frozen=True, slots=True)
class _Outcome:
    record: Record
    error: Exception | None = None


def run_items(
    folder: PartFolder,
    items: Iterable[T],
    do: Callable[[T], Record],
    *,
    identify: Callable[[T], str],
    total: int,
    what: str,
    progress: Progress,
    concurrency: int = 1,
    give_up_after: int = 5,
    describe: Callable[[T], str] | None = None,
) -> None:
    """Do every item that `folder` holds no result of, and append its record as soon as it is finished.

    `identify` names an item before it is done; `do` makes its record (`id` may be left out). What `do` raises becomes
    the `error` of a record whose `text` is `describe(item)`, and the next run tries the item again. `total` is how many
    items there are, those done before included. With `concurrency` above 1, `do` is called from that many threads and
    records are appended in the order in which items finish.

    Raises FathomError when `give_up_after` items in a row failed (an engine that has died), OSError when a record
    cannot be written (a full disk), UsageError for an id that occurs twice. Whatever is raised, finished items are
    kept, and Ctrl-C does not wait for the items in the making.
    """
    done = folder.done().keys()
    finished = len(done)
    in_a_row = 0

    def attempt(key: str, item: T) -> _Outcome:
        try:
            record = do(item)
        except Exception as error:
            return _Outcome(_failure(key, error, describe(item) if describe else ""), error)
        if record.setdefault("id", key) != key:
            wrong = ValueError(f"the record of item {key!r} says that it is of {record['id']!r}")
            return _Outcome(_failure(key, wrong, ""), wrong)
        return _Outcome(record)

    def keep(outcome: _Outcome) -> None:
        nonlocal finished, in_a_row
        if outcome.error is not None and _is_fatal(outcome.error):
            raise outcome.error
        folder.append(outcome.record)
        finished += 1
        progress(what, finished, total)
        in_a_row = in_a_row + 1 if outcome.error is not None else 0
        if in_a_row >= give_up_after:
            raise FathomError(
                f"{what}: {in_a_row} items in a row failed, the last with '{outcome.record['error']}'; mend that and "
                "run the same command again, which goes on with what is missing"
            ) from outcome.error

    progress(what, finished, total)
    waiting = _waiting(items, identify, done)
    if concurrency == 1:
        for key, item in waiting:
            keep(attempt(key, item))
    else:
        _side_by_side(waiting, attempt, keep, lambda outcome: folder.append(outcome.record), concurrency)


def _waiting(items: Iterable[T], identify: Callable[[T], str], done: AbstractSet[str]) -> Iterator[tuple[str, T]]:
    seen: set[str] = set()
    for item in items:
        key = identify(item)
        if key in seen:
            raise UsageError(f"two items are called '{key[:80]}'; every item needs an id of its own")
        seen.add(key)
        if key not in done:
            yield key, item


def _side_by_side(
    waiting: Iterator[tuple[str, T]],
    attempt: Callable[[str, T], _Outcome],
    keep: Callable[[_Outcome], None],
    store: Callable[[_Outcome], None],
    concurrency: int,
) -> None:
    """Threads attempt, the calling thread keeps. They are daemons of our own making: a ThreadPoolExecutor joins its
    threads before the interpreter may end, so that Ctrl-C would wait for the longest answer."""
    todo: queue.SimpleQueue[tuple[str, T] | None] = queue.SimpleQueue()
    ready: queue.SimpleQueue[_Outcome] = queue.SimpleQueue()

    def work() -> None:
        while (job := todo.get()) is not None:
            ready.put(attempt(*job))

    for number in range(concurrency):
        threading.Thread(target=work, name=f"item-{number}", daemon=True).start()
    under_way = 0
    try:
        for job in waiting:
            todo.put(job)
            under_way += 1
            if under_way >= concurrency + LOOK_AHEAD:
                outcome = ready.get()
                under_way -= 1
                keep(outcome)
        while under_way:
            outcome = ready.get()
            under_way -= 1
            keep(outcome)
    except OSError:
        raise  # nothing can be written any more
    except BaseException:
        under_way -= _emptied(todo)
        _store_late(ready, store, under_way)
        raise
    finally:
        for _ in range(concurrency):
            todo.put(None)


def _emptied(todo: "queue.SimpleQueue[tuple[str, T] | None]") -> int:
    """How many jobs that nobody has begun were taken back."""
    number = 0
    while True:
        try:
            todo.get_nowait()
        except queue.Empty:
            return number
        number += 1


def _store_late(ready: "queue.SimpleQueue[_Outcome]", store: Callable[[_Outcome], None], expected: int) -> None:
    deadline = time.monotonic() + GRACE
    while expected > 0:
        try:
            outcome = ready.get(timeout=max(0.0, deadline - time.monotonic()))
        except queue.Empty:
            return
        expected -= 1
        if outcome.error is None:
            store(outcome)


def _is_fatal(error: Exception) -> bool:
    return isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno in _FATAL)


def _failure(key: str, error: Exception, text: str) -> Record:
    record: Record = {"id": key, "text": text, "cluster": None, "metrics": {}, "timings": {}}
    if isinstance(error, FathomError):
        return record | {"error": str(error)}
    record["error"] = f"{type(error).__name__}: {error}".removesuffix(": ")
    if not isinstance(error, OSError):  # nobody foresaw it: who mends it needs the place
        record["trace"] = traceback.format_exception(error)
    return record
