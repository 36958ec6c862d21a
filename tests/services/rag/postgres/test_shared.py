"""Workers that share a database share its knowledge and its jobs, whichever of them is asked and whoever of them is killed."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import aiohttp
import pytest

from tests.nodes import RunningNode, profile, start
from tests.services.rag.test_nodes import ask

pytestmark = pytest.mark.databases
DOCS = "/v1/rag/collections/docs"


@pytest.fixture
async def workers(tmp_path: Path, postgres_url: str) -> AsyncIterator[list[RunningNode]]:
    """Two, with a data directory each."""
    async with AsyncExitStack() as stack:
        path = profile(tmp_path / "worker.yaml", ["rag", "inference"], rag={"lease_s": 1})
        environ = {"ASTROMESH_DATABASE_URL": postgres_url}
        yield [await start(stack, path, tmp_path / name, ASTROMESH_NODE_NAME=name, **environ) for name in ("one", "two")]


async def test_what_one_takes_in_the_other_finds_and_a_killed_ones_job_goes_on(workers: list[RunningNode]) -> None:
    one, two = workers
    async with aiohttp.ClientSession() as client:
        await ask(client, one.url, "POST", "/v1/rag/collections", {"name": "docs", "embedding_model": "builtin"}, 201)
        await ask(client, one.url, "POST", f"{DOCS}/ingest", {"documents": [{"id": "hours", "text": "We open at nine."}]})
        found = await ask(client, two.url, "POST", "/v1/rag/query", {"collection": "docs", "query": "open"})
        assert [row["document_id"] for row in found["results"]] == ["hours"]
        assert found["mode"] == "hybrid"
        documents = [{"id": f"d{at:04}", "text": f"The document number {at}. " * 20} for at in range(600)]
        told = await ask(client, one.url, "POST", f"{DOCS}/ingest", {"documents": documents, "wait": False}, 202)
        job = f"{DOCS}/jobs/{told['job']['id']}"
        async with asyncio.timeout(30):
            while not (await ask(client, two.url, "GET", job))["done"]:
                pass
        one.process.kill()
        await one.exit_code()
        async with asyncio.timeout(60):
            while (ended := await ask(client, two.url, "GET", job))["state"] == "running":
                pass
        assert (ended["state"], ended["done"], ended["error"]) == ("done", 600, None)
        assert (await ask(client, two.url, "GET", DOCS))["documents"] == 601
        doctor = await ask(client, two.url, "GET", "/v1/system/doctor")
        assert "pgvector" in doctor["checks"]["rag"]["message"]
