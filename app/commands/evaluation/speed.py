"""`fathom eval speed WHAT`: words → a SpeedPart; its curve or comparison → tables. It measures nothing itself."""

import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from app.commands.evaluation.options import DryRun, Engine, Fresh, RunName, Seed
from app.commands.options import AsJson, CollectionName, Hits, Workspace, begin
from app.workspace import DEFAULT_COLLECTION
from retrieval.errors import UsageError
from retrieval.passages import Mode

if TYPE_CHECKING:
    from app.terminal import Terminal

What = Annotated[
    Literal["indexing", "search", "generation", "serving", "beside", "adapters"],
    typer.Argument(metavar="WHAT", help="indexing, search, generation, serving, beside or adapters."),
]


def _option(*names: str, metavar: str, help: str) -> Any:  # noqa: A002 - typer's word
    return typer.Option(*names, metavar=metavar, help=help, show_default=False)


Numbers = Annotated[
    str | None, _option("--users", metavar="N,N,…", help="Users at once, as in 1,2,4,8,16,50 (serving).")
]
Lengths = Annotated[
    str | None, _option("--prompt-tokens", metavar="N,N,…", help="Lengths of made-up prompts (generation, serving).")
]


def command(
    what: What,
    engine: Engine = None,
    collection: CollectionName = None,
    questions: Annotated[
        Path | None, _option("--questions", metavar="FILE", help="Questions to ask: a question file, or .txt lines.")
    ] = None,
    folder: Annotated[Path | None, _option("--folder", metavar="DIR", help="Files to index (indexing).")] = None,
    mode: Annotated[Mode | None, typer.Option("--mode", "-m", help="Which search.", show_default=False)] = None,
    k: Hits = None,
    limit: Annotated[int | None, _option("--limit", metavar="N", help="Questions taken of the file.")] = None,
    prompt_tokens: Lengths = None,
    new_tokens: Annotated[
        int | None, _option("--new-tokens", metavar="N", help="Longest answer to a made-up prompt.")
    ] = None,
    users: Numbers = None,
    rounds: Annotated[int | None, _option("--rounds", metavar="N", help="Requests of each user (serving).")] = None,
    repeats: Annotated[int | None, _option("--repeats", metavar="N", help="Repeats, or turns (not serving).")] = None,
    ours: Annotated[
        str | None, _option("--ours", metavar="COMMAND", help="Our command line, quoted as one word (beside).")
    ] = None,
    peer: Annotated[str | None, _option("--peer", metavar="COMMAND", help="The peer's command line.")] = None,
    peer_python: Annotated[
        Path | None, _option("--peer-python", metavar="PATH", help="Interpreter of the peer's environment.")
    ] = None,
    timeout: Annotated[
        float | None, _option("--timeout", metavar="SECONDS", help="When a command is ended (beside).")
    ] = None,
    one_thread: Annotated[
        bool, typer.Option("--one-thread", help="Hold every library to one passive thread, as for published figures.")
    ] = False,
    run: RunName = None,
    fresh: Fresh = False,
    dry_run: DryRun = False,
    seed: Seed = 0,
    workspace: Workspace = None,
    as_json: AsJson = False,
) -> None:
    """Measure indexing, search, first token and decode, many users at once, adapters on one base, or two commands."""
    if one_thread:
        _restart_with_one_thread()
    given: dict[str, Any] = {
        "engine": engine,
        "collection": collection or (DEFAULT_COLLECTION if what == "search" else None),
        "questions": questions.absolute() if questions else None,
        "folder": folder.absolute() if folder else None,
        "mode": mode,
        "k": k,
        "limit": limit,
        "prompt_tokens": _numbers("--prompt-tokens", prompt_tokens),
        "new_tokens": new_tokens,
        "users": _numbers("--users", users),
        "rounds": rounds,
        "repeats": repeats,
        "ours": ours,
        "peer": peer,
        "peer_python": peer_python.absolute() if peer_python else None,
        "timeout": timeout,
    }
    opened = begin(workspace, as_json)
    from app.evaluation import RunOptions, measure, show
    from eval.speed.part import SpeedPart

    part = SpeedPart(what=what, seed=seed, **{name: value for name, value in given.items() if value is not None})
    # A time is taken anew whenever it is asked for; only a run that was named is gone on with.
    options = RunOptions(run=run, fresh=fresh or run is None, dry_run=dry_run, seed=seed)
    result = measure(opened, "speed", what, part, options)
    if result is None:
        return
    if not as_json:
        _tables(opened.terminal, result.extras)
    show(opened, result)


def _restart_with_one_thread() -> None:
    """Thread counts are read when libraries load: start again with them set."""
    from eval.speed.measuring import single_thread

    # OpenVINO reads no variable of OpenMP: its threads are the settings' own.
    wanted = {"FATHOM_ENGINE_THREADS": "1", "FATHOM_EMBEDDING_THREADS": "1"} | single_thread()
    if wanted.items() - os.environ.items():
        sys.stdout.flush()
        os.execve(sys.executable, [sys.executable, "-m", "app", *sys.argv[1:]], wanted)


def _numbers(option: str, text: str | None) -> tuple[int, ...] | None:
    if text is None:
        return None
    try:
        return tuple(int(word) for word in text.split(","))
    except ValueError as error:
        raise UsageError(
            f"{option} {text[:80]!r} is not valid; give numbers with commas between, as in 1,2,4"
        ) from error


def _tables(terminal: "Terminal", extras: Mapping[str, Any]) -> None:
    if "curve" in extras:
        heads = ["users", "requests", "errors", "requests/s", "tokens/s"]
        heads += ["first token p50", "p95", "p99", "total p50", "p95", "p99"]
        rows = [
            [
                *(str(row[name]) for name in ("users", "requests", "errors")),
                *(_figure(row[name]) for name in ("requests_per_second", "tokens_per_second")),
                *(_figure(row[m][p], " ms") for m in ("first_token_ms", "total_ms") for p in ("p50", "p95", "p99")),
            ]
            for row in extras["curve"]
        ]
        _print(terminal, heads, rows)
    if "table" in extras:
        heads = ["prompt tokens", "new tokens", "first token", "decode tokens/s", "prefill tokens/s", "total"]
        rows = [
            [
                *(_figure(row[name]) for name in ("prompt_tokens", "completion_tokens")),
                _figure(row["first_token_ms"], " ms"),
                *(_figure(row[name]) for name in ("decode_tokens_per_second", "prefill_tokens_per_second")),
                _figure(row["total_ms"], " ms"),
            ]
            for row in extras["table"]
        ]
        _print(terminal, heads, rows)
    if "adapted" in extras:
        heads = ["adapters", "PSS", "RSS", "answered by", "first token", "decode tokens/s", "new tokens"]
        rows = [
            [
                *(
                    (str(len(row["adapters"])), *(_figure(row[n], " MB") for n in ("pss_mb", "rss_mb")))
                    if not i
                    else [""] * 3
                ),
                name,
                _figure(told["first_token_ms"], " ms"),
                *(_figure(told[figure]) for figure in ("decode_tokens_per_second", "completion_tokens")),
            ]
            for row in extras["adapted"]
            for i, (name, told) in enumerate(row["asked"].items())
        ]
        _print(terminal, heads, rows)
    if "compared" in extras:
        rows = [
            [name, _figure(row["ours"]), _figure(row["peer"]), _figure(row["ratio"], " ×"), _interval(row)]
            for name, row in extras["compared"].items()
        ]
        _print(terminal, ("medians", "ours", "peer", "peer/ours", "95 % interval"), rows)
        names = ("wall_s", "user_s", "system_s", "peak_mb")
        runs = [
            [str(run["turn"]), run["side"], *(_figure(run[name]) for name in names), str(run["exit_code"])]
            for run in extras["runs"]
        ]
        _print(terminal, ("turn", "side", "wall s", "user s", "system s", "peak MB", "exit"), runs)


def _print(terminal: "Terminal", heads: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    terminal.table(heads, rows, right=tuple(range(len(heads))))
    terminal.line()


def _figure(value: float | None, unit: str = "") -> str:
    from eval.results_table import number

    return "–" if value is None else f"{number(value)}{unit}"


def _interval(row: Mapping[str, Any]) -> str:
    return "–" if row["low"] is None else f"{_figure(row['low'])}–{_figure(row['high'])}"
