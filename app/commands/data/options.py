"""The options that the commands of `fathom data` share, each written once, and how what was left out is told."""

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from app.commands.options import Run
from app.failures import DONE_WITH_ERRORS
from retrieval.errors import FathomError, UsageError

if TYPE_CHECKING:
    from adapt.corpus.sources import LeftOut
    from adapt.instructions.example import Example
    from adapt.instructions.importing import Imported

Out = Annotated[Path, typer.Option("--out", "-o", metavar="FILE", help="Where the examples go: .jsonl or .jsonl.gz.")]
Replace = Annotated[bool, typer.Option("--replace", help="Write over a file that is there.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Do everything but write, and show what would come of it.")]
Licence = Annotated[
    str,
    typer.Option("--licence", metavar="TEXT", help="Terms of the source, noted in every example.", show_default=False),
]
DrawSeed = Annotated[int | None, typer.Option("--seed", metavar="N", help="Of all that is drawn.")]
HoldOut = Annotated[
    float | None,
    typer.Option("--hold-out", metavar="SHARE", help="Of the documents, the last: what is asked of them is left out."),
]
Examples = Annotated[
    Path, typer.Argument(metavar="EXAMPLES", help="Examples, .jsonl or .jsonl.gz.", show_default=False)
]

BY_WISH = frozenset(
    {"where", "deleted", "replaced", "held out", "without a history", "said twice", "held out elsewhere"}
)
"""Reasons that are no fault of a row."""
_SHOWN = 2


def require_new(out: Path, *, replace: bool, sources: tuple[Path, ...] = ()) -> None:
    """Raises UsageError for a name that is none of examples, a file that is there, or one of the sources."""
    from adapt.instructions.example import require_name

    require_name(out)
    if any(os.path.realpath(source) == os.path.realpath(out) for source in sources):
        raise UsageError(f"'{out}' is what is read; name another file with --out")
    if not out.parent.is_dir():
        raise UsageError(f"there is no folder '{out.parent}' to write '{out.name}' to; make it first")
    if out.is_dir() or (out.exists() and not replace):
        raise UsageError(f"'{out}' is there already; name another file, or write over it with --replace")


def finish(run: Run, examples: "Iterator[Example]", into: "Imported", out: Path, *, dry_run: bool) -> None:
    """Write the examples (or only count them), tell what became of the rows, and end with 3 where some did not fit."""
    from adapt.instructions.example import write_examples

    first: list[Example] = []

    def counted() -> "Iterator[Example]":
        for example in examples:
            if len(first) < _SHOWN:
                first.append(example)
            yield example
        if not into.examples:
            why = into.left_out.first()
            raise FathomError(f"no example came of {into.rows:,} rows{f', such as {why}' if why else ''}")

    if dry_run:
        for _ in counted():
            pass
    else:
        write_examples(out, counted())
    wrong = sum(count for reason, count in into.left_out.counts.items() if reason not in BY_WISH)
    if run.terminal.as_json:
        written = None if dry_run else str(out)
        run.terminal.json({**into.as_json(), "written": written, "first": [example.as_json() for example in first]})
    else:
        tell_forms(run, into)
        tell_left_out(run, "left out", into.left_out)
        tell_left_out(run, "mended", into.mended)
        if dry_run:
            for example in first:
                tell_example(run, example)
        what = "would be written" if dry_run else f"in {out}"
        run.terminal.done(f"{into.examples:,} examples of {into.rows:,} rows {what}")
    if wrong:
        raise typer.Exit(DONE_WITH_ERRORS)


def tell_forms(run: Run, into: "Imported") -> None:
    """One line for each file: what it was taken for."""
    for name, form in into.forms.items():
        run.terminal.note(f"{name}: {form}", style="dim")


def tell_left_out(run: Run, title: str, found: "LeftOut") -> None:
    """A table of reasons with their counts and first example, where there are any."""
    rows = [
        [reason, f"{count:,}", (found.examples.get(reason) or [""])[0][:160]]
        for reason, count in found.counts.most_common()
    ]
    if rows:
        run.terminal.table((title, "count", "such as"), rows, right=(1,))


def tell_example(run: Run, example: "Example") -> None:
    """An example in short, as it would stand in the file."""
    for message in example.messages:
        said = " ".join(message.content.split())
        run.terminal.line(f"  {message.role:>9}: {said[:200]}{'…' if len(said) > 200 else ''}")
    run.terminal.line()


def said_counts(counts: Mapping[str, Any]) -> str:
    """{"a": 2, "b": 1} → "a 2, b 1"."""
    return ", ".join(f"{name} {count:,}" for name, count in counts.items())
