"""The SQL of one slot file, one statement per method. Order, merging and limits are the store's."""

# ruff: noqa: S608 - the only text put into these statements is the constants below
import sqlite3
from collections.abc import Generator, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from app import sqlite
from app.services.memory import sqlite_slots as slots
from app.services.memory.conversation import Conversation, Turn

_KEY = "agent = ? AND principal = ? AND session = ?"
_TURN = "sequence, created_us, turn_id, messages"


@dataclass(slots=True)
class Ledger:
    """One open slot file. ``write`` only for the process that holds its slot."""

    path: Path
    write: bool = False
    _sql: sqlite3.Connection = field(init=False, repr=False)

    def __post_init__(self) -> None:
        with slots.storage_errors(self.path):
            self._sql = slots.connect(self.path, write=self.write)

    def close(self) -> None:
        self._sql.close()

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """All or nothing, and on the disk when it ends."""
        with slots.storage_errors(self.path):
            with sqlite.transaction(self._sql):
                yield

    def last(self, of: Conversation) -> int:
        """The highest sequence, 0 for none."""
        return self._one(f"SELECT max(sequence) FROM turns WHERE {_KEY}", of) or 0

    def first(self, of: Conversation) -> int | None:
        """The lowest sequence, None for none."""
        return self._one(f"SELECT min(sequence) FROM turns WHERE {_KEY}", of)

    def cleared(self, of: Conversation) -> int:
        """The sequence up to which this file says that turns are deleted, wherever they are."""
        return self._one(f"SELECT max(sequence) FROM cleared WHERE {_KEY}", of) or 0

    def turn(self, of: Conversation, turn_id: str) -> Turn | None:
        with slots.storage_errors(self.path):
            row = self._sql.execute(f"SELECT {_TURN} FROM turns WHERE {_KEY} AND turn_id = ?", (*_key(of), turn_id)).fetchone()
        return Turn(*row) if row else None

    def turn_ids(self, of: Conversation, above: int) -> set[str]:
        with slots.storage_errors(self.path):
            rows = self._sql.execute(f"SELECT turn_id FROM turns WHERE {_KEY} AND sequence > ?", (*_key(of), above))
            return {turn_id for (turn_id,) in rows}

    def newest_first(self, of: Conversation) -> Generator[Turn, None, None]:
        """Turns from the last to the first, read as they are asked for, all of one snapshot. Close the iterator."""
        order = "ORDER BY sequence DESC, created_us DESC, turn_id DESC"
        with slots.storage_errors(self.path), closing(self._sql.cursor()) as cursor:
            for row in cursor.execute(f"SELECT {_TURN} FROM turns WHERE {_KEY} {order}", _key(of)):
                yield Turn(*row)

    def add(self, of: Conversation, turn: Turn) -> None:
        values = (*_key(of), turn.sequence, turn.created_us, turn.turn_id, turn.messages)
        self._sql.execute("INSERT INTO turns VALUES (?, ?, ?, ?, ?, ?, ?)", values)

    def forget(self, of: Conversation, through: int) -> None:
        self._sql.execute(f"DELETE FROM turns WHERE {_KEY} AND sequence <= ?", (*_key(of), through))

    def scrub(self) -> None:
        """Move what was written into the file and empty the WAL, where deleted text would still stand; not now if somebody is reading."""
        with slots.storage_errors(self.path):
            self._sql.execute("PRAGMA busy_timeout = 0")
            try:
                self._sql.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
            finally:
                self._sql.execute(f"PRAGMA busy_timeout = {slots.BUSY_TIMEOUT_S * 1000:.0f}")

    def marks(self) -> dict[Conversation, int]:
        with slots.storage_errors(self.path):
            rows = self._sql.execute("SELECT agent, principal, session, sequence FROM cleared").fetchall()
        return {Conversation(*key): sequence for *key, sequence in rows}

    def mark(self, of: Conversation, through: int) -> None:
        self._sql.execute("INSERT OR REPLACE INTO cleared VALUES (?, ?, ?, ?)", (*_key(of), through))

    def unmark(self, of: Conversation) -> None:
        self._sql.execute(f"DELETE FROM cleared WHERE {_KEY}", _key(of))

    def expire(self, of: Conversation, used_us: int, ttl_s: float | None) -> None:
        """Note that a conversation, last used now, is to go when it has not been used for so long; None: that it stays."""
        self._sql.execute(f"DELETE FROM expiry WHERE {_KEY}", _key(of))
        if ttl_s is not None:
            self._sql.execute("INSERT INTO expiry VALUES (?, ?, ?, ?, ?)", (*_key(of), used_us, used_us + int(ttl_s * 1e6)))

    def due(self, now_us: int) -> list[tuple[Conversation, int]]:
        """The conversations that are to go unless they were used after the time beside them. None in a file of a build before such."""
        with slots.storage_errors(self.path):
            if not self._sql.execute("SELECT 1 FROM sqlite_schema WHERE name = 'expiry'").fetchone():
                return []
            rows = self._sql.execute("SELECT agent, principal, session, used_us FROM expiry WHERE due_us <= ?", (now_us,)).fetchall()
        return [(Conversation(*key), used_us) for *key, used_us in rows]

    def probe(self, at_us: int) -> None:
        self._sql.execute("INSERT OR REPLACE INTO probe VALUES (1, ?)", (at_us,))

    def _one(self, sql: str, of: Conversation) -> int | None:
        with slots.storage_errors(self.path):
            found: int | None = self._sql.execute(sql, _key(of)).fetchone()[0]
            return found


def _key(of: Conversation) -> tuple[str, str, str]:
    return of.agent, of.principal, of.session
