"""`fathom adapt runs` and `fathom adapt report RUN`: run folders → a list, one HTML file. Only words."""

import os
from pathlib import Path
from typing import Annotated, Any

import typer

from app.commands.options import AsJson, Run, Workspace, begin
from retrieval.errors import DamagedError, UsageError


def list_runs(workspace: Workspace = None, as_json: AsJson = False) -> None:
    """List the runs of recipes, the newest first, with what became of them."""
    run = begin(workspace, as_json)
    found = _manifests(run)
    if as_json:
        run.terminal.json([{"folder": str(folder), **_brief(manifest)} for folder, manifest in found])
        return
    if not found:
        run.terminal.note(f"there is no run of a recipe in {_runs(run)} yet; 'fathom adapt run RECIPE' makes one")
        return
    rows = []
    for _, manifest in found:
        said = _brief(manifest)
        stages = " → ".join(said["stages"])
        rows.append([said["name"], said["started"], said["status"], said["recipe"], stages, said["model"] or ""])
    run.terminal.table(("run", "started", "status", "recipe", "finished stages", "model"), rows)


def report(
    word: Annotated[str, typer.Argument(metavar="RUN", help="A run: its name, its folder, or 'latest'.")],
    workspace: Workspace = None,
    as_json: AsJson = False,
) -> None:
    """Write a run's report anew, finished or not: one HTML file with figures, curves, gates and samples."""
    run = begin(workspace, as_json)
    from adapt.evidence.report import write_report

    file = write_report(_folder(run, word))
    if as_json:
        run.terminal.json({"file": str(file.absolute()), "bytes": file.stat().st_size})
        return
    run.terminal.line(str(file))
    run.terminal.done("report written")


def _runs(run: Run) -> Path:
    return run.settings.workspace / "runs"


def _manifests(run: Run) -> list[tuple[Path, dict[str, Any]]]:
    """Folder and manifest of every run of a recipe, the newest first; of a damaged one it is said."""
    from adapt.running import MANIFEST
    from eval.runs.run_folder import read_json

    found = []
    for file in sorted(_runs(run).glob(f"*/{MANIFEST}")):
        try:
            found.append((file.parent, read_json(file)))
        except DamagedError as error:
            run.terminal.note(str(error))
    return sorted(found, key=lambda entry: str(entry[1].get("started", "")), reverse=True)


def _brief(manifest: dict[str, Any]) -> dict[str, Any]:
    """What a list shows; a manifest may hold anything."""
    recipe, stages = manifest.get("recipe"), manifest.get("stages")
    names = (
        [str(stage.get("name", "")) for stage in stages if isinstance(stage, dict)] if isinstance(stages, list) else []
    )
    texts = {key: str(manifest.get(key) or "") for key in ("name", "started", "finished", "status")}
    return texts | {
        "recipe": str(recipe.get("name", "")) if isinstance(recipe, dict) else "",
        "stages": names,
        "model": str(manifest["model"]) if manifest.get("model") else None,
    }


def _folder(run: Run, word: str) -> Path:
    """The folder of a run by its name, its path, or `latest`. Raises UsageError."""
    from adapt.running import MANIFEST

    found = [folder for folder, _ in _manifests(run)]
    if word == "latest" and found:
        return found[0]
    for folder in (_runs(run) / word, Path(os.path.expanduser(word))):
        if (folder / MANIFEST).is_file():
            return folder
    some = ", ".join(folder.name for folder in found[:5]) + (" …" if len(found) > 5 else "")
    there = f"the newest are {some}" if found else f"there is none in {_runs(run)} yet"
    raise UsageError(f"no run of a recipe '{word[:200]}': give a name, a folder, or 'latest' ({there})")
