"""The laws of a store of knowledge: jobs are worked on by one at a time, and nothing of them is lost or done twice."""

import asyncio
from dataclasses import replace

import pytest

from app.errors import EmbeddingMismatch, JobNotFound, LeaseLost
from app.services.rag.knowledge import Chunking, Document, Job, Name
from app.services.rag.store import KnowledgeStore, Lease
from tests.services.rag.samples import MODEL, OF, collection, condition, cut, documents, ids, job, vectors


async def claimed(store: KnowledgeStore, lease_s: float = 60.0) -> Lease:
    lease = await store.claim(lease_s)
    assert lease, "there is a job to claim"
    return lease


async def prepared(store: KnowledgeStore, *ids: str) -> Lease:
    """A claimed job with these documents, in a collection of words alone."""
    await store.create(collection())
    await store.add_job(job("j", len(ids)), documents(*ids))
    return await claimed(store)


async def test_a_job_is_kept_as_it_was_given(store: KnowledgeStore, other: KnowledgeStore) -> None:
    await store.create(collection())
    given = Job("j/1 ü", OF, "running", 3, created_at=1700000000.25, chunking=Chunking("fixed", 10, 2, "tokens", ("a", "b")))
    await store.add_job(given, documents("a", "b", "c"))
    for each in (store, other):
        assert await each.job(OF, "j/1 ü") == given
        assert await each.jobs(OF, 9) == [given]


async def test_a_job_that_is_there_already_is_left_as_it_is(store: KnowledgeStore, other: KnowledgeStore) -> None:
    lease = await prepared(store, "a")
    await other.add_job(replace(job("j", 2), created_at=5.0), documents("b", "c"))
    assert await store.job(OF, "j") == job("j", 1)
    assert await store.take(lease, 9) == documents("a")


async def test_jobs_are_listed_newest_first(store: KnowledgeStore) -> None:
    await store.create(collection())
    for number in (2, 1, 3):
        await store.add_job(job(f"j{number}", 0, created_at=number), [])
    assert [each.id for each in await store.jobs(OF, 9)] == ["j3", "j2", "j1"]
    assert [each.id for each in await store.jobs(OF, 2)] == ["j3", "j2"]


async def test_a_job_that_is_not_there_is_not_found_by_its_id(store: KnowledgeStore) -> None:
    await store.create(collection())
    for asked in (store.job(OF, "missing"), store.cancel(OF, "missing")):
        with pytest.raises(JobNotFound, match="'missing'"):
            await asked


async def test_a_job_goes_through_its_documents_in_their_order_and_ends_done(store: KnowledgeStore, other: KnowledgeStore) -> None:
    names = [f"d{number}" for number in (5, 3, 9, 1, 7)]
    lease = await prepared(store, *names)
    assert lease.job == job("j", 5)
    done = 0
    while taken := await store.take(lease, 2):
        assert taken == await store.take(lease, 2), "the same ones until they are put"
        assert [each.id for each in taken] == names[done : done + 2]
        await store.put(OF, [cut(each.id, "one", "two") for each in taken], None, lease)
        done += len(taken)
        assert await other.job(OF, "j") == replace(job("j", 5), done=done, chunks=2 * done)
    await store.finish(lease)
    ended = await other.job(OF, "j")
    assert (ended.state, ended.done, ended.chunks, ended.error) == ("done", 5, 10, "")
    assert ended.finished_at
    assert ended.finished_at > ended.created_at
    assert await ids(other) == sorted(names)


async def test_documents_and_the_progress_of_their_job_are_written_together_or_not_at_all(store: KnowledgeStore) -> None:
    await store.create(collection(dimension=2))
    await store.add_job(job("j", 2), documents("a", "b"))
    lease = await claimed(store)
    with pytest.raises(EmbeddingMismatch):
        await store.put(OF, [vectors("a", (1.0, 0.0)), vectors("b", (1.0,))], MODEL, lease)
    assert await store.job(OF, "j") == job("j", 2)
    assert await ids(store) == []
    assert await store.take(lease, 9) == documents("a", "b")
    stale = Lease(lease.job, "nobody's")
    with pytest.raises(LeaseLost):
        await store.put(OF, [vectors("a", (1.0, 0.0))], MODEL, stale)
    assert await ids(store) == []


async def test_putting_what_was_put_already_loses_no_document(store: KnowledgeStore) -> None:
    lease = await prepared(store, "a", "b", "c")
    await store.put(OF, [cut("a", "text")], None, lease)
    with pytest.raises(LeaseLost):
        await store.put(OF, [cut("a", "text")], None, lease)
    assert [each.id for each in await store.take(lease, 9)] == ["b", "c"]
    assert (await store.job(OF, "j")).done == 1


async def test_a_claimed_job_is_nobody_elses_until_its_lease_runs_out(store: KnowledgeStore, other: KnowledgeStore) -> None:
    lease = await prepared(store, "a", "b")
    assert await other.claim(60) is None
    assert await store.claim(60) is None
    await store.renew(lease, 0)
    second = await claimed(other)
    assert second.token != lease.token
    for lost in (
        store.renew(lease, 60),
        store.take(lease, 9),
        store.put(OF, [cut("a", "late")], None, lease),
    ):
        with pytest.raises(LeaseLost, match="'j'"):
            await lost
    await store.let_go(lease, "late")
    await store.finish(lease, "late")
    assert await other.job(OF, "j") == job("j", 2)
    assert await ids(other) == []
    await other.put(OF, [cut("a", "in time")], None, second)
    assert [each.id for each in await other.take(second, 9)] == ["b"]


async def test_a_lease_that_ran_out_is_lost_also_where_nobody_else_has_claimed(store: KnowledgeStore) -> None:
    lease = await prepared(store, "a")
    await store.renew(lease, 0)
    for lost in (store.renew(lease, 60), store.take(lease, 9), store.put(OF, [cut("a", "late")], None, lease)):
        with pytest.raises(LeaseLost):
            await lost
    await store.finish(lease)
    assert (await store.job(OF, "j")).state == "running"


async def test_a_renewed_lease_is_held(store: KnowledgeStore, other: KnowledgeStore) -> None:
    lease = await prepared(store, "a")
    await store.renew(lease, 3600)
    assert await other.claim(60) is None
    assert await store.take(lease, 9) == documents("a")


async def test_the_oldest_job_is_claimed_first_whatever_its_collection(store: KnowledgeStore, other: KnowledgeStore) -> None:
    names = [Name("one"), Name("two", "team"), Name("three")]
    for of in names:
        await store.create(collection(of))
    for created, of in ((3.0, names[0]), (1.0, names[1]), (4.0, names[1]), (2.0, names[2])):
        await store.add_job(job(f"j{created:.0f}", 0, of, created), [])
    order = [(await claimed(each)).job for each in (store, other, store, other)]
    assert [each.id for each in order] == ["j1", "j2", "j3", "j4"]
    assert [each.of for each in order] == [names[1], names[2], names[0], names[1]]


async def test_of_many_that_claim_one_job_at_once_one_gets_it(store: KnowledgeStore, other: KnowledgeStore) -> None:
    await store.create(collection())
    await store.add_job(job("j", 0), [])
    leases = await asyncio.gather(*(each.claim(60) for each in (store, other) * 8))
    assert len([lease for lease in leases if lease]) == 1


async def test_many_jobs_are_each_claimed_once(store: KnowledgeStore, other: KnowledgeStore) -> None:
    await store.create(collection())
    names = {f"j{number}" for number in range(12)}
    for name in names:
        await store.add_job(job(name, 0), [])
    found = list[str]()

    async def work(each: KnowledgeStore) -> None:
        while lease := await each.claim(60):
            found.append(lease.job.id)

    await asyncio.gather(*(work(each) for each in (store, other) * 2))
    while lease := await store.claim(60):  # one that several reached for at once may have been left
        found.append(lease.job.id)
    assert sorted(found) == sorted(names)


async def test_a_job_that_is_let_go_says_why_and_is_tried_again_after_its_time(store: KnowledgeStore, other: KnowledgeStore) -> None:
    lease = await prepared(store, "a", "b")
    await store.put(OF, [cut("a", "text")], None, lease)
    await store.let_go(lease, "the model is away", after_s=3600)
    assert await other.job(OF, "j") == replace(job("j", 2), done=1, chunks=1, error="the model is away")
    assert await other.claim(60) is None
    with pytest.raises(LeaseLost):
        await store.take(lease, 9)


async def test_a_job_that_is_let_go_at_once_goes_on_where_it_was(store: KnowledgeStore, other: KnowledgeStore) -> None:
    lease = await prepared(store, "a", "b")
    await store.put(OF, [cut("a", "text")], None, lease)
    await store.let_go(lease)
    second = await claimed(other)
    assert (second.job.done, second.job.chunks) == (1, 1)
    assert await other.take(second, 9) == documents("b")


async def test_a_job_fails_with_its_error_and_what_it_put_stays(store: KnowledgeStore) -> None:
    lease = await prepared(store, "a", "b")
    await store.put(OF, [cut("a", "text")], None, lease)
    await store.finish(lease, "unreadable")
    ended = await store.job(OF, "j")
    assert (ended.state, ended.done, ended.total, ended.error) == ("failed", 1, 2, "unreadable")
    assert ended.finished_at
    assert await ids(store) == ["a"]
    assert await store.claim(60) is None
    with pytest.raises(LeaseLost):
        await store.take(lease, 9)


async def test_a_cancelled_job_stops_in_the_middle_and_what_it_put_stays(store: KnowledgeStore, other: KnowledgeStore) -> None:
    lease = await prepared(store, "a", "b")
    await store.put(OF, [cut("a", "text")], None, lease)
    taken = await store.take(lease, 1)
    told = await other.cancel(OF, "j")
    assert (told.state, told.done, told.chunks) == ("cancelled", 1, 1)
    assert told.finished_at
    with pytest.raises(LeaseLost):
        await store.put(OF, [cut(taken[0].id, "late")], None, lease)
    with pytest.raises(LeaseLost):
        await store.renew(lease, 60)
    await store.finish(lease)
    await store.let_go(lease, "late")
    assert await store.job(OF, "j") == told
    assert await ids(store) == ["a"]
    assert await other.claim(60) is None


async def test_a_job_that_nobody_holds_can_be_cancelled_and_one_that_has_ended_stays_as_it_is(store: KnowledgeStore) -> None:
    await store.create(collection())
    await store.add_job(job("waits", 1), documents("a"))
    told = await store.cancel(OF, "waits")
    assert told.state == "cancelled"
    assert await store.cancel(OF, "waits") == told
    await store.add_job(job("ends", 0), [])
    await store.finish(await claimed(store))
    assert (await store.cancel(OF, "ends")).state == "done"


async def test_a_job_of_a_dropped_collection_is_lost(store: KnowledgeStore, other: KnowledgeStore) -> None:
    lease = await prepared(store, "a")
    await other.drop(OF)
    for again in (False, True):
        if again:
            await other.create(collection())
            with pytest.raises(LeaseLost):
                await store.put(OF, [cut("a", "late")], None, lease)
        for lost in (store.renew(lease, 60), store.take(lease, 9)):
            with pytest.raises(LeaseLost):
                await lost
        await store.let_go(lease)
        await store.finish(lease)
    assert await other.jobs(OF, 9) == []
    assert await ids(other) == []


async def test_the_last_hundred_jobs_that_ended_are_kept_and_all_that_run(store: KnowledgeStore) -> None:
    await store.create(collection())
    await store.add_job(job("runs", 1, created_at=0.5), documents("a"))
    held = await claimed(store)
    for number in range(105):
        await store.add_job(job(f"j{number:03}", 0, created_at=number + 1.0), [])
        await store.finish(await claimed(store))
    kept = await store.jobs(OF, 1000)
    assert [each.id for each in kept] == [f"j{number:03}" for number in range(104, 4, -1)] + ["runs"]
    assert await store.take(held, 9) == documents("a")


async def test_documents_of_a_job_are_as_they_were_given(store: KnowledgeStore) -> None:
    await store.create(collection())
    given = [replace(each, text=f"{each.text} \ud800 \0", metadata={"n": [1, None, {"x": "ü"}]}) for each in documents("a", "a", "ü/'")]
    await store.add_job(job("j", 3), given)
    assert await store.take(await claimed(store), 9) == given
    assert await ids(store, OF, condition("n", "eq", 1)) == []


async def test_what_is_deleted_is_deleted_where_it_waits_too(store: KnowledgeStore, other: KnowledgeStore) -> None:
    await store.create(collection())
    waiting = [Document(each, "text", {"n": number}) for number, each in enumerate("abcdef")]
    await store.add_job(job("j", 6), waiting)
    lease = await claimed(store)
    assert len(await store.take(lease, 3)) == 3
    assert await other.delete(OF, ["a", "nowhere"]) == 1
    assert await other.delete(OF, None, condition("n", "gte", 4)) == 2
    assert await other.delete(OF, ["b", "c"], condition("n", "eq", 1)) == 1
    assert (await store.job(OF, "j")).total == 2
    with pytest.raises(LeaseLost):
        await store.put(OF, [cut(each, "text") for each in "abc"], None, lease)
    assert await ids(store) == []
    assert [each.id for each in await store.take(lease, 9)] == ["c", "d"]
    await store.put(OF, [cut(each, "text") for each in "cd"], None, lease)
    assert await store.take(lease, 9) == []
    assert await ids(other) == ["c", "d"]


async def test_a_document_that_is_put_later_is_not_replaced_by_one_that_waited(store: KnowledgeStore, other: KnowledgeStore) -> None:
    lease = await prepared(store, "a", "b", "c")
    taken = await store.take(lease, 2)
    await other.put(OF, [cut("a", "newer")], None)
    with pytest.raises(LeaseLost):
        await store.put(OF, [cut(each.id, "older") for each in taken], None, lease)
    await other.add_job(job("later", 1, created_at=2.0), [Document("c", "newest")])
    assert [each.id for each in await store.take(lease, 9)] == ["b"]
    assert (await store.job(OF, "j")).total == 1
    assert (await store.document(OF, "a"))[0].text == "newer"
    second = await claimed(other)
    assert [each.text for each in await other.take(second, 9)] == ["newest"]
