"""Users who ask at the same time, each the next question as soon as the last is answered → how long they wait.

A closed loop without pauses: the load follows from the number of users, so an engine that is too slow shows as long
waits and not as an ever longer line. It does not know whether an engine or the whole chat answers.
"""

import threading
import time
from collections.abc import Mapping, Sequence
from typing import Any

from eval.runs.parts import PartFolder, Progress, Record
from eval.speed.asking import Ask, Asked
from eval.speed.measuring import percentile
from retrieval.errors import FathomError

PERCENTS = (50, 95, 99)


def measure(
    ask: Ask,
    questions: Sequence[str],
    folder: PartFolder,
    progress: Progress,
    *,
    users: Sequence[int],
    rounds: int,
) -> Mapping[str, Any]:
    """One record a request, `rounds` of them for each user at each number of users; returns the curve.

    A level that was interrupted is measured again as a whole: half a level is not that load. Raises FathomError where
    every request of a level failed.
    """
    total, finished = sum(users) * rounds, 0
    asked_before = 0
    for level in users:
        names = {name(level, user, turn) for user in range(level) for turn in range(rounds)}
        if not names <= folder.done().keys():
            if finished == 0:
                ask(questions[-1], threading.Event())  # what is made once is not counted
            run_level(ask, questions, folder, progress, level, rounds, (finished, total), asked_before)
        finished += len(names)
        asked_before += len(names)
        level_records = [record for key, record in folder.all().items() if key in names]
        failed = [record for record in level_records if record.get("error")]
        if len(failed) == len(names):
            raise FathomError(
                f"with {level} users every request failed, the last with '{failed[-1]['error']}'; mend that and run "
                "the same command again"
            )
    return {"curve": curve(folder.all(), users)}


def name(level: int, user: int, turn: int) -> str:
    """The id of a request; users and turns count from 1 there."""
    return f"{level}-users-{user + 1}-{turn + 1}"


def run_level(
    ask: Ask,
    questions: Sequence[str],
    folder: PartFolder,
    progress: Progress,
    level: int,
    rounds: int,
    position: tuple[int, int],
    first_question: int,
) -> None:
    """`level` threads ask until each has had its rounds. Ctrl-C stops their answers and leaves."""
    stop, ready = threading.Event(), threading.Barrier(level + 1)
    problems: list[BaseException] = []
    done = threading.Semaphore(0)
    began = [0.0]

    def work(user: int) -> None:
        try:
            ready.wait()
            for turn in range(rounds):
                if stop.is_set():
                    return
                question = questions[(first_question + turn * level + user) % len(questions)]
                start = time.perf_counter()
                try:
                    outcome: Asked | Exception = ask(question, stop)
                except Exception as error:
                    outcome = error
                if not stop.is_set():
                    times = (start - began[0], time.perf_counter() - began[0])
                    folder.append(_record(level, user, turn, question, outcome, times))
                    done.release()
        except BaseException as error:  # a full disk ends the run, not this user alone
            problems.append(error)

    for user in range(level):
        threading.Thread(target=work, args=(user,), name=f"user-{user + 1}", daemon=True).start()
    try:
        began[0] = time.perf_counter()
        ready.wait()
        for number in range(1, level * rounds + 1):
            while not done.acquire(timeout=0.1):  # an uninterrupted wait would keep Ctrl-C out
                if problems:
                    raise problems[0]
            progress(f"{level} users" if level > 1 else "1 user", position[0] + number, position[1])
    finally:
        stop.set()


def _record(
    level: int, user: int, turn: int, question: str, outcome: Asked | Exception, times: tuple[float, float]
) -> Record:
    record: Record = {
        "id": name(level, user, turn),
        "text": question[:200],
        # Requests of one round run side by side and share the machine's mood: they are no independent draws.
        "cluster": f"{level}-users-round-{turn + 1}",
        "users": level,
        "began_s": times[0],
        "ended_s": times[1],
    }
    if isinstance(outcome, Exception):
        words = str(outcome) if isinstance(outcome, FathomError) else f"{type(outcome).__name__}: {outcome}"
        return record | {"metrics": {}, "timings": {}, "error": words}
    first_ms = None if outcome.first is None else outcome.first * 1e3
    timings = {"total": outcome.total * 1e3} | ({} if first_ms is None else {"first token": first_ms})
    prefix = f"{level}_users"
    return record | {
        "metrics": {
            f"{prefix}_first_token_ms": first_ms,
            f"{prefix}_total_ms": outcome.total * 1e3,
            f"{prefix}_tokens_per_second": outcome.decode,
            # Little's law: without pauses, throughput is users over mean time; so it gets an interval like a mean.
            f"{prefix}_requests_per_second": [level, outcome.total],
        },
        "timings": {f"{level:>2} users, {name}": value for name, value in timings.items()},
        "error": None,
        "prompt_tokens": outcome.prompt_tokens,
        "completion_tokens": outcome.completion_tokens,
    }


def curve(records: Mapping[str, Record], users: Sequence[int]) -> list[dict[str, Any]]:
    """A row for each number of users: requests, errors, seconds from the first request to the last answer, requests and
    tokens a second in that time, percentiles in milliseconds (None where nothing was written)."""
    rows = []
    for level in users:
        own = [record for record in records.values() if record["users"] == level]
        good = [record for record in own if not record.get("error")]
        seconds = max((record["ended_s"] for record in own), default=0.0) - min(
            (record["began_s"] for record in own), default=0.0
        )
        row: dict[str, Any] = {"users": level, "requests": len(own), "errors": len(own) - len(good), "seconds": seconds}
        tokens = [record["completion_tokens"] for record in good if record["completion_tokens"] is not None]
        row["requests_per_second"] = len(good) / seconds if seconds > 0 else None
        row["tokens_per_second"] = sum(tokens) / seconds if tokens and seconds > 0 else None
        for metric in ("first_token_ms", "total_ms"):
            values = [record["metrics"][f"{level}_users_{metric}"] for record in good]
            there = [value for value in values if value is not None]
            row[metric] = {f"p{percent}": percentile(there, percent) if there else None for percent in PERCENTS}
        rows.append(row)
    return rows
