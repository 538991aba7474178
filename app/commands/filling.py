"""`fathom index sync | add | library-docs`: files and installed packages → a collection, with diff and errors."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from app.commands.options import AsJson, CollectionName, Run, Wait, Workspace, begin
from app.failures import DONE_WITH_ERRORS, FAILED, describe
from app.workspace import DEFAULT_COLLECTION
from retrieval.errors import BusyError, FathomError, ReadingError, UsageError
from retrieval.passages import Document, Scalar

if TYPE_CHECKING:
    from retrieval.embedding.embedder import Embedder
    from retrieval.reading.reader import Reader
    from retrieval.syncing import SyncPlan, SyncReport

# From this many documents on, losing more than half of them at once needs a word from the person.
GUARDED_DOCUMENTS = 10
# Names of one kind shown to a person; --json and a pipe get all.
SHOWN_NAMES = 20
WATCH_STEP_MS = 500
WATCH_DEBOUNCE_MS = 1_600

Meta = Annotated[
    list[str] | None,
    typer.Option(
        "--meta", metavar="KEY=VALUE", help="Metadata for these documents; may be repeated.", show_default=False
    ),
]


def sync(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Folder that the collection shall mirror.")],
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show what would change.")] = False,
    watch: Annotated[bool, typer.Option("--watch", help="Go on, and sync again whenever files change.")] = False,
    yes: Annotated[
        bool, typer.Option("--yes", "-y", help="Also where most of the documents would be removed.")
    ] = False,
    retry: Annotated[bool, typer.Option("--retry", help="Try files again that could not be read before.")] = False,
    meta: Meta = None,
    collection: CollectionName = None,
    wait: Wait = 0.0,
    workspace: Workspace = None,
    as_json: AsJson = False,
) -> None:
    """Add new files of a folder, update changed ones, remove vanished ones."""
    run = begin(workspace, as_json)
    if dry_run and watch:
        raise UsageError("--dry-run and --watch exclude each other; leave one out")
    job = _Sync(run, folder, collection or DEFAULT_COLLECTION, _metadata(meta), wait, yes, retry)
    job.refuse_impossible()
    if dry_run:
        job.show_plan(job.plan())
        return
    from app.build import reader

    with reader(run.settings) as opened:
        if watch:
            job.watch(opened)
        elif job.once(opened).failed:
            raise typer.Exit(DONE_WITH_ERRORS)


class _Sync:
    """One folder and one collection, synced once or again and again with the same model and reader."""

    def __init__(
        self, run: Run, folder: Path, name: str, metadata: dict[str, Scalar], wait: float, yes: bool, retry: bool
    ) -> None:
        from app.build import embedder

        self.run, self.folder, self.name, self.metadata = run, folder, name, metadata
        self.wait, self.yes, self.retry = wait, yes, retry
        self.load: Callable[[], Embedder] = embedder(run.settings)

    def refuse_impossible(self) -> None:
        """Raises UsageError or FathomError where there is nothing that a sync could mirror."""
        from app.build import collection_exists
        from retrieval.reading.folder import walk

        if not self.folder.is_dir():
            found = "it is a file; 'fathom index add' takes files" if self.folder.exists() else "nothing is there"
            raise UsageError(f"'{self.folder}' is not a folder ({found}); name the folder whose files to index")
        if self.run.settings.workspace.resolve().is_relative_to(self.folder.resolve()):
            raise UsageError(
                f"the workspace {self.run.settings.workspace} lies in '{self.folder}', so that Fathom would index "
                "its own files; sync a folder beside it, or choose another --workspace"
            )
        if not collection_exists(self.run.settings, self.name) and next(walk(self.folder), None) is None:
            raise FathomError(
                f"'{self.folder}' holds no files to index (hidden files are passed over); nothing was made"
            )

    def plan(self) -> "SyncPlan":
        from app.build import collection_exists, open_collection
        from retrieval.reading.folder import walk
        from retrieval.reading.limits import MIB
        from retrieval.syncing import SyncPlan, plan_sync

        if not collection_exists(self.run.settings, self.name):
            found = list(walk(self.folder))
            return SyncPlan(
                add=tuple(item.uri for item in found if not isinstance(item, ReadingError)),
                failed=tuple(item for item in found if isinstance(item, ReadingError)),
            )
        with open_collection(self.run.settings, self.name) as opened:
            limit = self.run.settings.reading.max_file_mb * MIB
            return plan_sync(opened, self.folder, max_bytes=limit, metadata=self.metadata, retry=self.retry)

    def once(self, reader: "Reader") -> "SyncReport":
        from app.build import open_or_create
        from retrieval.reading.limits import MIB
        from retrieval.storage.file_memory import path_key, roots
        from retrieval.syncing import plan_sync
        from retrieval.syncing import sync as mirror

        terminal = self.run.terminal
        doing = f"index sync {self.folder}"
        with terminal.progress() as show:
            show("opening", 0, 0)
            with open_or_create(self.run.settings, self.name, wait=self.wait, doing=doing, load=self.load) as opened:
                if not self.yes and path_key(self.folder.resolve()) in roots(opened.catalogue):
                    show("comparing", 0, 0)
                    limit = self.run.settings.reading.max_file_mb * MIB
                    self._refuse_emptying(plan_sync(opened, self.folder, max_bytes=limit, metadata=self.metadata))
                report = mirror(opened, self.folder, reader, metadata=self.metadata, retry=self.retry, progress=show)
        _show_report(self.run, report, {"collection": self.name, "folder": str(self.folder)})
        return report

    def _refuse_emptying(self, plan: "SyncPlan") -> None:
        if plan.known >= GUARDED_DOCUMENTS and len(plan.remove) * 2 > plan.known:
            raise FathomError(
                f"{len(plan.remove):,} of the {plan.known:,} documents that '{self.folder}' has in the collection "
                f"'{self.name}' would be removed, since their files are gone; if that is meant, add --yes"
            )

    def watch(self, reader: "Reader") -> None:
        """Sync now and at every change until Ctrl-C. An error is reported and the next change tried again."""
        import watchfiles

        terminal, settings = self.run.terminal, self.run.settings
        own = settings.workspace.resolve()
        changes = watchfiles.watch(
            self.folder,
            watch_filter=lambda _, path: not Path(path).is_relative_to(own),
            debounce=WATCH_DEBOUNCE_MS,
            rust_timeout=WATCH_STEP_MS,
            # The first time-out starts the first sync with the watch already armed, so that no change slips between;
            # later ones try a busy collection again.
            yield_on_timeout=True,
        )
        terminal.one_json_per_line = True
        due, said = True, ""
        for changed in changes:
            if not (due or changed):
                continue
            due = False
            terminal.restart()
            try:
                self.once(reader)
                said = ""
            except Exception as error:
                sentence, _ = describe(error, settings.workspace)
                due = isinstance(error, BusyError)
                if sentence != said:
                    terminal.note(f"fathom: {sentence}", style="red")
                    if terminal.as_json:
                        terminal.json({"error": sentence})
                said = sentence
            if not due:
                terminal.note(f"watching {self.folder}; Ctrl-C ends it", style="dim")

    def show_plan(self, plan: "SyncPlan") -> None:
        """The diff of a dry run; exit 3 where files cannot be read."""
        from app.terminal import count

        terminal = self.run.terminal
        if terminal.as_json:
            terminal.json(
                {
                    "collection": self.name,
                    "folder": str(self.folder),
                    "dry_run": True,
                    "added": plan.add,
                    "updated": plan.update,
                    "removed": plan.remove,
                    "unchanged": plan.unchanged,
                    "failed": _errors_as_json(plan.failed),
                    "seconds": terminal.elapsed,
                }
            )
        else:
            _names(self.run, "+", plan.add)
            _names(self.run, "~", plan.update)
            _names(self.run, "-", plan.remove)
            _failures(self.run, plan.failed)
            _unchanged(self.run, plan.unchanged)
        terminal.done(
            f"would add {len(plan.add):,}, update {len(plan.update):,}, remove {len(plan.remove):,}, "
            f"keep {count(plan.unchanged, 'document')}; looked"
        )
        if plan.failed:
            raise typer.Exit(DONE_WITH_ERRORS)


def add(
    files: Annotated[list[Path], typer.Argument(metavar="FILE…", help="Files to add or update.")],
    meta: Meta = None,
    collection: CollectionName = None,
    wait: Wait = 0.0,
    workspace: Workspace = None,
    as_json: AsJson = False,
) -> None:
    """Add or update single files."""
    run = begin(workspace, as_json)
    metadata = _metadata(meta)
    for file in files:
        if file.is_dir():
            raise UsageError(f"'{file}' is a folder; use: fathom index sync {file}")
    if not any(file.exists() for file in files):
        raise UsageError(f"there is no file '{files[0]}'; nothing was made")
    from app.build import open_or_create, reader
    from retrieval.syncing import add_files

    name = collection or DEFAULT_COLLECTION
    with run.terminal.progress() as show:
        show("opening", 0, 0)
        with (
            open_or_create(run.settings, name, wait=wait, doing="index add") as opened,
            reader(run.settings) as reading,
        ):
            report = add_files(opened, files, reading, metadata=metadata, progress=show)
    _show_report(run, report, {"collection": name})
    if report.failed:
        raise typer.Exit(DONE_WITH_ERRORS if len(report.failed) < len(files) else FAILED)


def library_docs(
    packages: Annotated[
        list[str] | None,
        typer.Option("--package", "-p", metavar="P", help="Installed package; may be repeated.", show_default=False),
    ] = None,
    everything: Annotated[
        bool, typer.Option("--all", help="All documented packages of the field that are installed: some minutes.")
    ] = False,
    limit: Annotated[
        int | None, typer.Option("--limit", metavar="N", min=1, help="At most this many modules.", show_default=False)
    ] = None,
    collection: CollectionName = None,
    wait: Wait = 0.0,
    workspace: Workspace = None,
    as_json: AsJson = False,
) -> None:
    """Index the docstrings of installed Python packages: a real, technical corpus (by default a small part of it)."""
    run = begin(workspace, as_json)
    if packages and everything:
        raise UsageError("--package and --all exclude each other; leave one out")
    from app.build import open_or_create
    from app.terminal import count
    from retrieval.library_docs import DEMO_PACKAGES, documents

    name = collection or "library-docs"
    chosen = packages or (None if everything else DEMO_PACKAGES)
    failed: list[ReadingError] = []
    first = next(documents(chosen, limit=1, on_error=failed.append), None)
    if first is None:
        raise FathomError("these packages have no docstrings that can be read; nothing was made")
    failed.clear()
    with run.terminal.progress() as show:
        show("opening", 0, 0)
        with open_or_create(run.settings, name, wait=wait, doing="index library-docs") as opened:
            made: Iterator[Document] = documents(chosen, limit=limit, on_error=failed.append)
            report = opened.add(made, progress=show)
    if as_json:
        run.terminal.json(
            {
                "collection": name,
                "added": report.added,
                "updated": report.updated,
                "unchanged": report.unchanged,
                "passages": report.passages,
                "failed": _errors_as_json(failed),
                "seconds": round(run.terminal.elapsed, 3),
            }
        )
    _failures(run, failed)
    run.terminal.done(
        f"{count(report.added, 'module')} added, {report.updated:,} updated, {report.unchanged:,} unchanged "
        f"({count(report.passages, 'passage')}) in the collection '{name}'"
    )
    if failed:
        raise typer.Exit(DONE_WITH_ERRORS)


def _metadata(pairs: Sequence[str] | None) -> dict[str, Scalar]:
    from retrieval.filters import COLUMNS, parse_filter

    found: dict[str, Scalar] = {}
    for text in pairs or ():
        # Read as filters are, so that what was given here is what a filter finds.
        pair = parse_filter(text)
        if pair.operator != "=":
            raise UsageError(f"--meta '{text[:80]}' is not of the form key=value")
        if pair.key in COLUMNS:
            raise UsageError(
                f"--meta '{pair.key}' is a property every document has already; choose another key than "
                f"{', '.join(COLUMNS)}"
            )
        found[pair.key] = pair.value
    return found


def _show_report(run: Run, report: "SyncReport", subject: dict[str, Any]) -> None:
    from app.terminal import count

    terminal = run.terminal
    if terminal.as_json:
        terminal.json(
            {
                **subject,
                "dry_run": False,
                "added": report.added,
                "updated": report.updated,
                "removed": report.removed,
                "kept": report.kept,
                "unchanged": report.unchanged,
                "failed": _errors_as_json(report.failed),
                "passages": report.passages,
                "embedded": report.embedded,
                "seconds": report.seconds,
            }
        )
        return
    _names(run, "+", report.added)
    _names(run, "~", report.updated)
    _names(run, "-", report.removed)
    _failures(run, report.failed, kept=frozenset(report.kept))
    _unchanged(run, report.unchanged)
    parts = [
        f"{len(report.added):,} added",
        f"{len(report.updated):,} updated",
        f"{len(report.removed):,} removed",
        f"{report.unchanged:,} unchanged",
    ]
    if report.failed:
        parts.append(f"{len(report.failed):,} failed")
    terminal.done(f"{', '.join(parts)} ({count(report.passages, 'passage')} written, {report.embedded:,} embedded)")


def _names(run: Run, sign: str, names: Sequence[str]) -> None:
    style = {"+": "green", "~": "yellow", "-": "red"}[sign]
    shown = names[:SHOWN_NAMES] if run.terminal.interactive else names
    for name in shown:
        run.terminal.line(f"{sign} {name}", style=style)
    if len(shown) < len(names):
        run.terminal.line(f"{sign} … and {len(names) - len(shown):,} more", style=style)


def _unchanged(run: Run, number: int) -> None:
    if number:
        from app.terminal import count

        run.terminal.line(f"= {count(number, 'document')} unchanged", style="dim")


def _failures(run: Run, errors: Sequence[ReadingError], *, kept: frozenset[str] = frozenset()) -> None:
    """Every one of them, however many: what is not indexed must not be overlooked."""
    if run.terminal.as_json:
        return
    for error in _in_order(errors):
        still = " The version indexed before stays." if error.path in kept else ""
        run.terminal.line(f"! {error.path} ({error.reason}): {error.message}{still}", style="bold red")


def _errors_as_json(errors: Sequence[ReadingError]) -> list[dict[str, str]]:
    return [{"document": error.path, "reason": error.reason, "message": error.message} for error in _in_order(errors)]


def _in_order(errors: Sequence[ReadingError]) -> list[ReadingError]:
    # Links are found while walking, bad files while parsing; a person looks for names.
    return sorted(errors, key=lambda error: error.path)
