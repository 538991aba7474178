"""The command line of the measurements: prints a table and writes build/results/NAME.json."""

import argparse
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from eval.results_table import markdown, read_results
from eval.speed.measuring import RESULTS, Measurement, single_thread, write_result
from retrieval.errors import FathomError

DATA = Path(os.environ.get("FATHOM_SHARED_DATA") or Path(__file__).parents[2].parent / "shared" / "data")


def indexing(options: argparse.Namespace) -> Iterator[Measurement]:
    """First indexing against the stock pipeline, CPU time, same passages."""
    from eval.speed.indexing import measure

    yield measure(passages=options.passages, repeats=options.repeats, progress=progress)


def precision(options: argparse.Namespace) -> Iterator[Measurement]:
    """nDCG@10 of fp32, bf16 and int8 on SciFact."""
    from eval.speed.indexing import measure_quality

    yield measure_quality(options.data / "scifact", progress=progress)


def sync(options: argparse.Namespace) -> Iterator[Measurement]:
    """Ten thousand unchanged files."""
    from eval.speed.syncing import measure

    yield measure(files=options.files, repeats=options.repeats, progress=progress)


def opening(options: argparse.Namespace) -> Iterator[Measurement]:
    """Opening 100,000 passages in a fresh process."""
    from eval.speed.searching import measure_opening

    yield measure_opening(options.sizes[0], repeats=options.repeats, progress=progress)


def search(options: argparse.Namespace) -> Iterator[Measurement]:
    """Milliseconds a query at 10,000, 100,000 and 1,000,000 passages, recall and memory."""
    from eval.speed.searching import measure_search

    for size in options.sizes:
        yield measure_search([size], rounds=options.repeats, peer=options.peer, mode=options.mode, progress=progress)


def update(options: argparse.Namespace) -> Iterator[Measurement]:
    """One changed document among 100,000 passages."""
    from eval.speed.searching import measure_update

    yield measure_update(options.sizes[0], peer=options.peer, progress=progress)


def quality(options: argparse.Namespace) -> Iterator[Measurement]:
    """nDCG@10 of lexical, dense and hybrid on every set at hand."""
    from eval.search.quality import SETS, measure_sets
    from eval.speed.workers import embedder

    names = options.sets or [name for name in SETS if (options.data / name).is_dir()]
    yield measure_sets(options.data, names, lambda: embedder(options.precision), progress=progress)


def second_half(options: argparse.Namespace) -> Iterator[Measurement]:
    """Questions about the second halves of long documents."""
    from eval.search.quality import measure_second_half
    from eval.speed.workers import embedder

    for source in options.sources:
        yield measure_second_half(
            options.data,
            source,
            lambda: embedder(options.precision),
            documents=options.documents,
            peer=options.peer,
            progress=progress,
        )


def overhead(options: argparse.Namespace) -> Iterator[Measurement]:
    """The evaluation's runner beside bare searches, and its statistics."""
    from eval.speed.overhead import measure_runner, measure_statistics
    from eval.speed.workers import embedder

    yield measure_statistics()
    model = embedder("bf16")
    yield measure_runner(options.data / "scifact", lambda: model, repeats=options.repeats, progress=progress)


def chat_turn(options: argparse.Namespace) -> Iterator[Measurement]:
    """A chat turn of the embedded engine beside llama.cpp: 1,500 tokens in, 100 out, the same GGUF."""
    from eval.speed.chat_turn import measure

    yield measure(
        tokens=options.tokens,
        new_tokens=options.new_tokens,
        prompts=options.prompts,
        repeats=options.repeats,
        threads=options.threads,
        progress=progress,
    )


def turn_overhead(options: argparse.Namespace) -> Iterator[Measurement]:
    """What an answer takes to its first word beyond its engine, over 100,000 passages."""
    from eval.speed.turn_overhead import measure

    yield measure(passages=options.sizes[0], questions=options.questions, progress=progress)


def users(options: argparse.Namespace) -> Iterator[Measurement]:
    """Fifty people at once on the chat page, over an engine that needs a second."""
    from eval.speed.chat_users import measure

    yield measure(
        users=options.users,
        rounds=options.rounds,
        repeats=options.repeats,
        passages=options.sizes[0],
        through=options.through,
        progress=progress,
    )


COMMANDS = {
    "indexing": indexing,
    "precision": precision,
    "sync": sync,
    "open": opening,
    "search": search,
    "update": update,
    "quality": quality,
    "second-half": second_half,
    "overhead": overhead,
    "chat-turn": chat_turn,
    "turn-overhead": turn_overhead,
    "users": users,
}


def progress(stage: str, done: int, total: int) -> None:
    if sys.stderr.isatty():
        sys.stderr.write(f"\r{stage} {done:,}/{total:,}   ")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m eval.speed", description="Fathom's figures, beside a peer.")
    commands = parser.add_subparsers(dest="command", required=True)
    for name, function in COMMANDS.items():
        command = commands.add_parser(name, help=function.__doc__)
        command.add_argument("--json", action="store_true", help="print JSON instead of a table")
        command.add_argument("--no-peer", dest="peer", action="store_false", help="leave the stock pipeline out")
        command.add_argument("--repeats", type=int, default=3, help="turns; medians are reported")
    commands.choices["indexing"].add_argument("--passages", type=int, default=500)
    commands.choices["sync"].add_argument("--files", type=int, default=10_000)
    turn = commands.choices["chat-turn"]
    for option, default in (("--tokens", 1500), ("--new-tokens", 100), ("--prompts", 3), ("--threads", 2)):
        turn.add_argument(option, type=int, default=default)
    commands.choices["turn-overhead"].add_argument("--questions", type=int, default=20)
    commands.choices["users"].add_argument("--users", type=int, default=50)
    commands.choices["users"].add_argument("--rounds", type=int, default=1, help="questions of each user")
    commands.choices["users"].add_argument("--through", nargs="+", choices=("page", "api"), default=["page", "api"])
    for name in ("open", "update", "turn-overhead", "users"):
        commands.choices[name].add_argument("--sizes", type=int, nargs=1, default=[100_000])
    commands.choices["search"].add_argument("--sizes", type=int, nargs="+", default=[10_000, 100_000])
    commands.choices["search"].add_argument("--mode", choices=("lexical", "dense", "hybrid"), default="hybrid")
    for name in ("precision", "quality", "second-half", "overhead"):
        commands.choices[name].add_argument("--data", type=Path, default=DATA, help="folder of the test collections")
    for name in ("quality", "second-half"):
        commands.choices[name].add_argument("--precision", default="bf16")
    commands.choices["quality"].add_argument("--sets", nargs="*", help="folder names; all that are there by default")
    commands.choices["second-half"].add_argument("--sources", nargs="+", default=["docstrings", "peps"])
    commands.choices["second-half"].add_argument("--documents", type=int, default=300)
    commands.add_parser("table", help="the table of all results so far")
    options = parser.parse_args()
    if options.command == "table":
        sys.stdout.write(markdown(read_results(RESULTS)) + "\n")
        return
    if single_thread().items() - os.environ.items():
        # Thread counts are read when libraries load: start again with them set.
        os.execve(sys.executable, [sys.executable, "-m", "eval.speed", *sys.argv[1:]], single_thread())
    try:
        done: list[dict[str, Any]] = []
        for measurement in COMMANDS[options.command](options):
            write_result(measurement)
            done.append(measurement.to_json())
    except FathomError as error:
        sys.stderr.write(f"{error}\n")
        raise SystemExit(error.exit_code) from error
    sys.stdout.write((json.dumps(done, indent=1) if options.json else markdown(done)) + "\n")


if __name__ == "__main__":
    main()
