"""Many people at once on a running chat, over an engine that needs a second → errors, first token, whole answer.

All ask at the same moment; with more than one round each asks the next question when the last one is answered, and
nobody takes time to read (see eval.speed.serving): that is the load of several times as many people.
"""

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from eval.runs.parts import PartFolder, Progress
from eval.speed.chat_clients import Tabs, client_of, through_api
from eval.speed.chat_server import PRECISION, Chatting, Scripted, chatting, questions_for, workspace_with
from eval.speed.measuring import Figure, Measurement, median
from eval.speed.scripted_engine import MARK
from eval.speed.serving import measure as measure_serving

Way = Literal["page", "api"]
ERRORS, FIRST_TOKEN_S = 0.0, 3.0
QUESTIONS = 200


def _quiet(stage: str, done: int, total: int) -> None:
    return None


def measure(
    *,
    users: int = 50,
    rounds: int = 1,
    repeats: int = 3,
    passages: int = 100_000,
    through: Sequence[Way] = ("page", "api"),
    script: Scripted | None = None,
    progress: Progress | None = None,
) -> Measurement:
    """On a collection of `passages`, `repeats` times; medians of percentiles.

    Raises FathomError where nothing starts or every request fails.
    """
    workspace, collection = workspace_with(passages, progress)
    return measure_in(
        workspace,
        collection,
        users=users,
        rounds=rounds,
        repeats=repeats,
        through=through,
        script=script,
        progress=progress,
    )


def measure_in(
    workspace: Path,
    collection: str,
    *,
    users: int,
    rounds: int = 1,
    repeats: int = 1,
    through: Sequence[Way],
    script: Scripted | None = None,
    precision: str | None = PRECISION,
    progress: Progress | None = None,
) -> Measurement:
    """The same on a collection that is there."""
    script = script or Scripted()
    questions = questions_for(workspace, collection, QUESTIONS)
    figures: list[Figure] = []
    details: dict[str, Any] = {"script": str(script), "users": users, "rounds": rounds}
    with chatting(workspace, script, precision=precision) as running:
        for way in through:
            rows = bursts(running, collection, questions, way, users, rounds, repeats, progress)
            details[way] = rows
            figures += figures_of(f"{users} users through the {'page' if way == 'page' else 'API'}", rows)
    return Measurement("users", f"python -m eval.speed users --users {users}", tuple(figures), details)


def bursts(
    running: Chatting,
    collection: str,
    questions: Sequence[str],
    way: Way,
    users: int,
    rounds: int,
    repeats: int,
    progress: Progress | None = None,
) -> list[dict[str, Any]]:
    """A row of `eval.speed.serving.curve` for each repeat, with the sentences of what failed as `problems`."""
    rows: list[dict[str, Any]] = []
    with client_of(running.page) as client:
        tabs = Tabs(client, collection, MARK)
        ask = tabs.ask if way == "page" else through_api(client, collection)
        for number in range(repeats):
            # Other questions each time: nothing is answered from memory.
            start = number * users * rounds % len(questions)
            asked = [*questions[start:], *questions[:start]]
            if way == "page":
                tabs.open(users * rounds + 1)  # and the one that warms up
            with tempfile.TemporaryDirectory() as folder:
                records = PartFolder(Path(folder))
                found = measure_serving(ask, asked, records, progress or _quiet, users=[users], rounds=rounds)
                problems = [record["error"] for record in records.all().values() if record.get("error")]
            rows.append(found["curve"][0] | {"problems": problems})
    return rows


def figures_of(what: str, rows: Sequence[Mapping[str, Any]]) -> list[Figure]:
    """Errors of all repeats together, and the medians of their percentiles."""
    requests, errors = (sum(row[name] for row in rows) for name in ("requests", "errors"))
    figures = [Figure(f"{what}, errors of {requests}", errors, "", ERRORS)]
    for percent, target in ((50, None), (95, FIRST_TOKEN_S)):
        first, total = (
            median([row[name][f"p{percent}"] for row in rows]) / 1e3 for name in ("first_token_ms", "total_ms")
        )
        figures.append(Figure(f"{what}, first token p{percent}", first, "s", target))
        figures.append(Figure(f"{what}, whole answer p{percent}", total, "s"))
    served = median([row["requests_per_second"] for row in rows])
    figures.append(Figure(f"{what}, answers a second", served, "/s", None, "higher"))
    return figures
