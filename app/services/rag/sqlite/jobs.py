"""Jobs: kept with their documents until these are put, and worked on by the one that holds the lease. Within a transaction.

A lease is a token that nobody else has, until ``free_at`` by the clock of the host, which the processes of a folder share.
"""

# ruff: noqa: S608 - what is put into these statements are constants, conditions of filters.py and question marks
import secrets
import sqlite3
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from app.errors import JobNotFound, LeaseLost
from app.services.rag.filtering import holds
from app.services.rag.knowledge import Cut, Document, Filter, Job, JobState, Name
from app.services.rag.sqlite import documents, file, rows
from app.services.rag.store import Lease

KEPT = 100
"""So many jobs that have ended are remembered in each collection."""
_COLUMNS = "id, state, total, done, chunks, error, created_at, finished_at, chunking"
_HELD = "id = ? AND state = 'running' AND token = ? AND free_at > ?"


@dataclass(frozen=True, slots=True, order=True)
class Claimable:
    """A job that may be claimed: the oldest first."""

    created_at: float
    sequence: int


def add(connection: sqlite3.Connection, job: Job, waiting: Sequence[Document]) -> None:
    values = (
        rows.blob(job.id),
        job.state,
        job.total,
        job.done,
        job.chunks,
        rows.blob(job.error),
        job.created_at,
        job.finished_at,
        rows.chunking_blob(job.chunking),
    )
    added = connection.execute(f"INSERT OR IGNORE INTO jobs ({_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", values)
    if added.rowcount:
        assert added.lastrowid is not None
        withdraw(connection, [each.id for each in waiting])
        documents.add_waiting(connection, added.lastrowid, waiting)


def withdraw(connection: sqlite3.Connection, ids: Sequence[str] | None, where: Filter = ()) -> int:
    """Take documents (None: any) for which the filter holds out of the jobs that they wait in; how many there were."""
    found = list[tuple[int, int, bytes]]()
    if ids is None:
        found += connection.execute("SELECT job, position, metadata FROM waiting")
    for batch in documents.batches([rows.blob(each) for each in ids or ()]):
        marks = ", ".join("?" * len(batch))
        found += connection.execute(f"SELECT job, position, metadata FROM waiting WHERE id IN ({marks})", batch)
    gone = [(job, position) for job, position, metadata in found if holds(where, rows.mapping(metadata))]
    if gone:
        connection.executemany("DELETE FROM waiting WHERE job = ? AND position = ?", gone)
        connection.executemany("UPDATE jobs SET total = total - 1 WHERE sequence = ?", ((job,) for job, _ in gone))
        connection.execute("UPDATE collection SET unscrubbed = 1")
    return len(gone)


def listed(connection: sqlite3.Connection, of: Name, limit: int) -> Sequence[Job]:
    found = connection.execute(f"SELECT {_COLUMNS} FROM jobs ORDER BY created_at DESC, sequence DESC LIMIT ?", (limit,))
    return [_job(of, row) for row in found]


def get(connection: sqlite3.Connection, of: Name, job_id: str) -> Job:
    row = connection.execute(f"SELECT {_COLUMNS} FROM jobs WHERE id = ?", (rows.blob(job_id),)).fetchone()
    if row is None:
        raise JobNotFound(f"The collection {of.name!r} has no job {job_id!r}; of jobs that have ended the last {KEPT} are kept.")
    return _job(of, row)


def cancel(connection: sqlite3.Connection, of: Name, job_id: str) -> Job:
    if get(connection, of, job_id).state == "running":
        sequence = connection.execute("SELECT sequence FROM jobs WHERE id = ?", (rows.blob(job_id),)).fetchone()[0]
        _end(connection, sequence, "cancelled", "")
    return get(connection, of, job_id)


@dataclass(frozen=True, slots=True)
class Look:
    """The oldest job that may be claimed, and whether there may be one, or something to tidy up, without anybody writing the file."""

    oldest: Claimable | None
    busy: bool


def look(connection: sqlite3.Connection) -> Look:
    """Every process looks at every collection now and then, so what is left to tidy up is done meanwhile. Outside of a transaction."""
    if file.scrub_is_due(connection):
        file.scrub(connection)
    busy = connection.execute("SELECT unscrubbed OR EXISTS (SELECT 1 FROM jobs WHERE state = 'running') FROM collection").fetchone()[0]
    return Look(claimable(connection), bool(busy))


def claimable(connection: sqlite3.Connection) -> Claimable | None:
    row = connection.execute(
        "SELECT created_at, sequence FROM jobs WHERE state = 'running' AND free_at <= ? ORDER BY created_at, sequence LIMIT 1",
        (time.time(),),
    ).fetchone()
    return Claimable(*row) if row else None


def claim(connection: sqlite3.Connection, of: Name, wanted: Claimable, lease_s: float) -> Lease | None:
    """None where somebody else was faster."""
    token, now = secrets.token_hex(12), time.time()
    got = connection.execute(
        "UPDATE jobs SET token = ?, free_at = ? WHERE sequence = ? AND state = 'running' AND free_at <= ?",
        (token, now + lease_s, wanted.sequence, now),
    ).rowcount
    if not got:
        return None
    row = connection.execute(f"SELECT {_COLUMNS} FROM jobs WHERE sequence = ?", (wanted.sequence,)).fetchone()
    return Lease(_job(of, row), token)


def renew(connection: sqlite3.Connection, lease: Lease, lease_s: float) -> None:
    connection.execute("UPDATE jobs SET free_at = ? WHERE sequence = ?", (time.time() + lease_s, _held(connection, lease)))


def take(connection: sqlite3.Connection, lease: Lease, limit: int) -> Sequence[Document]:
    found = connection.execute(
        "SELECT id, text, metadata FROM waiting WHERE job = ? ORDER BY position LIMIT ?", (_held(connection, lease), limit)
    )
    return [Document(rows.text(each), rows.text(text), rows.mapping(metadata)) for each, text, metadata in found]


def advance(connection: sqlite3.Connection, lease: Lease, cuts: Sequence[Cut], chunks: int) -> None:
    """Note that documents which were taken are put. Raises LeaseLost, also where they are not the next ones: they are put already."""
    job = _held(connection, lease)
    following = connection.execute("SELECT position, id FROM waiting WHERE job = ? ORDER BY position LIMIT ?", (job, len(cuts))).fetchall()
    if [rows.text(each) for _, each in following] != [cut.document.id for cut in cuts]:
        raise LeaseLost(f"These are not the next documents of the job {lease.job.id!r}; claim it and take them anew.")
    connection.executemany("DELETE FROM waiting WHERE job = ? AND position = ?", ((job, position) for position, _ in following))
    connection.execute("UPDATE jobs SET done = done + ?, chunks = chunks + ?, error = x'' WHERE sequence = ?", (len(cuts), chunks, job))


def let_go(connection: sqlite3.Connection, lease: Lease, error: str, after_s: float) -> None:
    if (job := _sequence(connection, lease)) is not None:
        values = (rows.blob(error), time.time() + after_s, job)
        connection.execute("UPDATE jobs SET token = '', error = ?, free_at = ? WHERE sequence = ?", values)


def finish(connection: sqlite3.Connection, lease: Lease, error: str) -> None:
    if (job := _sequence(connection, lease)) is not None:
        _end(connection, job, "failed" if error else "done", error)


def _end(connection: sqlite3.Connection, job: int, state: Literal["done", "failed", "cancelled"], error: str) -> None:
    connection.execute(
        "UPDATE jobs SET state = ?, error = ?, finished_at = ?, token = '' WHERE sequence = ?",
        (state, rows.blob(error), time.time(), job),
    )
    if connection.execute("DELETE FROM waiting WHERE job = ?", (job,)).rowcount:
        connection.execute("UPDATE collection SET unscrubbed = 1")
    connection.execute(
        "DELETE FROM jobs WHERE state != 'running' AND sequence NOT IN"
        " (SELECT sequence FROM jobs WHERE state != 'running' ORDER BY finished_at DESC, sequence DESC LIMIT ?)",
        (KEPT,),
    )


def _sequence(connection: sqlite3.Connection, lease: Lease) -> int | None:
    row = connection.execute(
        f"SELECT sequence FROM jobs WHERE {_HELD}",
        (rows.blob(lease.job.id), lease.token, time.time()),
    ).fetchone()
    return row[0] if row else None


def _held(connection: sqlite3.Connection, lease: Lease) -> int:
    found = _sequence(connection, lease)
    if found is None:
        raise lost(lease)
    return found


def lost(lease: Lease) -> LeaseLost:
    return LeaseLost(f"The job {lease.job.id!r} is no longer this process's: it was cancelled, or its lease ran out; claim the next one.")


def _job(of: Name, row: tuple[Any, ...]) -> Job:
    job_id, state, total, done, chunks, error, created_at, finished_at, chunking = row
    told: JobState = state
    return Job(rows.text(job_id), of, told, total, done, chunks, rows.text(error), created_at, finished_at, rows.chunking(chunking))
