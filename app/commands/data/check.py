"""`fathom data check EXAMPLES`: examples → those fit to learn from; what was dropped or changed, why. Only words."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from app.commands.data.options import DryRun, Examples, Out, Replace, require_new
from app.commands.options import AsJson, Run, Workspace, begin
from app.failures import DONE_WITH_ERRORS
from app.terminal import one_line
from retrieval.errors import UsageError

if TYPE_CHECKING:
    from adapt.instructions.checking import Checks


def command(
    examples: Examples,
    out: Out,
    against: Annotated[
        list[Path] | None,
        typer.Option(
            "--against",
            metavar="FILE",
            help="Drop what holds a question of this evaluation; may be repeated.",
            show_default=False,
        ),
    ] = None,
    near: Annotated[
        float | None,
        typer.Option("--near", metavar="SHARE", help="Words in common that make a repetition.", show_default="0.8"),
    ] = None,
    similar: Annotated[
        float | None,
        typer.Option("--similar", metavar="COSINE", help="Likeness of meaning that makes one.", show_default="0.95"),
    ] = None,
    sample: Annotated[
        int | None,
        typer.Option("--sample", metavar="N", min=1, help="Keep N that cover all that is asked.", show_default=False),
    ] = None,
    by: Annotated[
        str, typer.Option("--by", metavar="WORD", help="Draw them by 'clusters', or 'k-centre' (rare ones too).")
    ] = "clusters",
    language: Annotated[
        list[str] | None,
        typer.Option(
            "--language", metavar="CODE", help="Keep answers in this language; may be repeated.", show_default=False
        ),
    ] = None,
    without: Annotated[
        list[str] | None,
        typer.Option("--without", metavar="WORD", help="Drop what has this word; may be repeated.", show_default=False),
    ] = None,
    least: Annotated[
        list[str] | None,
        typer.Option(
            "--least",
            metavar="CHECK=VALUE",
            help="Drop what scored less, as in support=0.8; may be repeated.",
            show_default=False,
        ),
    ] = None,
    min_answer: Annotated[
        int | None,
        typer.Option("--min-answer", metavar="N", min=1, help="Characters of the shortest answer.", show_default=False),
    ] = None,
    max_characters: Annotated[
        int | None,
        typer.Option("--max-characters", metavar="N", min=1, help="Of all messages together.", show_default=False),
    ] = None,
    region: Annotated[
        list[str] | None,
        typer.Option(
            "--region",
            metavar="CODE",
            help="Countries of telephone numbers without a country code.",
            show_default="CN, US, GB",
        ),
    ] = None,
    skip: Annotated[
        list[str] | None,
        typer.Option(
            "--skip",
            metavar="CHECK",
            help="Leave out: echo, boilerplate, repetition, garbled, mask, near, similar; may be repeated.",
            show_default=False,
        ),
    ] = None,
    replace: Replace = False,
    dry_run: DryRun = False,
    workspace: Workspace = None,
    as_json: AsJson = False,
) -> None:
    """Drop what is unsound, repeated, unwanted or of an evaluation; mask what is private; say what and why."""
    from adapt.instructions.checking import Checks, check, checked_before, report_of, require_skippable
    from adapt.instructions.filters import ALWAYS, Limits
    from app.build import embedder

    run = begin(workspace, as_json)
    require_skippable(skip or ())
    left_out = frozenset(skip or ())
    given: dict[str, Any] = {"near": near, "similar": similar, "regions": tuple(region) if region else None}
    own: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    own |= dict.fromkeys(left_out & {"near", "similar"})
    checks = Checks(
        limits=Limits(
            min_answer, max_characters, tuple(without or ()), tuple(language or ()),
            tuple(_score(word) for word in least or ()), left_out & frozenset(ALWAYS),
        ),
        against=tuple(against or ()),
        mask="mask" not in left_out,
        sample=sample,
        by=by,  # type: ignore[arg-type]
        **own,
    )  # fmt: skip
    report = None if replace or dry_run else checked_before(examples, out, checks)
    if report is not None:
        run.terminal.note(f"'{out}' was made of the same by an earlier run; --replace makes it again")
        _show(run, report, checks, out)
        return
    require_new(out, replace=replace, sources=(examples, *checks.against))
    with run.terminal.progress() as progress:
        report = check(
            examples,
            checks,
            out=None if dry_run else out,
            embedder=embedder(run.settings),
            cache=run.settings.cache / "passages",
            progress=progress,
        )
    _show(run, report, checks, None if dry_run else out)
    if not dry_run and not as_json:
        run.terminal.note(f"report: {report_of(out)}")
    if "form" in report["dropped"]:
        raise typer.Exit(DONE_WITH_ERRORS)


def _show(run: Run, report: dict[str, Any], checks: "Checks", out: Path | None) -> None:
    if run.terminal.as_json:
        run.terminal.json({**report, "written": str(out) if out else None})
        return
    rows = [
        [reason, f"{found['count']:,}", f"it {found['why']}", _such_as(found["examples"])]
        for reason, found in report["dropped"].items()
    ]
    if rows:
        run.terminal.table(("dropped", "count", "because", "such as"), rows, right=(1,))
    masked = report["masked"]
    if masked["places"]:
        run.terminal.line()
        places = [[kind, f"{count:,}"] for kind, count in sorted(masked["places"].items())]
        run.terminal.table(("masked", "places"), places, right=(1,))
        for entry in masked["examples"]:
            run.terminal.note(f"  row {entry['row']:,}: {one_line(entry['text'])}", style="dim")
    where = f"in {out}" if out else "would be kept"
    run.terminal.done(f"{report['kept']:,} of {report['read']['rows']:,} examples {where}")


def _such_as(examples: list[dict[str, Any]]) -> str:
    if not examples:
        return ""
    first = examples[0]
    parts = [f"row {first['row']:,}", first["detail"], first.get("text", "")[:60]]
    return ": ".join(part for part in parts if part)[:160]


def _score(word: str) -> tuple[str, float]:
    name, equals, value = word.partition("=")
    try:
        number = float(value)
    except ValueError:
        number = float("nan")
    if not equals or not name.strip() or number != number:
        raise UsageError(f"--least {word[:60]!r} is not of the form CHECK=VALUE, as in support=0.8")
    return name.strip(), number
