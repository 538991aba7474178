"""`fathom index reembed`: a collection → the same under another embedding model, adapter or splitting. Only words."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from app.commands.options import AsJson, CollectionName, Run, Wait, Workspace, begin
from app.workspace import DEFAULT_COLLECTION, collection_name

if TYPE_CHECKING:
    from app.settings import Settings
    from retrieval.reembed_plan import ReembedPlan

NONE = "none"


def reembed(
    adapter: Annotated[
        str | None,
        typer.Option(
            "--adapter",
            metavar="DIR",
            help="Embedding adapter to move to: its folder, a registered name, or 'none' for the bare model.",
            show_default="of the settings, else the collection's own",
        ),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only show what would change, how much is embedded and how long it takes.")
    ] = False,
    collection: CollectionName = None,
    wait: Wait = 0.0,
    workspace: Workspace = None,
    as_json: AsJson = False,
) -> None:
    """Make a collection anew from its stored texts, with the embedding model, adapter and splitting now set.

    The old one serves searches until the new one is whole.
    """
    run = begin(workspace, as_json)
    from app.build import collection_exists, embedder, open_collection
    from app.terminal import count
    from retrieval.reembed_plan import plan_reembed
    from retrieval.transfer import reembed as move

    name = collection_name(collection or DEFAULT_COLLECTION)
    if not collection_exists(run.settings, name):
        open_collection(run.settings, name)  # raises, and names what there is
    chosen = _adapter(run.settings, name, adapter)
    load = embedder(run.settings).under(chosen)
    if dry_run:
        with open_collection(run.settings, name) as opened:
            plan = plan_reembed(opened, load(), run.settings.splitting)
        _show(run, name, plan)
        return
    with run.terminal.progress() as show:
        show("opening", 0, 0)
        passages = move(
            run.settings.collection_folder(name),
            embedder=load,
            split=run.settings.splitting,
            adapter=chosen,
            wait=wait,
            progress=show,
        )
    if as_json:
        run.terminal.json({"collection": name, "passages": passages, "seconds": round(run.terminal.elapsed, 3)})
    run.terminal.done(f"{count(passages, 'passage')} embedded anew")


def _adapter(settings: "Settings", name: str, word: str | None) -> Path | None:
    """The folder of the adapter to move to. Raises MissingError, UsageError, DamagedError."""
    from app.settings import adapter_folder
    from retrieval.embedding.adapter import kept_in, read_adapter

    if word == NONE:
        return None
    if word is not None:
        return read_adapter(adapter_folder(Path(word), settings.models).expanduser().absolute()).folder
    return settings.embedding.adapter or kept_in(settings.collection_folder(name))


def _show(run: Run, name: str, plan: "ReembedPlan") -> None:
    from app.terminal import count, seconds

    terminal = run.terminal
    if terminal.as_json:
        terminal.json(
            {
                "collection": name,
                "dry_run": True,
                "documents": plan.documents,
                "passages": plan.passages,
                "tokens": plan.tokens,
                "bytes": plan.bytes,
                "seconds": round(plan.seconds, 1),
                "resplit": plan.resplit,
                "changes": {key: {"before": before, "after": after} for key, (before, after) in plan.changes.items()},
            }
        )
        return
    if plan.changes:
        rows = [[key.replace("_", " "), before[:48], after[:48]] for key, (before, after) in plan.changes.items()]
        terminal.table(("changes", "before", "after"), rows)
    else:
        terminal.note("nothing would change: the collection was made with just these settings")
    about = "about " if plan.resplit else ""
    terminal.done(
        f"would embed {about}{count(plan.passages, 'passage')} of {count(plan.documents, 'document')} ({plan.tokens:,} "
        f"tokens) in about {seconds(plan.seconds)}, beside the old collection ({plan.bytes / 1e6:,.1f} MB); looked"
    )
