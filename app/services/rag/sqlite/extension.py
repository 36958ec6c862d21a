"""Vectors compared inside SQLite, by the scalar function of sqlite-vec."""

# ruff: noqa: S608 - what is put into these statements are constants, conditions of filters.py and question marks
import importlib.util
import sqlite3
from collections.abc import Iterable
from pathlib import Path

from app.services.rag.embedding import room
from app.services.rag.knowledge import Filter
from app.services.rag.sqlite import filters

_SPARE = 32
"""So many more than wanted are looked at, to see that the next best is worse by more than rounding."""


def load(connection: sqlite3.Connection) -> str:
    """Load the extension into a connection; its version. Raises sqlite3.Error, AttributeError or OSError where it does not load: not every
    Python lets SQLite load extensions, and not every machine can run this one."""
    found = importlib.util.find_spec("sqlite_vec")  # importing it would import NumPy, which takes 20 MB
    if found is None or found.origin is None:
        raise OSError("the package sqlite-vec is not installed")
    connection.enable_load_extension(True)
    try:
        connection.load_extension(str(Path(found.origin).parent / "vec0"))
    finally:
        connection.enable_load_extension(False)
    # Not its word alone: a comparison is what it is for.
    if connection.execute("SELECT vec_distance_cosine(x'0000803f00000000', x'000000000000803f')").fetchone()[0] != 1.0:
        raise OSError("vec_distance_cosine gives a wrong result")
    return str(connection.execute("SELECT vec_version()").fetchone()[0]).removeprefix("v")


def candidates(connection: sqlite3.Connection, query: bytes, where: Filter, limit: int) -> Iterable[int]:
    """The keys of all chunks that may be among the nearest."""
    held, values = filters.condition(where)
    statement = (
        "SELECT chunk, coalesce(vec_distance_cosine(vector, ?), 1.0) AS distance FROM vectors"  # NULL: one of them is zero
        f" WHERE {held} ORDER BY distance LIMIT ?"
    )
    asked = limit + _SPARE
    while True:
        found = connection.execute(statement, (query, *values, asked)).fetchall()
        edge = found[limit - 1][1] + room(len(query) // 4) if len(found) >= limit else 3.0
        if len(found) < asked or found[-1][1] > edge:
            return [key for key, distance in found if distance <= edge]
        asked *= 4
