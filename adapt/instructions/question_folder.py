"""Questions and the documents they are asked of → a folder that evaluation reads and examples are made from."""

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from adapt.corpus.texts import TrainingText
from adapt.instructions.cloze import Cloze
from eval.data.corpora import CorpusDocument
from retrieval.storage.durable import sync_to_disk

QUESTIONS = "questions.jsonl"


def write_question_set(
    folder: Path, rows: Iterable[Mapping[str, Any]], documents: Iterable[CorpusDocument | TrainingText]
) -> int:
    """questions.jsonl and corpus.jsonl (eval.data.questions says what a row holds); how many. Raises OSError."""
    folder.mkdir(parents=True, exist_ok=True)
    corpus = ({"_id": one.id, "title": one.title, "text": one.text} for one in documents)
    _write(folder / "corpus.jsonl", corpus)
    return _write(folder / QUESTIONS, rows)


def _write(path: Path, rows: Iterable[Mapping[str, Any]]) -> int:
    """Whole, or as it was before."""
    building = path.with_name(path.name + ".building")
    count = 0
    with building.open("w", encoding="utf-8") as file:
        for row in rows:
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
            count += 1
    sync_to_disk(building)
    building.replace(path)
    return count


def rows_of_cloze(asked: Iterable[Cloze]) -> Iterator[dict[str, Any]]:
    """As a question file has them."""
    for number, one in enumerate(asked, 1):
        span = {"document": one.span.document, "start": one.span.start, "end": one.span.end}
        row = {"id": f"cloze-{number}", "question": one.question, "answers": [one.answer], "spans": [span]}
        yield {**row, "documents": [one.span.document], "group": one.kind}
