"""Syncing ten thousand files of which none changed: what a person waits for every morning."""

import shutil
from collections.abc import Callable
from pathlib import Path

from eval.speed.bank import docstring_texts
from eval.speed.measuring import BENCH, Figure, Measurement, median, run_worker

Progress = Callable[[str, int, int], None]
TARGET_S = 15.0
PER_FOLDER = 200


def write_files(folder: Path, count: int) -> Path:
    """`count` small text files in folders of PER_FOLDER, made once."""
    if folder.is_dir() and sum(1 for _ in folder.rglob("*.txt")) == count:
        return folder
    shutil.rmtree(folder, ignore_errors=True)
    texts, _ = docstring_texts(min(count, 20_000), 0)
    for number in range(count):
        path = folder / f"{number // PER_FOLDER:04}" / f"{number:06}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"Note {number}\n\n{texts[number % len(texts)]}\n", encoding="utf-8")
    return folder


def measure(*, files: int = 10_000, repeats: int = 3, progress: Progress | None = None) -> Measurement:
    """Seconds of a sync in which nothing changed, and of one with ten files changed and ten gone."""
    source = write_files(BENCH / f"files-{files}", files)
    collection = BENCH / f"synced-{files}"
    shutil.rmtree(collection, ignore_errors=True)
    arguments = {"folder": str(collection), "files": str(source)}
    first = run_worker("syncing", arguments)
    again = []
    for turn in range(repeats):
        again.append(run_worker("syncing", arguments))
        if progress is not None:
            progress("turns", turn + 1, repeats)
    paths = sorted(source.rglob("*.txt"))
    for path in paths[:10]:
        path.write_text(path.read_text(encoding="utf-8") + "One more line.\n", encoding="utf-8")
    for path in paths[-10:]:
        path.unlink()
    changed = run_worker("syncing", arguments)
    shutil.rmtree(source)  # ten files short: the next run makes them anew
    label = f"sync of {files:,} files"
    figures = (
        Figure(f"{label}, all new, no embedding", first["wall_s"], "s"),
        Figure(f"{label}, unchanged", median([answer["wall_s"] for answer in again]), "s", TARGET_S),
        Figure(f"{label}, unchanged, CPU", median([answer["cpu_s"] for answer in again]), "s"),
        Figure(f"{label}, unchanged: passages embedded", max(answer["embedded"] for answer in again), "", 0),
        Figure(f"{label}, 10 changed and 10 gone", changed["wall_s"], "s"),
    )
    return Measurement(
        "sync", "python -m eval.speed sync", figures, {"first": first, "again": again, "changed": changed}
    )
