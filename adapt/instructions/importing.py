"""Files of conversations → examples, with what did not fit by reason and row. The forms themselves are in forms.py.

It knows no page and no model; Fathom's own chats come from the application, which knows their database.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

from adapt.corpus.sources import LeftOut
from adapt.instructions.example import Example, ExampleFault, Origin
from adapt.instructions.forms import (
    MENDED,
    Found,
    Reading,
    from_alpaca,
    from_examples,
    from_openai,
    from_sharegpt,
    is_alpaca,
    is_examples,
    is_openai,
    is_sharegpt,
)
from adapt.instructions.oasst import Node, Paths, Trees, conversations, is_message, is_tree, tree_of
from adapt.instructions.tables import kind_of, rows_of
from eval.data.texts import storable
from eval.runs.parts import Progress
from retrieval.errors import UsageError
from retrieval.reading.folder import shown
from retrieval.reading.normalising import one_line

Form = Literal["examples", "sharegpt", "openai", "alpaca", "oasst"]
_SHAPES: Mapping[Form, Callable[[Mapping[str, Any]], bool]] = {
    "examples": is_examples,  # before "openai", whose rows it has too
    "sharegpt": is_sharegpt,
    "openai": is_openai,
    "alpaca": is_alpaca,
    "oasst": lambda row: is_tree(row) or is_message(row),
}
_READINGS: Mapping[Form, Reading] = {
    "examples": from_examples,
    "sharegpt": from_sharegpt,
    "openai": from_openai,
    "alpaca": from_alpaca,
}
KNOWN_BY = {
    "examples": "id, messages (Fathom's own examples)",
    "sharegpt": "conversations: [{from, value}]",
    "openai": "messages: [{role, content}]",
    "alpaca": "instruction, input, output",
    "oasst": "message_tree_id and prompt, or message_id and parent_id",
}
_LOOKED_AT = 20
"""Rows at the beginning of a file by which its form is told."""


@dataclass
class Imported:
    """What became of the rows: counts, and a few examples of each reason."""

    rows: int = 0
    examples: int = 0
    forms: dict[str, str] = field(default_factory=dict)
    """File → its form."""
    left_out: LeftOut = field(default_factory=LeftOut)
    mended: LeftOut = field(default_factory=LeftOut)

    def as_json(self) -> dict[str, Any]:
        """For programs."""
        return {
            "rows": self.rows,
            "examples": self.examples,
            "forms": dict(self.forms),
            "left_out": said(self.left_out),
            "mended": said(self.mended),
        }


def said(found: LeftOut) -> dict[str, Any]:
    """Reason → {"count", "examples"}."""
    return {
        reason: {"count": count, "examples": found.examples.get(reason, [])}
        for reason, count in sorted(found.counts.items())
    }


def import_conversations(
    files: list[Path],
    into: Imported,
    *,
    form: Form | None = None,
    paths: Paths = "best",
    licence: str = "",
    progress: Progress,
) -> Iterator[Example]:
    """The examples of files, in order. `into` fills while they are read: no row is left out without being counted.

    `form` None tells it of each file by its first rows. `paths` is for trees. Raises UsageError for a file that is not
    there, is no table, or whose form cannot be told; ReadingError where it cannot be read.
    """
    if form is not None and form not in get_args(Form):
        raise UsageError(f"there is no form '{form[:40]}'; known are {', '.join(get_args(Form))}")
    for path in files:
        kind_of(path)
    for path in files:
        yield from _file(path, into, form, paths, licence, progress)


def _file(
    path: Path, into: Imported, form: Form | None, paths: Paths, licence: str, progress: Progress
) -> Iterator[Example]:
    name = one_line(storable(path.name), 200)

    def problem(number: int, reason: str, message: str) -> None:
        if number:
            into.rows += 1
        into.left_out.add(reason, f"{name} row {number}" if number else name, message)

    def lossy(number: int, reason: str, message: str) -> None:
        into.mended.add(reason, name, message)

    rows = rows_of(path, problem, lossy)
    begun: list[tuple[int, dict[str, Any]]] = []
    for entry in rows:
        begun.append(entry)
        if form is not None or len(begun) == _LOOKED_AT:
            break
    form = form or _told(path, begun)
    into.forms[name] = form

    def all_rows() -> Iterator[tuple[int, dict[str, Any]]]:
        yield from begun
        yield from rows

    before = into.examples
    for number, found in _of_form(all_rows(), form, paths, into, name, progress):
        if isinstance(found, ExampleFault):
            into.left_out.add(found.reason, f"{name} row {number}", found.message)
            continue
        for word in found.mended:
            into.mended.add(word, f"{name} row {number}", MENDED[word])
        known = found.origin
        origin = Origin(
            known.kind if known else "conversations",
            (known.source if known else "") or f"{name}#{number}",
            (known.by if known else "") or form,
            licence or (known.licence if known else ""),
        )
        into.examples += 1
        yield Example.of(found.messages, origin=origin, labels=found.labels)
    progress(f"importing {name}", into.examples - before, 0)


def _of_form(
    rows: Iterator[tuple[int, dict[str, Any]]],
    form: Form,
    paths: Paths,
    into: Imported,
    name: str,
    progress: Progress,
) -> Iterator[tuple[int, Found | ExampleFault]]:
    trees = Trees()
    for count, (number, row) in enumerate(rows):
        into.rows += 1
        if count % 256 == 0:
            progress(f"importing {name}", count, 0)
        try:
            if not _SHAPES[form](row):
                has = ", ".join(map(str, row))[:100] or "nothing"
                raise ExampleFault("form", f"is not of the form '{form}' ({KNOWN_BY[form]}); it has {has}")
            if form != "oasst":
                yield from ((number, found) for found in _READINGS[form](row))
            elif is_tree(row):
                yield from ((number, found) for found in conversations(tree_of(row), paths))
            else:
                trees.add(number, row)
        except ExampleFault as fault:
            yield number, fault
    for number, found in trees.trees():
        if isinstance(found, Node):
            yield from ((number, told) for told in conversations(found, paths))
        else:
            yield number, found


def _told(path: Path, rows: list[tuple[int, dict[str, Any]]]) -> Form:
    """The form that most of the first rows have. Raises UsageError."""
    votes = [next((form for form, fits in _SHAPES.items() if fits(row)), None) for _, row in rows]
    known = [form for form in votes if form is not None]
    if not known:
        has = ", ".join(map(str, rows[0][1]))[:150] if rows else "no row that can be read"
        raise UsageError(
            f"'{shown(str(path))}' is of no form that is known ({has}); name it with --format "
            f"({', '.join(get_args(Form))}), or map its columns: fathom data rows"
        )
    return max(dict.fromkeys(known), key=known.count)
