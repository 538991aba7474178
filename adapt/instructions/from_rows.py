"""Rows of a table and a mapping → examples by templates, with what did not fit by reason and row. No model writes."""

import hashlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from random import Random
from typing import Any

from adapt.instructions.example import Example, ExampleFault, Origin
from adapt.instructions.importing import Imported
from adapt.instructions.mapping import RowMapping, as_word
from adapt.instructions.tables import rows_of
from adapt.instructions.templates import OWN, drawn
from eval.data.texts import storable
from eval.runs.parts import Progress
from retrieval.errors import UsageError
from retrieval.prompts import Language, language_of
from retrieval.reading.normalising import one_line

_LOOKED_AT = 100
"""Rows at the beginning whose columns are taken for those of the file."""


def examples_from_rows(
    path: Path, mapping: RowMapping, into: Imported, *, licence: str = "", progress: Progress
) -> Iterator[Example]:
    """Examples of each row, in order: forward, then inverted. Templates are drawn by the mapping's seed and the row's
    number alone, so that a row gives the same in a longer file.

    Raises UsageError for a column that is not there, before the first example; ReadingError.
    """
    name = one_line(storable(path.name), 200)

    def problem(number: int, reason: str, message: str) -> None:
        into.rows += 1 if number else 0
        into.left_out.add(reason, f"{name} row {number}" if number else name, message)

    def lossy(number: int, reason: str, message: str) -> None:
        into.mended.add(reason, name, message)

    rows = rows_of(path, problem, lossy)
    begun: list[tuple[int, dict[str, Any]]] = []
    for entry in rows:
        begun.append(entry)
        if len(begun) == _LOOKED_AT:
            break
    if not begun:
        raise UsageError(f"'{name}' holds no row that can be read ({into.left_out.first() or 'it is empty'})")
    mapping.require(list(dict.fromkeys(str(key) for _, row in begun for key in row)), name)
    into.forms[name] = "rows"

    def all_rows() -> Iterator[tuple[int, dict[str, Any]]]:
        yield from begun
        yield from rows

    for count, (number, row) in enumerate(all_rows()):
        into.rows += 1
        if count % 256 == 0:
            progress(f"reading {name}", count, 0)
        where = f"{name} row {number}"
        try:
            if not _wanted(row, mapping):
                into.left_out.add("where", where, "has another value than the mapping's 'where' asks for")
                continue
            for example in _of_row(row, number, name, mapping, licence):
                into.examples += 1
                yield example
        except ExampleFault as fault:
            into.left_out.add(fault.reason, where, fault.message)


def _of_row(row: Mapping[str, Any], number: int, name: str, mapping: RowMapping, licence: str) -> list[Example]:
    values: dict[str, str] = {}
    for key, column in mapping.columns.items():
        text = cell(row, column)
        if text.strip():
            values[key] = text.strip()
        elif key in ("question", "answer"):
            raise ExampleFault("empty", f"has nothing in the column '{column}'")
    language: Language = mapping.language or language_of(f"{values['question']} {values['answer'][:200]}")
    examples = []
    for direction in mapping.directions:
        # Not the built-in hash, which differs from process to process.
        random = Random(hashlib.sha256(f"{mapping.seed} {number} {direction}".encode()).digest())
        templates = drawn(mapping.templates or OWN, direction, language, list(values), mapping.per_row, random)
        if not templates:
            raise ExampleFault("template", f"fits no {direction} template of its language ({language}) and columns")
        for template in templates:
            examples.append(
                Example.of(
                    template.fill(values),
                    origin=Origin("rows", f"{name}#{number}", template.name, licence or mapping.licence),
                    labels=mapping.labels,
                )
            )
    return examples


def cell(row: Mapping[str, Any], column: str) -> str:
    """The text at `column`, or at `a.b` inside; numbers as written, a list's first text (as sets of answers have them).

    A missing cell is an empty text. Raises ExampleFault ("form") for anything else.
    """
    value: Any = row
    if column in row:
        value = row[column]
    else:
        for key in column.split("."):
            if isinstance(value, list):
                value = value[0] if value else None
            value = value.get(key) if isinstance(value, Mapping) else None
    if isinstance(value, list):
        value = value[0] if value else None
    if value is None:
        return ""
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise ExampleFault("form", f"has a {type(value).__name__} in the column '{column}', not text")
    return storable(str(value))


def _wanted(row: Mapping[str, Any], mapping: RowMapping) -> bool:
    for column, values in mapping.where.items():
        value = row.get(column)
        if value is None or as_word(value) not in values:
            return False
    return True
