"""A small YAML file that says which columns of a table are question and answer → checked. It opens no table."""

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

from adapt.instructions.example import LONGEST_CONTENT
from adapt.instructions.templates import FIELDS, Template, fields_of
from eval.runs.plain_yaml import Value, hint, read_yaml
from retrieval.errors import UsageError
from retrieval.prompts import Language

Direction = Literal["forward", "inverted", "both"]
_KEYS = (
    "question", "answer", "context", "columns", "direction", "language", "per_row", "seed", "where",
    "templates", "labels", "licence",
)  # fmt: skip
_TEMPLATE_KEYS = ("user", "assistant", "system", "name", "language", "direction")
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,39}")
MOST_PER_ROW = 20


@dataclass(frozen=True)
class RowMapping:
    """Which columns of a table make examples, and how."""

    columns: dict[str, str]
    """Name of a field in templates → column of the table; "question" and "answer" always, "context" often."""
    direction: Direction = "forward"
    """forward: the question is asked, the answer learnt; inverted: from the answer the question is written; both."""
    language: Language | None = None
    """Of Fathom's own templates; None tells it of each question."""
    per_row: int = 1
    """Templates drawn for each row and direction, no two the same."""
    seed: int = 0
    where: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """Column → the values of the rows that are taken; others are counted as left out."""
    templates: tuple[Template, ...] = ()
    """In the place of Fathom's own."""
    labels: dict[str, Any] = field(default_factory=dict)
    """Given to every example as they are."""
    licence: str = ""

    @property
    def directions(self) -> tuple[Literal["forward", "inverted"], ...]:
        """One or both, in order."""
        return ("forward", "inverted") if self.direction == "both" else (self.direction,)

    @property
    def needed(self) -> list[str]:
        """Columns that the table must have, each once."""
        return list(dict.fromkeys([*self.columns.values(), *self.where]))

    def require(self, there: Collection[str], place: str) -> None:
        """Raises UsageError for columns that the table does not have, with the nearest of those it has."""
        wrong = [
            f"there is no column '{name[:80]}'; {hint(name, list(there)[:60])}"
            for name in self.needed
            if name not in there and name.partition(".")[0] not in there
        ]
        if wrong:
            raise UsageError("\n".join(f"{place}: {sentence}" for sentence in wrong))


def load_mapping(path: Path) -> RowMapping:
    """Read and check a mapping.

        question: Question                # a column
        answer: Answer                    # a column
        context: passage                  # a column, if there is one
        columns: {topic: category}        # further fields for templates of your own
        direction: both                   # forward (else), inverted, both
        where: {split: train}             # only rows with this value, or one of a list
        templates:                        # else Fathom's own, English or Chinese
          - {user: "{question} ({topic})", assistant: "{answer}"}

    Raises UsageError with all problems together, each with its line.
    """
    return _MappingFile(path).mapping()


class _MappingFile:
    def __init__(self, path: Path) -> None:
        self.path = path
        self.problems: list[str] = []
        self.top = read_yaml(path, what="mapping", needs="'question:' and 'answer:'", instead="write it out")
        if not isinstance(self.top.content, dict):
            raise UsageError(f"{path}, line {self.top.line}: a mapping must be keys with values, one a line")
        self.keys: dict[str, Value] = self.top.content

    def mapping(self) -> RowMapping:
        for key, value in self.keys.items():
            if key not in _KEYS:
                self._wrong(value, f"'{key[:60]}' is no key of a mapping; {hint(key, _KEYS)}")
        columns = self._columns()
        direction = self._one_of("direction", get_args(Direction), "forward")
        language = self._one_of("language", ("auto", *get_args(Language)), "auto")
        templates = self._templates(columns)
        found = RowMapping(
            columns=columns,
            direction=direction,
            language=None if language == "auto" else language,
            per_row=self._number("per_row", 1, 1, MOST_PER_ROW),
            seed=self._number("seed", 0, 0, 2**53),
            where=self._where(),
            templates=templates,
            labels=self._labels(),
            licence=self._text("licence", ""),
        )
        if not self.problems and templates:
            for wanted in found.directions:
                if not any(template.direction == wanted for template in templates):
                    self._wrong(self.keys["templates"], f"none of the templates is for the direction '{wanted}'")
        if self.problems:
            raise UsageError("\n".join(self.problems))
        return found

    def _wrong(self, value: Value, sentence: str) -> None:
        self.problems.append(f"{self.path}, {value.where}: {sentence}")

    def _columns(self) -> dict[str, str]:
        columns: dict[str, str] = {}
        for name in FIELDS:
            column = self._text(name, "")
            if column:
                columns[name] = column
            elif name != "context":
                self._wrong(self.keys.get(name, self.top), f"'{name}:' must name a column")
        more = self.keys.get("columns")
        for name, value in self._mapping("columns", more).items():
            if name in FIELDS or not _NAME.fullmatch(name):
                self._wrong(
                    value, f"'{name[:40]}' cannot be a field; use letters and digits, and no {', '.join(FIELDS)}"
                )
            elif not isinstance(value.content, str) or not value.content.strip():
                self._wrong(value, f"the field '{name}' must name a column")
            else:
                columns[name] = value.content
        return columns

    def _templates(self, columns: Collection[str]) -> tuple[Template, ...]:
        given = self.keys.get("templates")
        if given is None:
            return ()
        if not isinstance(given.content, list) or not given.content:
            self._wrong(given, "'templates:' must be a list, each entry {user: …, assistant: …}")
            return ()
        return tuple(
            found
            for number, entry in enumerate(given.content, 1)
            if (found := self._template(entry, number, columns)) is not None
        )

    def _template(self, entry: Value, number: int, columns: Collection[str]) -> Template | None:
        if not isinstance(entry.content, dict):
            self._wrong(entry, "a template must be {user: …, assistant: …}")
            return None
        before = len(self.problems)
        words: dict[str, str] = {}
        for key, value in entry.content.items():
            if key not in _TEMPLATE_KEYS:
                self._wrong(value, f"'{key[:60]}' is no key of a template; {hint(key, _TEMPLATE_KEYS)}")
            elif not isinstance(value.content, str) or len(value.content) > LONGEST_CONTENT // 10:
                self._wrong(value, f"'{key}' of a template must be text")
            else:
                words[key] = value.content
                if key in ("user", "assistant", "system"):
                    self._fields(value, columns)
        for key in ("user", "assistant"):
            if not words.get(key, "").strip():
                self._wrong(entry, f"the template lacks '{key}'")
        language, direction = words.get("language", ""), words.get("direction", "forward")
        if language and language not in get_args(Language):
            self._wrong(
                entry, f"a template's language is one of {', '.join(get_args(Language))}, not '{language[:40]}'"
            )
        if direction not in ("forward", "inverted"):
            self._wrong(entry, f"a template's direction is forward or inverted, not '{direction[:40]}'")
        if len(self.problems) > before:
            return None
        return Template(
            name=words.get("name", f"template-{number}")[:100],
            user=words["user"],
            assistant=words["assistant"],
            system=words.get("system", ""),
            direction="inverted" if direction == "inverted" else "forward",
            language="zh" if language == "zh" else "en" if language else None,
        )

    def _fields(self, value: Value, columns: Collection[str]) -> None:
        for name in fields_of(value.content):
            if name not in columns:
                self._wrong(value, f"'{{{name}}}' is no field; {hint(name, list(columns))}")

    def _where(self) -> dict[str, tuple[str, ...]]:
        found: dict[str, tuple[str, ...]] = {}
        for column, value in self._mapping("where", self.keys.get("where")).items():
            items = [item.content for item in value.content] if isinstance(value.content, list) else [value.content]
            if not items or any(isinstance(item, dict | list) or item is None for item in items):
                self._wrong(value, f"'{column[:60]}' must be a value or a list of values")
                continue
            found[column] = tuple(as_word(item) for item in items)
        return found

    def _labels(self) -> dict[str, Any]:
        labels = {}
        for name, value in self._mapping("labels", self.keys.get("labels")).items():
            if isinstance(value.content, str | int | float | bool):
                labels[name] = value.content
            else:
                self._wrong(value, f"the label '{name[:60]}' must be a word, a number, true or false")
        return labels

    def _mapping(self, key: str, value: Value | None) -> dict[str, Value]:
        if value is None:
            return {}
        if not isinstance(value.content, dict):
            self._wrong(value, f"'{key}:' must be keys with values")
            return {}
        return value.content

    def _text(self, key: str, otherwise: str) -> str:
        value = self.keys.get(key)
        if value is None:
            return otherwise
        if not isinstance(value.content, str) or not value.content.strip():
            self._wrong(value, f"'{key}:' must be text; put it into quotes")
            return otherwise
        return value.content

    def _one_of(self, key: str, words: Sequence[str], otherwise: str) -> Any:
        value = self.keys.get(key)
        if value is None:
            return otherwise
        if value.content not in words:
            self._wrong(value, f"'{key}: {str(value.content)[:40]}' is not known; {hint(str(value.content), words)}")
            return otherwise
        return value.content

    def _number(self, key: str, otherwise: int, least: int, most: int) -> int:
        value = self.keys.get(key)
        if value is None:
            return otherwise
        if isinstance(value.content, bool) or not isinstance(value.content, int) or not least <= value.content <= most:
            self._wrong(value, f"'{key}:' must be a whole number from {least} to {most:,}")
            return otherwise
        return value.content


def as_word(value: Any) -> str:
    """A cell or a value of `where` as it is compared: true and 1 of a YAML are "true" and "1" of a CSV."""
    return str(value).lower() if isinstance(value, bool) else str(value).strip()
