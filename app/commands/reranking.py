"""`fathom index rerank`: whether a collection's hits are reranked, and from which relevance on they are kept; shown,
set, or taken back."""

from dataclasses import asdict
from typing import Annotated

import typer

from app.commands.options import AsJson, CollectionName, Wait, Workspace, begin
from retrieval.errors import UsageError


def rerank(
    on: Annotated[
        bool | None,
        typer.Option("--on/--off", help="Let the reranker that comes with Fathom order the hits.", show_default=False),
    ] = None,
    least: Annotated[
        float | None,
        typer.Option(
            "--least",
            metavar="P",
            min=0.0,
            max=1.0,
            help="Keep reranked passages from this probability of relevance on; 0 keeps all.",
            show_default=False,
        ),
    ] = None,
    reset: Annotated[bool, typer.Option("--reset", help="Go back to the general defaults.")] = False,
    collection: CollectionName = None,
    wait: Wait = 0.0,
    workspace: Workspace = None,
    as_json: AsJson = False,
) -> None:
    """Show or set whether a collection's hits are reranked, and how relevant they must be. `fathom eval tune QUESTIONS
    --collection NAME` finds out what is best."""
    if reset and (on is not None or least is not None):
        raise UsageError("--reset excludes --on, --off and --least; give it alone")
    run = begin(workspace, as_json)
    from app.build import open_collection
    from retrieval.finding import as_tuned
    from retrieval.reranking.load import NONE, PACKAGED
    from retrieval.tuned import Tuned

    writes = reset or on is not None or least is not None
    with open_collection(run.settings, collection, write=writes, wait=wait, doing="index rerank") as opened:
        if reset:
            opened.set_tuned(None)
        elif writes:
            kept = opened.tuned
            if kept is None or (kept.reranker != PACKAGED and on is not None):
                kept = Tuned(PACKAGED)
            opened.set_tuned(
                Tuned(
                    kept.reranker,
                    kept.rerank if on is None else on,
                    kept.least_relevance if least is None else least,
                )
            )
        tuned = opened.tuned
    now = as_tuned(run.settings.assist, tuned)
    if as_json:
        set_here = asdict(tuned) if tuned is not None else None
        run.terminal.json({"reranker": now.reranker, "least_relevance": now.least_relevance, "set_here": set_here})
        return
    if tuned is not None and tuned.least_relevance is not None and now.reranker != tuned.reranker:
        run.terminal.note(
            f"with --rerank {tuned.reranker} passages are kept from a relevance of {tuned.least_relevance:g} on"
        )
    overridden = [name for name in ("reranker", "least_relevance") if getattr(run.settings.assist, name) is not None]
    if overridden and tuned is not None:
        run.terminal.note(f"{' and '.join(overridden)} in the settings go before what is set here", style="yellow")
    decides = tuned is not None and tuned.rerank is not None and tuned.reranker == PACKAGED
    where = " (set for this collection)" if decides and not overridden else ""
    least_now = f", and kept from a relevance of {now.least_relevance:g} on" if now.least_relevance else ""
    if now.reranker == NONE:
        run.terminal.done(f"hits are not reranked{where}")
    else:
        run.terminal.done(f"hits are reranked by {now.reranker}{least_now}{where}")
