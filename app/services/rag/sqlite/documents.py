"""Documents and their chunks: put in whole, listed, and deleted so that nothing of them stays on the disk. Within a transaction."""

# ruff: noqa: S608 - what is put into these statements are constants, conditions of filters.py and question marks
import sqlite3
from collections.abc import Iterable, Iterator, Sequence

from app.errors import CollectionNotFound, DocumentNotFound
from app.services.rag import embedding
from app.services.rag.knowledge import Collection, Cut, Document, Filter, Name
from app.services.rag.sqlite import file, filters, rows, vectors, words

_BATCH = 500


def missing(of: Name) -> CollectionNotFound:
    return CollectionNotFound(f"There is no collection {of.name!r}; create it with POST /v1/rag/collections.", param="collection")


def collection(connection: sqlite3.Connection) -> Collection:
    row = connection.execute(f"SELECT {rows.COLLECTION} FROM collection").fetchone()
    return rows.collection(row)


def put(connection: sqlite3.Connection, cuts: Sequence[Cut], model: str | None) -> int:
    """Add or replace documents; the number of their chunks. Raises EmbeddingMismatch."""
    dimension = embedding.check_cuts(collection(connection), cuts, model)
    replaced = _remove(connection, _keys_of(connection, [rows.blob(cut.document.id) for cut in cuts]))
    last = {cut.document.id: cut for cut in cuts}  # of two with one id the later counts
    chunks = sum(_add(connection, cut) for cut in last.values())
    connection.execute(
        "UPDATE collection SET documents = documents + ?, chunks = chunks + ?, dimension = ?", (len(last), chunks, dimension)
    )
    if replaced:
        connection.execute("UPDATE collection SET unscrubbed = 1")
    return sum(len(cut.chunks) for cut in cuts)


def get(connection: sqlite3.Connection, of: Name, document_id: str) -> tuple[Document, int]:
    row = connection.execute("SELECT text, metadata, chunks FROM documents WHERE id = ?", (rows.blob(document_id),)).fetchone()
    if row is None:
        raise DocumentNotFound(f"The collection {of.name!r} has no document {document_id!r}; GET its /documents lists what there is.")
    return Document(document_id, rows.text(row[0]), rows.mapping(row[1])), row[2]


def listed(connection: sqlite3.Connection, where: Filter, after: str, limit: int) -> Sequence[tuple[Document, int]]:
    held, values = filters.condition(where, "key")
    found = connection.execute(
        f"SELECT id, metadata, chunks FROM documents WHERE id > ? AND {held} ORDER BY id LIMIT ?",
        (rows.blob(after), *values, limit),
    )
    return [(Document(rows.text(each), "", rows.mapping(metadata)), chunks) for each, metadata, chunks in found]


def delete(connection: sqlite3.Connection, ids: Sequence[str] | None, where: Filter) -> int:
    named = None if ids is None else _keys_of(connection, [rows.blob(each) for each in ids])
    if named is not None and not where:
        return _remove(connection, named)
    held, values = filters.condition(where, "key")
    matching = [key for (key,) in connection.execute(f"SELECT key FROM documents WHERE {held}", values)]
    return _remove(connection, matching if named is None else sorted({*matching} & {*named}))


def _add(connection: sqlite3.Connection, cut: Cut) -> int:
    of = cut.document
    document = connection.execute(
        "INSERT INTO documents (id, metadata, chunks, text) VALUES (?, ?, ?, ?)",
        (rows.blob(of.id), rows.json_blob(dict(of.metadata)), len(cut.chunks), rows.blob(of.text)),
    ).lastrowid
    connection.executemany(
        "INSERT OR IGNORE INTO metadata (key, kind, value, document) VALUES (?, ?, ?, ?)",
        ((*row, document) for row in filters.metadata_rows(of.metadata)),
    )
    for number, chunk in enumerate(cut.chunks):
        key = connection.execute(
            "INSERT INTO chunks (document, number, text) VALUES (?, ?, ?)", (document, number, rows.blob(chunk.text))
        ).lastrowid
        assert key is not None
        words.add(connection, key, chunk.text)
        if chunk.vector is not None:
            packed = vectors.pack(chunk.vector, f"chunk {number} of the document {of.id!r}")
            connection.execute("INSERT INTO vectors (chunk, document, vector) VALUES (?, ?, ?)", (key, document, packed))
    return len(cut.chunks)


def _keys_of(connection: sqlite3.Connection, ids: Sequence[bytes]) -> list[int]:
    found = list[int]()
    for batch in batches(list(set(ids))):
        marks = ", ".join("?" * len(batch))
        found += [key for (key,) in connection.execute(f"SELECT key FROM documents WHERE id IN ({marks})", batch)]
    return found


def _remove(connection: sqlite3.Connection, keys: Sequence[int]) -> int:
    """Delete documents by key; how many there were."""
    if not keys:
        return 0
    if file.SECURE_WORDS:
        connection.execute("INSERT INTO words (words, rank) VALUES ('secure-delete', 1)")
    chunks = _remove_words(connection, keys)
    each = [(key,) for key in keys]
    for statement in ("chunks WHERE document", "vectors WHERE document", "metadata WHERE document", "documents WHERE key"):
        connection.executemany(f"DELETE FROM {statement} = ?", each)
    connection.execute(
        "UPDATE collection SET documents = documents - ?, chunks = chunks - ?, deletions = deletions + 1, unscrubbed = 1",
        (len(keys), chunks),
    )
    return len(keys)


def _remove_words(connection: sqlite3.Connection, keys: Sequence[int]) -> int:
    documents, chunks = connection.execute("SELECT documents, chunks FROM collection").fetchone()
    if len(keys) == documents:
        words.remove_all(connection)
        return int(chunks)
    removed = 0
    for key in keys:
        gone = connection.execute("SELECT key, text FROM chunks WHERE document = ?", (key,)).fetchall()
        words.remove(connection, gone)
        removed += len(gone)
    return removed


def batches(values: Sequence[bytes]) -> Iterator[Sequence[bytes]]:
    yield from (values[start : start + _BATCH] for start in range(0, len(values), _BATCH))


def add_waiting(connection: sqlite3.Connection, job: int, documents: Iterable[Document]) -> None:
    """Keep documents for a job until they are put."""
    connection.executemany(
        "INSERT INTO waiting (job, position, id, metadata, text) VALUES (?, ?, ?, ?, ?)",
        (
            (job, position, rows.blob(each.id), rows.json_blob(dict(each.metadata)), rows.blob(each.text))
            for position, each in enumerate(documents)
        ),
    )
