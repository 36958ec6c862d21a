"""Conversations and runs in PostgreSQL, for all nodes that name the same database.

The row of a conversation is the lock of its turns: whoever appends takes it, so that sequences have no gaps and times are in order. What a
run is told is decided under an advisory lock on its key. All times are the database's.
"""

# ruff: noqa: S608 - the only text put into these statements is the constants below
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

from app.postgres import VARIABLE, Connection, Database, Schema, parse
from app.services.memory.conversation import Conversation, History, MemorySettings, Part, Summary, Turn, check_same
from app.services.memory.runs import Run, RunKey, claimed, lost

SCHEMA = Schema(
    "memory",
    (
        """
CREATE TABLE astromesh_conversations (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    agent text NOT NULL, principal text NOT NULL, session text NOT NULL,
    last bigint NOT NULL, due timestamptz,
    summary bytea, summary_turn text, summary_sequence bigint,
    UNIQUE (agent, principal, session)
);
CREATE INDEX astromesh_conversations_due ON astromesh_conversations (due) WHERE due IS NOT NULL;
CREATE TABLE astromesh_turns (
    conversation bigint NOT NULL REFERENCES astromesh_conversations ON DELETE CASCADE,
    sequence bigint NOT NULL, created_us bigint NOT NULL, turn_id text NOT NULL, messages bytea NOT NULL,
    PRIMARY KEY (conversation, sequence), UNIQUE (conversation, turn_id)
);
CREATE TABLE astromesh_runs (
    agent text NOT NULL, principal text NOT NULL, key text NOT NULL, token text NOT NULL, session text NOT NULL, fingerprint text NOT NULL,
    attempt int NOT NULL, state text NOT NULL, at_us bigint NOT NULL, answer bytea, before text[] NOT NULL,
    PRIMARY KEY (agent, principal, key)
);
CREATE INDEX astromesh_runs_by_age ON astromesh_runs (at_us);
CREATE INDEX astromesh_runs_by_session ON astromesh_runs (agent, principal, session);
""",
    ),
)
_NOW_US = "(extract(epoch FROM clock_timestamp()) * 1000000)::bigint"
_DUE = "clock_timestamp() + make_interval(secs => $6)"
_APPEND = f"""
WITH conversation AS (
    INSERT INTO astromesh_conversations AS there (agent, principal, session, last, due) VALUES ($1, $2, $3, 1, {_DUE})
    ON CONFLICT (agent, principal, session) DO UPDATE SET last = there.last + 1, due = {_DUE} RETURNING id, last
)
INSERT INTO astromesh_turns SELECT id, last, {_NOW_US}, $4, $5 FROM conversation
ON CONFLICT (conversation, turn_id) DO NOTHING RETURNING conversation, sequence
"""
_OF = "agent = $1 AND principal = $2 AND session = $3"
_TURN = f"SELECT messages FROM astromesh_turns JOIN astromesh_conversations ON id = conversation WHERE {_OF} AND turn_id = $4"
# One turn more than fits is in the answer, without its messages: it says that there is more.
_HISTORY = f"""
SELECT sequence, created_us, turn_id, CASE WHEN place = 1 OR size <= $5 THEN messages END AS messages,
    CASE WHEN place = 1 THEN summary END AS summary, CASE WHEN place = 1 THEN summary_turn END AS summary_turn
FROM (
    SELECT *, row_number() OVER newest AS place, sum(length(messages)) OVER newest AS size FROM (
        SELECT turns.*, summary, summary_turn FROM astromesh_turns AS turns JOIN astromesh_conversations ON id = conversation
        WHERE {_OF} ORDER BY sequence DESC LIMIT $4
    ) AS last_turns WINDOW newest AS (ORDER BY sequence DESC ROWS UNBOUNDED PRECEDING)
) AS measured
WHERE place <= 2 OR size - length(messages) <= $5 ORDER BY sequence DESC
"""
_SUMMARISE = f"""
UPDATE astromesh_conversations SET summary = $5, summary_turn = turn_id, summary_sequence = sequence FROM astromesh_turns
WHERE conversation = id AND turn_id = $4 AND {_OF} AND (summary_sequence IS NULL OR summary_sequence < sequence) RETURNING id
"""
_FORGET_ANSWERS = f"UPDATE astromesh_runs SET answer = NULL WHERE {_OF} AND answer IS NOT NULL"
_EXPIRED = """
DELETE FROM astromesh_conversations WHERE id IN (
    SELECT id FROM astromesh_conversations WHERE due <= clock_timestamp() ORDER BY due LIMIT $1 FOR UPDATE SKIP LOCKED
) RETURNING agent, principal, session
"""
_EXPIRED_AT_ONCE = 1000
_KEY = "agent = $1 AND principal = $2 AND key = $3"
_RUN = f"SELECT token, session, fingerprint, attempt, state, at_us, answer, before FROM astromesh_runs WHERE {_KEY} FOR UPDATE"
_KEEP_RUN = """
INSERT INTO astromesh_runs VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)
ON CONFLICT (agent, principal, key) DO UPDATE SET token = $4, session = $5, fingerprint = $6, attempt = $7, state = $8, at_us = $9,
    answer = $10, before = $11
"""
_END_RUN = f"""
UPDATE astromesh_runs SET state = $5, at_us = {_NOW_US}, answer = $6 WHERE {_KEY} AND token = $4 AND state = 'running' RETURNING 1
"""
_OLD_RUNS = f"DELETE FROM astromesh_runs WHERE at_us < {_NOW_US} - $1"
_TOO_MANY_RUNS = "DELETE FROM astromesh_runs WHERE at_us <= (SELECT at_us FROM astromesh_runs ORDER BY at_us DESC LIMIT 1 OFFSET $1)"


class PostgresStore:
    """The store of the database at ``url``. Raises ConfigError for a URL that is none."""

    def __init__(self, url: str, settings: MemorySettings) -> None:
        self._settings = settings
        self.database = Database(parse(url, VARIABLE), SCHEMA)
        self.place = f"PostgreSQL at {self.database.address}"

    @property
    def store_id(self) -> str | None:
        return self.database.store_id or None

    @asynccontextmanager
    async def open(self) -> AsyncIterator[None]:
        """Raises ConfigError for a missing driver, and for tables of a newer build."""
        async with self.database.open():
            yield

    async def follow(self, changed: Callable[[], None]) -> None:
        await self.database.until_ready()
        changed()

    async def append(self, to: Conversation, turn_id: str, messages: bytes, ttl_s: float | None) -> bool:
        try:
            async with self.database.transaction() as connection:
                added = await connection.fetchrow(_APPEND, *_key(to), turn_id, messages, ttl_s)
                if added is None:
                    raise _ThereError(await connection.fetchval(_TURN, *_key(to), turn_id))
                await self._keep_newest(connection, *added)
        except _ThereError as there:  # raised so that what was counted for the turn is rolled back
            check_same(there.messages, messages, turn_id)
            return False
        return True

    async def _keep_newest(self, connection: Connection, conversation: int, sequence: int) -> None:
        oldest = sequence - self._settings.max_turns_per_session
        if oldest > 0:
            await connection.execute("DELETE FROM astromesh_turns WHERE conversation = $1 AND sequence <= $2", conversation, oldest)

    async def history(self, of: Conversation, part: Part) -> History:
        limits = part.turns(self._settings), part.bytes(self._settings)
        async with self.database.transaction() as connection:
            rows = await connection.fetch(_HISTORY, *_key(of), *limits)
        turns = [Turn(row["sequence"], row["created_us"], row["turn_id"], row["messages"]) for row in rows if row["messages"] is not None]
        return History(tuple(reversed(turns)), truncated=len(turns) < len(rows), summary=_summary(rows[0]) if rows else None)

    async def summarise(self, of: Conversation, summary: Summary) -> bool:
        async with self.database.transaction() as connection:
            text = summary.text.encode("utf-8", "surrogatepass")
            return await connection.fetchval(_SUMMARISE, *_key(of), summary.turn_id, text) is not None

    async def clear(self, of: Conversation) -> int:
        async with self.database.transaction() as connection:
            there = await connection.fetchval(f"SELECT id FROM astromesh_conversations WHERE {_OF} FOR UPDATE", *_key(of))
            count = await connection.fetchval("SELECT count(*) FROM astromesh_turns WHERE conversation = $1", there)
            await connection.execute("DELETE FROM astromesh_conversations WHERE id = $1", there)
            await connection.execute(_FORGET_ANSWERS, *_key(of))
            return int(count)

    async def claim(self, of: RunKey, session: str, token: str, fingerprint: str) -> Run:
        key = (of.agent, of.principal, of.key)
        async with self.database.transaction() as connection:
            await connection.fetchval("SELECT pg_advisory_xact_lock(hashtextextended($1, 0))", "\n".join(("astromesh run", *key)))
            now_us = await connection.fetchval(f"SELECT {_NOW_US}")
            row = await connection.fetchrow(_RUN, *key)
            there = _run(row) if row and row["at_us"] >= now_us - int(self._settings.run_ttl_s * 1e6) else None
            run = claimed(there, Run(token, session, fingerprint, 1, "running", now_us), self._settings.run_lease_s)
            if run is not there:
                values = (run.token, run.session, run.fingerprint, run.attempt, run.state, run.at_us, run.answer, run.before)
                await connection.execute(_KEEP_RUN, *key, *values)
            return run

    async def finish(self, of: RunKey, token: str, answer: bytes) -> None:
        kept = answer if len(answer) <= self._settings.max_run_bytes else None
        if not await self._end(of, token, "done", kept):
            raise lost()

    async def release(self, of: RunKey, token: str) -> None:
        await self._end(of, token, "released", None)

    async def _end(self, of: RunKey, token: str, state: str, answer: bytes | None) -> bool:
        async with self.database.transaction() as connection:
            return await connection.fetchval(_END_RUN, of.agent, of.principal, of.key, token, state, answer) is not None

    async def sweep(self) -> None:
        while await self._expire() == _EXPIRED_AT_ONCE:
            pass
        async with self.database.transaction() as connection:
            await connection.execute(_OLD_RUNS, int(self._settings.run_ttl_s * 1e6))
            await connection.execute(_TOO_MANY_RUNS, self._settings.max_runs)

    async def _expire(self) -> int:
        async with self.database.transaction() as connection:
            expired = await connection.fetch(_EXPIRED, _EXPIRED_AT_ONCE)
            await connection.executemany(_FORGET_ANSWERS, [tuple(of) for of in expired])
            return len(expired)

    async def probe(self) -> None:
        await self.database.probe()


class _ThereError(Exception):
    def __init__(self, messages: bytes) -> None:
        self.messages = messages


def _key(of: Conversation) -> tuple[str, str, str]:
    return of.agent, of.principal, of.session


def _run(row: Any) -> Run:
    return replace(Run(*row), before=tuple(row["before"]))


def _summary(row: Mapping[str, bytes]) -> Summary | None:
    if row["summary"] is None:
        return None
    return Summary(str(row["summary_turn"]), row["summary"].decode("utf-8", "surrogatepass"))
