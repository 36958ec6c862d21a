"""Runs under an Idempotency-Key: whether one is under way, and what it answered. Kept like conversations, in slot files (see
sqlite_conversations.py).

At most one of several that claim a key at once gets it, also in several processes: each writes its claim into its own file, looks into all
files after that, and withdraws when it sees another that is alive; a renewal looks again, too. Of two that wrote at the same moment at
least one sees the other, and where both do, both are told to ask again. A claim that nobody renews is dead after its lease; a clock that
jumps makes it seem so early or late by its jump. All methods block and are called in one thread.
"""

# ruff: noqa: S608 - the only text put into these statements is the constants below
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import replace
from pathlib import Path

from app import sqlite
from app.errors import RunUnderWay, StoreUnavailable
from app.services.memory import sqlite_slots as slots
from app.services.memory.conversation import Conversation, MemorySettings
from app.services.memory.runs import Run, RunKey, lost, reused, under_way

RUNS = slots.Kind(
    "runs",
    1,
    """
CREATE TABLE runs (
    agent TEXT NOT NULL, principal TEXT NOT NULL, key TEXT NOT NULL, token TEXT NOT NULL,
    session TEXT NOT NULL, fingerprint TEXT NOT NULL, attempt INTEGER NOT NULL, state TEXT NOT NULL, at_us INTEGER NOT NULL, answer BLOB,
    PRIMARY KEY (agent, principal, key, token)
) WITHOUT ROWID;
CREATE INDEX run_by_age ON runs (at_us);
CREATE INDEX run_by_session ON runs (agent, principal, session);
CREATE TABLE cleared (
    agent TEXT NOT NULL, principal TEXT NOT NULL, session TEXT NOT NULL, at_us INTEGER NOT NULL,
    PRIMARY KEY (agent, principal, session)
) WITHOUT ROWID
""",
)
_KEY = "agent = ? AND principal = ? AND key = ?"
_SESSION = "agent = ? AND principal = ? AND session = ?"
_COLUMNS = "token, session, fingerprint, attempt, state, at_us, answer"


class RunStore:
    """The runs of one data directory."""

    def __init__(self, folder: Path, settings: MemorySettings) -> None:
        self._folder, self._settings = folder, settings
        self._others: dict[Path, sqlite3.Connection] = {}

    def open(self) -> None:
        self._slot = slots.claim(self._folder, RUNS)
        try:
            with slots.storage_errors(self._slot.path):
                self._own = slots.connect(self._slot.path, RUNS, write=True)
        except BaseException:
            self._slot.release()
            raise

    def close(self) -> None:
        for connection in self._others.values():
            connection.close()
        self._others.clear()
        self._own.close()
        self._slot.release()

    def claim(self, of: RunKey, session: str, token: str, fingerprint: str) -> Run:
        """Begin a run, or go on with it (each call renews its lease), or get the one that is done. Raises RunUnderWay, KeyReused, and
        Conflict for a token whose run has been taken over or has ended."""
        known = self._attempts(of)
        mine = known.pop(token, None)
        if mine is not None:
            return self._renewed(of, mine, known)
        for each in known.values():
            if each.fingerprint != fingerprint:
                raise reused()
        if done := self._in_the_way(known):
            return done
        attempt = 1 + max((each.attempt for each in known.values()), default=0)
        run = Run(token, session, fingerprint, attempt, "running", _now_us())
        self._write(of, run)
        others = {other: each for other, each in self._attempts(of).items() if other != token}
        try:
            done = self._in_the_way(others)
        except RunUnderWay:
            self._forget(of, token)
            raise
        if done:
            self._forget(of, token)
        return done or run

    def finish(self, of: RunKey, token: str, answer: bytes) -> None:
        """Keep the answer of a run that is still its token's; one that is too large is remembered as done. Raises Conflict."""
        known = self._attempts(of)
        run = self._still(known.pop(token, None), known)
        kept = answer if len(answer) <= self._settings.max_run_bytes else None
        self._write(of, replace(run, state="done", at_us=_now_us(), answer=kept))

    def release(self, of: RunKey, token: str) -> None:
        """The run has ended without an answer: the next one may begin at once."""
        run = self._attempts(of).get(token)
        if run and run.state == "running":
            self._write(of, replace(run, state="released", at_us=_now_us()))

    def clear(self, conversation: Conversation) -> None:
        """Forget what was answered in a conversation; that it was is remembered."""
        key = (conversation.agent, conversation.principal, conversation.session)
        if not any(self._rows(connection, f"{_SESSION} LIMIT 1", key) for connection in self._all()):
            return
        with self._transaction():
            self._own.execute("INSERT OR REPLACE INTO cleared VALUES (?, ?, ?, ?)", (*key, _now_us()))
            self._own.execute(f"UPDATE runs SET answer = NULL WHERE {_SESSION}", key)
        self._scrub(self._own)

    def sweep(self) -> None:
        """Remove what is too old or too much, and answers of conversations that another node has cleared, where nobody else may write."""
        self._tidy(self._own)
        for path in slots.files(self._folder, RUNS):
            if path != self._slot.path and (slot := slots.try_claim(path)):
                try:
                    with slots.storage_errors(path), closing(slots.connect(path, RUNS, write=True)) as connection:
                        self._tidy(connection)
                finally:
                    slot.release()

    def _tidy(self, connection: sqlite3.Connection) -> None:
        oldest = _now_us() - int(self._settings.run_ttl_s * 1e6)
        with slots.storage_errors(self._folder):
            ages = connection.execute("SELECT at_us FROM runs ORDER BY at_us DESC LIMIT 1 OFFSET ?", (self._settings.max_runs,)).fetchone()
            oldest = max(oldest, ages[0] + 1 if ages else 0)
            old = connection.execute("SELECT 1 FROM runs WHERE at_us < ? LIMIT 1", (oldest,)).fetchone()
            marks = {row for each in self._all() for row in each.execute("SELECT agent, principal, session, at_us FROM cleared")}
            due = [mark for mark in marks if self._rows(connection, f"{_SESSION} AND at_us <= ? AND answer IS NOT NULL LIMIT 1", mark)]
            if not (old or due):
                return
            with self._transaction(connection):
                connection.execute("DELETE FROM runs WHERE at_us < ?", (oldest,))
                connection.execute("DELETE FROM cleared WHERE at_us < ?", (oldest,))
                connection.executemany(f"UPDATE runs SET answer = NULL WHERE {_SESSION} AND at_us <= ?", due)
            self._scrub(connection)

    def _renewed(self, of: RunKey, mine: Run, others: dict[str, Run]) -> Run:
        run = replace(self._still(mine, others), at_us=_now_us())
        self._write(of, run)
        return self._still(run, {token: each for token, each in self._attempts(of).items() if token != mine.token})

    @staticmethod
    def _still(mine: Run | None, others: dict[str, Run]) -> Run:
        if mine is None or mine.state != "running" or any(each.attempt > mine.attempt for each in others.values()):
            raise lost()
        return mine

    def _in_the_way(self, others: dict[str, Run]) -> Run | None:
        """The attempt that is done. Raises RunUnderWay for one that is alive."""
        for each in others.values():
            if each.state == "done":
                return each
        if any(self._alive(each) for each in others.values()):
            raise under_way()
        return None

    def _alive(self, run: Run) -> bool:
        return run.state == "running" and abs(_now_us() - run.at_us) <= self._settings.run_lease_s * 1e6

    def _attempts(self, of: RunKey) -> dict[str, Run]:
        """By token. A run that was renewed or ended at another process has a row there, too: the latest counts."""
        found: dict[str, Run] = {}
        oldest = _now_us() - int(self._settings.run_ttl_s * 1e6)
        for connection in self._all():
            for run in self._rows(connection, f"{_KEY} AND at_us >= ?", (of.agent, of.principal, of.key, oldest)):
                there = found.get(run.token)
                if there is None or (run.state != "running", run.at_us) > (there.state != "running", there.at_us):
                    found[run.token] = run
        return {token: self._without_cleared(of, run) for token, run in found.items()}

    def _without_cleared(self, of: RunKey, run: Run) -> Run:
        if run.answer is None:
            return run
        key = (of.agent, of.principal, run.session)
        with slots.storage_errors(self._folder):
            marks = [each.execute(f"SELECT max(at_us) FROM cleared WHERE {_SESSION}", key).fetchone()[0] for each in self._all()]
        return replace(run, answer=None) if any(mark and mark >= run.at_us for mark in marks) else run

    def _rows(self, connection: sqlite3.Connection, where: str, values: tuple[str | int, ...]) -> list[Run]:
        with slots.storage_errors(self._folder):
            return [Run(*row) for row in connection.execute(f"SELECT {_COLUMNS} FROM runs WHERE {where}", values)]

    def _write(self, of: RunKey, run: Run) -> None:
        values = (of.agent, of.principal, of.key, run.token, run.session, run.fingerprint, run.attempt, run.state, run.at_us, run.answer)
        with self._transaction():
            self._own.execute("INSERT OR REPLACE INTO runs VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", values)

    def _forget(self, of: RunKey, token: str) -> None:
        with self._transaction():
            self._own.execute(f"DELETE FROM runs WHERE {_KEY} AND token = ?", (of.agent, of.principal, of.key, token))

    @contextmanager
    def _transaction(self, connection: sqlite3.Connection | None = None) -> Iterator[None]:
        connection = connection or self._own
        with slots.storage_errors(self._slot.path):
            with sqlite.transaction(connection):
                yield

    @staticmethod
    def _scrub(connection: sqlite3.Connection) -> None:
        """Empty the WAL, where deleted text would still stand; not now if somebody is reading."""
        with suppress(sqlite3.OperationalError):
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()

    def _all(self) -> list[sqlite3.Connection]:
        with slots.storage_errors(self._folder):
            paths = slots.files(self._folder, RUNS)
            if self._slot.path not in paths:
                raise StoreUnavailable(f"{self._slot.path} is gone while in use; restore the data directory and restart the node.")
            for path in paths:
                if path != self._slot.path and path not in self._others:
                    self._others[path] = slots.connect(path, RUNS, write=False)
        return [self._own, *(self._others[path] for path in paths if path != self._slot.path)]


def _now_us() -> int:
    return time.time_ns() // 1000
