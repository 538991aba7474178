"""A file of chat examples, one JSON object a line (.jsonl, .jsonl.gz) → records that are sound, and back.

It knows the form of an example, not where it comes from nor what is done with it.
"""

import gzip
import hashlib
import json
import logging
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Literal, get_args

from adapt.corpus.rows import numbered_rows
from retrieval.errors import FathomError, ReadingError, UsageError
from retrieval.reading.folder import shown
from retrieval.storage.durable import sync_to_disk

Role = Literal["system", "user", "assistant"]
Kind = Literal["rows", "conversations", "self-instruct", "evolved", "grounded", "raft", "judged", "feedback"]
Decision = Literal["accepted", "edited", "rejected"]

_LOG = logging.getLogger(__name__)
MOST_MESSAGES = 1_000
LONGEST_CONTENT = 1_000_000
"""Characters of one message: ten times what any model of today reads at once."""
LONGEST_FACTS = 100_000
"""Characters of `labels` or `checks` as JSON."""
_LONGEST_WORD = 2_000
_ID = re.compile(r"[^\s\x00-\x1f\x7f](?:[^\x00-\x1f\x7f]{0,126}[^\s\x00-\x1f\x7f])?")
_SURROGATES = re.compile("[\ud800-\udfff]")
_FIELDS = ("id", "messages", "origin", "labels", "checks", "review")


class ExampleFault(UsageError):
    """Messages that no chat has. `reason` is a stable word for tables: "roles", "empty", "form", "too-large"."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message


@dataclass(frozen=True, slots=True)
class Message:
    """What one side says. Raises ExampleFault for an unknown role, nothing said, half a character, or far too much."""

    role: Role
    content: str

    def __post_init__(self) -> None:
        if self.role not in get_args(Role):
            raise ExampleFault("roles", f"has the role {str(self.role)[:40]!r}; it must be system, user or assistant")
        if not isinstance(self.content, str):
            raise ExampleFault("form", f"has a {type(self.content).__name__} for what the {self.role} says, not text")
        if not self.content.strip():
            raise ExampleFault("empty", f"has nothing in what the {self.role} says")
        if len(self.content) > LONGEST_CONTENT:
            raise ExampleFault(
                "too-large", f"has a message of {len(self.content):,} characters; {LONGEST_CONTENT:,} are the most"
            )
        if _SURROGATES.search(self.content):
            raise ExampleFault("form", "holds half a character (a lone surrogate), which no file can hold")


@dataclass(frozen=True, slots=True)
class Origin:
    """Where an example comes from: `source` is a file and row, `by` the template or the model, `licence` its terms."""

    kind: Kind
    source: str = ""
    by: str = ""
    licence: str = ""

    def __post_init__(self) -> None:
        _one_of(self.kind, get_args(Kind), "origin.kind")
        for name in ("source", "by", "licence"):
            _word(getattr(self, name), f"origin.{name}")


@dataclass(frozen=True, slots=True)
class Review:
    """What a person decided, and when (UTC, ISO 8601)."""

    decision: Decision
    note: str = ""
    at: str = ""

    def __post_init__(self) -> None:
        _one_of(self.decision, get_args(Decision), "review.decision")
        for name in ("note", "at"):
            _word(getattr(self, name), f"review.{name}")


@dataclass(frozen=True, slots=True)
class Example:
    """One conversation to learn from, sound by construction.

    At most one system message, first; then user and assistant in turn, ending with the assistant. `labels` and
    `checks` hold plain JSON values. Raises ExampleFault.
    """

    id: str
    messages: tuple[Message, ...]
    origin: Origin | None = None
    labels: Mapping[str, Any] = field(default_factory=dict)
    checks: Mapping[str, Any] = field(default_factory=dict)
    review: Review | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.id, str) or not _ID.fullmatch(self.id) or _SURROGATES.search(self.id):
            raise ExampleFault("form", f"has the id {str(self.id)[:40]!r}; an id is 1 to 128 characters on one line")
        require_turns(self.messages)
        for name in ("labels", "checks"):
            _plain_json(getattr(self, name), name)

    @classmethod
    def of(
        cls,
        messages: Sequence[Message],
        *,
        origin: Origin | None = None,
        labels: Mapping[str, Any] | None = None,
        checks: Mapping[str, Any] | None = None,
        review: Review | None = None,
    ) -> "Example":
        """An example whose id is the hash of its messages. Raises ExampleFault."""
        return cls(messages_id(messages), tuple(messages), origin, dict(labels or {}), dict(checks or {}), review)

    @property
    def rejected(self) -> bool:
        """Whether a reviewer threw it out: then nothing trains on it."""
        return self.review is not None and self.review.decision == "rejected"

    def as_json(self) -> dict[str, Any]:
        """As it stands in a file; what is not known is left out."""
        row: dict[str, Any] = {
            "id": self.id,
            "messages": [{"role": message.role, "content": message.content} for message in self.messages],
        }
        if self.origin is not None:
            row["origin"] = _filled(self.origin, ("kind", "source", "by", "licence"))
        for name in ("labels", "checks"):
            if getattr(self, name):
                row[name] = dict(getattr(self, name))
        if self.review is not None:
            row["review"] = _filled(self.review, ("decision", "note", "at"))
        return row


def messages_id(messages: Iterable[Message]) -> str:
    """32 hexadecimal digits that change with any role or character of the messages."""
    said = json.dumps([[message.role, message.content] for message in messages], ensure_ascii=True)
    return hashlib.sha256(said.encode("ascii")).hexdigest()[:32]


def require_turns(messages: Sequence[Message]) -> None:
    """Raises ExampleFault ("roles", "too-large") where the messages do not take turns as in `Example`."""
    if len(messages) > MOST_MESSAGES:
        raise ExampleFault("too-large", f"has {len(messages):,} messages; {MOST_MESSAGES:,} are the most")
    turns = messages[1:] if messages and messages[0].role == "system" else messages
    if not turns:
        raise ExampleFault("roles", "has no question and no answer")
    for place, message in enumerate(turns):
        expected = "assistant" if place % 2 else "user"
        if message.role != expected:
            number = len(messages) - len(turns) + place + 1
            raise ExampleFault("roles", f"has the role {message.role!r} in message {number}, where {expected!r} is due")
    if turns[-1].role != "assistant":
        raise ExampleFault("roles", "ends with the user: there is no answer to learn")


def example_of(row: Mapping[str, Any]) -> Example:
    """The example in one JSON object. Raises ExampleFault that says what is wrong with it."""
    for name in row:
        if name not in _FIELDS:
            raise ExampleFault("form", f"has the field {str(name)[:40]!r}; an example has {', '.join(_FIELDS)}")
    for name in ("id", "messages"):
        if name not in row:
            raise ExampleFault("form", f"lacks {name!r}; it has {', '.join(map(str, row))[:80] or 'nothing'}")
    found = row["messages"]
    if not isinstance(found, list):
        raise ExampleFault("form", f"has a {type(found).__name__} for 'messages', not a list")
    messages = []
    for number, entry in enumerate(found[: MOST_MESSAGES + 1], 1):
        if not isinstance(entry, Mapping) or set(entry) != {"role", "content"}:
            raise ExampleFault("form", f"has a message {number} that is not just a 'role' and a 'content'")
        messages.append(Message(entry["role"], entry["content"]))
    origin, review = _object(row, "origin"), _object(row, "review")
    return Example(
        row["id"],
        tuple(messages),
        Origin(**_known(origin, "origin", ("kind", "source", "by", "licence"), "kind")) if origin else None,
        _object(row, "labels"),
        _object(row, "checks"),
        Review(**_known(review, "review", ("decision", "note", "at"), "decision")) if review else None,
    )


def numbered_examples(path: Path) -> Iterator[tuple[int, Example]]:
    """As `read_examples`, with the numbers of the lines from 1."""
    require_name(path)
    real = Path(os.path.realpath(path))
    if not real.is_file():
        raise ReadingError(shown(str(path)), "vanished", "there is no such file of examples.")

    def lossy(places: int) -> None:
        raise ReadingError(shown(str(path)), "encoding", f"is not UTF-8 in {places:,} places; save it as UTF-8.")

    for number, row in numbered_rows(real, None, None, lossy):
        try:
            example = example_of(row)
        except ExampleFault as fault:
            raise ReadingError(shown(str(path)), fault.reason, f"line {number} {fault.message}.") from fault
        yield number, example


def read_examples(path: Path) -> Iterator[Example]:
    """The examples of a .jsonl or .jsonl.gz file, in order, rejected ones too.

    Decisions of a review that lie beside the file are not in them; that is logged, so that nobody trains past them.
    Raises UsageError for another kind of file, ReadingError with the line for what is no example.
    """
    if reviews_beside(path).is_file():
        _LOG.warning(
            "%s holds decisions about %s that are not in it: write them out with 'fathom data reviewed'",
            reviews_beside(path),
            path.name,
        )
    return (example for _, example in numbered_examples(path))


def write_examples(path: Path, examples: Iterable[Example]) -> int:
    """Write a .jsonl or .jsonl.gz file whole or not at all (beside it, to the disk, renamed); how many there are.

    `examples` may read from `path` itself. Raises UsageError for another kind of name, FathomError where it cannot be
    written, and whatever `examples` raises; then the old file is left as it was.
    """
    require_name(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.new")
    count = 0
    try:
        with temporary.open("wb") as file:
            for count, line in enumerate(_lines(path, file, examples), 1):  # noqa: B007
                del line
        sync_to_disk(temporary)
        os.replace(temporary, path)
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise FathomError(
                f"'{shown(str(path))}' cannot be written ({error.strerror or error}); name another place"
            ) from error
        raise
    sync_to_disk(path.parent)
    return count


def _lines(path: Path, file: IO[bytes], examples: Iterable[Example]) -> Iterator[int]:
    """Write a line for each example, and yield its length. The time and the name are no part of a gzip file made
    here, so that the same examples give the same bytes."""
    packed = path.name.lower().endswith(".gz")
    out = gzip.GzipFile("", "wb", 6, file, mtime=0) if packed else file
    for example in examples:
        yield out.write(json.dumps(example.as_json(), ensure_ascii=False, allow_nan=False).encode() + b"\n")
    if packed:
        out.close()


def reviews_beside(path: Path) -> Path:
    """Where the decisions about a file of examples lie (adapt/instructions/reviews.py)."""
    return path.with_name(path.name.removesuffix(".gz").removesuffix(".jsonl") + ".reviews.jsonl")


def require_name(path: Path) -> None:
    """Raises UsageError for a name that is not that of a file of examples."""
    if not path.name.lower().endswith((".jsonl", ".jsonl.gz")):
        raise UsageError(f"'{shown(str(path))}' is not named like a file of examples, .jsonl or .jsonl.gz")


# --- fields ----------------------------------------------------------------------------------------------------------


def _object(row: Mapping[str, Any], name: str) -> dict[str, Any]:
    value = row.get(name)
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise ExampleFault("form", f"has a {type(value).__name__} for {name!r}, not an object")
    return dict(value)


def _known(value: Mapping[str, Any], name: str, fields: Sequence[str], required: str) -> dict[str, Any]:
    for key in value:
        if key not in fields:
            raise ExampleFault("form", f"has {str(key)[:40]!r} in {name!r}, which has {', '.join(fields)}")
    if required not in value:
        raise ExampleFault("form", f"lacks {required!r} in {name!r}")
    return dict(value)


def _one_of(value: object, words: Sequence[str], name: str) -> None:
    if value not in words:
        raise ExampleFault("form", f"has {str(value)[:40]!r} for {name}; it is one of {', '.join(words)}")


def _word(value: object, name: str) -> None:
    if not isinstance(value, str) or len(value) > _LONGEST_WORD or _SURROGATES.search(value):
        raise ExampleFault("form", f"has something else than a text of up to {_LONGEST_WORD:,} characters for {name}")


def _plain_json(value: Mapping[str, Any], name: str) -> None:
    try:
        said = json.dumps(value, allow_nan=False, ensure_ascii=False)
        said.encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise ExampleFault("form", f"has something in {name!r} that is no plain JSON ({error})") from error
    if len(said) > LONGEST_FACTS:
        raise ExampleFault("too-large", f"has {len(said):,} characters in {name!r}; {LONGEST_FACTS:,} are the most")


def _filled(record: object, names: Sequence[str]) -> dict[str, str]:
    return {name: getattr(record, name) for name in names if getattr(record, name)}
