"""Search by vectors: exact cosine, by sqlite-vec where it loads and by NumPy otherwise.

Vectors are kept with length 1, as float32. Either searcher gives candidates, with room for its rounding; these are then scored in double
precision by one function, so that both find the same chunks, with the same scores, in the same order.
"""

# ruff: noqa: S608 - what is put into these statements are constants, conditions of filters.py and question marks
import heapq
import sqlite3
from array import array
from collections.abc import Iterable, Sequence

from app.errors import EmbeddingMismatch
from app.services.rag import embedding
from app.services.rag.knowledge import Filter, Hit, Name, Vector
from app.services.rag.sqlite import filters, rows
from app.services.rag.sqlite.words import hits

_BATCH = 500


def pack(vector: Vector, of: str) -> bytes:
    """A vector of length 1 in the direction of this one, as it is kept; zero stays zero. Raises InvalidBody for what is no number."""
    return embedding.kept(vector, of).tobytes()


def check_query(connection: sqlite3.Connection, of: Name, given: int) -> bool:
    """Whether there are vectors to compare with. Raises EmbeddingMismatch."""
    model, dimension = connection.execute("SELECT model, dimension FROM collection").fetchone()
    if model is None:
        told = f"The collection {of.name!r} has no embedding model and is searched by words alone"
        raise EmbeddingMismatch(f"{told}; create one with an embedding_model, or search with the mode words.")
    if dimension and dimension != given:
        raise embedding.mismatch(of, rows.text(model), dimension, given)
    return bool(dimension)


def best(connection: sqlite3.Connection, query: Sequence[float], candidates: Iterable[int], limit: int) -> Sequence[Hit]:
    """The nearest of these chunks, best first; equal ones in the order of document id and chunk."""
    nearest = heapq.nsmallest(limit, _scored(connection, query, list(candidates)))
    return list(hits(connection, [(key, -distance) for distance, _, _, key in nearest]))


def first(connection: sqlite3.Connection, where: Filter, limit: int) -> Sequence[Hit]:
    """What is nearest to the zero vector: everything alike."""
    held, values = filters.condition(where, "v.document")
    found = connection.execute(
        "SELECT v.chunk FROM vectors v JOIN documents d ON d.key = v.document JOIN chunks c ON c.key = v.chunk"
        f" WHERE {held} ORDER BY d.id, c.number LIMIT ?",
        (*values, limit),
    )
    return list(hits(connection, [(key, 0.0) for (key,) in found]))


def _scored(connection: sqlite3.Connection, query: Sequence[float], keys: Sequence[int]) -> Iterable[tuple[float, bytes, int, int]]:
    """(minus the cosine, document id, chunk, key) of each."""
    known = dict[bytes, float]()
    for start in range(0, len(keys), _BATCH):
        batch = keys[start : start + _BATCH]
        found = connection.execute(
            "SELECT d.id, c.number, v.chunk, v.vector FROM vectors v JOIN chunks c ON c.key = v.chunk"
            f" JOIN documents d ON d.key = v.document WHERE v.chunk IN ({', '.join('?' * len(batch))})",
            batch,
        )
        for document_id, number, key, vector in found:
            if vector not in known:
                values = array("f")
                values.frombytes(vector)
                known[vector] = -embedding.cosine(query, values)
            yield known[vector], document_id, number, key
