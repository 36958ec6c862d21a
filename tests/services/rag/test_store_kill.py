"""The laws of a store of knowledge when a process that uses it is killed: nothing is half, nothing acknowledged is lost."""

import asyncio

import pytest

from app.services.rag.store import KnowledgeStore, Lease
from tests.services.rag import processes
from tests.services.rag.samples import OF, collection, cut, documents, ids, job
from tests.services.rag.stores import Place


@pytest.mark.parametrize("many", [1, 20])
async def test_what_was_put_survives_kill_9_and_nothing_is_half(place: Place, store: KnowledgeStore, many: int) -> None:
    await store.create(collection())
    async with processes.process(place, processes.PUT_FOR_EVER) as writer:
        acknowledged = [await processes.line(writer) for _ in range(many)]
        acknowledged += await processes.killed(writer)
    there = await ids(store)
    assert len(there) in (3 * len(acknowledged), 3 * len(acknowledged) + 3), "at most the one call that was under way"
    assert set(there) == {f"{number}-{part}" for number in range(len(there) // 3) for part in "abc"}
    told = await store.collection(OF)
    assert (told.documents, told.chunks) == (len(there), 5 * len(there))
    assert len(await store.by_words(OF, "piece", (), 10_000)) == 5 * len(there)
    await store.put(OF, [cut("after", "the kill")], None)


async def test_an_acknowledged_job_survives_kill_9_with_all_its_documents(place: Place, store: KnowledgeStore) -> None:
    await store.create(collection())
    async with processes.process(place, processes.ADD_JOBS_FOR_EVER) as writer:
        acknowledged = [await processes.line(writer) for _ in range(10)]
        acknowledged += await processes.killed(writer)
    jobs = await store.jobs(OF, 10_000)
    assert len(jobs) - len(acknowledged) in (0, 1)
    for number in range(len(jobs)):
        lease = await store.claim(60)
        assert lease
        assert lease.job.id == f"j{number}"
        assert [each.id for each in await store.take(lease, 9)] == [f"{number}{part}" for part in "abc"]


async def test_the_job_of_a_killed_process_is_claimed_by_another_which_goes_on_where_it_was(place: Place, store: KnowledgeStore) -> None:
    names = [f"d{number:03}" for number in range(300)]
    await store.create(collection())
    await store.add_job(job("j", len(names)), documents(*names))
    async with processes.process(place, processes.WORK_FOR_EVER) as worker:
        acknowledged = [await processes.line(worker) for _ in range(5)]
        assert await store.claim(60) is None
        acknowledged += [each.strip() for each in await processes.killed(worker)]
    lease = await until_claimed(store)
    rest = [each.id for each in await store.take(lease, 1000)]
    done = names[: len(names) - len(rest)]
    assert rest == names[len(done) :]
    assert done[: len(acknowledged)] == acknowledged
    assert (lease.job.done, await ids(store)) == (len(done), done)
    await store.put(OF, [cut(each, "text") for each in rest], None, lease)
    await store.finish(lease)
    assert await ids(store) == names
    assert (await store.job(OF, "j")).done == len(names)


async def until_claimed(store: KnowledgeStore) -> Lease:
    """The lease of the dead has a second and a half to run."""
    async with asyncio.timeout(20):
        while not (lease := await store.claim(60)):  # noqa: ASYNC110 - nothing tells when a lease runs out
            await asyncio.sleep(0.05)
        return lease
