"""The laws of a store of knowledge: collections and their documents."""

import asyncio
from dataclasses import replace

import pytest

from app.errors import CollectionNotFound, DocumentNotFound, EmbeddingMismatch
from app.services.rag.knowledge import Chunk, Chunking, Collection, Cut, Document, Embedding, Name
from app.services.rag.store import KnowledgeStore
from tests.services.rag.samples import MODEL, OF, collection, condition, cut, ids, job, vectors
from tests.services.rag.stores import Place

HOSTILE = [
    "../../etc/passwd",
    "a/b",
    "%2e%2e",
    ".",
    "with 'quotes' and \"more\"",
    "Ümläut 漢字 🙂",
    "null",
    "'; DROP TABLE documents; --",
    "x" * 1024,
    "%_*?",
]


async def test_a_collection_is_kept_as_it_was_made(store: KnowledgeStore, other: KnowledgeStore) -> None:
    chunking = Chunking("sentence", 300, 20, "tokens", ("\n\n", "'; --", "。"))
    made = Collection(OF, "What is it for? 漢字", Embedding(MODEL, 3), chunking, created_at=1700000000.25)
    assert await store.create(made)
    for each in (store, other):
        assert await each.collection(OF) == made
        assert await each.collections() == [made]
        assert each.names() == {OF}


async def test_making_one_that_is_there_changes_nothing(store: KnowledgeStore, other: KnowledgeStore) -> None:
    first = collection(dimension=2)
    assert await store.create(first)
    for each in (store, other):
        assert not await each.create(replace(first, description="another", embedding=None))
        assert await each.collection(OF) == first


async def test_of_many_that_make_one_collection_at_once_one_does(store: KnowledgeStore, other: KnowledgeStore) -> None:
    made = await asyncio.gather(*(each.create(collection()) for each in (store, other) * 8))
    assert made.count(True) == 1
    assert await other.collection(OF) == collection()


async def test_names_hold_what_this_process_makes_and_drops_and_what_collections_has_seen(
    store: KnowledgeStore, other: KnowledgeStore
) -> None:
    assert store.names() == frozenset()
    await store.create(collection())
    assert store.names() == {OF}
    await other.collections()
    assert other.names() == {OF}
    await store.drop(OF)
    assert store.names() == frozenset()
    await other.collections()
    assert other.names() == frozenset()


async def test_one_name_of_two_owners_is_two_collections(store: KnowledgeStore) -> None:
    names = [Name("notes"), Name("notes", "team-a"), Name("notes", "team-b")]
    for of in names:
        assert await store.create(collection(of))
        await store.put(of, [cut("d", f"owned by {of.owner or 'everybody'}")], None)
    assert {each.of for each in await store.collections()} == set(names)
    await store.drop(names[1])
    assert [hit.text for hit in await store.by_words(names[0], "owned", (), 9)] == ["owned by everybody"]
    assert [hit.text for hit in await store.by_words(names[2], "owned", (), 9)] == ["owned by team-b"]


@pytest.mark.parametrize("text", HOSTILE)
async def test_names_ids_keys_and_values_may_be_any_text(store: KnowledgeStore, text: str) -> None:
    of = Name(text, text)
    await store.create(Collection(of, text, Embedding(text)))
    kept = Cut(Document(text, text, {text: text, "list": [text]}), [Chunk(text, (1.0, 0.0))])
    await store.put(of, [kept], text)
    assert store.names() == {of}
    assert await store.document(of, text) == (kept.document, 1)
    for key in (text, "list"):
        assert await ids(store, of, condition(key, "eq", text)) == [text]
        assert await ids(store, of, condition(key, "ne", text)) == []
    assert [hit.text for hit in await store.by_vector(of, (1, 0), condition(text, "eq", text), 9)] == [text]
    assert await store.delete(of, [text]) == 1
    assert await store.drop(of)
    assert await store.collections() == []


async def test_a_dropped_collection_is_gone_for_all_with_its_documents_and_jobs(store: KnowledgeStore, other: KnowledgeStore) -> None:
    await store.create(collection())
    await store.put(OF, [cut("d", "some text")], None)
    await store.add_job(job("j", 1), [Document("e", "more")])
    assert await ids(other) == ["d"]
    assert await other.drop(OF)
    for each in (store, other):
        assert not await each.drop(OF)
        for asked in (each.collection(OF), each.document(OF, "d"), each.documents(OF, (), "", 9), each.delete(OF, None)):
            with pytest.raises(CollectionNotFound, match="'handbook'"):
                await asked
        for searched in (each.by_words(OF, "text", (), 9), each.by_vector(OF, (1.0,), (), 9), each.jobs(OF, 9), each.job(OF, "j")):
            with pytest.raises(CollectionNotFound):
                await searched
        for written in (each.put(OF, [cut("d", "x")], None), each.add_job(job("j", 0), []), each.cancel(OF, "j")):
            with pytest.raises(CollectionNotFound):
                await written
        assert await each.claim(60) is None


async def test_one_made_anew_under_a_dropped_name_is_empty_and_works_for_all(store: KnowledgeStore, other: KnowledgeStore) -> None:
    for turn in range(3):
        first, second = (store, other) if turn % 2 else (other, store)
        await first.create(collection())
        await first.put(OF, [cut("old", f"old text {turn}")], None)
        assert await ids(second) == ["old"]
        assert await second.drop(OF)
        assert await second.create(collection(dimension=0))
        assert await ids(first) == []
        await first.put(OF, [vectors("new", (1.0, 2.0))], MODEL)
        await second.put(OF, [vectors("newer", (2.0, 1.0))], MODEL)
        assert await ids(first) == await ids(second) == ["new", "newer"]
        assert await first.by_words(OF, "old", (), 9) == []
        assert await second.drop(OF)


async def test_documents_come_back_as_they_were_put(store: KnowledgeStore, other: KnowledgeStore) -> None:
    await store.create(collection())
    metadata = {"n": 1, "x": 1.5, "t": "text", "b": True, "none": None, "list": [1, "a", None, []], "deep": {"a": {"b": [1]}}, "": "no key"}
    kept = Cut(Document("d", "whole text", metadata), [Chunk("whole"), Chunk("text")])
    await store.put(OF, [kept], None)
    assert await other.document(OF, "d") == (kept.document, 2)
    assert await other.documents(OF, (), "", 9) == [(replace(kept.document, text=""), 2)]
    assert [(hit.text, hit.chunk, hit.metadata) for hit in await other.by_words(OF, "text", (), 9)] == [("text", 1, metadata)]


async def test_half_a_surrogate_pair_is_kept_as_it_came(store: KnowledgeStore) -> None:
    half = "before \ud800 after"
    await store.create(replace(collection(), description=half))
    await store.put(OF, [cut("id \udc00", half, metadata={half: half})], None)
    assert (await store.collection(OF)).description == half
    assert await store.document(OF, "id \udc00") == (Document("id \udc00", half, {half: half}), 1)
    assert [hit.text for hit in await store.by_words(OF, f"after {half}", condition(half, "eq", half), 9)] == [half]
    assert await store.delete(OF, ["id \udc00"]) == 1


async def test_nul_is_kept_as_it_came(store: KnowledgeStore) -> None:
    await store.create(collection())
    await store.put(OF, [cut("a\0b", "x\0y", metadata={"k\0": "v\0w"}), cut("a", "x", metadata={"k": "v"})], None)
    assert await store.document(OF, "a\0b") == (Document("a\0b", "x\0y", {"k\0": "v\0w"}), 1)
    assert await ids(store, OF, condition("k\0", "eq", "v\0w")) == ["a\0b"]
    assert await ids(store, OF, condition("k", "eq", "v")) == ["a"]


async def test_a_document_takes_the_place_of_that_with_its_id(store: KnowledgeStore) -> None:
    await store.create(collection())
    await store.put(OF, [cut("d", "old one", "old two", metadata={"v": "old"}), cut("e", "other")], None)
    await store.put(OF, [cut("d", "new", metadata={"v": "new"})], None)
    assert await store.document(OF, "d") == (Document("d", "new", {"v": "new"}), 1)
    assert await store.by_words(OF, "old", (), 9) == []
    assert await ids(store, OF, condition("v", "eq", "old")) == []
    there = await store.collection(OF)
    assert (there.documents, there.chunks) == (2, 2)


async def test_of_two_documents_with_one_id_in_one_call_the_later_stays(store: KnowledgeStore) -> None:
    await store.create(collection())
    await store.put(OF, [cut("d", "first", "words"), cut("d", "second")], None)
    assert (await store.document(OF, "d"))[0].text == "second"
    there = await store.collection(OF)
    assert (there.documents, there.chunks) == (1, 1)


async def test_a_document_may_have_no_chunks(store: KnowledgeStore) -> None:
    await store.create(collection(dimension=0))
    await store.put(OF, [cut("empty")], None)
    assert await store.document(OF, "empty") == (Document("empty", "", {}), 0)
    assert (await store.collection(OF)).embedding == Embedding(MODEL, 0)


async def test_the_first_vectors_fix_the_dimension(store: KnowledgeStore, other: KnowledgeStore) -> None:
    await store.create(collection(dimension=0))
    assert await other.by_vector(OF, (1.0, 0.0), (), 9) == []
    await store.put(OF, [vectors("d", (1.0, 0.0, 0.0))], MODEL)
    assert (await other.collection(OF)).embedding == Embedding(MODEL, 3)
    with pytest.raises(EmbeddingMismatch, match=r"3 dimensions.*has 2"):
        await other.put(OF, [vectors("e", (1.0, 0.0))], MODEL)


@pytest.mark.parametrize(
    ("dimension", "given", "model", "told"),
    [
        (2, vectors("bad", (1.0, 2.0, 3.0)), MODEL, r"ollama/embedder.*2 dimensions.*has 3"),
        (0, vectors("bad", (1.0, 2.0), (1.0,)), MODEL, r"dimensions"),
        (2, vectors("bad", (1.0, 2.0)), "openai/other", r"ollama/embedder.*openai/other"),
        (2, cut("bad", "without"), MODEL, r"ollama/embedder"),
        (2, cut("bad", "without"), None, r"ollama/embedder"),
        (None, vectors("bad", (1.0, 2.0)), MODEL, r"words alone"),
    ],
)
async def test_vectors_of_another_model_or_dimension_are_refused_and_nothing_is_put(
    store: KnowledgeStore, dimension: int | None, given: Cut, model: str | None, told: str
) -> None:
    await store.create(collection(dimension=dimension))
    good = cut("good", "text") if dimension is None else vectors("good", (1.0, 2.0))
    for cuts in ([given], [good, given], [given, good]):
        with pytest.raises(EmbeddingMismatch, match=told):
            await store.put(OF, cuts, model)
    assert await store.collection(OF) == collection(dimension=dimension)
    assert await store.by_words(OF, "good text without", (), 9) == []


async def test_documents_are_listed_by_code_point_from_one_on_and_by_filter(store: KnowledgeStore) -> None:
    names = ["", "A", "Z", "a", "a\0", "b", "é", "漢", "\ud800", "\uffff", "🙂"][1:]
    await store.create(collection())
    await store.put(OF, [cut(each, "text", metadata={"n": number}) for number, each in enumerate(reversed(names))], None)
    assert await ids(store) == sorted(names)
    assert [each.id for each, _ in await store.documents(OF, (), "a", 3)] == sorted(names)[3:6]
    assert [each.id for each, _ in await store.documents(OF, condition("n", "lt", 5), "", 2)] == sorted(names[-5:])[:2]
    assert await store.documents(OF, (), "🙂", 3) == []


async def test_delete_takes_ids_or_a_filter_or_both_and_tells_how_many(store: KnowledgeStore) -> None:
    await store.create(collection())
    await store.put(OF, [cut(str(number), f"text {number}", metadata={"even": number % 2 == 0}) for number in range(8)], None)
    assert await store.delete(OF, ["0", "1", "1", "nothing"]) == 2
    assert await store.delete(OF, ["2", "3"], condition("even", "eq", False)) == 1
    assert await store.delete(OF, None, condition("even", "eq", True)) == 3
    assert await store.delete(OF, []) == 0
    assert await ids(store) == ["5", "7"]
    assert (await store.collection(OF)).chunks == 2
    assert await store.delete(OF, None) == 2
    assert await store.by_words(OF, "text", (), 9) == []
    assert (await store.collection(OF)).documents == 0
    await store.put(OF, [cut("again", "text")], None)
    assert len(await store.by_words(OF, "text", (), 9)) == 1


async def test_a_document_that_is_not_there_is_not_found_by_its_id(store: KnowledgeStore) -> None:
    await store.create(collection())
    with pytest.raises(DocumentNotFound, match="'missing'"):
        await store.document(OF, "missing")


async def test_what_was_put_is_there_after_the_store_was_closed(place: Place) -> None:
    async with place.store().open():
        pass
    first, second = place.store(), place.store()
    async with first.open():
        await first.create(collection(dimension=2))
        await first.put(OF, [vectors("d", (1.0, 0.0), metadata={"k": 1})], MODEL)
        await first.add_job(job("j", 1), [Document("e", "waits")])
        told = first.store_id
    async with second.open():
        await second.probe()
        assert second.store_id == told
        assert await second.collections() == [replace(collection(dimension=2), documents=1, chunks=1)]
        assert [hit.document_id for hit in await second.by_vector(OF, (1.0, 0.0), condition("k", "eq", 1), 9)] == ["d"]
        lease = await second.claim(60)
        assert lease
        assert await second.take(lease, 9) == [Document("e", "waits")]


async def test_writers_of_two_stores_at_once_lose_nothing_and_count_right(store: KnowledgeStore, other: KnowledgeStore) -> None:
    await store.create(collection())
    names = [f"{writer}{number}" for writer in "ab" for number in range(20)]
    await asyncio.gather(*((store if each[0] == "a" else other).put(OF, [cut(each, each, "both")], None) for each in names))
    assert await ids(store) == sorted(names)
    there = await other.collection(OF)
    assert (there.documents, there.chunks) == (40, 80)
    assert len(await store.by_words(OF, "both", (), 100)) == 40
