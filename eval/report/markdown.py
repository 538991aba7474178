"""A run → Markdown that reads well in a terminal: findings, main measures with intervals, what changed, the worst.

Tables are set in columns, so that the text is readable as it is; text of records cannot end a cell or begin markup.
"""

import re
import unicodedata
from collections.abc import Sequence
from typing import TYPE_CHECKING

from eval.comparison.comparing import Comparison
from eval.report.blocks import blocks
from eval.report.findings import findings, signed
from eval.report.page import facts, headline, named_rows, notices, repeat, stage_rows, whole_name
from eval.report.shape import Compared, Shaped, compared, figure_of, shape
from eval.report.text import count, line, milliseconds

if TYPE_CHECKING:
    from eval.runs.executing import RunResult

WIDTH = 100
MOST_WORST = 10
# Only what would act: a text full of backslashes is no pleasure in a terminal. `_` inside a word and `[` without a link
# behind it are plain text to CommonMark; bare addresses become links in GitHub's Markdown.
_SPECIAL = re.compile(
    r"[\\`*|~]|(?<!\w)_|_(?!\w)|\](?=[(\[:])|<(?=[A-Za-z/!?])|&(?=#|\w+;)"
    r"|(?<=:)//|(?<=www)\.|@(?=[\w\-.]*\.\w)",
    re.IGNORECASE,
)
_BLOCK = re.compile(r"(\s*)(?=[-+=>#:]|\d+[.)]\s)")
"""What begins a list, a heading or a quotation where it stands at the beginning of a line."""


def to_markdown(run: "RunResult", against: "RunResult | None" = None, comparison: Comparison | None = None) -> str:
    """The report of `run`; with `comparison`, that of `against` (a) with it (b)."""
    parts = shape(run)
    changes = compared(run, against, comparison) if against is not None and comparison is not None else []
    told = [f"# {escape(line(run.name, 120))}", ""]
    if against is not None:
        told += [f"Compared with **{escape(line(against.name, 120))}**.", ""]
    told += [*paragraph(" · ".join(f"{label}: {escape(value)}" for label, value, _ in facts(run, parts))), ""]
    for notice in notices(run, parts, comparison):
        told += [*paragraph(escape(line(notice, 400)), "> ", "> "), ""]
    for name, sentence in findings(parts, changes):
        told += paragraph(f"**{escape(name)}**: {escape(sentence)}", "- ", "  ")
    told += ["", *_headline(parts)]
    for part in changes:
        told += _change(part)
    for shaped in parts:
        told += _part(shaped)
    told += ["## Again", "", *(f"    {text}" for text in repeat(run, against).splitlines()), ""]
    return "\n".join(told)


def escape(text: str) -> str:
    """Text that CommonMark and GitHub's tables show as it is, wherever it stands but at the beginning of a line."""
    return _SPECIAL.sub(r"\\\g<0>", text)


def paragraph(text: str, first: str = "", rest: str = "") -> list[str]:
    """Escaped text in lines of at most 100 columns, the first after `first`, the others after `rest`."""
    lines = [""]
    for word in text.split():
        if lines[-1] and columns(f"{rest}{lines[-1]} {word}") > WIDTH:
            lines.append("")
        lines[-1] = f"{lines[-1]} {word}".lstrip()
    return [(rest if at else first) + _at_start(words, bool(at) or not first) for at, words in enumerate(lines)]


def _at_start(text: str, begins: bool) -> str:
    return re.sub(r"^(\d*)", r"\1\\", text, count=1) if begins and _BLOCK.match(text) else text


def table(head: Sequence[str], rows: Sequence[Sequence[str]], *, right: Sequence[int] = ()) -> list[str]:
    """A table whose columns are aligned in the source too; texts are escaped here. The first column gives way where
    the line would be longer than 100 columns."""
    cells = [[escape(cell) for cell in row] for row in (head, *rows)]
    widths = [max(3, *(columns(row[place]) for row in cells)) for place in range(len(head))]
    over = sum(widths) + 3 * len(widths) + 1 - WIDTH
    if over > 0:
        widths[0] = max(12, widths[0] - over)
    lines = []
    for number, row in enumerate(cells):
        first = [_cut(row[0], widths[0]), *row[1:]]
        lines.append("| " + " | ".join(_set(cell, widths[at], at in right) for at, cell in enumerate(first)) + " |")
        if number == 0:
            rule = ["-" * (width - 1) + (":" if at in right else "-") for at, width in enumerate(widths)]
            lines.append("| " + " | ".join(rule) + " |")
    return [*lines, ""]


def columns(text: str) -> int:
    """Columns of a terminal that `text` takes: two for each Chinese, Japanese or Korean character."""
    return sum(0 if unicodedata.combining(c) else 2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in text)


def _set(cell: str, width: int, right: bool) -> str:
    gap = " " * (width - columns(cell))
    return gap + cell if right else cell + gap


def _cut(cell: str, width: int) -> str:
    if columns(cell) <= width:
        return cell
    kept = cell
    while columns(kept) > width - 1:
        kept = kept[:-1]
    # Not in the middle of an escape: a single backslash at the end would take the cell's bar with it.
    if (len(kept) - len(kept.rstrip("\\"))) % 2:
        kept = kept[:-1]
    return kept + "…"


def _headline(parts: Sequence[Shaped]) -> list[str]:
    rows = [
        [
            part.name if place == 0 else "",
            figure.name + (" ↓" if figure.lower_is_better else ""),
            figure.value,
            figure.interval,
            f"{figure.estimate.n:,}",
            f"{figure.estimate.missing:,}" if figure.estimate.missing else "",
            f"{part.errors:,}" if place == 0 and part.errors else "",
        ]
        for part in parts
        for place, figure in enumerate(headline(part))
    ]
    if not rows:
        return []
    head = ("part", "measure", "value", "95 % interval", "n", "missing", "errors")
    return ["## Main measures", "", *table(head, rows, right=(2, 3, 4, 5, 6)), "↓ lower is better", ""]


def _change(part: Compared) -> list[str]:
    told = [f"## Changed: {escape(line(part.comparison.name, 120))}", ""]
    if part.unchanged:
        return [*told, f"Nothing: {count(part.comparison.items, 'item')}, each the same in both runs.", ""]
    rows = []
    for name, row in named_rows(part.comparison):
        figure = figure_of(row)
        rows.append(
            [
                name,
                figure.text(row.a.value),
                figure.text(row.b.value),
                signed(figure.value, figure.estimate.value) + (" *" if row.significant else ""),
                signed(figure.interval, None),
                _probability(row.adjusted),
                figure.text(row.detectable),
                f"{row.wins:,}/{row.ties:,}/{row.losses:,}",
            ]
        )
    head = ("measure", "before", "now", "change", "95 % interval", "p Holm", "MDE", "W/T/L")
    told += [*table(head, rows, right=(1, 2, 3, 4, 5, 6, 7))]
    told += ["\\* unlikely to be chance (p after Holm's correction < .05). W/T/L: items better, equal, worse.", ""]
    if part.comparison.regressions and part.main is not None:
        figure = figure_of(part.main)
        worst = [
            [line(found.text or found.id, 70), figure.text(found.a), figure.text(found.b)]
            for found in part.comparison.regressions[:MOST_WORST]
        ]
        told += ["### What lost most", "", *table(("question", "before", "now"), worst, right=(1, 2))]
    return told


def _probability(p: float | None) -> str:
    return "–" if p is None else "<.001" if p < 0.001 else f"{p:.3f}"


def _part(part: Shaped) -> list[str]:
    told = [f"## {escape(part.name)}", ""]
    if part.stages:
        rows = [
            [measure if place == 0 else "", figure.stage or whole_name(part), figure.value, figure.interval]
            for measure, figures in stage_rows(part)
            for place, figure in enumerate(figures)
        ]
        told += table(("measure", "stage", "value", "95 % interval"), rows, right=(2, 3))
    others = [figure for figure in part.whole if figure not in headline(part)]
    if others:
        rows = [[figure.name, figure.value, figure.interval, f"{figure.estimate.n:,}"] for figure in others]
        told += table(("measure", "value", "95 % interval", "n"), rows, right=(1, 2, 3))
    if part.latencies:
        rows = [[stage, *map(milliseconds, times)] for stage, *times in part.latencies]
        told += table(("time per item", "p50", "p90", "p99"), rows, right=(1, 2, 3))
    for block in blocks(part.result.extras):
        if (
            block.rows
            and sum(max(columns(cell) for cell in column) for column in zip(*block.rows, strict=True)) < WIDTH
        ):
            told += [f"### {escape(block.title)}", ""]
            told += [*paragraph(escape(block.note)), ""] if block.note else []
            told += table(block.head, block.rows, right=range(1, len(block.head)))
    return told if len(told) > 2 else []
