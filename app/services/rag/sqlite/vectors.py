"""Search by vectors: exact cosine, by sqlite-vec where it loads and by NumPy otherwise.

Vectors are kept with length 1, as float32. Either searcher gives candidates, with room for its rounding; these are then scored in double
precision by one function, so that both find the same chunks, with the same scores, in the same order.
"""

# ruff: noqa: S608 - what is put into these statements are constants, conditions of filters.py and question marks
import heapq
import math
import operator
import sqlite3
import sys
from array import array
from collections.abc import Iterable, Sequence

from app.errors import EmbeddingMismatch, InvalidBody
from app.services.rag.knowledge import Filter, Hit, Name, Vector
from app.services.rag.sqlite import filters, rows
from app.services.rag.sqlite.words import hits

_BATCH = 500


def pack(vector: Vector, of: str) -> bytes:
    """A vector of length 1 in the direction of this one, as it is kept; zero stays zero. Raises InvalidBody for what is no number."""
    return array("f", unit(vector, of)).tobytes()


def unit(vector: Vector, of: str) -> Sequence[float]:
    values = [float(value) for value in vector]
    largest = max(map(abs, values), default=0.0)
    if not all(map(math.isfinite, values)):
        wrong = next(value for value in values if not math.isfinite(value))
        raise InvalidBody(f"The vector of {of} holds {wrong}, and a vector is of finite numbers; check what the embedding model gives.")
    if not largest:
        return values
    scaled = [value / largest for value in values]  # first, so that no square is too large or too small
    length = math.hypot(*scaled)
    return [value / length for value in scaled]


def mismatch(of: Name, model: str, dimension: int, given: int) -> EmbeddingMismatch:
    told = f"{of.name!r} has vectors of {model!r} with {dimension} dimensions, and this one has {given}"
    return EmbeddingMismatch(f"The collection {told}; embed with {model!r}, or create another collection for the other model.")


def check_query(connection: sqlite3.Connection, of: Name, given: int) -> bool:
    """Whether there are vectors to compare with. Raises EmbeddingMismatch."""
    model, dimension = connection.execute("SELECT model, dimension FROM collection").fetchone()
    if model is None:
        told = f"The collection {of.name!r} has no embedding model and is searched by words alone"
        raise EmbeddingMismatch(f"{told}; create one with an embedding_model, or search with the mode words.")
    if dimension and dimension != given:
        raise mismatch(of, rows.text(model), dimension, given)
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


def room(dimension: int) -> float:
    """How far two float32 sums of so many products can be from what they should be."""
    return 2e-7 * (dimension + 8)


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
                known[vector] = -_cosine(query, vector)
            yield known[vector], document_id, number, key


def _cosine(query: Sequence[float], vector: bytes) -> float:
    """Of a query of length 1 and a vector as it is kept, whose length is 1 but for its rounding."""
    values = array("f")
    values.frombytes(vector)
    length = math.sqrt(_sum_of_products(values, values))
    return max(-1.0, min(1.0, _sum_of_products(query, values) / length)) if length else 0.0


def _sum_of_products(one: Sequence[float], other: Sequence[float]) -> float:
    """Rounded once, so that it is the same in every order of the terms."""
    if sys.version_info >= (3, 12):
        return math.sumprod(one, other)
    return math.fsum(map(operator.mul, one, other))
