"""Fathom question files → questions with gold documents and spans; rankings of passages → rankings of gold spans.

The answer side of the same files is eval/data/questions.py. It knows no search engine.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast, get_args

from eval.data.corpora import identifier, numbered_jsonl, words
from retrieval.errors import ReadingError
from retrieval.prompts import Message, Role


@dataclass(frozen=True, slots=True)
class GoldSpan:
    """Evidence: `[start, end)` in the text of a document, in code points."""

    document: str
    start: int
    end: int

    @property
    def name(self) -> str:
        """The span as a unit of judgement."""
        return f"{self.document}#{self.start}-{self.end}"


@dataclass(frozen=True, slots=True)
class GoldQuestion:
    """A question as retrieval needs it. `documents` are all that are relevant, those of the spans included."""

    id: str
    text: str
    documents: tuple[str, ...]
    spans: tuple[GoldSpan, ...]
    history: tuple[Message, ...]
    line: int


def read_questions(path: Path) -> list[GoldQuestion]:
    """The questions of a file, one JSON object a line.

    {"id", "question", "spans": [{"document", "start", "end"}], "documents": [...], "answerable", "history":
    [{"role", "text"}]}; all but the first two may be missing. Offsets count the code points of the document's text: of
    `text` in corpus.jsonl, of what Fathom reads from a file. An unanswerable question has no gold. Raises ReadingError
    with the line.
    """
    questions: list[GoldQuestion] = []
    lines: dict[str, int] = {}
    for line, row in numbered_jsonl(path):
        key = identifier(row, "id", path, line)
        if key in lines:
            message = f"line {line}: the question id {key!r} occurs twice (first in line {lines[key]})."
            raise ReadingError(str(path), "duplicate-id", message)
        lines[key] = line
        text = words(row, "question", path, line)
        if not text.strip():
            raise ReadingError(str(path), "empty", f"line {line}: question {key!r} has no text.")
        answerable = row.get("answerable", True) is not False
        spans = _spans(row, path, line) if answerable else ()
        named = _named(row, path, line) if answerable else []
        documents = dict.fromkeys([*named, *(span.document for span in spans)])
        questions.append(GoldQuestion(key, text, tuple(documents), spans, _history(row, path, line), line))
    if not questions:
        raise ReadingError(str(path), "empty", "there is no question in it.")
    return questions


def _list(row: Mapping[str, Any], name: str, path: Path, line: int) -> list[Any]:
    value = row.get(name)
    if value is None:
        return []
    if not isinstance(value, list):
        raise ReadingError(str(path), "field", f"line {line}: {name!r} is a {type(value).__name__}, not a list.")
    return value


def _named(row: Mapping[str, Any], path: Path, line: int) -> list[str]:
    found = _list(row, "documents", path, line)
    return [identifier({"documents": item}, "documents", path, line) for item in found]


def _spans(row: Mapping[str, Any], path: Path, line: int) -> tuple[GoldSpan, ...]:
    spans = []
    for item in _list(row, "spans", path, line):
        if not isinstance(item, dict):
            raise ReadingError(str(path), "field", f"line {line}: a span is an object with document, start and end.")
        document = identifier(item, "document", path, line)
        start, end = item.get("start"), item.get("end")
        if type(start) is not int or type(end) is not int or not 0 <= start < end:
            message = f"line {line}: the span {start!r} to {end!r} of {document!r} is not 0 ≤ start < end."
            raise ReadingError(str(path), "offsets", message)
        spans.append(GoldSpan(document, start, end))
    return tuple(spans)


def _history(row: Mapping[str, Any], path: Path, line: int) -> tuple[Message, ...]:
    messages = []
    for item in _list(row, "history", path, line):
        role = item.get("role") if isinstance(item, dict) else None
        if role not in get_args(Role):
            message = f"line {line}: a message of the history has a role ({', '.join(get_args(Role))}) and a text."
            raise ReadingError(str(path), "field", message)
        messages.append(Message(cast(Role, role), words(item, "text", path, line)))
    return tuple(messages)


def check_gold(path: Path, questions: Iterable[GoldQuestion], lengths: Mapping[str, int]) -> None:
    """Every gold document is in the corpus and every span inside its document; `lengths` counts code points.

    Raises ReadingError with the line.
    """
    for question in questions:
        for document in question.documents:
            if document not in lengths:
                message = f"line {question.line}: question {question.id!r} names {document!r}, which is not there."
                raise ReadingError(str(path), "unknown-document", message)
        for span in question.spans:
            if span.end > lengths[span.document]:
                message = (
                    f"line {question.line}: the span {span.start} to {span.end} lies outside {span.document!r}, "
                    f"which has {lengths[span.document]} characters."
                )
                raise ReadingError(str(path), "offsets", message)


def units(spans: Iterable[GoldSpan]) -> tuple[GoldSpan, ...]:
    """Gold spans as units of judgement: those that overlap (several annotators, one place) count as one."""
    merged: list[GoldSpan] = []
    for span in sorted(spans, key=lambda span: (span.document, span.start, span.end)):
        last = merged[-1] if merged else None
        if last is not None and last.document == span.document and span.start < last.end:
            merged[-1] = GoldSpan(last.document, last.start, max(last.end, span.end))
        else:
            merged.append(span)
    return tuple(merged)


def span_ranking(passages: Sequence[tuple[str, int, int]], gold: Sequence[GoldSpan]) -> list[str]:
    """Passages (document, start, end), best first → what each rank gains, as ids that can be judged like documents.

    A passage that overlaps a gold span takes that span's name the first time; one that shows two new spans takes two
    ranks, so that no ranking beats the ideal one of a span a rank. Any other passage keeps a name of its own.
    """
    ranking: dict[str, None] = {}
    for document, start, end in passages:
        shown = [
            span.name
            for span in gold
            if span.document == document and start < span.end and span.start < end and span.name not in ranking
        ]
        ranking.update(dict.fromkeys(shown or [f"{document}@{start}-{end}"]))
    return list(ranking)
