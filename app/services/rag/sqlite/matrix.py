"""Vectors compared by NumPy: kept in memory between searches, within a bound, and read block by block where there are too many.

What is in memory is brought up to date within each search's own view of the file: keys of chunks only grow, so what is new is what lies
above the last one known, and a count of deletions tells when to look for what has gone.
"""

# ruff: noqa: S608 - what is put into these statements are constants, conditions of filters.py and question marks
import sqlite3
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from app.services.rag.embedding import room
from app.services.rag.knowledge import Filter
from app.services.rag.sqlite import filters

MAX_BYTES = 256 * 1024 * 1024
"""Of vectors in memory: 174,000 chunks with 384 dimensions each."""
_BLOCK = 2048
Keys = NDArray[np.int64]
Rows = NDArray[np.float32]


class Matrix:
    """The vectors of one collection, by key of chunk. Arrays are only ever written behind what a search has been given."""

    def __init__(self, dimension: int) -> None:
        self.lock = threading.Lock()
        self._count, self._deletions = 0, 0
        self._keys, self._documents = np.empty(0, np.int64), np.empty(0, np.int64)
        self._rows: Rows = np.empty((0, dimension), np.float32)

    @property
    def size(self) -> int:
        return self._rows.nbytes

    def refresh(self, connection: sqlite3.Connection) -> tuple[Keys, Keys, Rows]:
        """Keys, documents and vectors as this transaction sees them. With the lock held since before the transaction began."""
        deletions = connection.execute("SELECT deletions FROM collection").fetchone()[0]
        if deletions != self._deletions:
            self._drop_deleted(connection)
            self._deletions = deletions
        last = int(self._keys[self._count - 1]) if self._count else 0
        for keys, documents, vectors in _blocks(connection, "chunk > ?", [last], self._rows.shape[1]):
            self._append(keys, documents, vectors)
        return self._keys[: self._count], self._documents[: self._count], self._rows[: self._count]

    def _drop_deleted(self, connection: sqlite3.Connection) -> None:
        there = np.fromiter((key for (key,) in connection.execute("SELECT chunk FROM vectors INDEXED BY vector_of_document")), np.int64)
        kept = np.isin(self._keys[: self._count], there)
        self._keys, self._documents = self._keys[: self._count][kept], self._documents[: self._count][kept]
        self._rows = self._rows[: self._count][kept]
        self._count = len(self._keys)

    def _append(self, keys: Keys, documents: Keys, vectors: Rows) -> None:
        end = self._count + len(keys)
        if end > len(self._keys):
            room_for = max(end, len(self._keys) * 5 // 4)
            self._keys = _grown(self._keys, self._count, room_for)
            self._documents = _grown(self._documents, self._count, room_for)
            self._rows = _grown(self._rows, self._count, room_for)
        self._keys[self._count : end] = keys
        self._documents[self._count : end] = documents
        self._rows[self._count : end] = vectors
        self._count = end


class Matrices:
    """The vectors of the collections that were searched last, together at most ``limit`` bytes."""

    def __init__(self, limit: int = MAX_BYTES) -> None:
        self._limit = limit
        self._lock = threading.Lock()
        self._kept = dict[Path, Matrix]()

    def candidates(self, connection: sqlite3.Connection, path: Path, query: bytes, where: Filter, limit: int) -> Iterable[int]:
        """The keys of all chunks that may be among the nearest. Nothing may have been read in the connection's transaction yet."""
        vector = np.frombuffer(query, np.float32)
        nearest = _Nearest(vector, limit)
        with self._view(connection, path, len(vector)) as view:
            if view is None:
                held, values = filters.condition(where)
                for keys, _, vectors in _blocks(connection, held, values, len(vector)):
                    nearest.add(keys, vectors)
            else:
                nearest.add(*_matching(connection, where, *view))
        return [int(key) for key in nearest.keys]

    def forget(self, path: Path) -> None:
        with self._lock:
            self._kept.pop(path, None)

    @contextmanager
    def _view(self, connection: sqlite3.Connection, path: Path, dimension: int) -> Iterator[tuple[Keys, Keys, Rows] | None]:
        """None where the collection's vectors are too many to be kept."""
        with self._lock:
            matrix = self._kept[path] = self._kept.pop(path) if path in self._kept else Matrix(dimension)
        with matrix.lock:
            count = connection.execute("SELECT chunks FROM collection").fetchone()[0]
            view = matrix.refresh(connection) if count * dimension * 4 <= self._limit else None
        if view is None:
            self.forget(path)
        else:
            self._make_room(path)
        yield view

    def _make_room(self, used: Path) -> None:
        with self._lock:
            for path in list(self._kept):
                if path != used and sum(matrix.size for matrix in self._kept.values()) > self._limit:
                    del self._kept[path]


class _Nearest:
    """The nearest of what was added, and what is as near but for rounding."""

    def __init__(self, query: Rows, limit: int) -> None:
        self._query, self._limit = query, limit
        self.keys: Keys = np.empty(0, np.int64)
        self._scores: Rows = np.empty(0, np.float32)

    def add(self, keys: Keys, vectors: Rows) -> None:
        keys = np.concatenate((self.keys, keys))
        scores = np.concatenate((self._scores, vectors @ self._query))
        if len(scores) > self._limit:
            edge = np.partition(scores, len(scores) - self._limit)[len(scores) - self._limit] - room(len(self._query))
            near = scores >= edge
            keys, scores = keys[near], scores[near]
        self.keys, self._scores = keys, scores


def _matching(connection: sqlite3.Connection, where: Filter, keys: Keys, documents: Keys, vectors: Rows) -> tuple[Keys, Rows]:
    if not where:
        return keys, vectors
    held, values = filters.condition(where, "key")
    found = connection.execute(f"SELECT key FROM documents WHERE {held}", values)
    matching = np.isin(documents, np.fromiter((key for (key,) in found), np.int64))
    return keys[matching], vectors[matching]


def _blocks(connection: sqlite3.Connection, where: str, values: list[Any], dimension: int) -> Iterator[tuple[Keys, Keys, Rows]]:
    found = connection.execute(f"SELECT chunk, document, vector FROM vectors WHERE {where} ORDER BY chunk", values)
    while block := found.fetchmany(_BLOCK):
        keys, documents, vectors = zip(*block, strict=True)
        read = np.frombuffer(b"".join(vectors), np.float32).reshape(-1, dimension)
        yield np.array(keys, np.int64), np.array(documents, np.int64), read


def _grown(of: Any, count: int, room_for: int) -> Any:
    grown = np.empty((room_for, *of.shape[1:]), of.dtype)
    grown[:count] = of[:count]
    return grown
