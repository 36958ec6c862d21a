"""Documents and their chunks: put in whole, listed and deleted. Within a transaction; what writes holds the lock of the collection."""

# ruff: noqa: S608 - what is put into these statements are constants, conditions of filters.py and numbers of parameters
import asyncio
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

from app.errors import DocumentNotFound
from app.postgres import Connection
from app.services.rag import embedding
from app.services.rag.knowledge import Cut, Document, Filter, Name, Vector
from app.services.rag.postgres import collections, filters, rows, vectors, words
from app.services.rag.postgres.collections import Count
from app.services.rag.postgres.filters import Parameters

_BATCH = 500
"""Rows in one statement: each has a time limit."""
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Made:
    """A chunk as it is kept."""

    text: bytes
    words: str
    length: int
    vector: Vector | None


async def put(connection: Connection, there: rows.Kept, cuts: Sequence[Cut], model: str | None, why_no_vectors: str) -> int:
    """Add or replace documents; the number of their chunks. Raises EmbeddingMismatch, and StoreUnavailable for vectors without pgvector."""
    dimension = embedding.check_cuts(there.collection, cuts, model)
    vectors.check(cuts, dimension, why_no_vectors)
    last = list({cut.document.id: cut for cut in cuts}.values())  # of two with one id the later counts
    removed = await _remove(connection, await _keys_of(connection, there, [cut.document.id for cut in last]))
    added = await _add(connection, there, last)
    await collections.count(connection, there, added, removed, dimension)
    return sum(len(cut.chunks) for cut in cuts)


async def get(connection: Connection, there: rows.Kept, document_id: str) -> tuple[Document, int]:
    statement = "SELECT id, text, metadata, chunks FROM astromesh_rag_documents WHERE collection = $1 AND sha256(id) = $2"
    row = await connection.fetchrow(statement, there.key, rows.digest(document_id))
    if row is None:
        raise _missing(there.collection.of, document_id)
    return rows.document(row), row[3]


async def listed(connection: Connection, there: rows.Kept, where: Filter, after: str, limit: int) -> Sequence[tuple[Document, int]]:
    parameters = Parameters([there.key, rows.blob(after)])
    held = filters.condition(where, "key", there.key, parameters)
    statement = (  # by the beginnings of ids, which are in an index, and among equal ones by the whole
        "SELECT id, ''::bytea, metadata, chunks FROM astromesh_rag_documents"
        f" WHERE collection = $1 AND substring(id, 1, 1000) >= substring($2::bytea, 1, 1000) AND id > $2 AND {held}"
        f" ORDER BY substring(id, 1, 1000), id LIMIT {parameters.add(limit, 'bigint')}"
    )
    return [(rows.document(row), row[3]) for row in await connection.fetch(statement, *parameters)]


async def delete(connection: Connection, there: rows.Kept, ids: Sequence[str] | None, where: Filter) -> int:
    parameters = Parameters([there.key])
    held = filters.condition(where, "key", there.key, parameters)
    if ids is not None:
        held += f" AND sha256(id) = ANY ({parameters.add([rows.digest(each) for each in ids], 'bytea[]')})"
    found = await connection.fetch(f"SELECT key FROM astromesh_rag_documents WHERE collection = $1 AND {held}", *parameters)
    removed = await _remove(connection, [key for (key,) in found])
    await collections.count(connection, there, Count(), removed)
    return removed.documents


async def _keys_of(connection: Connection, there: rows.Kept, ids: Sequence[str]) -> list[int]:
    statement = "SELECT key FROM astromesh_rag_documents WHERE collection = $1 AND sha256(id) = ANY ($2::bytea[])"
    return [key for (key,) in await connection.fetch(statement, there.key, [rows.digest(each) for each in ids])]


async def _remove(connection: Connection, keys: Sequence[int]) -> Count:
    """Delete documents by key; what there was of them."""
    chunks = total = 0
    for batch in _batches(keys):
        statement = (
            "WITH gone AS (DELETE FROM astromesh_rag_chunks WHERE document = ANY ($1::bigint[]) RETURNING length)"
            " SELECT count(*), coalesce(sum(length), 0) FROM gone"
        )
        row = await connection.fetchrow(statement, batch)
        chunks, total = chunks + row[0], total + row[1]
        await connection.execute("DELETE FROM astromesh_rag_metadata WHERE document = ANY ($1::bigint[])", batch)
        await connection.execute("DELETE FROM astromesh_rag_documents WHERE key = ANY ($1::bigint[])", batch)
    return Count(len(keys), chunks, total)


async def _add(connection: Connection, there: rows.Kept, cuts: Sequence[Cut]) -> Count:
    keys = await _new_keys(connection, len(cuts))
    await _add_documents(connection, there.key, list(zip(keys, cuts, strict=True)))
    numbered = [(key, cut, number) for key, cut in zip(keys, cuts, strict=True) for number in range(len(cut.chunks))]
    total = 0
    for batch in _batches(numbered):
        total += await _add_chunks(connection, there.key, batch)
    return Count(len(cuts), len(numbered), total)


async def _add_documents(connection: Connection, collection: int, keyed: Sequence[tuple[int, Cut]]) -> None:
    statement = (
        "INSERT INTO astromesh_rag_documents (key, collection, id, metadata, chunks, text)"
        " SELECT key, $1, id, metadata, chunks, text FROM"
        " unnest($2::bigint[], $3::bytea[], $4::bytea[], $5::int[], $6::bytea[]) AS given (key, id, metadata, chunks, text)"
    )
    for batch in _batches(keyed):
        columns = zip(*((key, *_columns(cut.document), len(cut.chunks)) for key, cut in batch), strict=True)
        key, document_id, metadata, text, chunks = map(list, columns)
        await connection.execute(statement, collection, key, document_id, metadata, chunks, text)
    noted = [(key, *row) for key, cut in keyed for row in filters.metadata_rows(cut.document.metadata)]
    if noted:
        await connection.executemany(
            "INSERT INTO astromesh_rag_metadata (document, collection, field, kind, digest, number, text)"
            " VALUES ($1, $2, $3, $4, $5, $6, $7)",
            [(key, collection, field, value.kind, value.digest, value.number, value.text) for key, field, value in noted],
        )


async def _add_chunks(connection: Connection, collection: int, numbered: Sequence[tuple[int, Cut, int]]) -> int:
    """Keep chunks; of how many words they are."""
    keys = await _new_keys(connection, len(numbered))
    made = await asyncio.to_thread(lambda: [_made(collection, cut, number) for _, cut, number in numbered])
    statement = (
        "INSERT INTO astromesh_rag_chunks (key, collection, document, number, text, length, words)"
        " SELECT key, $1, document, number, text, length, words::tsvector FROM"
        " unnest($2::bigint[], $3::bigint[], $4::int[], $5::bytea[], $6::int[], $7::text[])"
        " AS given (key, document, number, text, length, words)"
    )
    owners, numbers = [document for document, _, _ in numbered], [number for _, _, number in numbered]
    texts, indexed, lengths = ([getattr(each, name) for each in made] for name in ("text", "words", "length"))
    await connection.execute(statement, collection, keys, owners, numbers, texts, lengths, indexed)
    rows_of_vectors = zip(keys, owners, (each.vector for each in made), strict=True)
    await vectors.add(connection, collection, [(key, owner, vector) for key, owner, vector in rows_of_vectors if vector is not None])
    return sum(lengths)


def _made(collection: int, cut: Cut, number: int) -> Made:
    chunk, told = cut.chunks[number], f"chunk {number} of the document {cut.document.id!r}"
    written, length = words.vector(collection, chunk.text, told)
    return Made(rows.blob(chunk.text), written, length, None if chunk.vector is None else embedding.kept(chunk.vector, told))


async def add_waiting(connection: Connection, job: int, documents: Sequence[Document]) -> None:
    """Keep documents for a job until they are put."""
    statement = (
        "INSERT INTO astromesh_rag_waiting (job, position, id, metadata, text)"
        " SELECT $1, position, id, metadata, text FROM"
        " unnest($2::int[], $3::bytea[], $4::bytea[], $5::bytea[]) AS given (position, id, metadata, text)"
    )
    for batch in _batches(list(enumerate(documents))):
        columns = zip(*((position, *_columns(document)) for position, document in batch), strict=True)
        await connection.execute(statement, job, *map(list, columns))


def _columns(document: Document) -> tuple[bytes, bytes, bytes]:
    """Id, metadata and text."""
    return rows.blob(document.id), rows.json_blob(dict(document.metadata)), rows.blob(document.text)


async def _new_keys(connection: Connection, count: int) -> list[int]:
    found = await connection.fetch("SELECT nextval('astromesh_rag_keys') FROM generate_series(1, $1::int)", count)
    return [key for (key,) in found]


def _missing(of: Name, document_id: str) -> DocumentNotFound:
    return DocumentNotFound(f"The collection {of.name!r} has no document {document_id!r}; GET its /documents lists what there is.")


def _batches(values: Sequence[T]) -> Iterator[Sequence[T]]:
    yield from (values[start : start + _BATCH] for start in range(0, len(values), _BATCH))
