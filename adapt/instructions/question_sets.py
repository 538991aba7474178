"""Rows of questions and the documents they are asked of → a question set: the folder that `fathom eval answers` and
`fathom data questions` read. It knows neither who wrote the questions nor whether they are good."""

import json
import os
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from eval.data.corpora import CorpusDocument
from eval.data.texts import storable
from retrieval.errors import FathomError, UsageError
from retrieval.reading.folder import shown
from retrieval.storage.durable import sync_to_disk

QUESTIONS, CORPUS = "questions.jsonl", "corpus.jsonl"


def require_new_folder(folder: Path, *, replace: bool) -> None:
    """Raises UsageError where a question set cannot go: there is a file, or, without `replace`, a folder with something
    in it, or nothing to make the folder in."""
    if folder.is_dir():
        if not replace and any(folder.iterdir()):
            raise UsageError(
                f"'{shown(str(folder))}' is there already; name another folder, or write over it with --replace"
            )
    elif os.path.lexists(folder):
        raise UsageError(f"'{shown(str(folder))}' is a file; name a folder for the question set")
    elif not folder.absolute().parent.is_dir():
        raise UsageError(f"there is no folder '{shown(str(folder.parent))}' to make '{folder.name}' in; make it first")


def write_question_set(
    folder: Path,
    rows: Iterable[Mapping[str, Any]],
    documents: Iterable[CorpusDocument],
    *,
    reports: Mapping[str, Any] | None = None,
) -> int:
    """Write `questions.jsonl`, `corpus.jsonl` (and each of `reports`, name → JSON) into a folder; how many questions.

    A row is as `eval.data.questions.read_questions` reads it; the offsets of its spans count in `document.text`. A new
    folder is there whole or not at all. In one that is there, only these files are replaced, and the questions go
    first and come last, so that they never stand beside other documents. Raises FathomError where it cannot be
    written, and whatever `rows` and `documents` raise; then nothing has changed.
    """
    folder = folder.absolute()
    new = folder.with_name(f".{folder.name}.{os.getpid()}.new")
    try:
        new.mkdir()
        count = _write_lines(new / QUESTIONS, rows)
        _write_lines(
            new / CORPUS, ({"_id": one.id, "title": one.title, "text": one.text} for one in documents)
        )  # fmt: skip
        for name, report in (reports or {}).items():
            text = json.dumps(report, ensure_ascii=False, indent=1, allow_nan=False)
            (new / name).write_text(storable(text) + "\n", encoding="utf-8")
        for file in new.iterdir():
            sync_to_disk(file)
        sync_to_disk(new)
        _put(new, folder)
    except OSError as error:
        raise FathomError(
            f"'{shown(str(folder))}' cannot be written ({error.strerror or error}); name another place"
        ) from error
    finally:
        shutil.rmtree(new, ignore_errors=True)
    return count


def _write_lines(file: Path, rows: Iterable[Mapping[str, Any]]) -> int:
    count = 0
    with file.open("w", encoding="utf-8", newline="\n") as out:
        for count, row in enumerate(rows, 1):  # noqa: B007
            out.write(storable(json.dumps(row, ensure_ascii=False, allow_nan=False)) + "\n")
    return count


def _put(new: Path, folder: Path) -> None:
    if not folder.is_dir() or not any(folder.iterdir()):
        os.rename(new, folder)  # onto an empty folder too
        sync_to_disk(folder.parent)
        return
    (folder / QUESTIONS).unlink(missing_ok=True)
    for file in sorted(new.iterdir(), key=lambda path: path.name == QUESTIONS):
        os.replace(file, folder / file.name)
    sync_to_disk(folder)
