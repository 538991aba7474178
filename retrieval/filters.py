"""`key=value` conditions on documents, turned into SQL with parameters. Nothing of a filter's text ever becomes SQL."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from retrieval.errors import UsageError
from retrieval.passages import Scalar

Operator = Literal["=", "!=", ">=", "<=", ">", "<", "~"]
# Longest first, so that `>=` is not read as `>`.
OPERATORS: tuple[Operator, ...] = ("!=", ">=", "<=", "=", ">", "<", "~")

# Columns of the document itself; every other key is looked up in its metadata.
COLUMNS = {
    "document": "uri",
    "uri": "uri",
    "path": "uri",
    "title": "title",
    "format": "format",
    "owner": "owner",
}
_SQL_OPERATORS: dict[Operator, str] = {
    "=": "=",
    "!=": "<>",
    ">=": ">=",
    "<=": "<=",
    ">": ">",
    "<": "<",
    "~": "GLOB",
}


@dataclass(frozen=True, slots=True)
class Filter:
    """One condition. `~` is a glob (`*`, `?`, `[a-z]`); comparisons are numeric where both sides are numbers.

    A document without the key fails every condition except `!=`.
    """

    key: str
    operator: Operator
    value: Scalar


def parse_filter(text: str) -> Filter:
    """`year>=2020` → Filter("year", ">=", 2020). Raises UsageError with the form expected."""
    match = re.match(r"\s*([^=!<>~\s][^=!<>~]*?)\s*(!=|>=|<=|=|>|<|~)\s*(.*?)\s*$", text, re.DOTALL)
    if match is None:
        raise UsageError(
            f"the filter '{text}' is not of the form key=value; use one of = != >= <= > < ~ (glob), "
            "for example format=pdf, year>=2020 or path~legal/*"
        )
    key, operator, value = match.groups()
    return Filter(key, operator, _literal(value) if operator != "~" else value)  # type: ignore[arg-type]


def _literal(text: str) -> Scalar:
    if len(text) >= 2 and text[0] == text[-1] and text[0] in "\"'":
        return text[1:-1]
    if text in ("true", "false"):
        return text == "true"
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def where_clause(filters: Sequence[Filter], owners: Iterable[str] | None) -> tuple[str, list[Scalar]]:
    """SQL condition over a `documents` row aliased `d`, with its parameters; `1` where nothing is asked.

    `facts(document_id, key, value)` holds metadata one row per key. `owners=None` means every owner.
    """
    parts: list[str] = []
    values: list[Scalar] = []
    if owners is not None:
        names = sorted(owners)
        parts.append(f"d.owner IN ({','.join('?' * len(names))})")
        values.extend(names)
    for item in filters:
        parts.append(_condition(item, values))
    return (" AND ".join(f"({part})" for part in parts) or "1"), values


def _condition(item: Filter, values: list[Scalar]) -> str:
    sql = _SQL_OPERATORS[item.operator]
    # `year=2020` must find both the number 2020 and the text "2020".
    spellings: list[Scalar] = [item.value]
    if item.operator in ("=", "!=") and not isinstance(item.value, str):
        spellings.append(str(item.value).lower() if isinstance(item.value, bool) else str(item.value))
    column = COLUMNS.get(item.key)
    marks = ",".join("?" * len(spellings))
    if column is not None:
        values.extend(str(value) for value in spellings)
        if item.operator in ("=", "!="):
            return f"d.{column} {'NOT ' if item.operator == '!=' else ''}IN ({marks})"
        return f"d.{column} {sql} ?"
    values.append(item.key)
    values.extend(spellings)
    inner = "SELECT f.document_id FROM facts f WHERE f.key = ? AND "
    if item.operator == "!=":
        return f"d.id NOT IN ({inner} f.value IN ({marks}))"
    if item.operator == "=":
        return f"d.id IN ({inner} f.value IN ({marks}))"
    # SQLite orders every number before every text; without the type test `year>=2020` would match all texts.
    number = isinstance(item.value, int | float) and item.operator != "~"
    kind = "IN ('integer','real')" if number else "= 'text'"
    return f"d.id IN ({inner} typeof(f.value) {kind} AND f.value {sql} ?)"
