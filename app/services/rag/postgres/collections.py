"""Collections: made, found, counted and dropped. Within a transaction."""

# ruff: noqa: S608 - what is put into these statements are constants
from collections.abc import Sequence
from dataclasses import dataclass

from app.errors import CollectionNotFound
from app.postgres import Connection
from app.services.rag.knowledge import Collection, Name
from app.services.rag.postgres import rows


@dataclass(frozen=True, slots=True)
class Count:
    """So many documents, with so many chunks of so many words."""

    documents: int = 0
    chunks: int = 0
    words: int = 0


async def create(connection: Connection, made: Collection) -> bool:
    statement = (
        "INSERT INTO astromesh_rag_collections (digest, name, owner, description, model, dimension, chunking, created_at)"
        " VALUES ($1, $2, $3, $4, $5, $6, $7, $8) ON CONFLICT (digest) DO NOTHING RETURNING key"
    )
    model = rows.blob(made.embedding.model) if made.embedding else None
    dimension = made.embedding.dimension if made.embedding else 0
    texts = (rows.blob(made.of.name), rows.blob(made.of.owner), rows.blob(made.description))
    values = (rows.name_digest(made.of), *texts, model, dimension, rows.chunking_blob(made.chunking), made.created_at)
    return await connection.fetchval(statement, *values) is not None


async def listed(connection: Connection) -> Sequence[Collection]:
    found = await connection.fetch(f"SELECT {rows.COLLECTION} FROM astromesh_rag_collections ORDER BY name, owner")
    return [rows.kept(row).collection for row in found]


async def find(connection: Connection, of: Name, *, lock: bool = False) -> rows.Kept:
    """A collection, with ``lock`` for nobody else to write until the transaction ends. Raises CollectionNotFound."""
    statement = f"SELECT {rows.COLLECTION} FROM astromesh_rag_collections WHERE digest = $1{' FOR UPDATE' if lock else ''}"
    row = await connection.fetchrow(statement, rows.name_digest(of))
    if row is None:
        raise CollectionNotFound(f"There is no collection {of.name!r}; create it with POST /v1/rag/collections.", param="collection")
    return rows.kept(row)


async def count(connection: Connection, there: rows.Kept, added: Count, removed: Count, dimension: int | None = None) -> None:
    statement = (
        "UPDATE astromesh_rag_collections SET documents = documents + $2, chunks = chunks + $3, words = words + $4,"
        " dimension = coalesce($5, dimension) WHERE key = $1"
    )
    changes = (added.documents - removed.documents, added.chunks - removed.chunks, added.words - removed.words)
    await connection.execute(statement, there.key, *changes, dimension)


async def drop(connection: Connection, of: Name) -> bool:
    key = await connection.fetchval("DELETE FROM astromesh_rag_collections WHERE digest = $1 RETURNING key", rows.name_digest(of))
    if key is None:
        return False
    ended = "DELETE FROM astromesh_rag_waiting w USING astromesh_rag_jobs j WHERE w.job = j.key AND j.collection = $1"
    await connection.execute(ended, key)
    for table in ("jobs", "metadata", "chunks", "documents"):
        await connection.execute(f"DELETE FROM astromesh_rag_{table} WHERE collection = $1", key)
    return True
