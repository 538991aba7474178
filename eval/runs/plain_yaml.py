"""A YAML file from anybody → plain values, each with the line it begins on. It knows no key.

Tags, aliases, merges, double keys, depth and size beyond sense are refused before anything is built from them.
"""

import difflib
import re
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from retrieval.errors import UsageError

if TYPE_CHECKING:
    from yaml.nodes import Node

MAX_FILE_BYTES = 256 * 1024
MAX_DEPTH = 12


@dataclass(frozen=True, slots=True)
class Value:
    """A value of the file with the line it begins on."""

    line: int
    content: Any
    """Plain for a scalar; a dict of text to `Value` for a mapping, a list of `Value` for a sequence."""
    place: str = ""
    """Where it was written, if not in the file: an option of the command line."""

    def plain(self) -> Any:
        """The same as Python's own dicts, lists and scalars."""
        if isinstance(self.content, dict):
            return {key: value.plain() for key, value in self.content.items()}
        if isinstance(self.content, list):
            return [value.plain() for value in self.content]
        return self.content

    @property
    def where(self) -> str:
        """For people: "line 7"."""
        return self.place or f"line {self.line}"


def hint(word: str, known: Collection[str]) -> str:
    """The nearest of the known words, or all of them."""
    close = difflib.get_close_matches(word, known, n=1)
    return f"did you mean '{close[0]}'?" if close else f"known are {', '.join(known)}"


def read_yaml(path: Path, *, what: str, needs: str, instead: str) -> Value:
    """The one document of a file. `what` the file is ("suite"), the key it `needs`, and what stands `instead` of
    aliases, are for the errors. Raises UsageError for what is not plain YAML of a sensible size and depth."""
    try:
        with path.open("rb") as stream:
            data = stream.read(MAX_FILE_BYTES + 1)
    except FileNotFoundError as error:
        raise UsageError(f"there is no file '{path}'; give the path of a {what}, a YAML file") from error
    except IsADirectoryError as error:
        raise UsageError(f"'{path}' is a folder; give the path of a {what}, a YAML file in it, say") from error
    except OSError as error:
        raise UsageError(f"the {what} {path} cannot be read: {error.strerror}") from error
    except ValueError as error:  # a NUL in the path
        raise UsageError(f"the {what} {str(path)[:200]!r} cannot be read: {error}") from error
    if len(data) > MAX_FILE_BYTES:
        raise UsageError(f"{path} is larger than {MAX_FILE_BYTES // 1024} KB, which no {what} needs; shorten it")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UsageError(f"{path} is not UTF-8 text (byte {error.start}); save it as UTF-8") from error
    found = parse_yaml(text, name=str(path), what=what, instead=instead)
    if found is None:
        raise UsageError(f"{path} is empty; a {what} has {needs}")
    return found


def parse_yaml(text: str, *, name: str, what: str, instead: str) -> Value | None:
    """`text` as values; None where it holds nothing. `name` stands before each error. Raises UsageError."""
    import yaml

    try:
        depth = 0
        for event in yaml.parse(text, Loader=yaml.SafeLoader):  # flat, where composing descends for every level
            line = event.start_mark.line + 1  # type: ignore[union-attr]
            if isinstance(event, yaml.AliasEvent):
                raise UsageError(f"{name}, line {line}: a {what} has no aliases ('*name'); {instead}")
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            if depth > MAX_DEPTH:
                raise UsageError(f"{name}, line {line}: nested deeper than any {what} is; shorten it")
        loader = yaml.SafeLoader(text)
        try:
            node = loader.get_single_node()
            return None if node is None else _value(name, what, loader, node)
        finally:
            loader.dispose()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f", line {mark.line + 1}" if mark is not None else ""
        raise UsageError(f"{name}{where} is not valid YAML: {error.problem or error.context}") from error
    except (yaml.YAMLError, ValueError) as error:
        raise UsageError(f"{name} is not valid YAML: {' '.join(str(error).split())[:200]}") from error


def _value(name: str, what: str, loader: Any, node: "Node") -> Value:
    """A node as plain values. Keys are taken as they are written: YAML 1.1 reads a key `on` as true."""
    import yaml

    line = node.start_mark.line + 1
    if isinstance(node, yaml.CollectionNode) and node.tag not in _PLAIN_TAGS:
        raise UsageError(f"{name}, line {line}: the tag '{node.tag[:80]}' has no place in a {what}; remove it")
    if isinstance(node, yaml.SequenceNode):
        return Value(line, [_value(name, what, loader, item) for item in node.value])
    if not isinstance(node, yaml.MappingNode):
        style = node.style if isinstance(node, yaml.ScalarNode) else None
        if node.tag == "tag:yaml.org,2002:str" and style is None and re.fullmatch(_EXPONENT, node.value):
            return Value(line, float(node.value))
        return Value(line, loader.construct_object(node))
    content: dict[str, Value] = {}
    for key, item in node.value:
        at = key.start_mark.line + 1
        if not isinstance(key, yaml.ScalarNode) or key.tag == "tag:yaml.org,2002:merge":
            raise UsageError(f"{name}, line {at}: a key must be a word")
        if key.value in content:
            raise UsageError(f"{name}, line {at}: the key '{key.value[:80]}' is given twice; keep one")
        content[key.value] = Value(at, _value(name, what, loader, item).content)
    return Value(line, content)


_PLAIN_TAGS = ("tag:yaml.org,2002:map", "tag:yaml.org,2002:seq")
# YAML 1.1 wants a point in 1.0e-3; who writes 1e-3 means the number too.
_EXPONENT = r"[+-]?\d+(\.\d*)?[eE][+-]?\d+"
