"""The tables of a collection's catalogue, and the connection settings that make a commit mean "on disk"."""

import contextlib
import sqlite3
from collections.abc import Iterator
from pathlib import Path

from retrieval.errors import BusyError, DamagedError, FathomError, MissingError

SCHEMA_VERSION = 1

# AUTOINCREMENT everywhere: a plain rowid is reused after a delete, and a stale id in an accelerator could then cite
# another document's text. Texts and vectors have tables of their own, so that scanning documents or vectors does not
# drag the large rows through the page cache.
TABLES: dict[str, str] = {
    "settings": "CREATE TABLE settings (key TEXT PRIMARY KEY, value TEXT NOT NULL, seal BLOB NOT NULL) WITHOUT ROWID",
    "roots": """CREATE TABLE roots (path TEXT PRIMARY KEY, prefix TEXT NOT NULL UNIQUE,
  seal BLOB NOT NULL) WITHOUT ROWID""",
    "documents": """CREATE TABLE documents (
  id INTEGER PRIMARY KEY AUTOINCREMENT, owner TEXT NOT NULL, uri TEXT NOT NULL, title TEXT NOT NULL,
  format TEXT NOT NULL, content_hash TEXT NOT NULL, root TEXT NOT NULL, source TEXT NOT NULL, added_at REAL NOT NULL,
  page_starts TEXT NOT NULL, headings TEXT NOT NULL, metadata TEXT NOT NULL, warnings TEXT NOT NULL, seal BLOB NOT NULL,
  UNIQUE (owner, uri))""",
    "texts": """CREATE TABLE texts (document_id INTEGER PRIMARY KEY REFERENCES documents(id) ON DELETE CASCADE,
  text BLOB NOT NULL, seal BLOB NOT NULL)""",
    "facts": """CREATE TABLE facts (key TEXT NOT NULL, value NOT NULL,
  document_id INTEGER NOT NULL REFERENCES documents(id) ON DELETE CASCADE,
  PRIMARY KEY (key, value, document_id)) WITHOUT ROWID""",
    "facts_document": "CREATE INDEX facts_document ON facts (document_id)",
    "passages": """CREATE TABLE passages (
  id INTEGER PRIMARY KEY AUTOINCREMENT, document_id INTEGER NOT NULL REFERENCES documents(id) ON DELETE CASCADE,
  ordinal INTEGER NOT NULL, start INTEGER NOT NULL, "end" INTEGER NOT NULL, page INTEGER, headings TEXT NOT NULL,
  context TEXT NOT NULL, tokens INTEGER NOT NULL, input_hash BLOB NOT NULL, text TEXT NOT NULL, seal BLOB NOT NULL)""",
    "passages_document": "CREATE INDEX passages_document ON passages (document_id, ordinal)",
    "passages_input": "CREATE INDEX passages_input ON passages (input_hash)",
    "vectors": """CREATE TABLE vectors (passage_id INTEGER PRIMARY KEY REFERENCES passages(id) ON DELETE CASCADE,
  vector BLOB NOT NULL, seal BLOB NOT NULL)""",
    "changes": """CREATE TABLE changes (sequence INTEGER PRIMARY KEY AUTOINCREMENT, kind TEXT NOT NULL,
  document_id INTEGER NOT NULL, first_passage INTEGER NOT NULL, last_passage INTEGER NOT NULL, seal BLOB NOT NULL)""",
    "stats": """CREATE TABLE stats (source TEXT PRIMARY KEY, root TEXT NOT NULL, uri TEXT NOT NULL,
  size INTEGER NOT NULL, mtime_ns INTEGER NOT NULL, ctime_ns INTEGER NOT NULL, inode INTEGER NOT NULL,
  checked_ns INTEGER NOT NULL,
  content_hash TEXT NOT NULL, reason TEXT NOT NULL, message TEXT NOT NULL, seal BLOB NOT NULL) WITHOUT ROWID""",
}


@contextlib.contextmanager
def in_words(path: Path) -> Iterator[None]:
    """Turn SQLite's errors into sentences: a full disk, a damaged file, a folder that cannot be written."""
    try:
        yield
    except sqlite3.Error as error:
        text = str(error)
        code = getattr(error, "sqlite_errorname", "") or ""
        if code == "SQLITE_FULL" or "disk is full" in text:
            raise FathomError(
                f"the disk is full: '{path}' could not grow; everything saved before is intact; free some space and "
                "run the same command again"
            ) from error
        if code.startswith(("SQLITE_CORRUPT", "SQLITE_NOTADB", "SQLITE_MISMATCH")):
            raise DamagedError(
                f"the catalogue '{path}' is damaged ({text}); restore it with `fathom index import`, or delete the "
                "collection's folder and sync again"
            ) from error
        if code.startswith(("SQLITE_READONLY", "SQLITE_CANTOPEN", "SQLITE_PERM")):
            raise FathomError(
                f"the catalogue '{path}' cannot be opened ({text}); check the folder's permissions"
            ) from error
        if code.startswith("SQLITE_IOERR"):
            raise FathomError(
                f"the disk reported an error at '{path}' ({text}); everything saved before is intact; check the disk "
                "and run the same command again"
            ) from error
        if code.startswith(("SQLITE_BUSY", "SQLITE_LOCKED")):
            raise BusyError(f"the catalogue '{path}' is held by another program; try again when it is done") from error
        if "Could not decode to UTF-8" in text:
            raise DamagedError(f"the catalogue '{path}' is damaged (text not UTF-8); restore or rebuild it") from error
        if code.startswith("SQLITE_ERROR") and ("no such table" in text or "no such column" in text):
            raise DamagedError(f"the catalogue '{path}' is damaged ({text}); restore or rebuild it") from error
        raise
    except UnicodeDecodeError as error:
        # SQLite's own message quotes damaged bytes.
        raise DamagedError(f"the catalogue '{path}' is damaged (text not UTF-8); restore or rebuild it") from error


def connect(path: Path, *, write: bool, create: bool = False) -> sqlite3.Connection:
    """Open the catalogue. A reader never checkpoints and cannot write.

    `synchronous=FULL`: with NORMAL, 413 of 750 simulated power losses lost acknowledged documents; with FULL, none.
    """
    if not create and not path.is_file():
        raise MissingError(f"there is no collection at '{path.parent}'; `fathom index list` shows what there is")
    mode = "rwc" if create else ("rw" if write else "ro")
    with in_words(path):
        uri = f"file:{_quote(path)}?mode={mode}"
        db = sqlite3.connect(uri, uri=True, isolation_level=None, check_same_thread=False, timeout=30.0)
        # Unchecked text from the file must not reach SQL functions, views or triggers.
        db.execute("PRAGMA trusted_schema=OFF")
        db.execute("PRAGMA cell_size_check=ON")
        if write:
            db.execute("PRAGMA journal_mode=WAL")
            db.execute("PRAGMA synchronous=FULL")
            db.execute("PRAGMA foreign_keys=ON")
            # Deleted text must not linger in free pages: forgetting a document means its bytes go too.
            db.execute("PRAGMA secure_delete=ON")
            # A checkpoint every 16 MB instead of 4: fewer fsyncs while indexing.
            db.execute("PRAGMA wal_autocheckpoint=4000")
        else:
            db.execute("PRAGMA query_only=ON")
        db.execute("PRAGMA cache_size=-16000")
    return db


def _quote(path: Path) -> str:
    from urllib.parse import quote

    return quote(str(path.resolve()))


def create_tables(db: sqlite3.Connection) -> None:
    """All tables in one transaction."""
    db.execute("BEGIN IMMEDIATE")
    for statement in TABLES.values():
        db.execute(statement)
    db.execute(f"PRAGMA user_version={SCHEMA_VERSION}")
    db.execute("COMMIT")


def schema_problems(db: sqlite3.Connection) -> list[str]:
    """Differences between the file's schema and ours, in words; triggers and views of a foreign file show here."""
    problems = []
    (version,) = db.execute("PRAGMA user_version").fetchone()
    if version != SCHEMA_VERSION:
        problems.append(f"schema version {version}, expected {SCHEMA_VERSION}")
    found = {
        str(name): str(sql)
        for name, sql in db.execute("SELECT name, sql FROM sqlite_master WHERE name NOT LIKE 'sqlite_%'")
    }
    for name in sorted(found.keys() | TABLES.keys()):
        if found.get(name) != TABLES.get(name):
            problems.append(f"the definition of '{name[:40]}' is not ours")
    return problems
