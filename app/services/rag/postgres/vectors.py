"""Search by vectors, by pgvector and without an approximate index: every vector that the filter lets through is compared.

pgvector adds up in single precision. What it finds nearest, and all that could be as near, is compared again exactly, so that equal
scores are equal.
"""

# ruff: noqa: S608 - what is put into these statements are constants, conditions of filters.py and numbers of parameters
import asyncio
import heapq
from collections.abc import Sequence
from typing import Any

from app.errors import InvalidBody, StoreUnavailable
from app.postgres import Address, Connection
from app.postgres.schema import install
from app.services.rag import embedding
from app.services.rag.knowledge import Cut, Filter, Hit, Vector
from app.services.rag.postgres import filters, rows, words
from app.services.rag.postgres.filters import Parameters
from app.services.rag.postgres.tables import VECTORS

MAX_DIMENSION = 16_000
_SPARE = 32
"""So many more than wanted are looked at, to see that the next best is worse by more than rounding."""
_HIT = (
    "SELECT d.id, c.number, c.text, {score}, d.metadata FROM astromesh_rag_chunks c"
    " JOIN astromesh_rag_documents d ON d.key = c.document WHERE c.key = ANY ($1::bigint[])"
)


async def find_extension(connection: Connection, address: Address) -> tuple[str, str]:
    """What searches vectors, or "" and why nothing does, with the remedy. Makes extension and table where that is allowed."""
    import asyncpg

    told = f"The database {address} cannot search vectors"
    if not await connection.fetchval("SELECT count(*) FROM pg_available_extensions WHERE name = 'vector'"):
        return "", f"{told}: its server has no pgvector; install the package (postgresql-17-pgvector in Debian), then restart the node."
    await connection.execute("SELECT pg_advisory_xact_lock(hashtext('astromesh makes an extension')); SAVEPOINT trial")
    try:
        await connection.execute("CREATE EXTENSION IF NOT EXISTS vector")
        if not await connection.fetchval("SELECT to_regtype('vector') IS NOT NULL"):
            return "", f"{told}: pgvector is in a schema that is not on the user's search_path; add it there, then restart the node."
        await install(connection, VECTORS, address)
    except asyncpg.PostgresError as error:
        await connection.execute("ROLLBACK TO trial")
        return "", f"{told}: {error.args[0]}; have a superuser run CREATE EXTENSION vector in it, then restart the node."
    version = await connection.fetchval("SELECT extversion FROM pg_extension WHERE extname = 'vector'")
    return f"pgvector {version}", ""


def check(cuts: Sequence[Cut], dimension: int, why_not: str) -> None:
    """Raises StoreUnavailable where vectors are given and cannot be kept here, InvalidBody where they are too long."""
    if why_not and any(chunk.vector is not None for cut in cuts for chunk in cut.chunks):
        raise StoreUnavailable(why_not)
    if dimension > MAX_DIMENSION:
        told = f"Vectors of {dimension} dimensions are longer than pgvector takes ({MAX_DIMENSION})"
        raise InvalidBody(f"{told}; use another embedding model.")


async def add(connection: Connection, collection: int, kept: Sequence[tuple[int, int, Vector]]) -> None:
    """Keep vectors, each with the keys of its chunk and document."""
    if kept:
        statement = "INSERT INTO astromesh_rag_vectors (chunk, collection, document, vector) VALUES ($1, $2, $3, $4::real[]::vector)"
        await connection.executemany(statement, [(chunk, collection, document, vector) for chunk, document, vector in kept])


async def find(connection: Connection, there: rows.Kept, vector: Vector, where: Filter, limit: int) -> Sequence[Hit]:
    query = embedding.unit(vector, "the query")
    if not embedding.check_query(there.collection, len(query)) or limit < 1:
        return []
    if not any(query):
        return await _first(connection, there, where, limit)
    near = await _candidates(connection, there, query, where, limit)
    found = await connection.fetch(
        "SELECT d.id, c.number, v.chunk, v.vector::real[] FROM astromesh_rag_vectors v JOIN astromesh_rag_chunks c ON c.key = v.chunk"
        " JOIN astromesh_rag_documents d ON d.key = v.document WHERE v.chunk = ANY ($1::bigint[])",
        near,
    )
    best = await asyncio.to_thread(_nearest, query, found, limit)
    told = await connection.fetch(_HIT.format(score="c.key"), [key for *_, key in best])
    by_key = {row[3]: row for row in told}
    return [words.hit((*by_key[key][:3], -distance, by_key[key][4])) for distance, _, _, key in best]


def _nearest(query: Sequence[float], found: Sequence[Any], limit: int) -> list[tuple[float, bytes, int, int]]:
    """(minus the cosine, document id, chunk, key) of the best, of rows of document id, chunk, key and vector."""
    scored = ((-embedding.cosine(query, kept), document_id, number, key) for document_id, number, key, kept in found)
    return heapq.nsmallest(limit, scored)


async def _candidates(connection: Connection, there: rows.Kept, query: Vector, where: Filter, limit: int) -> Sequence[int]:
    """The keys of all chunks that may be among the nearest."""
    parameters = Parameters([query, there.key])
    held = filters.condition(where, "document", there.key, parameters)
    asked = limit + _SPARE
    statement = (
        "SELECT chunk, coalesce(nullif(vector <=> $1::real[]::vector, 'NaN'), 1) AS distance FROM astromesh_rag_vectors"  # NaN: it is zero
        f" WHERE collection = $2 AND {held} ORDER BY distance LIMIT {parameters.add(asked, 'bigint')}"
    )
    while True:
        parameters[-1] = asked
        found = await connection.fetch(statement, *parameters)
        edge = found[limit - 1][1] + embedding.room(len(query)) if len(found) >= limit else 3.0
        if len(found) < asked or found[-1][1] > edge:
            return [key for key, distance in found if distance <= edge]
        asked *= 4


async def _first(connection: Connection, there: rows.Kept, where: Filter, limit: int) -> Sequence[Hit]:
    """What is nearest to the zero vector: everything alike."""
    parameters = Parameters([there.key])
    held = filters.condition(where, "v.document", there.key, parameters)
    found = await connection.fetch(
        "SELECT d.id, c.number, c.text, 0::float8, d.metadata FROM astromesh_rag_vectors v JOIN astromesh_rag_chunks c ON c.key = v.chunk"
        f" JOIN astromesh_rag_documents d ON d.key = v.document WHERE v.collection = $1 AND {held}"
        f" ORDER BY d.id, c.number LIMIT {parameters.add(limit, 'bigint')}",
        *parameters,
    )
    return [words.hit(row) for row in found]
