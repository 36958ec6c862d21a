"""Knowledge in PostgreSQL beyond the laws of every store: what is the server's, its faults, and how words are ranked there."""

import asyncio
import math
import re
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from app.errors import InvalidBody, LeaseLost, StoreUnavailable
from app.postgres import Patience, parse
from app.services.rag.knowledge import Chunk, Cut, Document, Name
from app.services.rag.postgres import PostgresStore
from app.services.rag.store import KnowledgeStore
from tests.databases.server import Server
from tests.services.rag.samples import MODEL, OF, collection, condition, cut, documents, ids, job, places, vectors

pytestmark = pytest.mark.databases
QUICK = Patience(connect_s=1.0, statement_s=1.0, rollback_s=0.3)
USUAL = Patience()
TABLES = ("collections", "documents", "metadata", "chunks", "vectors", "jobs", "waiting")
WORDS = ["engine", "steam", "rust", "brass", "a", "of"]


@asynccontextmanager
async def opened(url: str, patience: Patience = USUAL) -> AsyncIterator[PostgresStore]:
    store = PostgresStore(parse(url), patience)
    async with store.open():
        yield store


@pytest.fixture
async def store(postgres_url: str) -> AsyncIterator[PostgresStore]:
    async with opened(postgres_url) as made:
        yield made


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


@pytest.mark.parametrize(
    ("text", "query"),
    [
        ("Crème brûlée", "creme BRULEE"),
        ("e\u0301te\u0301", "été"),
        ("東京大学", "京大"),
        ("서울특별시", "특별"),
        ("हिन्दी में", "हिन्दी"),
        ("ﬁle", "file"),
    ],
)
async def test_words_are_found_without_accents_in_any_composition_and_within_scripts_that_have_no_spaces(
    store: PostgresStore, text: str, query: str
) -> None:
    await store.create(collection())
    await store.put(OF, [cut("d", text), cut("other", "gardens 東")], None)
    assert places(await store.by_words(OF, query, (), 9)) == [("d", 0)]
    assert await store.by_words(OF, "京東 हिन xyz", (), 9) == []


async def test_words_longer_than_an_index_takes_are_found_and_a_chunk_of_too_many_is_refused(store: PostgresStore) -> None:
    await store.create(collection())
    await store.put(OF, [cut("one", "x" * 100_000), cut("other", "x" * 99_999)], None)
    assert places(await store.by_words(OF, "x" * 100_000, (), 9)) == [("one", 0)]
    with pytest.raises(InvalidBody, match=r"chunk 0 of the document 'big' .* smaller chunks"):
        await store.put(OF, [cut("big", " ".join(f"word{number}" for number in range(100_000)))], None)
    assert await ids(store) == ["one", "other"]


async def test_vectors_that_pgvector_does_not_take_are_refused_with_the_reason(store: PostgresStore) -> None:
    await store.create(collection(dimension=0))
    with pytest.raises(InvalidBody, match=r"16001 dimensions.*16000"):
        await store.put(OF, [vectors("d", [1.0] * 16_001)], MODEL)
    with pytest.raises(InvalidBody, match="chunk 0 of the document 'd' holds nan"):
        await store.put(OF, [vectors("d", (math.nan, 1.0))], MODEL)
    await store.put(OF, [vectors("d", [1.0] * 16_000)], MODEL)
    assert [hit.score for hit in await store.by_vector(OF, [1.0] * 16_000, (), 9)] == pytest.approx([1.0])


def bm25(texts: Sequence[str], query: str) -> list[float]:
    """By Robertson and Zaragoza, with k1 = 1.2, b = 0.75 and an idf that is never negative; a word counts up to 16 times in a text."""
    counted = [Counter(text.split()) for text in texts]
    mean = sum(each.total() for each in counted) / len(texts)
    scores = []
    for each in counted:
        score = 0.0
        for word in {*query.split()}:
            holders = sum(word in other for other in counted)
            idf, times = math.log(1 + (len(texts) - holders + 0.5) / (holders + 0.5)), min(each[word], 16)
            score += idf * 2.2 * times / (times + 1.2 * (0.25 + 0.75 * each.total() / mean))
        scores.append(score)
    return scores


TEXT = st.lists(st.sampled_from(WORDS), min_size=1, max_size=40).map(" ".join)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(texts=st.lists(TEXT, min_size=1, max_size=6), query=TEXT, limit=st.integers(1, 6))
async def test_words_are_ranked_by_bm25(store: PostgresStore, texts: list[str], query: str, limit: int) -> None:
    await store.create(collection())
    await store.put(OF, [cut(f"d{number}", text) for number, text in enumerate(texts)], None)
    expected = {f"d{number}": score for number, score in enumerate(bm25(texts, query)) if score}
    found = await store.by_words(OF, query, (), limit)
    assert [hit.score for hit in found] == pytest.approx(sorted(expected.values(), reverse=True)[:limit], abs=1e-6)
    assert [hit.score for hit in found] == pytest.approx([expected[hit.document_id] for hit in found], abs=1e-6)
    assert found == sorted(found, key=lambda hit: (-hit.score, hit.document_id))
    await store.drop(OF)


async def test_one_collection_does_not_count_in_the_ranks_of_another(store: PostgresStore) -> None:
    await store.create(collection())
    await store.put(OF, [cut("d", "rust engine"), cut("e", "steam")], None)
    alone = await store.by_words(OF, "rust engine steam", (), 9)
    await store.create(collection(Name("other")))
    await store.put(Name("other"), [cut(f"o{number}", "rust rust rust") for number in range(20)], None)
    assert await store.by_words(OF, "rust engine steam", (), 9) == alone


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


# ---- a server in trouble


async def ingest(store: KnowledgeStore, after: list[asyncio.Event]) -> list[str]:
    """Work on the job until it is done, whatever the server does, as the service does; what went wrong. ``after`` are set with the puts."""
    troubles = list[str]()
    while True:
        try:
            lease = await store.claim(1.0)
            if lease is None:
                if (await store.job(OF, "j")).state == "done":
                    return troubles
                await asyncio.sleep(0.05)
                continue
            while taken := await store.take(lease, 1):
                await store.put(OF, [Cut(each, [Chunk(f"{each.text} part {part}") for part in range(20)]) for each in taken], None, lease)
                if after:
                    after.pop(0).set()
            await store.finish(lease)
        except (StoreUnavailable, LeaseLost) as error:
            troubles.append(error.message)
            await asyncio.sleep(0.05)


async def test_a_server_killed_in_the_middle_of_an_ingestion_leaves_no_half_document_and_the_job_goes_on(troubled_postgres: Server) -> None:
    names = [f"d{number:03}" for number in range(200)]
    with troubled_postgres.database() as url:
        async with opened(url, QUICK) as store:
            await store.create(collection())
            await store.add_job(job("j", len(names)), documents(*names))
            begun = [asyncio.Event() for _ in range(20)]
            last = begun[-1]
            working = asyncio.create_task(ingest(store, begun))
            await last.wait()
            for _ in range(2):
                troubled_postgres.kill()
                await asyncio.to_thread(troubled_postgres.start)
            troubles = await working
            assert troubles
            assert await ids(store) == names
            told, done = await store.collection(OF), await store.job(OF, "j")
            assert (told.documents, told.chunks, done.done, done.chunks) == (200, 4000, 200, 4000)
            assert len(await store.by_words(OF, "part", (), 10_000)) == 4000


async def test_a_server_that_stands_still_is_unavailable_in_time_and_works_on_afterwards(troubled_postgres: Server) -> None:
    with troubled_postgres.database() as url:
        async with opened(url, QUICK) as store:
            await store.create(collection(dimension=2))
            await store.put(OF, [vectors("d", (1.0, 0.0))], MODEL)
            calls: list[Any] = [
                lambda: store.by_words(OF, "chunk", (), 9),
                lambda: store.by_vector(OF, (1.0, 0.0), (), 9),
                lambda: store.put(OF, [vectors("e", (1.0, 0.0))], MODEL),
                lambda: store.claim(1.0),
                store.probe,
            ]
            troubled_postgres.pause()
            async with asyncio.timeout(10):
                outcomes = await asyncio.gather(*(call() for call in calls), return_exceptions=True)
            troubled_postgres.resume()
            assert [type(outcome) for outcome in outcomes] == [StoreUnavailable] * len(calls)
            assert all(outcome.headers["Retry-After"] for outcome in outcomes if isinstance(outcome, StoreUnavailable))
            await store.put(OF, [vectors("f", (1.0, 0.0))], MODEL)
            assert [each for each in await ids(store) if each != "e"] == ["d", "f"]


async def test_a_store_opens_while_its_server_is_away_and_says_so_until_it_is_there(troubled_postgres: Server) -> None:
    with troubled_postgres.database() as url:
        async with opened(url) as before:
            await before.create(collection())
            store_id = before.store_id
        troubled_postgres.kill()
        async with opened(url, QUICK) as store:
            assert (store.store_id, store.vectors) == ("", "")
            assert store.names() == frozenset()
            assert "has not been reached yet" in store.no_vectors
            with pytest.raises(StoreUnavailable, match="nodes connect again by themselves"):
                await store.collections()
            ready = asyncio.create_task(store.until_ready())
            await asyncio.to_thread(troubled_postgres.start)
            await ready
            assert store.store_id == store_id
            assert store.names() == {OF}
            assert store.vectors.startswith("pgvector")


async def test_documents_may_be_as_large_as_a_book(store: PostgresStore) -> None:
    text = "It was a dark and stormy night in the engine room. " * 100_000
    pieces = [text[start : start + 1000] for start in range(0, len(text), 1000)]
    await store.create(collection())
    await store.put(OF, [Cut(Document("book", text), [Chunk(piece) for piece in pieces])], None)
    assert await store.document(OF, "book") == (Document("book", text), len(pieces))
    assert len(await store.by_words(OF, "stormy", (), 10)) == 10
    await store.delete(OF, ["book"])
