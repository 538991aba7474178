"""`fathom eval compare A B`: words of the command line → a table of differences, the worst losses, gates, exit code."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from app.commands.options import AsJson, Run, Workspace, begin

if TYPE_CHECKING:
    from eval.comparison.comparing import Change, Comparison, PartComparison, Row
    from eval.runs.executing import RunResult
    from eval.runs.parts import Record

SHORT = 200
"""Characters of a text shown of a question or an answer; --json has all."""
RANKED = 8
SHOWN = ("answer", "rewritten", "chosen", "error")
"""What of a record tells most about an item that changed, whichever kind of part wrote it."""


def command(
    a: Annotated[str, typer.Argument(metavar="A", help="The run before: name, folder, 'latest', or RUN:PART.")],
    b: Annotated[str, typer.Argument(metavar="B", help="The run after, in the same words.")],
    gate: Annotated[
        list[str] | None,
        typer.Option(
            "--gate",
            metavar="GATE",
            help="Exit 1 unless the difference B - A keeps it: 'nDCG@10>=-0.01', 'scifact/F1>0', 'F1>=-0.01@95' (the "
            "whole 95 % interval), 'search.p50<=5' (ms); 'abs:F1>=0.8' is about B alone. May be repeated.",
            show_default=False,
        ),
    ] = None,
    parts: Annotated[
        list[str] | None,
        typer.Option(
            "--parts",
            metavar="PART[=PART]",
            help="Compare this part of A with that of B; may be repeated.",
            show_default="all of the same name",
        ),
    ] = None,
    worst: Annotated[
        int, typer.Option("--worst", metavar="N", min=0, help="Items to show that lost and that gained most.")
    ] = 5,
    beside: Annotated[
        Path | None,
        typer.Option(
            "--beside", metavar="FILE", help="Write answers of both, drawn at random, side by side (Markdown)."
        ),
    ] = None,
    drawn: Annotated[
        int | None,
        typer.Option("--drawn", metavar="N", min=1, help="With --beside: how many questions.", show_default="10"),
    ] = None,
    seed: Annotated[
        int, typer.Option("--seed", metavar="N", min=0, help="Seed of the resamples and of what is drawn.")
    ] = 0,
    workspace: Workspace = None,
    as_json: AsJson = False,
) -> int:
    """Compare two runs on the same data item by item: differences with intervals and tests, and the worst losses."""
    run = begin(workspace, as_json)
    from eval.comparison.comparing import compare
    from eval.comparison.gates import parse_gate
    from retrieval.errors import UsageError

    if drawn is not None and beside is None:
        raise UsageError("--drawn is how many questions --beside shows; name the file with --beside FILE")
    gates = [parse_gate(text) for text in gate or ()]
    before, part_a = _opened(run, a)
    after, part_b = _opened(run, b)
    pairs = _pairs(parts, part_a, part_b)
    with run.terminal.progress() as show:
        show("comparing", 0, 0)
        found = compare(before, after, parts=pairs, gates=gates, worst=worst, seed=seed)
    if beside is not None:
        _write_beside(beside, before, after, found, drawn, seed)
    if as_json:
        run.terminal.json(found.to_json())
    else:
        _print(run, found)
    return 0 if found.passed else 1


def _write_beside(
    file: Path, before: "RunResult", after: "RunResult", found: "Comparison", drawn: int | None, seed: int
) -> None:
    from eval.comparison.beside import DRAWN, side_by_side
    from retrieval.errors import UsageError

    part = next((part for part in found.parts if part.kind == "answers"), None)
    if part is None:
        raise UsageError(
            "--beside shows answers, and these runs have none in common; they come of 'fathom eval answers'"
        )
    text = side_by_side(before, after, part_a=part.a, part_b=part.b, drawn=drawn or DRAWN, seed=seed)
    try:
        file.write_text(text, encoding="utf-8")
    except OSError as error:
        raise UsageError(f"{file} cannot be written: {error.strerror}") from error


def _opened(run: Run, word: str) -> "tuple[RunResult, str | None]":
    """The run of RUN or RUN:PART, and PART."""
    from app.evaluation import run_folder
    from eval.runs.executing import read_run
    from retrieval.errors import UsageError

    name, _, part = word.rpartition(":")
    try:
        return read_run(run_folder(run.settings, word)), None
    except UsageError:
        if not name:
            raise
    return read_run(run_folder(run.settings, name)), part


def _pairs(words: list[str] | None, part_a: str | None, part_b: str | None) -> list[tuple[str, str]] | None:
    from retrieval.errors import UsageError

    named = part_a or part_b
    if words and named:
        raise UsageError("parts are named both by RUN:PART and by --parts; use one of the two")
    if named:
        return [(part_a or named, part_b or named)]
    if not words:
        return None
    pairs = []
    for word in words:
        left, _, right = word.partition("=")
        if not left or (not right and "=" in word):
            raise UsageError(f"--parts '{word[:120]}' names no part; write PART, or PART=PART where the names differ")
        pairs.append((left, right or left))
    return pairs


def _print(run: Run, found: "Comparison") -> None:
    for part in found.parts:
        _print_part(run, part)
    for name, alone in ((found.a, found.only_a), (found.b, found.only_b)):
        if alone:
            run.terminal.note(f"only in {name}: {', '.join(alone)}")
    for verdict in found.gates:
        word, style = ("pass", "green") if verdict.passed else ("FAIL", "bold red")
        run.terminal.line(f"{word}  {verdict.gate}  {verdict.part}: {verdict.said}", style)
    failed = sum(not verdict.passed for verdict in found.gates)
    said = f"{found.a} and {found.b} compared"
    if found.gates:
        said += f", {failed} of {len(found.gates)} gates failed" if failed else ", every gate passed"
    run.terminal.done(said)


def _print_part(run: Run, part: "PartComparison") -> None:
    from app.terminal import count
    from eval.comparison.comparing import ERRORS
    from eval.figures.measures import format_value

    seeds = "" if part.seeds == (1, 1) else f", {part.seeds[0]} and {part.seeds[1]} seeds"
    run.terminal.line(f"{part.name} ({part.kind}, {count(part.items, 'item')}{seeds})", "bold")
    for key, (before, after) in part.settings.items():
        run.terminal.line(f"  {key}: {_short(before)} → {_short(after)}", "dim")
    rows = [row for row in part.rows if row.metric != ERRORS or row.a.value or row.b.value]
    headings = ("measure", "A", "B", "B - A", "95 % interval", "p", "p (Holm)", "better/same/worse", "effect")
    run.terminal.table(headings, [_cells(row) for row in rows], right=range(1, len(headings)))
    if any(row.significant for row in rows):
        run.terminal.line("* below .05 after Holm's correction for having looked at several measures", "dim")
    main = next((row for row in rows if row.main), None)
    if main is not None and main.detectable:
        run.terminal.line(
            f"With {count(main.difference.n, 'item')} a true difference of "
            f"{format_value(main.metric, main.detectable)} in {main.metric} is found 4 times out of 5.",
            "dim",
        )
    if part.timings:
        run.terminal.line()
        timed = [
            [stage, *(f"{times['a'].get(q, 0):,.1f} → {times['b'].get(q, 0):,.1f}" for q in ("p50", "p90", "p99"))]
            for stage, times in part.timings.items()
        ]
        run.terminal.table(("time, ms", "p50", "p90", "p99"), timed, right=(1, 2, 3))
    if part.metric is not None:
        _print_changes(run, f"lost most in {part.metric}", part.metric, part.regressions)
        _print_changes(run, f"gained most in {part.metric}", part.metric, part.improvements)
    run.terminal.line()


def _cells(row: "Row") -> list[str]:
    from eval.figures.measures import format_difference, format_value

    low, high = row.difference.low, row.difference.high
    bounds = f"[{format_difference(row.metric, low)}, {format_difference(row.metric, high)}]"
    return [
        row.metric,
        format_value(row.metric, row.a.value),
        format_value(row.metric, row.b.value),
        format_difference(row.metric, row.difference.value),
        "–" if low is None or high is None else bounds,
        _chance(row.p),
        _chance(row.adjusted) + ("*" if row.significant else ""),
        f"{row.wins}/{row.ties}/{row.losses}",
        "–" if row.effect is None else f"{row.effect:+.2f}",
    ]


def _chance(p: float | None) -> str:
    return "–" if p is None else "<.001" if p < 0.001 else f"{p:.3f}"


def _print_changes(run: Run, title: str, metric: str, changes: "tuple[Change, ...]") -> None:
    from eval.figures.measures import format_value

    if not changes:
        return
    run.terminal.line()
    run.terminal.line(title, "bold")
    for change in changes:
        moved = f"{format_value(metric, change.a)} → {format_value(metric, change.b)}"
        run.terminal.line(f"  {moved}  {_short(change.id)}: {_short(change.text)}")
        for name, record in (("A", change.before), ("B", change.after)):
            said = _told(record)
            if said:
                run.terminal.line(f"      {name}: {said}", "dim")


def _told(record: "Record") -> str:
    """What the record holds of an answer, a ranking, an error; "" for none."""
    told = [_short(record[name]) for name in SHOWN if record.get(name)]
    if record.get("refused"):
        told.insert(0, "(refused)")
    rankings = record.get("rankings")
    if isinstance(rankings, dict) and rankings:
        told.append(_ranking(next(iter(rankings.values())), record.get("relevant") or ()))
    return "; ".join(told)


def _ranking(found: Any, relevant: Any) -> str:
    """The first documents of the last stage, the relevant ones with a star."""
    names = [item[0] if isinstance(item, list) and item else item for item in found] if isinstance(found, list) else []
    first = [f"{_short(name)}{'*' if name in relevant else ''}" for name in map(str, names[:RANKED])]
    return f"found {', '.join(first)}" if first else "found nothing"


def _short(value: Any) -> str:
    """Any value of a record on one line, cleaned, cut to what can be read."""
    from app.terminal import one_line

    text = one_line(str(value))
    return text if len(text) <= SHORT else f"{text[: SHORT - 1]}…"
