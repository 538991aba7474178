"""Many people at once on a running chat, over an engine that needs a second → errors, first token, whole answer.

A closed loop (see eval.speed.serving): each asks the next question when the last one is answered.
"""

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from eval.runs.parts import PartFolder, Progress
from eval.speed.chat_clients import client_of, through_api, through_page
from eval.speed.chat_server import PRECISION, Scripted, chatting, questions_for, workspace_with
from eval.speed.measuring import Figure, Measurement
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
    rounds: int = 3,
    passages: int = 100_000,
    through: Sequence[Way] = ("page", "api"),
    script: Scripted | None = None,
    progress: Progress | None = None,
) -> Measurement:
    """On a collection of `passages`. Raises FathomError where nothing starts or every request fails."""
    workspace, collection = workspace_with(passages, progress)
    return measure_in(
        workspace, collection, users=users, rounds=rounds, through=through, script=script, progress=progress
    )


def measure_in(
    workspace: Path,
    collection: str,
    *,
    users: int,
    rounds: int,
    through: Sequence[Way],
    script: Scripted | None = None,
    precision: str | None = PRECISION,
    progress: Progress | None = None,
) -> Measurement:
    """The same on a collection that is there."""
    script = script or Scripted()
    questions = questions_for(workspace, collection, QUESTIONS)
    figures: list[Figure] = []
    details: dict[str, Any] = {"script": str(script), "users": users, "rounds": rounds, "collection": collection}
    for way in through:
        with (
            chatting(workspace, script, precision=precision) as running,
            client_of(running.page) as client,
            tempfile.TemporaryDirectory() as folder,
        ):
            ask = through_api(client, collection) if way == "api" else through_page(client, collection, MARK)
            records = PartFolder(Path(folder))
            found = measure_serving(ask, questions, records, progress or _quiet, users=[users], rounds=rounds)
            (row,) = found["curve"]
            details[way] = {
                **row,
                "problems": [record["error"] for record in records.all().values() if record.get("error")],
            }
        what = f"{users} users through the {'page' if way == 'page' else 'API'}"
        figures.append(Figure(f"{what}, errors of {row['requests']}", row["errors"], "", ERRORS))
        for percent, target in ((50, None), (95, FIRST_TOKEN_S)):
            first, total = (row[name][f"p{percent}"] / 1e3 for name in ("first_token_ms", "total_ms"))
            figures.append(Figure(f"{what}, first token p{percent}", first, "s", target))
            figures.append(Figure(f"{what}, whole answer p{percent}", total, "s"))
        figures.append(Figure(f"{what}, answers a second", row["requests_per_second"], "/s", None, "higher"))
    return Measurement("users", f"python -m eval.speed users --users {users}", tuple(figures), details)
