"""A recipe for a pair encoder → its run: the lock on its folder, and which kind of run it is."""

import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from adapt.encoders.pair_recipe import RERANKER, PairRecipe
from adapt.encoders.pair_run import EncoderResult, Progress
from adapt.encoders.reranker_run import RerankerRun
from adapt.encoders.support_run import SupportRun
from retrieval.errors import UsageError
from retrieval.storage.locking import WriterLock

if TYPE_CHECKING:
    from retrieval.embedding.embedder import Embedder


def run_pairs(
    recipe: PairRecipe,
    *,
    workspace: Path,
    embedder: "Callable[[], Embedder]",
    progress: Progress,
    stop: threading.Event | None = None,
    run: str | None = None,
    fresh: bool = False,
    cache: Path | None = None,
) -> EncoderResult:
    """Do what is not done yet of a recipe in `workspace`/runs/NAME, NAME being `run` or the recipe's own.

    `stop` ends the work at the next safe place; the same call goes on from there. Raises UsageError for what cannot be
    done, BusyError if another process runs it, FathomError for training that went wrong, OSError on a full disk.
    """
    name = run or recipe.name
    folder = workspace / "runs" / name
    for other, what in (("run.json", "measurements of 'fathom eval'"), ("adaptation.json", "an adaptation in stages")):
        if (folder / other).is_file():
            raise UsageError(f"the run '{name}' holds {what}; give another name with --run")
    folder.mkdir(parents=True, exist_ok=True)
    kind = RerankerRun if recipe.encoder == RERANKER else SupportRun
    with WriterLock(folder / ".lock", doing="adapting", guarded=f"the run '{name}'"):
        if fresh:
            _empty(folder)
        return kind(
            recipe, folder, name, embedder, progress, stop or threading.Event(), cache or workspace / "cache"
        ).go()


def _empty(folder: Path) -> None:
    for entry in folder.iterdir():
        if entry.name == ".lock":
            continue
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        else:
            entry.unlink()
