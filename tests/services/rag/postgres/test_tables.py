"""Knowledge in PostgreSQL beyond the laws of every store: what the server can, and what its tables hold."""

import asyncio
import math
import re
from collections.abc import Iterator
from dataclasses import replace

import pytest

from app.errors import InvalidBody, StoreUnavailable
from app.services.rag.knowledge import Chunk, Cut, Document, Name
from app.services.rag.postgres import PostgresStore
from tests.databases.server import Server
from tests.services.rag.postgres.opened import opened
from tests.services.rag.samples import MODEL, OF, collection, condition, cut, documents, ids, job, places, vectors

pytestmark = pytest.mark.databases
TABLES = ("collections", "documents", "metadata", "chunks", "vectors", "jobs", "waiting")


def rows(server: Server, url: str) -> dict[str, int]:
    """How many rows each table has."""
    name = url.rpartition("/")[2]
    return {table: server.sql(f"SELECT count(*) FROM astromesh_rag_{table}", name) for table in TABLES}


@pytest.fixture
def limited_url(postgres: Server, postgres_url: str) -> Iterator[str]:
    """The same database for a user who may make tables and no extension."""
    name = postgres_url.rpartition("/")[2]
    postgres.sql(f"CREATE ROLE {name} LOGIN PASSWORD 'secret'")
    postgres.sql(f"GRANT ALL ON SCHEMA public TO {name}", name)
    yield f"postgresql://{name}:secret@{postgres_url.rpartition('@')[2]}"
    postgres.sql(f"DROP OWNED BY {name}", name)
    postgres.sql(f"DROP ROLE {name}")


async def check_words_alone(url: str, why: str) -> None:
    """Nothing searches vectors there and that is said; words are searched all the same."""
    async with opened(url) as store:
        assert store.vectors == ""
        assert why in store.no_vectors
        assert "restart the node" in store.no_vectors
        await store.create(collection())
        await store.create(collection(Name("with vectors"), dimension=2))
        await store.put(OF, [cut("d", "some words")], None)
        assert places(await store.by_words(OF, "words", (), 9)) == [("d", 0)]
        assert await store.delete(OF, ["d"]) == 1
        with pytest.raises(StoreUnavailable, match=re.escape(why)):
            await store.put(Name("with vectors"), [vectors("d", (1.0, 0.0))], MODEL)
        with pytest.raises(StoreUnavailable, match=re.escape(why)):
            await store.by_vector(Name("with vectors"), (1.0, 0.0), (), 9)
        assert (await store.collection(Name("with vectors"))).documents == 0


async def test_without_the_right_to_make_the_extension_words_are_searched_until_a_superuser_has_made_it(
    postgres: Server, postgres_url: str, limited_url: str
) -> None:
    await check_words_alone(limited_url, "have a superuser run CREATE EXTENSION vector")
    postgres.sql("CREATE EXTENSION vector", postgres_url.rpartition("/")[2])
    async with opened(limited_url) as store:
        assert store.vectors.startswith("pgvector 0.")
        await store.put(Name("with vectors"), [vectors("d", (1.0, 0.0))], MODEL)
        assert places(await store.by_vector(Name("with vectors"), (1.0, 0.0), (), 9)) == [("d", 0)]


async def test_on_a_server_without_pgvector_words_are_searched(troubled_postgres: Server) -> None:
    troubled_postgres.run("rm", "/usr/share/postgresql/17/extension/vector.control")
    with troubled_postgres.database() as url:
        await check_words_alone(url, "its server has no pgvector")


async def test_nodes_that_start_at_once_on_an_empty_database_can_all_search_vectors(postgres_url: str) -> None:
    async def start() -> tuple[str, str]:
        async with opened(postgres_url) as store:
            return store.store_id, store.vectors

    assert len({*await asyncio.gather(*(start() for _ in range(6)))}) == 1


async def test_what_is_deleted_leaves_no_row_in_any_table(postgres: Server, postgres_url: str, store: PostgresStore) -> None:
    for end in (store.delete(OF, None), store.delete(OF, ["a", "b"]), store.delete(OF, None, condition("k", "gt", 0)), store.drop(OF)):
        await store.create(collection(dimension=2))
        both = [vectors(each, (1.0, 0.0), (0.0, 1.0), metadata={"k": [1, 2]}) for each in "ab"]
        await store.put(OF, both, MODEL)
        await store.put(OF, both, MODEL)
        assert rows(postgres, postgres_url) | {"collections": 1} == dict(zip(TABLES, (1, 2, 4, 4, 4, 0, 0), strict=True))
        await end
        assert rows(postgres, postgres_url) | {"collections": 0} == dict.fromkeys(TABLES, 0)
    await store.create(collection())
    await store.add_job(job("j", 2), documents("a", "b"))
    await store.drop(OF)
    assert rows(postgres, postgres_url) == dict.fromkeys(TABLES, 0)


async def test_ids_names_and_values_may_be_longer_than_an_index_takes(store: PostgresStore) -> None:
    long = "é" * 5000
    of = Name(long, long)
    await store.create(collection(of))
    names = sorted([long + "a", long + "b", long, long[:-1], long + "a\0"])
    await store.put(of, [cut(each, "text", metadata={long: each}) for each in reversed(names)], None)
    assert await ids(store, of) == names
    assert [each.id for each, _ in await store.documents(of, (), names[1], 2)] == names[2:4]
    assert await ids(store, of, condition(long, "eq", names[3])) == [names[3]]
    assert await ids(store, of, condition(long, "gt", names[2])) == names[3:]
    await store.add_job(replace(job(long, 1), of=of), documents(long))
    assert (await store.job(of, long)).id == long


async def test_numbers_are_compared_exactly_whatever_their_size(store: PostgresStore) -> None:
    numbers: list[int | float] = [-(10**400), -1e308, -1e-300, 0, 5e-324, 0.1, 2**53, 2**53 + 1, 2**63, 1e308, 10**400, math.inf]
    await store.create(collection())
    await store.put(OF, [cut(f"{place:02}", "text", metadata={"n": number}) for place, number in enumerate(numbers)], None)
    for number in [*numbers, float(2**53), -0.0]:
        assert await ids(store, OF, condition("n", "eq", number)) == [f"{place:02}" for place, each in enumerate(numbers) if each == number]
        assert await ids(store, OF, condition("n", "gt", number)) == [f"{place:02}" for place, each in enumerate(numbers) if each > number]


async def test_vectors_that_pgvector_does_not_take_are_refused_with_the_reason(store: PostgresStore) -> None:
    await store.create(collection(dimension=0))
    with pytest.raises(InvalidBody, match=r"16001 dimensions.*16000"):
        await store.put(OF, [vectors("d", [1.0] * 16_001)], MODEL)
    with pytest.raises(InvalidBody, match="chunk 0 of the document 'd' holds nan"):
        await store.put(OF, [vectors("d", (math.nan, 1.0))], MODEL)
    await store.put(OF, [vectors("d", [1.0] * 16_000)], MODEL)
    assert [hit.score for hit in await store.by_vector(OF, [1.0] * 16_000, (), 9)] == pytest.approx([1.0])


async def test_by_way_of_pgbouncer_a_store_works_alike(postgres: Server, postgres_url: str) -> None:
    async with opened(postgres.pooler_url(postgres_url.rpartition("/")[2])) as one, opened(postgres_url) as two:
        await one.create(collection(dimension=2))
        await asyncio.gather(*(one.put(OF, [vectors(f"d{number:02}", (1.0, number))], MODEL) for number in range(30)))
        await asyncio.gather(*(one.by_words(OF, "chunk", (), 9) for _ in range(30)))
        assert places(await one.by_vector(OF, (1.0, 0.0), (), 5)) == places(await two.by_vector(OF, (1.0, 0.0), (), 5))
        await one.add_job(job("j", 2), documents("a", "b"))
        lease = await one.claim(60)
        assert lease
        assert len(await one.take(lease, 9)) == 2
        await one.finish(lease)


async def test_documents_may_be_as_large_as_a_book(store: PostgresStore) -> None:
    text = "It was a dark and stormy night in the engine room. " * 100_000
    pieces = [text[start : start + 1000] for start in range(0, len(text), 1000)]
    await store.create(collection())
    await store.put(OF, [Cut(Document("book", text), [Chunk(piece) for piece in pieces])], None)
    assert await store.document(OF, "book") == (Document("book", text), len(pieces))
    assert len(await store.by_words(OF, "stormy", (), 10)) == 10
    await store.delete(OF, ["book"])
