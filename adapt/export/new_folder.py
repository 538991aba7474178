"""A folder that is written whole or not at all. It knows nothing of what goes into it."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from retrieval.errors import UsageError
from retrieval.storage.durable import sync_to_disk


@contextmanager
def new_folder(out: Path) -> Iterator[Path]:
    """A folder to fill, which becomes `out` at the end; gone if anything was raised.

    Raises UsageError where `out` is there already with something in it, OSError.
    """
    require_free(out)
    require_place(out)
    made = Path(tempfile.mkdtemp(dir=out.parent, prefix=f".{out.name}-"))
    try:
        yield made
        made.chmod(0o755)
        for file in made.iterdir():
            file.chmod(0o644)
            sync_to_disk(file)
        sync_to_disk(made)
        if out.is_dir():
            out.rmdir()  # it is empty, or this says so
        os.rename(made, out)
        sync_to_disk(out.parent)
    finally:
        shutil.rmtree(made, ignore_errors=True)


def require_free(out: Path) -> None:
    """Raises UsageError where something is there already."""
    if out.is_symlink() or (out.exists() and not out.is_dir()) or (out.is_dir() and any(out.iterdir())):
        raise UsageError(f"'{out}' is there already; give another folder with --out, or remove it")


def require_place(out: Path) -> None:
    """Make the folder that `out` goes into. Raises UsageError where none can be made or nothing be written in it, which
    the first file would tell only after minutes of merging."""
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=out.parent):
            pass
    except OSError as error:
        why = error.strerror or error
        raise UsageError(f"nothing can be written in '{out.parent}' ({why}); name another place with --out") from error
