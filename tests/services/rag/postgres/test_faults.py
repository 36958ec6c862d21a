"""Knowledge on a server that is killed, stands still, or is away."""

import asyncio
from typing import Any

import pytest

from app.errors import LeaseLost, StoreUnavailable
from app.services.rag.knowledge import Chunk, Cut
from app.services.rag.store import KnowledgeStore
from tests.databases.server import Server
from tests.services.rag.postgres.opened import QUICK, opened
from tests.services.rag.samples import MODEL, OF, collection, documents, ids, job, vectors

pytestmark = pytest.mark.databases


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
