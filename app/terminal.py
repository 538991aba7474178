"""Results → stdout, what is being done → stderr: tables, progress, one-line summaries, JSON. It knows no command.

Text from documents, file names and models is hostile here: nothing of it may move the cursor, colour, hide or link.
"""

import json
import logging
import re
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

Progress = Callable[[str, int, int], None]

# Whole sequences first (CSI, OSC/DCS/APC/PM/SOS up to their end, two-byte escapes), so that no harmless-looking
# rest such as "31m" stays behind.
_SEQUENCES = re.compile(
    r"\x1b\[[0-?]*[ -/]*[@-~]|\x9b[0-?]*[ -/]*[@-~]"
    r"|(?:\x1b[\]PX^_]|[\x9d\x90\x98\x9e\x9f])[^\x07\x1b\x9c\n]*(?:\x07|\x1b\\|\x9c)?"
    r"|\x1b[ -/]*[0-~]?"
)
# Controls but tab and newline; direction overrides and isolates, which reorder what is read (CVE-2021-42574); invisible
# tag characters; lone surrogates, which file names carry for undecodable bytes and no terminal can print.
_INVISIBLE = "\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069\ufeff\U000e0000-\U000e007f"
_CONTROLS = re.compile(f"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029{_INVISIBLE}]")
_SURROGATES = re.compile("[\ud800-\udfff]")
_JSON_ESCAPED = re.compile(f"[\x7f-\x9f\u2028\u2029\ud800-\udfff{_INVISIBLE}]")


def clean(text: str) -> str:
    """`text` without anything a terminal would act on; tabs and newlines stay."""
    text = _CONTROLS.sub("", _SEQUENCES.sub("", text.replace("\r\n", "\n").replace("\r", "\n")))
    return _SURROGATES.sub("\ufffd", text)


def one_line(text: str) -> str:
    """`clean` text with every run of white space as one blank."""
    return " ".join(clean(text).split())


def to_json(value: Any, *, ascii_only: bool = False, compact: bool = False) -> str:
    """JSON that reads the same text back, with whatever a terminal would act on written as \\uXXXX."""
    indent = None if compact else 2
    text = json.dumps(value, ensure_ascii=ascii_only, indent=indent, default=_plain, allow_nan=False)
    return _JSON_ESCAPED.sub(_escape, text)


def _escape(match: re.Match[str]) -> str:
    units = match.group().encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{units[i]:02x}{units[i + 1]:02x}" for i in range(0, len(units), 2))


def _plain(value: Any) -> Any:
    if isinstance(value, set | frozenset | tuple):
        return list(value)
    if hasattr(value, "tolist"):  # NumPy scalars and arrays
        return value.tolist()
    return str(value)


def seconds(duration: float) -> str:
    """0.04 → "0.04 s", 75 → "1 min 15 s"."""
    if duration < 10:
        return f"{duration:.2f} s"
    if duration < 60:
        return f"{duration:.0f} s"
    return f"{int(duration) // 60} min {int(duration) % 60:02d} s"


def count(number: int, noun: str, plural: str = "") -> str:
    """1 → "1 document", 2000 → "2,000 documents"."""
    return f"{number:,} {noun if number == 1 else plural or noun + 's'}"


class LogNotes(logging.Handler):
    """What Fathom's own parts log as a warning, as one line on stderr; of other libraries only what is an error."""

    OWN = ("app", "adapt", "eval", "retrieval")

    def __init__(self) -> None:
        super().__init__(logging.WARNING)

    def filter(self, record: logging.LogRecord) -> bool:
        return record.levelno >= logging.ERROR or record.name.partition(".")[0] in self.OWN

    def emit(self, record: logging.LogRecord) -> None:
        sys.stderr.write(f"note: {one_line(record.getMessage())}\n")


class Terminal:
    """One command's way to the person or program that called it. Everything printed is cleaned here, once."""

    def __init__(self, *, as_json: bool = False) -> None:
        self.as_json = as_json
        self.one_json_per_line = False
        self._started = time.monotonic()
        self.out = Console(markup=False, emoji=False, highlight=False)
        self.err = Console(stderr=True, markup=False, emoji=False, highlight=False, soft_wrap=True)

    @property
    def interactive(self) -> bool:
        """Whether a person reads stdout."""
        return self.out.is_terminal and not self.as_json

    def restart(self) -> None:
        """Count the time from now on: one command does something again."""
        self._started = time.monotonic()

    @property
    def elapsed(self) -> float:
        """Seconds since the command began."""
        return time.monotonic() - self._started

    def json(self, value: Any) -> None:
        """The command's whole answer to a program, or one of several (see `one_json_per_line`)."""
        encoding = (getattr(sys.stdout, "encoding", None) or "utf-8").lower().replace("-", "")
        sys.stdout.write(to_json(value, ascii_only=encoding != "utf8", compact=self.one_json_per_line) + "\n")
        sys.stdout.flush()

    def line(self, text: str | Text = "", style: str = "") -> None:
        """One line of the answer to a person. A `Text` must be made of cleaned parts."""
        text = text if isinstance(text, Text) else Text(clean(text), style=style)
        if self.interactive:
            self.out.print(text)
        else:  # rich would wrap at 80 columns and expand tabs, which breaks `grep` and `cut`
            sys.stdout.write(text.plain + "\n")

    def paragraph(self, text: Text, indent: int = 4) -> None:
        """Text of cleaned parts set in by `indent` columns; one line where no person reads."""
        if self.interactive:
            self.out.print(Padding(text, (0, 0, 0, indent)))
        else:
            self.line(Text(" " * indent) + text)

    @contextmanager
    def draft(self) -> Iterator[Callable[[str], None]]:
        """A callback that shows text in the making to a person; at the end it is gone, for the final text to follow."""
        if not self.interactive:
            yield lambda text: None
            return
        from rich.live import Live

        def last_lines(text: str) -> Text:
            # What has scrolled off the screen could not be taken back.
            lines = Text(clean(text), style="dim").wrap(self.out, self.out.width)
            return Text("\n").join(lines[-max(1, self.out.height - 2) :])

        with Live(console=self.out, transient=True, refresh_per_second=8) as live:
            yield lambda text: live.update(last_lines(text))

    def note(self, text: str, style: str = "") -> None:
        """A remark beside the answer, to stderr, also shown to programs."""
        self.err.print(Text(clean(text), style=style))

    def done(self, text: str) -> None:
        """The summary: what was done and how long it took. Programs get it in the JSON instead."""
        if not self.as_json:
            self.note(f"{text} in {seconds(self.elapsed)}", style="dim")

    def table(self, headings: Sequence[str], rows: Iterable[Sequence[str]], *, right: Sequence[int] = ()) -> None:
        """A table; columns in `right` (counted from 0) are set flush right. Tab-separated when no person reads."""
        if not self.interactive:
            self.line("\t".join(headings))
            for row in rows:
                self.line("\t".join(one_line(cell) for cell in row))
            return
        table = Table(box=None, header_style="bold", pad_edge=False)
        for place, heading in enumerate(headings):
            table.add_column(heading, justify="right" if place in right else "left", overflow="fold")
        for row in rows:
            table.add_row(*(Text(one_line(cell)) for cell in row))
        self.out.print(table)

    @contextmanager
    def progress(self) -> Iterator[Progress]:
        """A callback (stage, done, total; total 0 = unknown) that draws a bar where a person watches stderr."""
        if not self.err.is_terminal or self.as_json:
            yield lambda stage, done, total: None
            return
        from rich import progress as bars

        columns = (
            bars.TextColumn("{task.description}"),
            bars.BarColumn(),
            bars.MofNCompleteColumn(),
            bars.TimeElapsedColumn(),
            bars.TimeRemainingColumn(),
        )
        with bars.Progress(*columns, console=self.err, transient=True) as drawn:
            tasks: dict[str, bars.TaskID] = {}

            def show(stage: str, done: int, total: int) -> None:
                word = one_line(stage).replace("[", "\\[")
                # A stage of unknown length is over when another begins.
                for other in [name for name in tasks if name != word and drawn.tasks[tasks[name]].total is None]:
                    drawn.update(tasks.pop(other), visible=False)
                if word not in tasks:
                    # What was done before a stop took no time now: the time left must not be reckoned with it.
                    tasks[word] = drawn.add_task(word, total=total or None, completed=done)
                drawn.update(tasks[word], completed=done, total=total or None)

            yield show
