"""`fathom index …`: what a collection holds, and its upkeep. Filling one from files is app/commands/filling.py."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from app.commands import filling, reembedding, refusal, reranking
from app.commands.options import AsJson, CollectionName, Filters, Run, Wait, Workspace, begin
from app.failures import DONE_WITH_ERRORS, FAILED
from app.workspace import DEFAULT_COLLECTION, collection_name
from retrieval.errors import FathomError, UsageError

if TYPE_CHECKING:
    from retrieval.storage.catalogue import DocumentRow

app = typer.Typer(help="Fill, list and keep collections of documents.", no_args_is_help=True)
app.command("sync")(filling.sync)
app.command("add")(filling.add)
app.command("library-docs")(filling.library_docs)
app.command("refusal")(refusal.refusal)
app.command("rerank")(reranking.rerank)
app.command("reembed")(reembedding.reembed)


@app.command("remove")
def remove(
    documents: Annotated[list[str], typer.Argument(metavar="DOC…", help="Documents as `index list` names them.")],
    collection: CollectionName = None,
    wait: Wait = 0.0,
    workspace: Workspace = None,
    as_json: AsJson = False,
) -> None:
    """Remove documents from a collection; the files themselves stay."""
    run = begin(workspace, as_json)
    from app.build import open_collection
    from app.terminal import count

    with open_collection(run.settings, collection, write=True, wait=wait, doing="index remove") as opened:
        removed = opened.remove(documents)
    missing = [document for document in dict.fromkeys(documents) if document not in set(removed)]
    if as_json:
        run.terminal.json({"removed": removed, "missing": missing, "seconds": round(run.terminal.elapsed, 3)})
    for uri in missing:
        run.terminal.note(f"! {uri}: not in the collection; 'fathom index list' shows what is", style="red")
    run.terminal.done(f"{count(len(removed), 'document')} removed")
    if missing:
        raise typer.Exit(DONE_WITH_ERRORS if removed else FAILED)


@app.command("list")
def list_(
    filters: Filters = None,
    collection: CollectionName = None,
    workspace: Workspace = None,
    as_json: AsJson = False,
) -> None:
    """List the documents of a collection."""
    run = begin(workspace, as_json)
    from app.build import open_collection
    from app.terminal import count
    from retrieval.filters import parse_filter

    conditions = [parse_filter(text) for text in filters or ()]
    with open_collection(run.settings, collection) as opened:
        rows = opened.documents(filters=conditions)
    if as_json:
        run.terminal.json([_row_as_json(row) for row in rows])
        return
    run.terminal.table(
        ("document", "title", "format", "passages"),
        [(row.source.uri, row.source.title, row.source.format, f"{row.passages:,}") for row in rows],
        right=(3,),
    )
    run.terminal.done(f"{count(len(rows), 'document')} listed")


def _row_as_json(row: "DocumentRow") -> dict[str, Any]:
    return {
        "document": row.source.uri,
        "title": row.source.title,
        "format": row.source.format,
        "owner": row.source.owner,
        "passages": row.passages,
        "path": row.path,
        "content_hash": row.content_hash,
        "metadata": dict(row.source.metadata),
        "warnings": list(row.warnings),
    }


@app.command("collections")
def collections(workspace: Workspace = None, as_json: AsJson = False) -> None:
    """List the collections of the workspace."""
    run = begin(workspace, as_json)
    from app.build import collection_names, open_collection
    from app.terminal import count

    found: list[dict[str, Any]] = []
    for name in collection_names(run.settings):
        try:
            with open_collection(run.settings, name) as opened:
                status = opened.status()
            found.append({"name": name, "documents": status["documents"], "passages": status["passages"]})
        except FathomError as error:  # listed with what is wrong; the others are still of use
            found.append({"name": name, "error": str(error)})
    failed = [item for item in found if "error" in item]
    if as_json:
        run.terminal.json(found)
    else:
        run.terminal.table(
            ("collection", "documents", "passages"),
            [(item["name"], str(item.get("documents", "!")), str(item.get("passages", "!"))) for item in found],
            right=(1, 2),
        )
        for item in failed:
            run.terminal.note(f"! {item['name']}: {item['error']}", style="red")
        run.terminal.done(f"{count(len(found), 'collection')} listed")
    if failed:
        raise typer.Exit(DONE_WITH_ERRORS)


@app.command("status")
def status(collection: CollectionName = None, workspace: Workspace = None, as_json: AsJson = False) -> None:
    """Say what a collection holds, with which model it was made, and how large it is."""
    run = begin(workspace, as_json)
    from app.build import open_collection

    with open_collection(run.settings, collection) as opened:
        found = opened.status()
    if as_json:
        run.terminal.json(found)
        return
    _print_facts(run, found)
    run.terminal.done("looked")


def _print_facts(run: Run, facts: dict[str, Any], indent: str = "") -> None:
    for key, value in facts.items():
        word = str(key).replace("_", " ")
        if isinstance(value, dict):
            run.terminal.line(f"{indent}{word}")
            _print_facts(run, value, indent + "  ")
            continue
        if isinstance(value, int) and not isinstance(value, bool):
            value = f"{value:,}"
        elif isinstance(value, list | tuple):
            value = ", ".join(map(str, value))
        run.terminal.line(f"{indent}{word:<24} {value}")


@app.command("verify")
def verify(
    repair: Annotated[bool, typer.Option("--repair", help="Mend what can be mended from what is whole.")] = False,
    collection: CollectionName = None,
    wait: Wait = 0.0,
    workspace: Workspace = None,
    as_json: AsJson = False,
) -> None:
    """Check every stored byte of a collection against its seal; exit 3 where something is wrong."""
    run = begin(workspace, as_json)
    from app.build import open_collection
    from app.terminal import count
    from retrieval.verifying import verify as check

    with (
        run.terminal.progress() as show,
        open_collection(run.settings, collection, write=repair, wait=wait, doing="index verify --repair") as opened,
    ):
        report = check(opened, repair=repair, progress=show)
    if as_json:
        run.terminal.json(
            {
                "problems": report.problems,
                "repaired": report.repaired,
                "lost": report.lost,
                "checked": report.checked,
                "seconds": round(run.terminal.elapsed, 3),
            }
        )
    else:
        for problem in report.problems:
            run.terminal.line(f"! {problem}", style="red")
        for mended in report.repaired:
            run.terminal.line(f"✓ {mended}", style="green")
        for uri in report.lost:
            run.terminal.line(f"- {uri} (damaged and removed; sync again and it comes back)", style="red")
        checked = ", ".join(f"{number:,} {word}" for word, number in report.checked.items())
        advice = "; 'fathom index verify --repair' mends what it can" if report.problems and not repair else ""
        run.terminal.done(f"{count(len(report.problems), 'problem')} found{advice}; checked {checked or 'nothing'}")
    if report.problems and (not repair or report.lost or not report.repaired):
        raise typer.Exit(DONE_WITH_ERRORS)


@app.command("optimise")
@app.command("optimize", hidden=True)
def optimise(
    collection: CollectionName = None,
    wait: Wait = 0.0,
    workspace: Workspace = None,
    as_json: AsJson = False,
) -> None:
    """Merge what changes left behind: smaller files, quicker searches."""
    run = begin(workspace, as_json)
    from app.build import open_collection

    with open_collection(run.settings, collection, write=True, wait=wait, doing="index optimise") as opened:
        opened.optimise()
        found = opened.status()
    if as_json:
        run.terminal.json({"status": found, "seconds": round(run.terminal.elapsed, 3)})
    run.terminal.done("optimised")


@app.command("export")
def export(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="File to write; must not exist.")],
    collection: CollectionName = None,
    workspace: Workspace = None,
    as_json: AsJson = False,
) -> None:
    """Write a whole collection into one file, for another machine or as a backup."""
    run = begin(workspace, as_json)
    if file.exists() or file.is_symlink():
        raise UsageError(f"{file} is there already; give the name of a new file")
    if not file.absolute().parent.is_dir():
        raise UsageError(f"the folder {file.absolute().parent} does not exist; make it or choose another")
    from app.build import open_collection
    from retrieval.transfer import export_collection

    with open_collection(run.settings, collection) as opened:
        size = export_collection(opened, file)
    if as_json:
        run.terminal.json({"file": str(file), "bytes": size, "seconds": round(run.terminal.elapsed, 3)})
    run.terminal.done(f"{size / 1e6:,.1f} MB written to {file}")


@app.command("import")
def import_(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A file that `index export` wrote.")],
    collection: CollectionName = None,
    workspace: Workspace = None,
    as_json: AsJson = False,
) -> None:
    """Make a collection out of an exported file."""
    run = begin(workspace, as_json)
    if not file.is_file():
        raise UsageError(f"{file} is not a file; give one that 'fathom index export' wrote")
    from app.build import collection_exists
    from app.terminal import count
    from retrieval.transfer import import_collection

    name = collection_name(collection or DEFAULT_COLLECTION)
    if collection_exists(run.settings, name):
        raise UsageError(f"the collection '{name}' is there already; import under another name with --collection")
    run.settings.collections.mkdir(parents=True, exist_ok=True)
    with run.terminal.progress() as show:
        import_collection(file, run.settings.collection_folder(name), name=name, progress=show)
    from app.build import open_collection

    with open_collection(run.settings, name) as opened:
        documents, passages = opened.catalogue.counts()
    if as_json:
        run.terminal.json(
            {
                "collection": name,
                "documents": documents,
                "passages": passages,
                "seconds": round(run.terminal.elapsed, 3),
            }
        )
    run.terminal.done(f"{count(documents, 'document')} imported into the collection '{name}'")
