"""Conversations and their turns in one SQLite file of the workspace. Where that cannot be written, in memory, and
`problem` says so. It knows nothing of answering or of the page.
"""

import contextlib
import logging
import os
import secrets
import sqlite3
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar, get_args
from urllib.parse import quote

from app.chat.turns import Asked, State, Turn, read_record
from retrieval.errors import BusyError
from retrieval.storage.locking import WriterLock

T = TypeVar("T")
_log = logging.getLogger(__name__)

SCHEMA_VERSION = 1
BUSY_SECONDS = 5.0
"""How long a write waits for another program that holds the file."""
TITLE_CHARACTERS = 80
MAX_TITLE_CHARACTERS = 200
"""Of a title that a person wrote."""

# AUTOINCREMENT: the number of a deleted turn never comes back, so that an old link cannot mean another turn.
_TABLES = (
    """CREATE TABLE conversations (
  id TEXT PRIMARY KEY, title TEXT NOT NULL, created REAL NOT NULL, updated REAL NOT NULL, asked TEXT NOT NULL)""",
    """CREATE TABLE turns (
  id INTEGER PRIMARY KEY AUTOINCREMENT, chat TEXT NOT NULL REFERENCES conversations(id) ON DELETE CASCADE,
  began REAL NOT NULL, question TEXT NOT NULL, state TEXT NOT NULL, text TEXT NOT NULL, refused INTEGER NOT NULL,
  model TEXT NOT NULL, replaces INTEGER, replaced INTEGER, record TEXT NOT NULL)""",
    "CREATE INDEX turns_chat ON turns (chat, id)",
    "CREATE INDEX conversations_updated ON conversations (updated)",
)
TURN_COLUMNS = "id, chat, began, question, state, text, refused, model, replaces, record"


@dataclass(frozen=True, slots=True)
class Conversation:
    """A row of the list; `asked` are the settings it was last used with."""

    id: str
    title: str
    created: float
    updated: float
    asked: Asked


class _Unusable(Exception):
    """The file cannot be used; the argument is the word for why."""


class Conversations:
    """Safe from any thread. A method that changes something returns when the change is on the disk.

    One server has the file at a time (WriterLock: SQLite up to 3.51.2 can damage a WAL file that two connections
    checkpoint at once). `path` None keeps everything in memory by intention.
    """

    def __init__(self, path: Path | None, *, busy_seconds: float = BUSY_SECONDS) -> None:
        """Opens, makes or repairs nothing but this: turns that a killed server left running become `cut`."""
        self.path = path
        self._problem = ""
        self._guard = threading.RLock()
        self._deleted: set[str] = set()
        self._lock: WriterLock | None = None
        self._closed = False
        self._busy_seconds = busy_seconds
        if path is None:
            self._db = _memory()
            return
        try:
            self._lock = self._acquire(path)
            self._db = self._open(path)
            self._do(lambda db: db.execute("UPDATE turns SET state = 'cut' WHERE state = 'running'"))
        except (_Unusable, sqlite3.Error, OSError) as error:
            self._go_on_in_memory(error, None)

    @property
    def problem(self) -> str:
        """Why nothing is being saved, as one word (busy, damaged, newer, full, unwritable); empty if all is well."""
        return self._problem

    def close(self) -> None:
        """Close the file. Calling it twice does nothing."""
        with self._guard:
            self._closed = True
            self._db.close()
            if self._lock is not None:
                self._lock.release()
                self._lock = None

    # -- conversations ---------------------------------------------------------------------------------------------

    def newest(self, limit: int = 200) -> list[Conversation]:
        """The conversations, the one used last first."""
        sql = "SELECT id, title, created, updated, asked FROM conversations ORDER BY updated DESC, id LIMIT ?"
        return self._do(lambda db: [_conversation(row) for row in db.execute(sql, (limit,))], write=False)

    def conversation(self, chat: str) -> Conversation | None:
        """None if there is no such conversation."""
        sql = "SELECT id, title, created, updated, asked FROM conversations WHERE id = ?"
        rows = self._do(lambda db: db.execute(sql, (chat,)).fetchall(), write=False)
        return _conversation(rows[0]) if rows else None

    def rename(self, chat: str, title: str) -> None:
        """Give a conversation another title; an empty one changes nothing."""
        title = " ".join(title.split())[:MAX_TITLE_CHARACTERS]
        if title:
            self._do(lambda db: db.execute("UPDATE conversations SET title = ? WHERE id = ?", (title, chat)))

    def delete(self, chat: str) -> None:
        """Remove a conversation with all its turns, for good; what is saved to it later is dropped."""
        self._deleted.add(chat)
        self._do(lambda db: db.execute("DELETE FROM conversations WHERE id = ?", (chat,)))

    def remember(self, chat: str, asked: Asked) -> None:
        """Keep the settings that a conversation goes on with."""
        self._do(lambda db: db.execute("UPDATE conversations SET asked = ? WHERE id = ?", (asked.to_json(), chat)))

    # -- turns -----------------------------------------------------------------------------------------------------

    def begin(self, chat: str, question: str, asked: Asked, replaces: int | None = None) -> Turn:
        """A new turn, running; its conversation is made where there is none (`chat` empty: under a new id)."""
        chat = chat or secrets.token_urlsafe(9)
        turn = Turn(0, chat, question, asked, time.time(), replaces=replaces)

        def work(db: sqlite3.Connection) -> int:
            _ensure(db, turn)
            db.execute("UPDATE conversations SET updated = ?, asked = ? WHERE id = ?",
                       (turn.began, asked.to_json(), chat))  # fmt: skip
            return _insert(db, turn, None)

        return replace(turn, id=self._do(work))

    def save(self, turn: Turn) -> None:
        """Write down how far a turn has come."""
        text, model, record = (_storable(part) for part in (turn.text, turn.model, turn.record()))

        def work(db: sqlite3.Connection) -> None:
            changed = db.execute(
                "UPDATE turns SET state = ?, text = ?, refused = ?, model = ?, record = ? WHERE id = ? AND chat = ?",
                (turn.state, text, turn.refused, model, record, turn.id, turn.chat),
            ).rowcount
            if not changed and turn.chat not in self._deleted:  # lost with a file that could not be read any more
                _ensure(db, turn)
                _insert(db, turn, turn.id)
            if turn.state != "running":
                db.execute("UPDATE conversations SET updated = ? WHERE id = ?", (time.time(), turn.chat))

        self._do(work)

    def replace(self, turn: Turn) -> None:
        """The turns that `turn` takes the place of stay in the file, marked, and leave the conversation."""
        sql = "UPDATE turns SET replaced = ? WHERE chat = ? AND id >= ? AND id < ? AND replaced IS NULL"
        if turn.replaces is not None:
            self._do(lambda db: db.execute(sql, (turn.id, turn.chat, turn.replaces, turn.id)))

    def turns(self, chat: str) -> list[Turn]:
        """A conversation's turns in order, without the replaced ones."""
        sql = f"SELECT {TURN_COLUMNS} FROM turns WHERE chat = ? AND replaced IS NULL ORDER BY id"
        return self._do(lambda db: [turn_of(row) for row in db.execute(sql, (chat,))], write=False)

    def versions(self, chat: str) -> list[Turn]:
        """All turns that a conversation ever had, replaced ones too."""
        sql = f"SELECT {TURN_COLUMNS} FROM turns WHERE chat = ? ORDER BY id"
        return self._do(lambda db: [turn_of(row) for row in db.execute(sql, (chat,))], write=False)

    # -- the file --------------------------------------------------------------------------------------------------

    def _do(self, work: Callable[[sqlite3.Connection], T], *, write: bool = True) -> T:
        """`work` in one transaction; if the file refuses, once more in memory. Raises BusyError once closed."""
        with self._guard:
            if self._closed:
                raise BusyError("the chat is closing; start it again")
            try:
                return _transact(self._db, work, write=write)
            except sqlite3.Error as error:
                if self._problem or self.path is None:
                    raise
                self._go_on_in_memory(error, self._db)
                return _transact(self._db, work, write=write)

    def _acquire(self, path: Path) -> WriterLock:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            return WriterLock(path.with_suffix(".lock"), doing="fathom chat", guarded="the conversations")
        except BusyError as error:
            raise _Unusable("busy") from error

    def _open(self, path: Path) -> sqlite3.Connection:
        # What was asked is nobody else's business; SQLite gives its -wal the same rights.
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600))
        db = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=self._busy_seconds)
        try:
            _harden(db)
            db.execute("PRAGMA journal_mode=WAL")
            db.execute("PRAGMA synchronous=FULL")  # with NORMAL a power loss takes acknowledged commits along
            if db.execute("PRAGMA quick_check(1)").fetchone()[0] != "ok":
                raise _Unusable("damaged")
            (version,) = db.execute("PRAGMA user_version").fetchone()
            if version > SCHEMA_VERSION:
                raise _Unusable("newer")
            if version == 0:
                _transact(db, _create)
            for table in ("conversations", "turns"):
                db.execute(f"SELECT * FROM {table} LIMIT 1").fetchone()
        except BaseException:
            db.close()
            raise
        return db

    def _go_on_in_memory(self, error: Exception, db: sqlite3.Connection | None) -> None:
        """What can still be read comes along; the file itself stays as it is."""
        self._problem = _word(error)
        _log.warning("conversations are not being saved any more (%s)", self._problem, exc_info=error)
        memory = _memory()
        if self._problem not in ("damaged", "newer"):
            try:
                if db is None and self.path is not None and self.path.is_file():
                    with contextlib.closing(read_only(self.path)) as reader:
                        memory = _copied(reader)
                elif db is not None:
                    memory = _copied(db)
            except (sqlite3.Error, _Unusable) as second:
                _log.warning("earlier conversations cannot be read", exc_info=second)
        if db is not None:
            with contextlib.suppress(sqlite3.Error):
                db.close()
        self._db = memory
        if self._lock is not None:
            self._lock.release()
            self._lock = None


def title_of(question: str) -> str:
    """A conversation's title from its first question."""
    line = " ".join(question.split())
    return line if len(line) <= TITLE_CHARACTERS else line[: TITLE_CHARACTERS - 1].rstrip() + "…"


def _word(error: Exception) -> str:
    if isinstance(error, _Unusable):
        return str(error)
    name = getattr(error, "sqlite_errorname", "") or ""
    if name.startswith(("SQLITE_BUSY", "SQLITE_LOCKED")):
        return "busy"
    if name.startswith("SQLITE_FULL"):
        return "full"
    if name.startswith(("SQLITE_CORRUPT", "SQLITE_NOTADB", "SQLITE_ERROR", "SQLITE_MISMATCH")):
        return "damaged"
    if isinstance(error, sqlite3.Error) and "decode" in str(error):
        return "damaged"
    return "unwritable"


def _harden(db: sqlite3.Connection) -> None:
    db.execute("PRAGMA trusted_schema=OFF")
    db.execute("PRAGMA cell_size_check=ON")
    db.execute("PRAGMA foreign_keys=ON")
    db.execute("PRAGMA secure_delete=ON")  # deleted is deleted: no text lingers in free pages


def _memory() -> sqlite3.Connection:
    db = sqlite3.connect(":memory:", isolation_level=None, check_same_thread=False)
    _harden(db)
    _transact(db, _create)
    return db


def read_only(path: Path) -> sqlite3.Connection:
    """A connection that cannot change the file. Raises sqlite3.Error."""
    return sqlite3.connect(f"file:{quote(str(path.resolve()))}?mode=ro", uri=True, timeout=1.0)


def _copied(source: sqlite3.Connection) -> sqlite3.Connection:
    """A copy in memory of all that `source` holds. Raises where that is not sound."""
    memory = sqlite3.connect(":memory:", isolation_level=None, check_same_thread=False)
    try:
        source.backup(memory)
        _harden(memory)
        if memory.execute("PRAGMA quick_check(1)").fetchone()[0] != "ok":
            raise _Unusable("damaged")
        memory.execute("SELECT id FROM turns LIMIT 1")
    except BaseException:
        memory.close()
        raise
    return memory


def _storable(text: str) -> str:
    """Half a surrogate pair is no character, and SQLite takes none."""
    return text.encode("utf-8", "replace").decode("utf-8")


def _create(db: sqlite3.Connection) -> None:
    for statement in _TABLES:
        db.execute(statement)
    db.execute(f"PRAGMA user_version={SCHEMA_VERSION}")


def _transact(db: sqlite3.Connection, work: Callable[[sqlite3.Connection], T], *, write: bool = True) -> T:
    db.execute("BEGIN IMMEDIATE" if write else "BEGIN")
    try:
        done = work(db)
        db.execute("COMMIT")
        return done
    except BaseException:
        with contextlib.suppress(sqlite3.Error):
            db.execute("ROLLBACK")
        raise


def _ensure(db: sqlite3.Connection, turn: Turn) -> None:
    db.execute(
        "INSERT OR IGNORE INTO conversations (id, title, created, updated, asked) VALUES (?, ?, ?, ?, ?)",
        (turn.chat, _storable(title_of(turn.question)), turn.began, turn.began, turn.asked.to_json()),
    )


def _insert(db: sqlite3.Connection, turn: Turn, number: int | None) -> int:
    row = db.execute(
        f"INSERT INTO turns ({TURN_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (number, turn.chat, turn.began, _storable(turn.question), turn.state, _storable(turn.text), turn.refused,
         _storable(turn.model), turn.replaces, _storable(turn.record())),
    ).lastrowid  # fmt: skip
    assert row is not None
    return row


def _conversation(row: tuple[str, str, float, float, str]) -> Conversation:
    chat, title, created, updated, asked = row
    return Conversation(chat, title, created, updated, Asked.from_json(asked))


def turn_of(row: tuple[int, str, float, str, str, str, int, str, int | None, str]) -> Turn:
    """The turn in a row of `TURN_COLUMNS`; a part that cannot be understood is left out."""
    number, chat, began, question, state, text, refused, model, replaces, record = row
    known: State = state if state in get_args(State) else "cut"  # type: ignore[assignment]
    return Turn(id=number, chat=chat, question=question, began=began, state=known, text=text, refused=bool(refused),
                model=model, replaces=replaces, **read_record(record))  # fmt: skip
