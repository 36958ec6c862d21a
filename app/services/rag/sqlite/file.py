"""The SQLite file of one collection: its tables, how it is opened and written, and what its failures mean to a person."""

import os
import sqlite3
import time
from contextlib import AbstractContextManager, closing, suppress
from pathlib import Path

from app import sqlite
from app.errors import ConfigError, Problem, StoreUnavailable
from app.services.rag.knowledge import Collection
from app.services.rag.sqlite import rows

VERSION = 1
BUSY_TIMEOUT_S = 5.0
"""Another process may be writing, or stand still in the middle of it: then what writes this collection is refused, and nothing else is."""
SECURE_WORDS = sqlite3.sqlite_version_info >= (3, 42)
"""Whether FTS5 can take the words of a deleted text out of its index at once; older ones write the whole index anew for it."""
SMALL_BYTES = 32 * 1024 * 1024
"""A file up to this size is written anew with every delete, which takes a fraction of a second."""
SCRUB_S = 600.0
"""A larger one once in so long, as long as there are deletes."""

_SCHEMA = """
CREATE TABLE collection (
    id INTEGER PRIMARY KEY CHECK (id = 1), name BLOB NOT NULL, owner BLOB NOT NULL, description BLOB NOT NULL, model BLOB,
    dimension INTEGER NOT NULL, chunking BLOB NOT NULL, created_at REAL NOT NULL, documents INTEGER NOT NULL DEFAULT 0,
    chunks INTEGER NOT NULL DEFAULT 0, deletions INTEGER NOT NULL DEFAULT 0, unscrubbed INTEGER NOT NULL DEFAULT 0,
    scrubbed_at REAL NOT NULL DEFAULT 0
);
CREATE TABLE documents (
    key INTEGER PRIMARY KEY AUTOINCREMENT, id BLOB NOT NULL UNIQUE, metadata BLOB NOT NULL, chunks INTEGER NOT NULL, text BLOB NOT NULL
);
CREATE TABLE chunks (key INTEGER PRIMARY KEY AUTOINCREMENT, document INTEGER NOT NULL, number INTEGER NOT NULL, text BLOB NOT NULL);
CREATE INDEX chunk_of_document ON chunks (document, number);
CREATE TABLE vectors (chunk INTEGER PRIMARY KEY, document INTEGER NOT NULL, vector BLOB NOT NULL);
CREATE INDEX vector_of_document ON vectors (document);
CREATE TABLE metadata (
    key BLOB NOT NULL, kind INTEGER NOT NULL, value NOT NULL, document INTEGER NOT NULL, PRIMARY KEY (key, kind, value, document)
) WITHOUT ROWID;
CREATE INDEX metadata_of_document ON metadata (document);
CREATE VIRTUAL TABLE words USING fts5 (text, content = '', tokenize = 'unicode61 remove_diacritics 2');
CREATE TABLE jobs (
    sequence INTEGER PRIMARY KEY AUTOINCREMENT, id BLOB NOT NULL UNIQUE, state TEXT NOT NULL, total INTEGER NOT NULL, done INTEGER NOT NULL,
    chunks INTEGER NOT NULL, error BLOB NOT NULL, created_at REAL NOT NULL, finished_at REAL, chunking BLOB NOT NULL,
    token TEXT NOT NULL DEFAULT '', free_at REAL NOT NULL DEFAULT 0
);
CREATE INDEX running_job ON jobs (created_at, sequence) WHERE state = 'running';
CREATE TABLE waiting (
    job INTEGER NOT NULL, position INTEGER NOT NULL, id BLOB NOT NULL, metadata BLOB NOT NULL, text BLOB NOT NULL,
    PRIMARY KEY (job, position)
);
CREATE INDEX waiting_by_id ON waiting (id);
"""


def create(path: Path, collection: Collection) -> None:
    """Make the file of a collection under a name that nobody knows yet."""
    with errors(path), closing(sqlite3.connect(path, isolation_level=None)) as connection:
        path.chmod(0o660)  # nodes may run as any user of one group; the files beside it take its mode
        connection.execute("PRAGMA page_size = 8192")  # a vector of 1536 numbers fits into a page
        connection.execute("PRAGMA journal_mode = WAL")
        connection.executescript(f"BEGIN; {_SCHEMA} PRAGMA user_version = {VERSION};")
        embedding = collection.embedding
        values = (
            rows.blob(collection.of.name),
            rows.blob(collection.of.owner),
            rows.blob(collection.description),
            rows.blob(embedding.model) if embedding else None,
            embedding.dimension if embedding else 0,
            rows.chunking_blob(collection.chunking),
            collection.created_at,
        )
        connection.execute(
            "INSERT INTO collection (id, name, owner, description, model, dimension, chunking, created_at) VALUES (1, ?, ?, ?, ?, ?, ?, ?)",
            values,
        )
        connection.execute("COMMIT")
    with errors(path):
        sync(path)
        sync(path.parent)


def sync(path: Path) -> None:
    """Have what is in a file, or which files are in a folder, on the disk."""
    opened = os.open(path, os.O_RDONLY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)


def connect(path: Path) -> sqlite3.Connection:
    """Open a file that is there, for any one thread at a time. Raises FileNotFoundError; StoreUnavailable for one of another version."""
    try:
        connection = sqlite3.connect(
            f"{path.absolute().as_uri()}?mode=rw", uri=True, timeout=BUSY_TIMEOUT_S, isolation_level=None, check_same_thread=False
        )
    except sqlite3.OperationalError:
        if not path.exists():
            raise FileNotFoundError(path) from None
        raise
    try:
        # FULL: a commit is on the disk before it is acknowledged. secure_delete: what is deleted is overwritten, not just unlinked.
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("PRAGMA secure_delete = ON")
        version = connection.execute("PRAGMA user_version").fetchone()[0]
        if version != VERSION:
            raise StoreUnavailable(f"{path} has version {version}, and this build knows {VERSION}; run the build that wrote it.")
    except BaseException:
        connection.close()
        raise
    return connection


def check_version(path: Path) -> None:
    """Raises ConfigError for a file that a newer build has written."""
    with errors(path), closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, timeout=BUSY_TIMEOUT_S)) as connection:
        version = connection.execute("PRAGMA user_version").fetchone()[0]
    if version > VERSION:
        message = f"has version {version}, and this build knows {VERSION}"
        raise ConfigError([Problem(str(path), message, remedy="run the newer build, or choose another ASTROMESH_DATA_DIR")])


def transaction(connection: sqlite3.Connection, *, write: bool, patience_s: float | None = None) -> AbstractContextManager[None]:
    """All or nothing, and on the disk when it ends; for reading, one state of the file from the first look to the last."""
    if write:
        patience_s = BUSY_TIMEOUT_S if patience_s is None else patience_s
        connection.execute(f"PRAGMA busy_timeout = {int(patience_s * 1000)}")
    return sqlite.transaction(connection, "BEGIN IMMEDIATE" if write else "BEGIN")


def scrub(connection: sqlite3.Connection) -> None:
    """Take what was deleted out of every corner of the file, if anything was: the index of words, the WAL, and copies that stay in unused
    parts of pages when SQLite moves rows, which secure_delete does not reach but VACUUM does. That writes the file anew, so in a large
    one it is put off: ``scrub_is_due`` says when. What somebody else is reading or writing stays until the next time, too."""
    unscrubbed, at, size = connection.execute(
        "SELECT unscrubbed, scrubbed_at, (SELECT page_count * page_size FROM pragma_page_count, pragma_page_size) FROM collection"
    ).fetchone()
    if not unscrubbed:
        return
    now = time.time()
    whole = size <= SMALL_BYTES or now - at >= SCRUB_S
    with suppress(sqlite3.OperationalError):
        connection.execute("PRAGMA busy_timeout = 1000")
        if not SECURE_WORDS:
            connection.execute("INSERT INTO words (words) VALUES ('optimize')")
        if whole:
            connection.execute("VACUUM")
        busy = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]
        if whole and not busy:
            connection.execute("UPDATE collection SET unscrubbed = 0, scrubbed_at = ?", (now,))


def scrub_is_due(connection: sqlite3.Connection) -> bool:
    row = connection.execute("SELECT 1 FROM collection WHERE unscrubbed AND scrubbed_at <= ?", (time.time() - SCRUB_S,)).fetchone()
    return row is not None


def errors(path: Path) -> AbstractContextManager[None]:
    """Turn what the disk and SQLite raise into StoreUnavailable with a remedy."""
    return sqlite.errors(path, "Knowledge", _REMEDIES, {"Retry-After": "1"})


_BUSY = "another process is writing this collection, or stands still in the middle of it: try again, or end that process"
_DAMAGED = "the file is damaged: restore it from a backup, or delete the collection and ingest it anew"
_REMEDIES = {
    sqlite3.SQLITE_BUSY: _BUSY,
    sqlite3.SQLITE_LOCKED: _BUSY,
    sqlite3.SQLITE_TOOBIG: "send smaller documents",
    sqlite3.SQLITE_CORRUPT: _DAMAGED,
    sqlite3.SQLITE_NOTADB: _DAMAGED,
}
