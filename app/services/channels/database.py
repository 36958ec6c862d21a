"""The SQLite file of the channels service: its tables, how it is opened by several processes, and what its failures mean to a person."""

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from app import sqlite
from app.errors import StoreUnavailable

VERSION = 1
BUSY_TIMEOUT_S = 5.0
"""Another process may be writing, or stand still in the middle of it; then a webhook is refused, and the platform sends it again."""
_SCHEMA = """
CREATE TABLE IF NOT EXISTS conversations (
    channel TEXT NOT NULL, account TEXT NOT NULL, sender TEXT NOT NULL, last_inbound REAL NOT NULL,
    due REAL, owner TEXT NOT NULL DEFAULT '', leased_until REAL NOT NULL DEFAULT 0,
    PRIMARY KEY (channel, account, sender)
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS conversation_by_due ON conversations (due) WHERE due IS NOT NULL;
CREATE TABLE IF NOT EXISTS inbox (
    sequence INTEGER PRIMARY KEY AUTOINCREMENT, channel TEXT NOT NULL, account TEXT NOT NULL, sender TEXT NOT NULL,
    message_id TEXT NOT NULL, kind TEXT NOT NULL, text TEXT NOT NULL, details TEXT NOT NULL, traceparent TEXT NOT NULL,
    received REAL NOT NULL, state TEXT NOT NULL, attempts INTEGER NOT NULL DEFAULT 0, due REAL NOT NULL, error TEXT NOT NULL DEFAULT ''
);
CREATE UNIQUE INDEX IF NOT EXISTS inbox_by_id ON inbox (channel, account, message_id);
CREATE INDEX IF NOT EXISTS inbox_by_person ON inbox (channel, account, sender, state, sequence);
CREATE INDEX IF NOT EXISTS inbox_by_state ON inbox (channel, state, sequence);
CREATE TABLE IF NOT EXISTS outbox (
    sequence INTEGER PRIMARY KEY AUTOINCREMENT, token TEXT NOT NULL UNIQUE, channel TEXT NOT NULL, account TEXT NOT NULL,
    sender TEXT NOT NULL, in_reply_to TEXT NOT NULL, text TEXT NOT NULL, part INTEGER NOT NULL, parts INTEGER NOT NULL,
    made REAL NOT NULL, state TEXT NOT NULL, attempts INTEGER NOT NULL DEFAULT 0, due REAL NOT NULL,
    provider_id TEXT NOT NULL DEFAULT '', status TEXT NOT NULL DEFAULT '', error TEXT NOT NULL DEFAULT ''
);
CREATE INDEX IF NOT EXISTS outbox_by_person ON outbox (channel, account, sender, state, sequence);
CREATE INDEX IF NOT EXISTS outbox_by_provider ON outbox (channel, provider_id) WHERE provider_id != '';
CREATE INDEX IF NOT EXISTS outbox_by_state ON outbox (channel, state, sequence);
"""


class Database:
    """One connection. ``transaction`` and ``errors`` map what SQLite raises to StoreUnavailable; for one thread at a time."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def open(self) -> None:
        """Raises StoreUnavailable, also for a file of a newer build."""
        with self.errors():
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self.sql = sqlite3.connect(self._path, timeout=BUSY_TIMEOUT_S, isolation_level=None, check_same_thread=False)
            version = self.sql.execute("PRAGMA user_version").fetchone()[0]
            if version > VERSION:
                self.sql.close()
                raise StoreUnavailable(f"{self._path} has version {version}, and this build knows {VERSION}; run the newer build.")
            self.sql.execute("PRAGMA journal_mode = WAL")
            self.sql.execute("PRAGMA synchronous = FULL")  # a commit is on the disk before a platform is told so
            self.sql.executescript(f"BEGIN IMMEDIATE; {_SCHEMA} PRAGMA user_version = {VERSION}; COMMIT;")

    def close(self) -> None:
        self.sql.close()

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """All or nothing, and on the disk when it ends."""
        with self.errors():
            with sqlite.transaction(self.sql):
                yield

    @contextmanager
    def errors(self) -> Iterator[None]:
        try:
            yield
        except (OSError, sqlite3.Error) as error:
            remedy = "check the data directory's disk, its space and its owner; what was acknowledged is kept"
            raise StoreUnavailable(f"Channels cannot use {self._path}: {error}; {remedy}.") from error
