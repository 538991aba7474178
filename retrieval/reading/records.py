"""JSON and JSON lines in, records as sections of "key: value" lines out; digits and doubled keys are kept."""

import json
from collections.abc import Iterator
from typing import Any

from retrieval.reading.building import Builder, Parsed
from retrieval.reading.normalising import one_line
from retrieval.reading.plain import encoding_note, source_text

_TITLE_KEYS = ("title", "name", "question", "heading", "subject", "headline", "label", "id", "_id")
_MAX_TITLE = 120


class Pairs(list):
    """A JSON object as its (key, value) pairs, in order: a dict would keep only the last of two equal keys."""


_DECODER = json.JSONDecoder(object_pairs_hook=Pairs, parse_float=str, parse_int=str, parse_constant=str, strict=False)


def parse_json(data: bytes) -> Parsed:
    """A list of objects: a section per record. Other JSON: its paths and values. No JSON after all: plain text."""
    text, decoded, removed = source_text(data)
    out = Builder(removed)
    out.warnings += decoded.warnings()
    try:
        value = _DECODER.decode(text)
    except ValueError as problem:
        lines = list(_json_lines(text))
        if len(lines) > 1 and all(isinstance(record, Pairs) for record, _ in lines):
            return _records(out, [record for record, _ in lines], "jsonl", encoding_note(decoded))
        where = f"line {problem.lineno}" if isinstance(problem, json.JSONDecodeError) else "a number"
        return _as_text(text, f"is not valid JSON ({where}); kept as plain text", out, encoding_note(decoded))
    except RecursionError:
        return _as_text(text, "is nested too deeply for JSON; kept as plain text", out, encoding_note(decoded))
    metadata = encoding_note(decoded)
    title = ""
    records: list[Any] | None = None
    if isinstance(value, list) and not isinstance(value, Pairs):
        records = value if any(isinstance(item, Pairs) for item in value) else None
    elif isinstance(value, Pairs):
        title = _title_of(value)
        lists = [(key, item) for key, item in value if _is_record_list(item)]
        if len(lists) == 1 and len(value) <= 20:  # {"version": …, "data": [records]}
            key, records = lists[0]
            out.block("\n".join(_lines(Pairs(pair for pair in value if pair[1] is not records))))
    if records is None:
        out.block("\n".join(_lines(value)))
        return out.build("json", title, metadata)
    parsed = _records(out, records, "json", metadata)
    parsed.title = title
    return parsed


def parse_jsonl(data: bytes) -> Parsed:
    """One JSON value per line, each a section; lines that are no JSON stay as they are and are counted."""
    text, decoded, removed = source_text(data)
    out = Builder(removed)
    out.warnings += decoded.warnings()
    records: list[Any] = []
    bad: list[int] = []
    for record, number in _json_lines(text):
        if isinstance(record, _Bad):
            bad.append(number)
            records.append(record.line)
        else:
            records.append(record)
    if bad:
        shown = ", ".join(map(str, bad[:10])) + (f" and {len(bad) - 10:,} more" if len(bad) > 10 else "")
        out.warnings.append(f"{len(bad):,} lines are not valid JSON and were kept as they are: {shown}")
    return _records(out, records, "jsonl", encoding_note(decoded))


class _Bad:
    """A line that is no JSON."""

    def __init__(self, line: str) -> None:
        self.line = line


def _json_lines(text: str) -> Iterator[tuple[Any, int]]:
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            yield _DECODER.decode(line.strip()), number
        except (ValueError, RecursionError):
            yield _Bad(line), number


def _as_text(text: str, warning: str, out: Builder, metadata: dict) -> Parsed:
    return Parsed(text, "json", metadata=metadata, warnings=[*out.warnings, warning], removed=out.removed)


def _is_record_list(value: Any) -> bool:
    return isinstance(value, list) and not isinstance(value, Pairs) and any(isinstance(item, Pairs) for item in value)


def _records(out: Builder, records: list[Any], format_name: str, metadata: dict) -> Parsed:
    for number, record in enumerate(records, start=1):
        if isinstance(record, Pairs):
            title = _title_of(record)
            out.block(f"Record {number}: {title}" if title else f"Record {number}", heading=1)
        body = "\n".join(_lines(record))
        out.block(body, tight=isinstance(record, Pairs))
    parsed = out.build(format_name, metadata=metadata)
    parsed.title = ""  # the first record's title is not the file's
    parsed.metadata["records"] = len(records)
    return parsed


def _title_of(record: Pairs) -> str:
    values = {key.lower(): value for key, value in reversed(record) if isinstance(value, str) and value.strip()}
    return next((one_line(values[key], _MAX_TITLE) for key in _TITLE_KEYS if key in values), "")


def _lines(value: Any) -> Iterator[str]:
    """ "path.to.key: value" per leaf; a list of plain values on one line. An explicit stack: depth costs nothing."""
    stack: list[tuple[str, Any]] = [("", value)]
    while stack:
        path, item = stack.pop()
        if isinstance(item, Pairs):
            stack += [(f"{path}.{key}" if path else str(key), below) for key, below in reversed(item)]
        elif isinstance(item, list):
            if any(isinstance(below, list) for below in item):
                stack += [(f"{path}[{i}]", below) for i, below in reversed(list(enumerate(item)))]
            elif item:
                yield _line(path, ", ".join(map(_leaf, item)))
        elif item is not None:
            yield _line(path, _leaf(item))


def _line(path: str, text: str) -> str:
    if not path:
        return text
    return f"{path}:\n{text}" if "\n" in text else f"{path}: {text}"


def _leaf(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return "null" if value is None else str(value)
