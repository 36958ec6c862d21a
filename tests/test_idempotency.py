"""Idempotency-Keys through a gateway and real workers: a run that its worker took along when it died is run again, once, and says so."""

import asyncio
import signal
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.nodes import RunningNode, profile, start
from tests.services.inference.fakes import CHAT, FakeServer, completion, hangs, openai_server, replies
from tests.support import serve

WORKER = ["agents", "tools", "memory", "rag"]
RUN = "/v1/agents/assistant/run"
EQUAL = ["shared", *(pytest.param(kind, marks=pytest.mark.databases) for kind in ("postgres", "redis"))]
"""Ways in which two workers share one store."""


@dataclass
class Workers:
    """Two workers behind a gateway, each with a model server of its own, so that it shows who works on a run."""

    gateway: RunningNode
    nodes: list[RunningNode]
    models: list[FakeServer]
    http: aiohttp.ClientSession

    @property
    def asked(self) -> list[int]:
        """How often each worker's model was asked."""
        return [len(model.asked_for("/v1/chat/completions")) for model in self.models]

    async def run(self, key: str | None, **body: Any) -> tuple[aiohttp.ClientResponse, dict[str, Any]]:
        headers = {"Idempotency-Key": key} if key else {}
        async with self.http.post(f"{self.gateway.url}{RUN}", json={"query": "Go.", **body}, headers=headers) as response:
            return response, await response.json()

    async def working(self) -> int:
        """Which worker's model is asked first."""
        waiting = [asyncio.create_task(self._asked(model)) for model in self.models]
        try:
            await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED, timeout=20)
            return next(number for number, task in enumerate(waiting) if task.done())
        finally:
            for task in waiting:
                task.cancel()

    @staticmethod
    async def _asked(model: FakeServer) -> None:
        while not model.asked_for("/v1/chat/completions"):
            model.asked.clear()
            await model.asked.wait()


@pytest.fixture
async def workers(tmp_path: Path, request: pytest.FixtureRequest) -> AsyncIterator[Workers]:
    """With the parameter ``shared`` they have one data directory, and so one store; with ``postgres`` or ``redis`` one server."""
    server = {"postgres": "ASTROMESH_DATABASE_URL", "redis": "ASTROMESH_REDIS_URL"}.get(request.param)
    environ = {server: request.getfixturevalue(f"{request.param}_url")} if server else {}
    async with AsyncExitStack() as stack:
        http = await stack.enter_async_context(aiohttp.ClientSession())
        models = [openai_server().on(CHAT, replies(completion(f"I am {name}."))) for name in ("one", "two")]
        nodes = []
        for name, model in zip(("one", "two"), models, strict=True):
            url = await stack.enter_async_context(serve(model))
            made = profile(tmp_path / f"{name}.yaml", [*WORKER, "inference"], memory={"run_lease_s": 1.0})
            data = tmp_path / ("shared" if request.param == "shared" else name)
            nodes.append(await start(stack, made, data, OPENAI_BASE_URL=url, **environ))
        peers = {name: (node.url, WORKER) for name, node in zip(("one", "two"), nodes, strict=True)}
        gateway = await start(stack, profile(tmp_path / "gateway.yaml", ["channels"], peers=peers), tmp_path / "g")
        while True:
            async with http.get(f"{gateway.url}/v1/system/status") as response:
                if all(peer["state"] == "up" for peer in (await response.json())["peers"]):
                    break
        yield Workers(gateway, nodes, models, http)


@pytest.mark.parametrize("workers", EQUAL, indirect=True)
async def test_a_run_whose_worker_is_killed_is_run_again_by_the_other_and_says_that_it_is_the_second(workers: Workers) -> None:
    for model in workers.models:
        model.on(CHAT, hangs)
    run = asyncio.create_task(workers.run("k-1"))
    first = await workers.working()
    workers.models[1 - first].on(CHAT, replies(completion("Done by the other.")))
    workers.nodes[first].signal(signal.SIGKILL)
    response, told = await run
    assert (response.status, told.get("answer")) == (200, "Done by the other."), told
    assert response.headers["Idempotency-Attempt"] == "2"
    again, repeated = await workers.run("k-1")
    assert (repeated, again.headers["Idempotency-Replayed"], workers.asked) == (told, "true", [1, 1])


@pytest.mark.processes
@pytest.mark.parametrize("workers", ["shared"], indirect=True)
async def test_without_a_key_the_same_is_peer_lost_at_once_and_nobody_runs_it_again(workers: Workers) -> None:
    for model in workers.models:
        model.on(CHAT, hangs)
    run = asyncio.create_task(workers.run(None))
    first = await workers.working()
    workers.nodes[first].signal(signal.SIGKILL)
    response, told = await run
    assert (response.status, told["error"]["code"]) == (502, "peer_lost")
    assert sum(workers.asked) == 1


@pytest.mark.processes
@pytest.mark.parametrize("workers", ["apart"], indirect=True)
async def test_a_repetition_without_a_session_comes_to_the_store_that_recorded_the_run(workers: Workers) -> None:
    for key in ("a", "b", "c", "d"):
        _, first = await workers.run(key)
        before = workers.asked
        for _ in range(3):
            response, told = await workers.run(key)
            assert (told, response.headers["Idempotency-Replayed"]) == (first, "true")
        response, told = await workers.run(key, context={"other": True})
        assert (response.status, told["error"]["code"]) == (422, "idempotency_key_reused")
        assert workers.asked == before
