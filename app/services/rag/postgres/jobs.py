"""Jobs: kept with their documents until these are put, and worked on by the one that holds the lease. Within a transaction.

A lease is a token that nobody else has, until ``free_at`` by the clock of the database, which all nodes share.
"""

# ruff: noqa: S608 - what is put into these statements are constants
import secrets
from collections.abc import Sequence

from app.errors import JobNotFound, LeaseLost
from app.postgres import Connection
from app.services.rag.filtering import holds
from app.services.rag.knowledge import Cut, Document, Filter, Job, JobState, Name
from app.services.rag.postgres import documents, rows
from app.services.rag.store import Lease

KEPT = 100
"""So many jobs that have ended are remembered in each collection."""
_NOW = "extract(epoch FROM clock_timestamp())::float8"
_LATER = "clock_timestamp() + $2::float8 * interval '1 second'"


async def add(connection: Connection, there: rows.Kept, job: Job, waiting: Sequence[Document]) -> None:
    statement = (
        f"INSERT INTO astromesh_rag_jobs (collection, {rows.JOB}) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)"
        " ON CONFLICT (collection, sha256(id)) DO NOTHING RETURNING key"
    )
    counts = (job.state, job.total, job.done, job.chunks, rows.blob(job.error), job.created_at, job.finished_at)
    key = await connection.fetchval(statement, there.key, rows.blob(job.id), *counts, rows.chunking_blob(job.chunking))
    if key is not None:
        await withdraw(connection, there, [each.id for each in waiting])
        await documents.add_waiting(connection, key, waiting)


async def withdraw(connection: Connection, there: rows.Kept, ids: Sequence[str] | None, where: Filter = ()) -> int:
    """Take documents (None: any) for which the filter holds out of the jobs that they wait in; how many there were. The jobs are locked
    first, as by all who change them."""
    running = "SELECT key FROM astromesh_rag_jobs WHERE collection = $1 AND state = 'running' ORDER BY key FOR UPDATE"
    keys = [key for (key,) in await connection.fetch(running, there.key)]
    if not keys:
        return 0
    among, parameters = ("", []) if ids is None else (" AND sha256(id) = ANY ($2::bytea[])", [[rows.digest(each) for each in ids]])
    statement = f"SELECT job, position, metadata FROM astromesh_rag_waiting WHERE job = ANY ($1::bigint[]){among}"
    found = await connection.fetch(statement, keys, *parameters)
    gone = [(job, position) for job, position, metadata in found if holds(where, rows.mapping(metadata))]
    await connection.executemany("DELETE FROM astromesh_rag_waiting WHERE job = $1 AND position = $2", gone)
    await connection.executemany("UPDATE astromesh_rag_jobs SET total = total - 1 WHERE key = $1", [(job,) for job, _ in gone])
    return len(gone)


async def listed(connection: Connection, there: rows.Kept, limit: int) -> Sequence[Job]:
    statement = f"SELECT {rows.JOB} FROM astromesh_rag_jobs WHERE collection = $1 ORDER BY created_at DESC, key DESC LIMIT $2"
    return [rows.job(there.collection.of, row) for row in await connection.fetch(statement, there.key, limit)]


async def get(connection: Connection, there: rows.Kept, job_id: str) -> Job:
    of = there.collection.of
    statement = f"SELECT {rows.JOB} FROM astromesh_rag_jobs WHERE collection = $1 AND sha256(id) = $2"
    row = await connection.fetchrow(statement, there.key, rows.digest(job_id))
    if row is None:
        raise JobNotFound(f"The collection {of.name!r} has no job {job_id!r}; of jobs that have ended the last {KEPT} are kept.")
    return rows.job(of, row)


async def cancel(connection: Connection, there: rows.Kept, job_id: str) -> Job:
    statement = "SELECT key FROM astromesh_rag_jobs WHERE collection = $1 AND sha256(id) = $2 AND state = 'running' FOR UPDATE"
    key = await connection.fetchval(statement, there.key, rows.digest(job_id))
    if key is not None:
        await _end(connection, there, key, "cancelled", "")
    return await get(connection, there, job_id)


async def claim(connection: Connection, lease_s: float) -> Lease | None:
    token = secrets.token_hex(12)
    got = await connection.fetchrow(
        "WITH oldest AS MATERIALIZED (SELECT key FROM astromesh_rag_jobs WHERE state = 'running' AND free_at <= clock_timestamp()"
        " ORDER BY created_at, key LIMIT 1 FOR UPDATE SKIP LOCKED)"
        f" UPDATE astromesh_rag_jobs j SET token = $1, free_at = {_LATER} FROM oldest WHERE j.key = oldest.key"
        " RETURNING j.key, j.collection",
        token,
        lease_s,
    )
    if got is None:
        return None
    names = await connection.fetchrow("SELECT name, owner FROM astromesh_rag_collections WHERE key = $1", got[1])
    if names is None:  # it is being dropped, and this job with it
        return None
    row = await connection.fetchrow(f"SELECT {rows.JOB} FROM astromesh_rag_jobs WHERE key = $1", got[0])
    return Lease(rows.job(Name(rows.text(names[0]), rows.text(names[1])), row), token)


async def renew(connection: Connection, there: rows.Kept, lease: Lease, lease_s: float) -> None:
    await connection.execute(
        f"UPDATE astromesh_rag_jobs SET free_at = {_LATER} WHERE key = $1", await _held(connection, there, lease), lease_s
    )


async def take(connection: Connection, there: rows.Kept, lease: Lease, limit: int) -> Sequence[Document]:
    statement = "SELECT id, text, metadata FROM astromesh_rag_waiting WHERE job = $1 ORDER BY position LIMIT $2"
    return [rows.document(row) for row in await connection.fetch(statement, await _held(connection, there, lease), limit)]


async def advance(connection: Connection, there: rows.Kept, lease: Lease, cuts: Sequence[Cut], chunks: int) -> None:
    """Note that documents which were taken are put. Raises LeaseLost, also where they are not the next ones: they are put already."""
    key = await _held(connection, there, lease)
    statement = "SELECT position, id FROM astromesh_rag_waiting WHERE job = $1 ORDER BY position LIMIT $2"
    following = await connection.fetch(statement, key, len(cuts))
    if [rows.text(each) for _, each in following] != [cut.document.id for cut in cuts]:
        raise LeaseLost(f"These are not the next documents of the job {lease.job.id!r}; claim it and take them anew.")
    put = [position for position, _ in following]
    await connection.execute("DELETE FROM astromesh_rag_waiting WHERE job = $1 AND position = ANY ($2::int[])", key, put)
    statement = "UPDATE astromesh_rag_jobs SET done = done + $2, chunks = chunks + $3, error = '' WHERE key = $1"
    await connection.execute(statement, key, len(cuts), chunks)


async def let_go(connection: Connection, there: rows.Kept, lease: Lease, error: str, after_s: float) -> None:
    statement = f"UPDATE astromesh_rag_jobs SET token = '', error = $3, free_at = {_LATER} WHERE key = $1"
    if (key := await _key(connection, there, lease)) is not None:
        await connection.execute(statement, key, after_s, rows.blob(error))


async def finish(connection: Connection, there: rows.Kept, lease: Lease, error: str) -> None:
    if (key := await _key(connection, there, lease)) is not None:
        await _end(connection, there, key, "failed" if error else "done", error)


async def _end(connection: Connection, there: rows.Kept, key: int, state: JobState, error: str) -> None:
    statement = f"UPDATE astromesh_rag_jobs SET state = $2, error = $3, finished_at = {_NOW}, token = '' WHERE key = $1"
    await connection.execute(statement, key, state, rows.blob(error))
    await connection.execute("DELETE FROM astromesh_rag_waiting WHERE job = $1", key)
    await connection.execute(
        "DELETE FROM astromesh_rag_jobs WHERE key IN (SELECT key FROM astromesh_rag_jobs WHERE collection = $1 AND state != 'running'"
        f" ORDER BY finished_at DESC, key DESC OFFSET {KEPT}"
        " FOR UPDATE SKIP LOCKED)",
        there.key,
    )


async def _key(connection: Connection, there: rows.Kept, lease: Lease) -> int | None:
    """The key of a job that the lease holds, locked until the transaction ends."""
    statement = (
        "SELECT key FROM astromesh_rag_jobs WHERE collection = $1 AND sha256(id) = $2"
        " AND state = 'running' AND token = $3 AND free_at > clock_timestamp() FOR UPDATE"
    )
    found: int | None = await connection.fetchval(statement, there.key, rows.digest(lease.job.id), lease.token)
    return found


async def _held(connection: Connection, there: rows.Kept, lease: Lease) -> int:
    found = await _key(connection, there, lease)
    if found is None:
        raise lost(lease)
    return found


def lost(lease: Lease) -> LeaseLost:
    return LeaseLost(f"The job {lease.job.id!r} is no longer this process's: it was cancelled, or its lease ran out; claim the next one.")
