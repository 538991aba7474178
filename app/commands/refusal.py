"""`fathom index refusal`: from which confidence on a collection's questions are answered; shown, set, or fitted."""

from pathlib import Path
from typing import Annotated, Any

import typer

from app.commands.options import AsJson, CollectionName, Wait, Workspace, begin
from retrieval.errors import UsageError


def refusal(
    value: Annotated[
        float | None,
        typer.Option("--set", metavar="P", min=0.0, max=1.0, help="Refuse below this probability.", show_default=False),
    ] = None,
    questions: Annotated[
        Path | None,
        typer.Option(
            "--fit",
            metavar="FILE",
            help="Fit it to questions of yours, some of which the documents do not answer.",
            show_default=False,
        ),
    ] = None,
    reset: Annotated[bool, typer.Option("--reset", help="Go back to the general threshold.")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="With --fit: say what would be set, change nothing.")
    ] = False,
    collection: CollectionName = None,
    wait: Wait = 0.0,
    workspace: Workspace = None,
    as_json: AsJson = False,
) -> None:
    """Show or set when questions to a collection are refused: the least estimated probability that it answers them."""
    if sum((value is not None, questions is not None, reset)) > 1:
        raise UsageError("--set, --fit and --reset exclude each other; give one of them")
    if dry_run and questions is None:
        raise UsageError("--dry-run belongs to --fit FILE; leave it out")
    run = begin(workspace, as_json)
    from app.build import open_collection
    from retrieval.answering import threshold

    writes = (value is not None or reset or questions is not None) and not dry_run
    with open_collection(run.settings, collection, write=writes, wait=wait, doing="index refusal") as opened:
        before = threshold(opened, run.settings.answer)
        found: dict[str, Any] = {}
        if questions is not None:
            from eval.search.refusals import fitted

            with run.terminal.progress() as show:
                found = fitted(questions, opened, before, show)
            value = found["threshold"]
        if writes:
            opened.set_refusal_threshold(value)
        now = value if dry_run else threshold(opened, run.settings.answer)
        set_here = opened.refusal_threshold is not None
    overridden = run.settings.answer.least_confidence is not None
    if as_json:
        run.terminal.json({"threshold": now, "before": before, "set_here": set_here, **found})
        return
    if found:
        run.terminal.line(
            f"{found['answerable']} questions with an answer, {found['unanswerable']} without. Of those without are "
            f"refused {_shares(found['before'])} below {before:.3f}, {_shares(found['after'])} below {value:.3f}."
        )
        run.terminal.note("fitted and counted on the same questions: `fathom eval tune --refusals` measures on others")
    if overridden:
        run.terminal.note("least_confidence in the settings goes before what is set for the collection", style="yellow")
    how = "would be refused" if dry_run else "are refused"
    source = "" if dry_run else (" (set for this collection)" if set_here else " (the general threshold)")
    run.terminal.done(f"questions {how} below a confidence of {now:.3f}{source}")


def _shares(found: dict[str, float]) -> str:
    return f"{found['refused']:.0%} (and {found['over_refused']:.0%} of those with one)"
