"""Rag over nodes: any of them is asked, the one that keeps the collection answers; and a job outlives the process that works on it."""

import asyncio
import json
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, cast

import aiohttp

from app.node import Node
from app.services.rag import Rag
from tests.nodes import profile, start
from tests.spine import FakeService, Spine, static

RAG = {"rag": cast(type[FakeService], Rag)}


async def ask(client: aiohttp.ClientSession, url: str, method: str, path: str, body: Any = None, status: int = 200) -> Any:
    async with client.request(method, url + path, json=body) as response:
        answer = await response.json()
        assert response.status == status, answer
        return answer


async def known(*watching: Node) -> None:
    """Until nodes have heard of what their peers have now."""
    for node in watching:
        for peer in node.peers.all():
            await static(node).probe(peer)


async def test_any_node_answers_for_any_collection(nodes: Spine, client: aiohttp.ClientSession) -> None:
    red = await nodes.node("red", RAG)
    blue = await nodes.node("blue", RAG, {"red": (red.url, ["rag"])})
    gateway = await nodes.node("gateway", {}, {"red": (red.url, ["rag"]), "blue": (blue.url, ["rag"])})
    for node, name in ((red, "apples"), (blue, "pears")):
        await ask(client, node.url, "POST", "/v1/rag/collections", {"name": name}, 201)
        document = {"id": "one", "text": f"All about {name}."}
        await ask(client, node.url, "POST", "/v1/rag/ingest", {"collection": name, "documents": [document]})
    await known(gateway, blue)
    for node, names in ((gateway, ("apples", "pears")), (blue, ("apples", "pears")), (red, ("apples",))):
        for name in names:
            for path, body in (("/v1/rag/query", {"collection": name}), (f"/v1/rag/collections/{name}/query", {})):
                found = await ask(client, node.url, "POST", path, {"query": "about", **body})
                assert [row["text"] for row in found["results"]] == [f"All about {name}."]
    rows = (await ask(client, gateway.url, "GET", "/v1/rag/collections"))["collections"]
    assert {row["name"]: row["nodes"] for row in rows} == {"apples": ["red"], "pears": ["blue"]}
    more = {"collection": "apples", "documents": [{"id": "two", "text": "More about them."}]}
    await ask(client, blue.url, "POST", "/v1/rag/ingest", more)
    assert (await ask(client, red.url, "GET", "/v1/rag/collections/apples"))["documents"] == 2
    again = await ask(client, gateway.url, "POST", "/v1/rag/collections", {"name": "pears"})
    assert again["documents"] == 1
    await ask(client, gateway.url, "DELETE", "/v1/rag/collections/pears")
    assert (await ask(client, blue.url, "GET", "/v1/rag/collections/pears", status=404))["error"]["code"] == "collection_not_found"


async def test_files_go_to_the_node_that_has_their_collection(nodes: Spine, client: aiohttp.ClientSession) -> None:
    red = await nodes.node("red", RAG)
    blue = await nodes.node("blue", RAG, {"red": (red.url, ["rag"])})
    await ask(client, red.url, "POST", "/v1/rag/collections", {"name": "apples"}, 201)
    await known(blue)
    form = aiohttp.FormData({"collection": "apples", "wait": "false"}, quote_fields=False)
    form.add_field("files", b"# Apples\n\nThey are red.", filename="a/apples.md")
    async with client.post(f"{blue.url}/v1/rag/ingest", data=form) as response:
        answer = await response.json()
        assert response.status == 202, answer
        location = response.headers["Location"]
    async with asyncio.timeout(20):
        while (job := await ask(client, blue.url, "GET", location))["state"] == "running":
            pass
    assert (job["state"], job["done"]) == ("done", 1)
    assert (await ask(client, blue.url, "GET", "/v1/rag/collections/apples/documents/a/apples.md"))["text"].endswith("They are red.")


async def test_two_nodes_of_one_data_directory_see_the_same_and_share_the_jobs(tmp_path: Path, client: aiohttp.ClientSession) -> None:
    async with AsyncExitStack() as stack:
        path = profile(tmp_path / "worker.yaml", ["rag"])
        one, two = [await start(stack, path, tmp_path / "data", ASTROMESH_NODE_NAME=name) for name in ("one", "two")]
        await ask(client, one.url, "POST", "/v1/rag/collections", {"name": "docs"}, 201)
        documents = [{"id": f"d{at}", "text": f"number {at}"} for at in range(100)]
        told = await ask(client, two.url, "POST", "/v1/rag/collections/docs/ingest", {"documents": documents, "wait": False}, 202)
        async with asyncio.timeout(20):
            while (await ask(client, one.url, "GET", f"/v1/rag/collections/docs/jobs/{told['job']['id']}"))["state"] == "running":
                pass
        for node in (one, two):
            assert (await ask(client, node.url, "GET", "/v1/rag/collections/docs"))["documents"] == 100


async def test_a_job_whose_node_is_killed_goes_on_where_it_was(tmp_path: Path, client: aiohttp.ClientSession) -> None:
    async with AsyncExitStack() as stack:
        path = profile(tmp_path / "worker.yaml", ["rag", "inference"], rag={"lease_s": 1})
        first = await start(stack, path, tmp_path / "data")
        await ask(client, first.url, "POST", "/v1/rag/collections", {"name": "docs", "embedding_model": "builtin"}, 201)
        documents = [{"id": f"d{at:04}", "text": f"The document number {at}. " * 20} for at in range(600)]
        told = await ask(client, first.url, "POST", "/v1/rag/ingest", {"collection": "docs", "documents": documents, "wait": False}, 202)
        job = f"/v1/rag/collections/docs/jobs/{told['job']['id']}"
        async with asyncio.timeout(20):
            while not (seen := (await ask(client, first.url, "GET", job))["done"]):
                pass
        first.process.kill()
        await first.exit_code()
        assert 0 < seen < 600
        second = await start(stack, path, tmp_path / "data")
        async with asyncio.timeout(40):
            while (ended := await ask(client, second.url, "GET", job))["state"] == "running":
                pass
        assert (ended["state"], ended["done"], ended["error"]) == ("done", 600, None)
        collection = await ask(client, second.url, "GET", "/v1/rag/collections/docs")
        assert collection["documents"] == 600
        assert collection["chunks"] == ended["chunks"] == 600
        found = await ask(client, second.url, "POST", "/v1/rag/query", {"collection": "docs", "query": "document number 577", "top_k": 1})
        assert found["results"][0]["document_id"] == "d0577", json.dumps(found)
