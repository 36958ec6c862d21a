"""Rag over its paths: collections, documents, jobs and searches, and what people are told when something is missing."""

import asyncio
import dataclasses
import json
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from app.errors import (
    BadRequest,
    BodyTooLarge,
    CollectionNotFound,
    ConfigError,
    Conflict,
    DocumentNotFound,
    EmbeddingMismatch,
    InvalidBody,
    JobNotFound,
    ModelNotFound,
    ProviderUnavailable,
)
from app.services.rag.settings import Settings
from tests.services.rag.world import MODEL, Model, documents, ids, rag

PETS = ("The dog sleeps in the garden.", "A cat drinks milk.", "The automobile needs new tyres.")
DOCS = "/v1/rag/collections/docs"


async def test_a_collection_is_created_described_listed_and_deleted(tmp_path: Path) -> None:
    async with rag(tmp_path) as world:
        made = await world.ask(
            "POST", "/v1/rag/collections", {"name": "docs", "description": "what we know", "chunk_size": 300}, status=201
        )
        assert (made["name"], made["description"], made["embedding"]) == ("docs", "what we know", None)
        assert made["chunking"] == {"strategy": "recursive", "size": 300, "overlap": 45, "unit": "characters"}
        assert await world.ask("GET", DOCS) == made
        assert await world.ask("GET", "/v1/rag/collections") == {"collections": [made], "count": 1}
        assert await world.ask("DELETE", DOCS) == {"name": "docs", "deleted": True}
        assert (await world.ask("GET", "/v1/rag/collections"))["count"] == 0
        for method in ("GET", "DELETE"):
            with pytest.raises(CollectionNotFound):
                await world.ask(method, DOCS)


async def test_creating_again_changes_nothing_and_is_refused_with_other_settings(tmp_path: Path) -> None:
    async with rag(tmp_path, Model()) as world:
        asked = {"name": "docs", "embedding_model": MODEL, "chunk_size": 300}
        await world.ask("POST", "/v1/rag/collections", asked, status=201)
        await world.ask("POST", "/v1/rag/collections", asked)
        await world.ask("PUT", DOCS, {})
        for setting, other in (("description", "x"), ("embedding_model", None), ("chunk_size", 301)):
            with pytest.raises(Conflict) as refused:
                await world.ask("PUT", DOCS, {setting: other})
            assert f"another {setting}" in refused.value.message


async def test_documents_come_in_and_are_found_by_words_and_by_meaning(tmp_path: Path) -> None:
    model = Model()
    async with rag(tmp_path, model) as world:
        await world.ask("POST", "/v1/rag/collections", {"name": "docs", "embedding_model": MODEL}, status=201)
        told = await world.ask("POST", "/v1/rag/ingest", {"collection": "docs", "documents": documents(*PETS, lang="en")})
        assert told == {"collection": "docs", "documents": 3, "chunks": 3, "document_ids": ["d0", "d1", "d2"]}
        assert (await world.ask("GET", DOCS))["embedding"] == {"model": MODEL, "dimension": 32}
        found = await world.ask("POST", "/v1/rag/query", {"collection": "docs", "query": "car", "top_k": 1})
        assert (found["mode"], ids(found), "note" in found) == ("hybrid", ["d2"], False)
        assert found["results"][0]["text"] == PETS[2]
        assert (found["results"][0]["chunk"], found["results"][0]["metadata"]) == (0, {"lang": "en"})
        words = await world.ask("POST", "/v1/rag/query", {"collection": "docs", "query": "dog garden", "mode": "words"})
        assert (words["mode"], ids(words)) == ("words", ["d0"])
        assert 0 < words["results"][0]["score"] < 1
        vectors = await world.ask("POST", f"{DOCS}/query", {"query": "hound", "mode": "vectors", "score_threshold": 0.1})
        assert set(ids(vectors)) == {"d0", "d1"}
        assert all(asked["model"] == MODEL for asked in model.asked)


async def test_without_an_embedding_model_the_answer_says_so(tmp_path: Path) -> None:
    async with rag(tmp_path) as world:
        await world.ask("PUT", DOCS, {}, status=201)
        await world.ask("POST", f"{DOCS}/ingest", {"documents": documents(*PETS)})
        found = await world.ask("POST", f"{DOCS}/query", {"query": "dog"})
        assert (found["mode"], ids(found)) == ("words", ["d0"])
        assert found["note"] == "searched by words alone: the collection 'docs' has no embedding model"
        with pytest.raises(BadRequest, match="The mode vectors needs vectors: the collection 'docs' has no embedding model"):
            await world.ask("POST", f"{DOCS}/query", {"query": "dog", "mode": "vectors"})


async def test_the_model_of_new_collections_comes_from_the_environment_before_the_profile(tmp_path: Path) -> None:
    async with rag(tmp_path, Model(), {"ASTROMESH_EMBEDDING_MODEL": "far/better"}, embedding_model=MODEL) as world:
        assert (await world.ask("PUT", DOCS, {}, status=201))["embedding"] == {"model": "far/better", "dimension": None}
        assert (await world.ask("PUT", "/v1/rag/collections/plain", {"embedding_model": None}, status=201))["embedding"] is None


async def test_while_the_model_is_away_words_are_searched_and_the_answer_says_so(tmp_path: Path) -> None:
    model = Model()
    async with rag(tmp_path, model, embedding_model=MODEL) as world:
        await world.ask("PUT", DOCS, {}, status=201)
        await world.ask("POST", f"{DOCS}/ingest", {"documents": documents(*PETS)})
        model.error = ProviderUnavailable("The provider is away.")
        found = await world.ask("POST", f"{DOCS}/query", {"query": "dog"})
        assert (found["mode"], ids(found)) == ("words", ["d0"])
        assert found["note"] == "searched by words alone: The provider is away."
        with pytest.raises(ProviderUnavailable):
            await world.ask("POST", f"{DOCS}/query", {"query": "dog", "mode": "hybrid"})


async def test_a_query_that_means_another_model_is_refused_with_the_remedy(tmp_path: Path) -> None:
    async with rag(tmp_path, Model(), embedding_model=MODEL) as world:
        await world.ask("PUT", DOCS, {}, status=201)
        await world.ask("POST", f"{DOCS}/query", {"query": "dog", "model": MODEL})
        with pytest.raises(EmbeddingMismatch) as refused:
            await world.ask("POST", f"{DOCS}/query", {"query": "dog", "model": "other"})
        assert refused.value.message.startswith(
            f"The collection 'docs' has vectors of '{MODEL}', and the query means 'other'; leave `model` out"
        )


async def test_a_model_that_changes_its_dimension_is_refused_and_nothing_of_the_documents_stays(tmp_path: Path) -> None:
    model = Model()
    async with rag(tmp_path, model, embedding_model=MODEL) as world:
        await world.ask("PUT", DOCS, {}, status=201)
        await world.ask("POST", f"{DOCS}/ingest", {"documents": documents(*PETS)})
        model.dimension = 16
        with pytest.raises(EmbeddingMismatch):
            await world.ask("POST", f"{DOCS}/ingest", {"documents": [{"id": "new", "text": "dog"}]})
        assert (await world.ask("GET", DOCS))["documents"] == 3


async def test_filters_and_top_k_hold_together(tmp_path: Path) -> None:
    async with rag(tmp_path, Model(), embedding_model=MODEL) as world:
        await world.ask("PUT", DOCS, {}, status=201)
        many = [{"id": f"d{at:03}", "text": f"the dog {at}", "metadata": {"n": at, "rare": at % 50 == 0}} for at in range(200)]
        await world.ask("POST", f"{DOCS}/ingest", {"documents": many})
        for mode in ("hybrid", "words", "vectors"):
            found = await world.ask("POST", f"{DOCS}/query", {"query": "the dog", "mode": mode, "top_k": 3, "filter": {"rare": True}})
            assert len(ids(found)) == 3
            assert set(ids(found)) < {"d000", "d050", "d100", "d150"}
        between = {"query": "dog", "filter": {"n": {"gte": 10, "lt": 12}}}
        assert sorted(ids(await world.ask("POST", f"{DOCS}/query", between))) == ["d010", "d011"]
        with pytest.raises(BadRequest, match="at most 100 results"):
            await world.ask("POST", f"{DOCS}/query", {"query": "dog", "top_k": 101})


async def test_a_document_is_read_replaced_listed_and_deleted(tmp_path: Path) -> None:
    async with rag(tmp_path) as world:
        await world.ask("PUT", DOCS, {"chunk_size": 20, "chunk_overlap": 0}, status=201)
        path = f"{DOCS}/documents/{quote('folder/a b.md', safe='')}"
        assert (await world.ask("PUT", path, {"text": "One sentence here. Another sentence there.", "metadata": {"v": 1}}))["chunks"] > 1
        read = await world.ask("GET", path)
        assert (read["id"], read["text"], read["metadata"]) == ("folder/a b.md", "One sentence here. Another sentence there.", {"v": 1})
        await world.ask("PUT", path, {"text": "Short."})
        assert (await world.ask("GET", path))["chunks"] == 1
        assert ids(await world.ask("POST", f"{DOCS}/query", {"query": "sentence"})) == []
        await world.ask("POST", f"{DOCS}/ingest", {"documents": [{"id": name, "text": name, "metadata": {"n": name}} for name in "xyz"]})
        page = await world.ask("GET", f"{DOCS}/documents?limit=2")
        assert ([row["id"] for row in page["documents"]], page["after"]) == (["folder/a b.md", "x"], "x")
        rest = await world.ask("GET", f"{DOCS}/documents?limit=3&after=x")
        assert ([row["id"] for row in rest["documents"]], "after" in rest) == (["y", "z"], False)
        filtered = quote(json.dumps({"n": ["x", "y"]}))
        assert (await world.ask("GET", f"{DOCS}/documents?filter={filtered}"))["count"] == 2
        assert await world.ask("DELETE", f"{DOCS}/documents?filter={filtered}") == {"collection": "docs", "deleted": 2}
        assert await world.ask("DELETE", path) == {"collection": "docs", "deleted": 1}
        for method in ("GET", "DELETE"):
            with pytest.raises(DocumentNotFound):
                await world.ask(method, path)
        with pytest.raises(BadRequest, match="has no filter"):
            await world.ask("DELETE", f"{DOCS}/documents")
        with pytest.raises(BadRequest, match="The filter is not JSON"):
            await world.ask("DELETE", f"{DOCS}/documents?filter=x")


async def test_a_document_without_an_id_gets_one_of_its_content_so_sending_it_again_adds_nothing(tmp_path: Path) -> None:
    async with rag(tmp_path) as world:
        await world.ask("PUT", DOCS, {}, status=201)
        sent = {"documents": [{"text": "hello", "metadata": {"a": 1, "b": 2}}]}
        first, again = [await world.ask("POST", f"{DOCS}/ingest", sent) for _ in range(2)]
        assert first["document_ids"] == again["document_ids"]
        assert (await world.ask("GET", DOCS))["documents"] == 1


async def test_of_equal_documents_in_one_request_one_is_taken(tmp_path: Path) -> None:
    async with rag(tmp_path) as world:
        await world.ask("PUT", DOCS, {}, status=201)
        told = await world.ask("POST", f"{DOCS}/ingest", {"documents": [{"text": "a"}, {"text": "b"}, {"text": "a"}]})
        assert (told["documents"], len(told["document_ids"])) == (2, 2)


@pytest.mark.parametrize("name", ["a\tb.txt", "..", "x" * 997 + ".txt"])
async def test_no_document_gets_an_id_by_which_it_cannot_be_asked_for(name: str, tmp_path: Path) -> None:
    async with rag(tmp_path) as world:
        await world.ask("PUT", DOCS, {}, status=201)
        with pytest.raises(InvalidBody, match=r"document: .* cannot be the id of a document"):
            await world.ask("PUT", f"{DOCS}/documents/{quote(name, safe='')}", {"text": "text"})
        with pytest.raises(InvalidBody, match=r"files\[.*\]: .* cannot be the id of a document; take 1 to 1000 characters"):
            await world.form(f"{DOCS}/ingest", {name: b"text"})
        assert (await world.ask("GET", DOCS))["documents"] == 0


@pytest.mark.parametrize(
    ("body", "error", "told"),
    [
        ({"documents": []}, InvalidBody, "$.documents"),
        ({"documents": [{"text": " \n"}]}, InvalidBody, "$.documents[0].text: is blank; leave the document out"),
        ({"documents": [{"text": "a", "id": "x"}, {"text": "b", "id": "x"}]}, InvalidBody, "the documents 0 and 1 have the same id 'x'"),
        ({"documents": [{"text": "a", "id": "x/"}]}, InvalidBody, "$.documents[0].id: 'x/' cannot be the id of a document; take 1 to 1000"),
        ({"documents": [{"text": "a", "id": ".."}]}, InvalidBody, "$.documents[0].id: '..' cannot be the id"),
        ({"documents": [{"text": "a", "id": "x\n"}]}, InvalidBody, "$.documents[0].id: 'x\\n' cannot be the id"),
        ({"documents": [{"text": "a", "metadata": [1]}]}, InvalidBody, "$.documents[0].metadata"),
        (
            {"documents": [{"text": "a" * 101}]},
            BodyTooLarge,
            "has 101 characters, and a document may have 100 (spec.rag.max_document_chars)",
        ),
        ({"documents": [{"text": "a"}], "collection": "other"}, BadRequest, "names the collections 'docs', 'other'; name one"),
        ({"documents": [{"text": "a"}], "chunk_size": 10, "chunk_overlap": 10}, InvalidBody, "chunk_overlap is 10"),
    ],
)
async def test_what_cannot_be_taken_in_is_refused_with_the_reason(body: Any, error: Any, told: str, tmp_path: Path) -> None:
    async with rag(tmp_path, max_document_chars=100) as world:
        await world.ask("PUT", DOCS, {}, status=201)
        with pytest.raises(error) as refused:
            await world.ask("POST", f"{DOCS}/ingest", body)
        assert told in refused.value.message
        assert (await world.ask("GET", DOCS))["documents"] == 0


async def test_a_collection_that_is_not_there_is_named_and_made_where_asked_for(tmp_path: Path) -> None:
    async with rag(tmp_path) as world:
        sent = {"collection": "docs", "documents": documents("hello")}
        with pytest.raises(CollectionNotFound, match="'docs'"):
            await world.ask("POST", "/v1/rag/ingest", sent)
        with pytest.raises(CollectionNotFound):
            await world.ask("POST", "/v1/rag/query", {"collection": "docs", "query": "x"})
        assert (await world.ask("POST", "/v1/rag/ingest", sent | {"create": True}))["documents"] == 1
        for name in ("../up", "", "x" * 141):
            with pytest.raises((BadRequest, InvalidBody)):
                await world.ask("POST", "/v1/rag/collections", {"name": name})


async def test_a_collection_that_another_process_has_just_dropped_is_made_where_asked_for(tmp_path: Path) -> None:
    async with rag(tmp_path) as one, rag(tmp_path) as other:
        sent = {"documents": documents("hello"), "create": True}
        await one.ask("POST", f"{DOCS}/ingest", sent)
        await other.ask("DELETE", DOCS)
        assert (await one.ask("POST", f"{DOCS}/ingest", sent))["documents"] == 1


async def test_what_begins_with_memory_is_the_principals_own(tmp_path: Path) -> None:
    async with rag(tmp_path) as world:
        for principal, text in (("ann", "the secret of ann"), ("bob", "the secret of bob")):
            body = {"collection": "memory.helper", "documents": documents(text), "create": True}
            await world.ask("POST", "/v1/rag/ingest", body, principal)
        for principal in ("ann", "bob"):
            found = await world.ask("POST", "/v1/rag/query", {"collection": "memory.helper", "query": "secret"}, principal)
            assert [row["text"] for row in found["results"]] == [f"the secret of {principal}"]
            assert (await world.ask("GET", "/v1/rag/collections", principal=principal))["count"] == 1
        assert (await world.ask("GET", "/v1/rag/collections", principal="eve"))["count"] == 0
        with pytest.raises(CollectionNotFound):
            await world.ask("GET", "/v1/rag/collections/memory.helper", principal="eve")
        assert world.service.facts().keys == frozenset({"memory.helper"})


# Files


async def test_files_come_in_by_a_form_with_their_names_as_ids(tmp_path: Path) -> None:
    async with rag(tmp_path) as world:
        await world.ask("PUT", DOCS, {}, status=201)
        files = {
            "guide/start.md": b"# Start\n\nTurn the key.",
            "page.html": b"<title>T</title><p>Fine <b>print</b></p><script>no()</script>",
        }
        told = await world.form("/v1/rag/ingest", files, collection="docs", metadata='{"team": "red"}')
        assert (told["documents"], told["document_ids"]) == (2, ["guide/start.md", "page.html"])
        read = await world.ask("GET", f"{DOCS}/documents/guide/start.md")
        assert (read["metadata"]["team"], read["metadata"]["source"]) == ("red", "guide/start.md")
        assert "no()" not in (await world.ask("GET", f"{DOCS}/documents/page.html"))["text"]
        assert ids(await world.ask("POST", f"{DOCS}/query", {"query": "key"})) == ["guide/start.md"]


@pytest.mark.parametrize(
    ("files", "fields", "told"),
    [
        ({}, {"collection": "docs"}, "has no file"),
        ({"a.txt": b"x"}, {"collection": "docs", "metadata": "[]"}, "metadata is not a JSON object"),
        ({"a.txt": b"x"}, {"collection": "docs", "metadata": "{"}, "The field metadata is not JSON"),
        ({"a.txt": b"x"}, {"collection": "docs", "chunk_size": "ten"}, "chunk_size is 'ten'; give a whole number"),
        ({"a.txt": b"x"}, {"collection": "docs", "wait": "maybe"}, "wait is 'maybe'; give true or false"),
        ({"a.txt": b"x"}, {}, "names no collection"),
    ],
)
async def test_a_form_that_cannot_be_taken_is_refused_with_the_reason(files: Any, fields: Any, told: str, tmp_path: Path) -> None:
    async with rag(tmp_path) as world:
        await world.ask("PUT", DOCS, {}, status=201)
        with pytest.raises(BadRequest) as refused:
            await world.form("/v1/rag/ingest", files, **fields)
        assert told in refused.value.message


# Jobs


async def test_a_long_ingestion_is_answered_with_a_job_that_tells_how_far_it_is(tmp_path: Path) -> None:
    model = Model(hold=asyncio.Event())
    async with rag(tmp_path, model, embedding_model=MODEL, job_batch=2) as world:
        await world.ask("PUT", DOCS, {}, status=201)
        told = await world.ask("POST", f"{DOCS}/ingest", {"documents": documents(*PETS), "wait": False}, status=202)
        job = told["job"]
        assert (job["state"], job["total"], job["done"], job["finished_at"]) == ("running", 3, 0, None)
        assert model.hold
        model.hold.set()
        ended = await world.job("docs", job["id"])
        assert (ended["state"], ended["done"], ended["chunks"], ended["error"]) == ("done", 3, 3, None)
        assert [row["id"] for row in (await world.ask("GET", f"{DOCS}/jobs"))["jobs"]] == [job["id"]]
        assert (await world.ask("GET", DOCS))["documents"] == 3


async def test_more_text_than_is_waited_for_becomes_a_job_unless_the_client_waits(tmp_path: Path) -> None:
    async with rag(tmp_path, wait_chars=10) as world:
        await world.ask("PUT", DOCS, {}, status=201)
        assert "job" not in await world.ask("POST", f"{DOCS}/ingest", {"documents": documents("short")})
        told = await world.ask("POST", f"{DOCS}/ingest", {"documents": documents("rather long text")}, status=202)
        await world.job("docs", told["job"]["id"])
        assert "job" not in await world.ask("POST", f"{DOCS}/ingest", {"documents": documents("rather long text"), "wait": True})


async def test_a_job_goes_on_when_the_model_is_back(tmp_path: Path) -> None:
    model = Model(error=ProviderUnavailable("The provider is away."))
    async with rag(tmp_path, model, embedding_model=MODEL) as world:
        await world.ask("PUT", DOCS, {}, status=201)
        told = await world.ask("POST", f"{DOCS}/ingest", {"documents": documents(*PETS), "wait": False}, status=202)
        path = f"{DOCS}/jobs/{told['job']['id']}"
        async with asyncio.timeout(10):
            while (job := await world.ask("GET", path))["error"] is None:
                pass
        assert (job["state"], job["error"]) == ("running", "The provider is away.")
        model.error = None
        assert (await world.job("docs", told["job"]["id"]))["state"] == "done"


async def test_a_job_that_cannot_succeed_ends_with_the_reason(tmp_path: Path) -> None:
    async with rag(tmp_path, Model(error=ModelNotFound("There is no model 'm'.")), embedding_model=MODEL) as world:
        await world.ask("PUT", DOCS, {}, status=201)
        told = await world.ask("POST", f"{DOCS}/ingest", {"documents": documents(*PETS), "wait": False}, status=202)
        job = await world.job("docs", told["job"]["id"])
        assert (job["state"], job["error"]) == ("failed", "There is no model 'm'.")


async def test_a_job_can_be_cancelled_and_what_is_in_stays(tmp_path: Path) -> None:
    model = Model(hold=asyncio.Event())
    async with rag(tmp_path, model, embedding_model=MODEL) as world:
        await world.ask("PUT", DOCS, {}, status=201)
        told = await world.ask("POST", f"{DOCS}/ingest", {"documents": documents(*PETS), "wait": False}, status=202)
        async with asyncio.timeout(10):
            await model.begun.wait()
        path = f"{DOCS}/jobs/{told['job']['id']}"
        assert (await world.ask("DELETE", path))["state"] == "cancelled"
        assert model.hold
        model.hold.set()
        await world.ask("POST", f"{DOCS}/ingest", {"documents": documents("another")})
        assert (await world.ask("GET", DOCS))["documents"] == 1
        assert (await world.ask("GET", path))["state"] == "cancelled"
        with pytest.raises(JobNotFound):
            await world.ask("GET", f"{DOCS}/jobs/none")


@pytest.mark.parametrize("path", [f"{DOCS}/jobs/{{}}", DOCS])
async def test_a_job_that_is_cancelled_or_loses_its_collection_asks_the_model_no_further(path: str, tmp_path: Path) -> None:
    model = Model(hold=asyncio.Event())
    async with rag(tmp_path, model, embedding_model=MODEL) as world:
        await world.ask("PUT", DOCS, {}, status=201)
        told = await world.ask("POST", f"{DOCS}/ingest", {"documents": documents(*PETS), "wait": False}, status=202)
        async with asyncio.timeout(5):
            await model.begun.wait()
            await world.ask("DELETE", path.format(told["job"]["id"]))
            await model.left.wait()


async def test_a_search_waits_for_no_ingestion_and_ingestions_take_turns(tmp_path: Path) -> None:
    model = Model(hold=asyncio.Event())
    async with rag(tmp_path, model, embedding_model=MODEL, embedding_concurrency=1, embedding_batch=1) as world:
        await world.ask("PUT", DOCS, {}, status=201)
        sent = [f"the number {at}" for at in range(500)]  # so many that the other is there long before their end
        first = asyncio.create_task(world.ask("POST", f"{DOCS}/ingest", {"documents": documents(*sent)}))
        assert model.hold
        async with asyncio.timeout(5):
            await model.begun.wait()
            search = asyncio.create_task(world.ask("POST", f"{DOCS}/query", {"query": "which dog"}))
            while len(model.asked) < 2:  # noqa: ASYNC110 - nothing tells when it is asked again
                await asyncio.sleep(0)
            second = asyncio.create_task(world.ask("POST", f"{DOCS}/ingest", {"documents": [{"text": "another"}]}))
            model.hold.set()
            await asyncio.gather(first, search, second)
        asked = [text for body in model.asked for text in body["input"]]
        assert asked[:2] == [sent[0], "which dog"]
        assert asked.index("another") < len(sent)


async def test_a_model_that_was_there_before_is_waited_for(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    model = Model()
    async with rag(tmp_path, model, embedding_model=MODEL) as world:
        await world.ask("PUT", DOCS, {}, status=201)
        await world.ask("POST", f"{DOCS}/ingest", {"documents": documents(*PETS)})
        model.error = ModelNotFound("There is no model 'm'; you asked for 'my secret text'.")
        told = await world.ask("POST", f"{DOCS}/ingest", {"documents": [{"text": "my secret text"}], "wait": False}, status=202)
        path = f"{DOCS}/jobs/{told['job']['id']}"
        async with asyncio.timeout(10):
            while (job := await world.ask("GET", path))["error"] is None:
                pass
        assert (job["state"], job["error"]) == ("running", model.error.message)
        model.error = None
        assert (await world.job("docs", told["job"]["id"]))["state"] == "done"
    assert "goes on in 1 s: status 404, model_not_found" in caplog.text
    assert "secret" not in caplog.text


async def test_a_job_survives_a_restart(tmp_path: Path) -> None:
    model = Model(hold=asyncio.Event())
    async with rag(tmp_path, model, embedding_model=MODEL) as world:
        await world.ask("PUT", DOCS, {}, status=201)
        told = await world.ask("POST", f"{DOCS}/ingest", {"documents": documents(*PETS), "wait": False}, status=202)
        async with asyncio.timeout(10):
            await model.begun.wait()
    async with rag(tmp_path, Model(), embedding_model=MODEL) as world:
        assert (await world.job("docs", told["job"]["id"]))["state"] == "done"
        assert (await world.ask("GET", DOCS))["documents"] == 3


async def test_chunks_that_the_profile_makes_impossible_stop_the_node_with_the_reason(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as refused:
        async with rag(tmp_path, chunk_size=100):
            pass
    assert "spec.rag.chunk_overlap: is 150, and a chunk has 100 characters; take less than the chunk's size" in refused.value.message


async def test_doctor_says_what_searches_vectors(tmp_path: Path) -> None:
    async with rag(tmp_path, Model(), embedding_model=MODEL) as world:
        [check] = (await world.service.check()).values()
        assert check.status == "ok"
        assert f"embedding model {MODEL}" in check.message
        assert "numpy" in check.message or "sqlite-vec" in check.message


def test_settings_schema_and_reference_agree() -> None:
    root = Path(__file__).parents[3]
    schema = json.loads((root / "app/services/rag/schema.json").read_bytes())["configuration"]
    reference = (root / "docs/rag.md").read_text()
    defaults = {each.name: each.default for each in dataclasses.fields(Settings)}
    assert schema["properties"].keys() == defaults.keys()
    for name, default in defaults.items():
        shown = f'`"{default}"`' if isinstance(default, str) else default
        assert f"| `{name}` | {shown} |" in reference
