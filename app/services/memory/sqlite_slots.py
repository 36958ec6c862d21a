"""Slot files: who may write which, how they are made and opened, and what SQLite's failures mean to a person.

The rule: a slot file is written only by the process that holds the flock on its lock file, and it appears whole or not at all.
"""

import fcntl
import itertools
import os
import sqlite3
from contextlib import AbstractContextManager, closing
from dataclasses import dataclass
from pathlib import Path

from app import sqlite
from app.errors import ConfigError, Problem, StoreUnavailable

MAX_SLOTS = 256
# Nobody else writes our files, so only a reader in recovery or a foreign program (a backup) can make us wait.
BUSY_TIMEOUT_S = 2.0


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of slot file: what they are called, and what is in them. ``later`` is what was added to a version after files of it had been
    made: whoever may write a file sees to it, and builds that do not know it pass it over."""

    name: str
    version: int
    schema: str
    later: str = ""


CONVERSATIONS = Kind(
    "conversations",
    1,
    """
CREATE TABLE turns (
    agent TEXT NOT NULL, principal TEXT NOT NULL, session TEXT NOT NULL,
    sequence INTEGER NOT NULL, created_us INTEGER NOT NULL, turn_id TEXT NOT NULL, messages BLOB NOT NULL
);
CREATE UNIQUE INDEX turn_by_id ON turns (agent, principal, session, turn_id);
CREATE INDEX turn_in_order ON turns (agent, principal, session, sequence, created_us, turn_id);
CREATE TABLE cleared (
    agent TEXT NOT NULL, principal TEXT NOT NULL, session TEXT NOT NULL, sequence INTEGER NOT NULL,
    PRIMARY KEY (agent, principal, session)
) WITHOUT ROWID;
CREATE TABLE probe (id INTEGER PRIMARY KEY CHECK (id = 1), at_us INTEGER NOT NULL);
""",
    """
CREATE TABLE IF NOT EXISTS expiry (
    agent TEXT NOT NULL, principal TEXT NOT NULL, session TEXT NOT NULL, used_us INTEGER NOT NULL, due_us INTEGER NOT NULL,
    PRIMARY KEY (agent, principal, session)
) WITHOUT ROWID;
""",
)


@dataclass(frozen=True, slots=True)
class Slot:
    """A slot that this process holds until ``release`` or its death, whichever way it dies."""

    path: Path
    lock: int

    def release(self) -> None:
        os.close(self.lock)


def files(folder: Path, kind: Kind = CONVERSATIONS) -> list[Path]:
    """Every slot file of a kind there is, whoever holds it."""
    return sorted(folder.glob(f"{kind.name}-*.sqlite"))


def claim(folder: Path, kind: Kind = CONVERSATIONS) -> Slot:
    """Take the lowest free slot, making its file if need be. Raises StoreUnavailable or ConfigError."""
    with storage_errors(folder):
        if not folder.is_dir():
            folder.mkdir(parents=True, exist_ok=True)
            folder.chmod(0o770)
    for number in itertools.count():
        path = folder / f"{kind.name}-{number}.sqlite"
        if number == MAX_SLOTS:
            raise StoreUnavailable(f"{folder} is in use by {MAX_SLOTS} processes; give this node a data directory of its own.")
        if slot := try_claim(path):
            try:
                _prepare(path, kind)
            except BaseException:
                slot.release()
                raise
            return slot
    raise AssertionError("unreachable")


def try_claim(path: Path) -> Slot | None:
    """Take the slot of one file; None while another process (or another store of this one) holds it."""
    with storage_errors(path):
        lock = os.open(path.with_suffix(".lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o660)
        try:
            if os.fstat(lock).st_uid == os.geteuid():
                os.fchmod(lock, 0o660)  # the umask may have taken the group's part, and nodes may run as any user of one group
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(lock)
            return None
        except BaseException:
            os.close(lock)
            raise
        return Slot(path, lock)


def connect(path: Path, kind: Kind = CONVERSATIONS, *, write: bool) -> sqlite3.Connection:
    """Open a slot file. A reader opens read-only, so that it can neither write nor checkpoint a file that another process owns.

    Raises StoreUnavailable for a file of a newer version, too. Connections may be closed by another thread than their own.
    """
    uri = f"{path.absolute().as_uri()}?mode={'rw' if write else 'ro'}"
    connection = sqlite3.connect(uri, uri=True, timeout=BUSY_TIMEOUT_S, isolation_level=None, check_same_thread=False)
    try:
        # FULL: a commit is on the disk before it is acknowledged. secure_delete: deleted messages are overwritten, not just unlinked.
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("PRAGMA secure_delete = ON")
        version = connection.execute("PRAGMA user_version").fetchone()[0]
        if version != kind.version:
            raise StoreUnavailable(
                f"{path} has version {version}, and this build knows {kind.version}; run the build that wrote it, or move the file away."
            )
        if write and kind.later:
            connection.executescript(kind.later)
    except BaseException:
        connection.close()
        raise
    return connection


def storage_errors(path: Path) -> AbstractContextManager[None]:
    """Turn what the disk and SQLite raise into StoreUnavailable with a remedy."""
    return sqlite.errors(path, "Memory", _REMEDIES)


_LOCKED = "another program holds it locked: stop the backup or shell that has it open"
_DAMAGED = "the file is damaged: stop the nodes that use it, then restore it from a backup or move it away"
_REMEDIES = {
    sqlite3.SQLITE_BUSY: _LOCKED,
    sqlite3.SQLITE_LOCKED: _LOCKED,
    sqlite3.SQLITE_CORRUPT: _DAMAGED,
    sqlite3.SQLITE_NOTADB: _DAMAGED,
}


def _prepare(path: Path, kind: Kind) -> None:
    """Make the file of a slot that is held, unless it is there; refuse one that a newer build has written."""
    with storage_errors(path):
        if not path.exists():
            _create(path, kind)
            return
        with closing(sqlite3.connect(path, timeout=BUSY_TIMEOUT_S)) as connection:
            version = connection.execute("PRAGMA user_version").fetchone()[0]
        if version > kind.version:
            message = f"has version {version}, and this build knows {kind.version}"
            raise ConfigError([Problem(str(path), message, remedy="run the newer build, or choose another ASTROMESH_DATA_DIR")])


def _create(path: Path, kind: Kind) -> None:
    """Build the file under another name and rename it, so that no reader ever sees half a schema."""
    fresh = path.with_suffix(".new")
    fresh.unlink(missing_ok=True)
    with closing(sqlite3.connect(fresh)) as connection:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.executescript(f"{kind.schema}; PRAGMA user_version = {kind.version};")
    fresh.chmod(0o660)
    fresh.replace(path)
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
