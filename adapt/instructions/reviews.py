"""What people decide about examples → a file of decisions beside the examples, safe from crashes and from each other.

Every decision is one line that is appended and on the disk before anybody is told it was kept; the newest line of an
example counts. It knows no page.
"""

import fcntl
import json
import logging
import os
import threading
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, get_args

from adapt.instructions.example import (
    Decision,
    Example,
    ExampleFault,
    Message,
    Review,
    messages_id,
    numbered_examples,
    require_turns,
    reviews_beside,
)
from eval.runs.run_folder import now
from retrieval.errors import BusyError, DamagedError, FathomError, ReadingError
from retrieval.storage.durable import sync_to_disk

_LOG = logging.getLogger(__name__)
OPEN = "open"
STATES = (OPEN, *get_args(Decision))
LONGEST_NOTE = 2_000


@dataclass(frozen=True, slots=True)
class Decided:
    """The newest decision about an example. `decision` "open" takes an earlier one back; `messages` are what it was
    edited to; `version` counts the decisions about this example."""

    decision: str
    messages: tuple[Message, ...] | None
    note: str
    at: str
    version: int

    def as_json(self, example: str) -> dict[str, Any]:
        row: dict[str, Any] = {"id": example, "decision": self.decision, "version": self.version, "at": self.at}
        if self.note:
            row["note"] = self.note
        if self.messages is not None:
            row["messages"] = [{"role": message.role, "content": message.content} for message in self.messages]
        return row


class Overtaken(FathomError):
    """Somebody else has decided about this example since it was shown; their decision is kept."""


class Reviews:
    """The examples of a file with what was decided about each. Safe from any thread and for several processes.

    `examples` are in memory, each once by its id: what is decided counts for all that say the same.
    """

    def __init__(self, path: Path) -> None:
        """Read both files. Raises UsageError, ReadingError for examples that are not sound, DamagedError where a
        decision is not what was written; the beginning of a line that a crash cut off is put away."""
        self.path = path
        self.place = reviews_beside(path)
        self._guard = threading.RLock()
        self.examples: dict[str, Example] = {}
        for _, example in numbered_examples(path):
            known = self.examples.get(example.id)
            if known is not None and known.messages != example.messages:
                raise ReadingError(
                    str(path),
                    "duplicate-id",
                    f"two different examples have the id '{example.id}'; 'fathom data check' gives each its own.",
                )
            self.examples.setdefault(example.id, example)
        if not self.examples:
            raise ReadingError(str(path), "empty", "holds no example to review.")
        self.order = list(self.examples)
        self._decided: dict[str, Decided] = {}
        self._read_to = 0
        with self._locked():
            self._catch_up(repair=True)

    @staticmethod
    def decisions_beside(path: Path) -> dict[str, Decided]:
        """What was decided about the examples of a file so far; nothing where nobody has. Raises DamagedError."""
        place = reviews_beside(path)
        try:
            data = place.read_bytes() if place.is_file() else b""
        except OSError as error:
            raise DamagedError(f"{place} cannot be read ({error.strerror or error})") from error
        return dict(_decisions(data, place, {}, 0))

    def decided(self, example: str) -> Decided | None:
        """The newest decision, also one of another process; None where there is none or it was taken back."""
        self.refresh()
        with self._guard:
            found = self._decided.get(example)
        return found if found is not None and found.decision != OPEN else None

    def version(self, example: str) -> int:
        """How often this example was decided about."""
        with self._guard:
            found = self._decided.get(example)
        return found.version if found is not None else 0

    def state(self, example: str) -> str:
        """One of `STATES`: what was decided here, else what the file says."""
        with self._guard:
            found = self._decided.get(example)
        if found is not None:
            return found.decision
        review = self.examples[example].review
        return review.decision if review is not None else OPEN

    def messages(self, example: str) -> tuple[Message, ...]:
        """As they are now: edited, or as in the file."""
        with self._guard:
            found = self._decided.get(example)
        if found is not None and found.decision == "edited" and found.messages is not None:
            return found.messages
        return self.examples[example].messages

    def note(self, example: str) -> str:
        """What was noted with the newest decision."""
        with self._guard:
            found = self._decided.get(example)
        review = self.examples[example].review
        return found.note if found is not None else review.note if review is not None else ""

    def counts(self) -> dict[str, int]:
        """State → examples; every state is there."""
        found = Counter(self.state(example) for example in self.order)
        return {state: found[state] for state in STATES}

    def refresh(self) -> None:
        """Take in what other processes decided. Raises DamagedError."""
        with self._guard:
            try:
                size = self.place.stat().st_size
            except FileNotFoundError:
                return
            if size != self._read_to:
                with self._locked():
                    self._catch_up()

    def decide(
        self,
        example: str,
        decision: str,
        *,
        seen: int,
        messages: Sequence[Message] | None = None,
        note: str = "",
    ) -> Decided:
        """Keep a decision; when this returns it is on the disk. `seen` is the version that the person was shown.

        Raises ExampleFault for an unknown example or decision, or messages that no chat has, Overtaken where somebody
        else decided in between, FathomError where it cannot be written.
        """
        if example not in self.examples:
            raise ExampleFault("form", f"there is no example '{example[:40]}' in {self.path.name}")
        if decision not in STATES:
            raise ExampleFault("form", f"'{decision[:40]}' is no decision; it is one of {', '.join(STATES)}")
        if (decision == "edited") != (messages is not None):
            raise ExampleFault("form", "an edited example has messages, and only an edited one")
        if messages is not None:
            require_turns(messages)
        note = " ".join(note.split())[:LONGEST_NOTE]
        with self._guard, self._locked():
            self._catch_up(repair=True)
            version = self.version(example)
            if version != seen:
                raise Overtaken("this example was decided about in another tab meanwhile; that decision is kept")
            found = Decided(decision, tuple(messages) if messages is not None else None, note, now(), version + 1)
            self._append(json.dumps(found.as_json(example), ensure_ascii=False).encode() + b"\n")
            self._decided[example] = found
        return found

    def reviewed(self, *, only: Sequence[str] = STATES) -> Iterator[Example]:
        """The examples in the order of the file with the decisions in them, those in the states `only`.

        An edited one has its new messages, the id of these, and the old id as the label "edited_from".
        """
        for name in self.order:
            if self.state(name) not in only:
                continue
            example, found = self.examples[name], self._decided.get(name)
            if found is None:
                yield example
            elif found.decision == OPEN:
                yield replace(example, review=None)
            elif found.decision == "edited" and found.messages is not None:
                review = Review("edited", found.note, found.at)
                labels = {**example.labels, "edited_from": example.id}
                yield replace(
                    example, id=messages_id(found.messages), messages=found.messages, labels=labels, review=review
                )
            else:
                yield replace(example, review=Review(found.decision, found.note, found.at))  # type: ignore[arg-type]

    # --- the file -----------------------------------------------------------------------------------------------------

    def _locked(self) -> "_Lock":
        return _Lock(self.place)

    def _append(self, line: bytes) -> None:
        is_new = not self.place.exists()
        try:
            handle = os.open(self.place, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644)
            try:
                written = os.write(handle, line)
                if written != len(line):  # a full disk: no half line may stay
                    os.ftruncate(handle, self._read_to)
                    raise OSError(28, "the disk is full")
                os.fsync(handle)
            finally:
                os.close(handle)
            if is_new:
                sync_to_disk(self.place.parent)
        except OSError as error:
            raise FathomError(
                f"the decision could not be kept in {self.place} ({error.strerror or error}); free some space or see "
                "who owns it, then decide again"
            ) from error
        self._read_to += len(line)

    def _catch_up(self, *, repair: bool = False) -> None:
        """Read what was appended since; with `repair` cut off what a crash left of a line."""
        try:
            with self.place.open("rb") as file:
                size = os.fstat(file.fileno()).st_size
                if size < self._read_to:
                    raise DamagedError(f"{self.place} was changed by another program; restart the review")
                file.seek(self._read_to)
                data = file.read()
        except FileNotFoundError:
            if self._read_to:
                raise DamagedError(f"{self.place} was removed by another program; restart the review") from None
            return
        except OSError as error:
            raise DamagedError(f"{self.place} cannot be read ({error.strerror or error})") from error
        whole = data[: data.rfind(b"\n") + 1]
        if len(whole) < len(data) and repair:
            _LOG.warning("%s ends in half a line, which a crash left; it is cut off", self.place)
            os.truncate(self.place, self._read_to + len(whole))
        self._decided.update(_decisions(whole, self.place, self._decided, self._read_to))
        self._read_to += len(whole)


def _decisions(data: bytes, place: Path, before: Mapping[str, Decided], start: int) -> Iterator[tuple[str, Decided]]:
    """The decisions in whole lines, each with its version. Raises DamagedError."""
    versions = {name: found.version for name, found in before.items()}
    at = start
    for line in data[: data.rfind(b"\n") + 1].splitlines(keepends=True):
        at += len(line)
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            name, decision = row["id"], row["decision"]
            messages = row.get("messages")
            if not isinstance(name, str) or decision not in STATES:
                raise ValueError("no decision")
            edited = None
            if messages is not None:
                edited = tuple(Message(entry["role"], entry["content"]) for entry in messages)
                require_turns(edited)
            if (decision == "edited") != (edited is not None):
                raise ValueError("no messages")
            note, moment = str(row.get("note", ""))[:LONGEST_NOTE], str(row.get("at", ""))[:40]
        except (ValueError, KeyError, TypeError, RecursionError, ExampleFault) as error:
            raise DamagedError(
                f"{place} is not what was written (before byte {at:,}: {str(error)[:100]}); take that line out"
            ) from error
        versions[name] = versions.get(name, 0) + 1
        yield name, Decided(decision, edited, note, moment, versions[name])


class _Lock:
    """One process at a time, by a lock file beside the decisions, held for milliseconds."""

    def __init__(self, place: Path) -> None:
        self._path = place.with_name(f".{place.name}.lock")
        self._handle = -1

    def __enter__(self) -> None:
        try:
            self._handle = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644)
            fcntl.flock(self._handle, fcntl.LOCK_EX)
        except OSError as error:
            if self._handle >= 0:
                os.close(self._handle)
            raise BusyError(f"{self._path} cannot be locked ({error.strerror or error}); see who owns it") from error

    def __exit__(self, *_: object) -> None:
        os.close(self._handle)
