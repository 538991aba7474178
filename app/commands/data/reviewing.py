"""`fathom data review`, `fathom data reviewed`: the page for decisions, and a file with them in. Only words."""

from typing import Annotated, Any

import typer

from app.commands.data.options import DryRun, Examples, Out, Replace, require_new
from app.commands.options import AsJson, Workspace, begin
from app.commands.page import require_free, require_local
from retrieval.errors import FathomError, UsageError


def review(
    examples: Examples,
    host: Annotated[str, typer.Option("--host", help="Address to listen on; this machine only.")] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", "-p", min=1, max=65535, help="Port to listen on.")] = 7861,
    workspace: Workspace = None,
    as_json: AsJson = False,
) -> None:
    """Serve a page on which to accept, edit and reject examples, until Ctrl-C; every decision is kept at once."""
    from adapt.instructions.reviews import Reviews

    run = begin(workspace, as_json)
    require_local(host)
    require_free(host, port)
    reviews = Reviews(examples)
    url = f"http://{f'[{host}]' if ':' in host else host}:{port}"
    if as_json:
        run.terminal.json({"url": url, "decisions": str(reviews.place), **reviews.counts()})
    else:
        run.terminal.note(f"the review opens at {url} in some seconds; Ctrl-C ends it")
    from app.review.server import serve

    serve(reviews, host, port)
    if not as_json:
        run.terminal.note(_said(reviews.counts()))
        run.terminal.note(
            f"decisions: {reviews.place}; write them out: fathom data reviewed {examples} --out FILE.jsonl"
        )


def reviewed(
    examples: Examples,
    out: Out,
    only: Annotated[
        list[str] | None,
        typer.Option(
            "--only", metavar="STATE", help="accepted, edited, rejected, open; may be repeated.", show_default="all"
        ),
    ] = None,
    replace: Replace = False,
    dry_run: DryRun = False,
    workspace: Workspace = None,
    as_json: AsJson = False,
) -> None:
    """Write the examples with the decisions of their review in them: edited ones as edited, rejected ones marked."""
    from adapt.instructions.example import write_examples
    from adapt.instructions.reviews import STATES, Reviews

    run = begin(workspace, as_json)
    states = tuple(only or STATES)
    for state in states:
        if state not in STATES:
            raise UsageError(f"--only {state[:40]!r} is no state of a review; it is one of {', '.join(STATES)}")
    require_new(out, replace=replace, sources=(examples,))
    reviews = Reviews(examples)
    counts = reviews.counts()
    wanted = sum(counts[state] for state in set(states))
    if not wanted:
        raise FathomError(f"no example of {examples} is {' or '.join(states)}; {_said(counts)}")
    written = wanted if dry_run else write_examples(out, reviews.reviewed(only=states))
    if as_json:
        told: dict[str, Any] = {"examples": written, "written": None if dry_run else str(out), **counts}
        run.terminal.json(told)
        return
    run.terminal.note(_said(counts), style="dim")
    run.terminal.done(f"{written:,} examples {'would be written' if dry_run else f'in {out}'}")


def _said(counts: dict[str, int]) -> str:
    return ", ".join(f"{count:,} {state}" for state, count in counts.items())
