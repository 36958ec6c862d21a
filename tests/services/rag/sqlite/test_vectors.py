"""The two that search vectors in SQLite: they find the same, also where there are more vectors than memory; and where neither can."""

import asyncio
import importlib.util
import math
import random
import sqlite3
from collections.abc import Callable, Iterable
from contextlib import closing
from pathlib import Path

import pytest

from app.errors import InvalidBody, StoreUnavailable
from app.services.rag import embedding
from app.services.rag.knowledge import Filter, Hit
from app.services.rag.sqlite import SqliteStore, extension, file, vectors
from app.services.rag.sqlite.matrix import Matrices
from tests.services.rag import reference
from tests.services.rag.samples import MODEL, OF, collection, condition, places
from tests.services.rag.samples import vectors as embedded

DIMENSION = 24
Candidates = Callable[[sqlite3.Connection, Path, bytes, Filter, int], Iterable[int]]


@pytest.fixture(params=["numpy", "numpy, block by block", "sqlite-vec"])
def candidates(request: pytest.FixtureRequest) -> Candidates:
    """What gives the candidates, by itself: a store has the one that works here."""
    if request.param != "sqlite-vec":
        return Matrices(0 if "block" in request.param else 2**20).candidates
    with closing(sqlite3.connect(":memory:")) as trial:
        try:
            extension.load(trial)
        except (sqlite3.Error, AttributeError, OSError) as error:
            pytest.skip(f"sqlite-vec does not load into this Python's SQLite: {error}")
    return lambda connection, _, query, where, limit: extension.candidates(connection, query, where, limit)


async def test_either_finds_what_a_plain_search_through_all_finds(store: SqliteStore, folder: Path, candidates: Candidates) -> None:
    draw = random.Random(11)
    near = [[draw.gauss(0, 1) for _ in range(DIMENSION)] for _ in range(20)]
    cuts = [
        embedded(f"d{number:04}", *(moved(draw.choice(near), draw.choice((0.0, 1e-7, 0.1))) for _ in range(3)), metadata={"n": number})
        for number in range(800)
    ]
    await store.create(collection(dimension=DIMENSION))
    await store.put(OF, cuts, MODEL)
    for where in ((), condition("n", "lt", 30), condition("n", "gte", 30)):
        for limit in (1, 10, 500, 5000):
            query = draw.choice(near)
            found = searched(folder, candidates, query, where, limit)
            expected = reference.nearest(cuts, query, where)[:limit]
            assert [hit.score for hit in found] == pytest.approx([-score for score, _, _ in expected], abs=1e-6)
            assert found == await store.by_vector(OF, query, where, limit), "one searcher finds what the other does"


def moved(vector: list[float], by: float) -> list[float]:
    return [value + by for value in vector]


def searched(folder: Path, candidates: Candidates, query: list[float], where: Filter, limit: int) -> list[Hit]:
    [path] = folder.glob("*.sqlite")
    with closing(file.connect(path)) as connection:
        if candidates.__name__ == "<lambda>":
            extension.load(connection)
        with file.transaction(connection, write=False):
            unit = embedding.unit(query, "the query")
            return list(vectors.best(connection, unit, candidates(connection, path, vectors.pack(query, "it"), where, limit), limit))


async def test_vectors_in_memory_stay_within_their_bound_and_the_least_recently_used_go(tmp_path: Path) -> None:
    matrices = Matrices(3 * 100 * DIMENSION * 4)
    folders = [tmp_path / str(number) for number in range(5)]
    for folder in folders:
        store = SqliteStore(folder, "5" * 12)
        async with store.open():
            await store.create(collection(dimension=DIMENSION))
            await store.put(OF, [embedded("d", *([1.0] * DIMENSION for _ in range(100)))], MODEL)
        assert len(searched(folder, matrices.candidates, [1.0] * DIMENSION, (), 5)) == 5
    kept = [path.parent for path in matrices._kept]
    assert kept == folders[-3:]
    assert sum(matrix.size for matrix in matrices._kept.values()) <= 3 * 100 * DIMENSION * 4


async def test_a_vector_that_is_no_vector_is_refused_with_its_place(store: SqliteStore) -> None:
    await store.create(collection(dimension=2))
    for wrong in (math.nan, math.inf, -math.inf):
        with pytest.raises(InvalidBody, match=r"chunk 1 of the document 'd'.*finite"):
            await store.put(OF, [embedded("d", (1.0, 0.0), (wrong, 1.0))], MODEL)
        with pytest.raises(InvalidBody, match=r"the query.*finite"):
            await store.by_vector(OF, (wrong, 1.0), (), 9)
    assert (await store.collection(OF)).documents == 0


async def test_where_nothing_searches_vectors_words_are_searched_and_the_remedy_is_told(folder: Path, without_searchers: None) -> None:
    store = SqliteStore(folder, "5" * 12)
    async with store.open():
        assert store.vectors == ""
        assert "install numpy" in store.no_vectors
        await store.create(collection(dimension=2))
        await store.put(OF, [embedded("d", (1.0, 0.0))], MODEL)
        with pytest.raises(StoreUnavailable, match="install numpy"):
            await store.by_vector(OF, (1.0, 0.0), (), 9)
        assert places(await store.by_words(OF, "chunk", (), 9)) == [("d", 0)]


@pytest.fixture
def without_searchers(monkeypatch: pytest.MonkeyPatch) -> None:
    """A Python that has neither of the two packages."""
    find, hidden = importlib.util.find_spec, {"numpy", "sqlite_vec"}
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, package=None: None if name in hidden else find(name, package))


async def test_searches_and_writes_at_once_see_whole_documents(store: SqliteStore) -> None:
    await store.create(collection(dimension=2))
    steady = [embedded(f"steady{number:02}", (1.0, 0.0), (1.0, 0.0)) for number in range(20)]
    await store.put(OF, steady, MODEL)
    expected = [(f"steady{number:02}", chunk) for number in range(20) for chunk in (0, 1)]

    async def change(number: int) -> None:
        for _ in range(10):
            await store.put(OF, [embedded(f"changing{number}", (-1.0, 0.1), (-1.0, 0.1))], MODEL)
            await store.delete(OF, [f"changing{number}"])

    async def search() -> None:
        for _ in range(20):
            found = places(await store.by_vector(OF, (1.0, 0.0), (), 1000))
            assert found[:40] == expected
            assert len(found) % 2 == 0

    await asyncio.gather(*(change(number) for number in range(3)), *(search() for _ in range(4)))
