"""Agents made, changed, deleted and read anew by way of any node: real nodes, the shipped agents service, keys as clients present them."""

import json
import signal
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, cast

import aiohttp
import pytest

from app.node import Node
from app.services.agents import Agents
from tests.meshes import Meshed, meshed
from tests.nodes import profile, start
from tests.services.agents.world import agent_file
from tests.spine import FakeService, Spine

KEYS = {"ASTROMESH_API_KEYS": "node:sk-1,ada:sk-2"}
ADA = {"Authorization": "Bearer sk-2"}
AGENTS = {"agents": cast(type[FakeService], Agents)}


@pytest.fixture
async def client() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(headers=ADA) as session:
        yield session


def definition(name: str = "clerk") -> dict[str, Any]:
    return {"apiVersion": "astromesh/v1", "kind": "Agent", "metadata": {"name": name}, "spec": {}}


async def stack_of(nodes: Spine, folder: Path, keys: dict[str, str]) -> tuple[Node, Node, Node]:
    """A gateway and two workers that share nothing, with a configuration folder each."""
    workers = [
        await nodes.node(name, AGENTS, environ=keys | {"ASTROMESH_CONFIG_DIR": str(folder / f"{name}-files" / "config")})
        for name in ("one", "two")
    ]
    peers = {worker._settings.node_name: (worker.url, ["agents"]) for worker in workers}
    return await nodes.node("gateway", peers=peers, environ=keys), *workers  # type: ignore[return-value]


async def ask(client: aiohttp.ClientSession, method: str, url: str, body: Any = None) -> tuple[int, Any, str]:
    """(status, body, the node that answered)."""
    async with client.request(method, url, json=body) as response:
        return response.status, json.loads(await response.read() or b"null"), response.headers["X-Astromesh-Node"]


async def test_an_agent_is_made_at_a_worker_and_found_there_at_once_by_whoever_asks_the_gateway(
    nodes: Spine, client: aiohttp.ClientSession, tmp_path: Path
) -> None:
    gateway, *_ = await stack_of(nodes, tmp_path, KEYS)
    for name in ("clerk", "cook", "guard", "nurse"):
        status, made, where = await ask(client, "POST", f"{gateway.url}/v1/agents", definition(name))
        assert (status, made["source"], where in ("one", "two")) == (201, "http", True)
        assert await ask(client, "GET", f"{gateway.url}/v1/agents/{name}") == (200, made, where)
        status, told, there = await ask(client, "POST", f"{gateway.url}/v1/agents", definition(name))
        assert (status, told["error"]["code"], there) == (409, "conflict", where)
        status, _, there = await ask(client, "PUT", f"{gateway.url}/v1/agents/{name}", definition(name))
        assert (status, there) == (200, where)
        status, _, there = await ask(client, "DELETE", f"{gateway.url}/v1/agents/{name}")
        assert (status, there) == (200, where)
        assert (await ask(client, "GET", f"{gateway.url}/v1/agents/{name}"))[0] == 404
    status, told, _ = await ask(client, "POST", f"{gateway.url}/v1/agents", definition("Big One"))
    assert (status, len(told["error"]["errors"])) == (422, 1)


async def test_without_keys_nobody_makes_agents_whatever_they_say_of_themselves(nodes: Spine, tmp_path: Path) -> None:
    gateway, one, _ = await stack_of(nodes, tmp_path, {})
    claims = {"X-Astromesh-Principal": "ada", "X-Astromesh-Forwarded": "x"}
    async with aiohttp.ClientSession(headers=claims) as client:
        for node in (gateway, one):
            status, told, _ = await ask(client, "POST", f"{node.url}/v1/agents", definition())
            assert (status, told["error"]["code"]) == (403, "forbidden")
            assert "set ASTROMESH_API_KEYS" in told["error"]["message"]


async def test_a_reload_reaches_every_node_that_has_agents_and_says_what_each_has(
    nodes: Spine, client: aiohttp.ClientSession, tmp_path: Path
) -> None:
    gateway, *_ = await stack_of(nodes, tmp_path, KEYS)
    for name in ("one", "two"):
        agent_file(tmp_path / f"{name}-files", "both")
    agent_file(tmp_path / "one-files", "broken", promts={})
    agent_file(tmp_path / "two-files", "fancy", orchestration={"pattern": "supervisor"})
    status, told, _ = await ask(client, "POST", f"{gateway.url}/v1/agents/reload")
    assert (status, told["agents"], told["loaded"]) == (200, 2, ["both", "fancy"])
    assert [(row["name"], row["nodes"], row["kept"]) for row in told["broken"]] == [("broken", ["one"], False)]
    assert [(row["name"], row["nodes"]) for row in told["unavailable"]] == [("fancy", ["two"])]
    assert [(row["node"], row["loaded"]) for row in told["nodes"]] == [("one", ["both"]), ("two", ["both", "fancy"])]
    assert (await ask(client, "GET", f"{gateway.url}/v1/agents/fancy"))[2] == "two"


async def test_a_reload_names_the_nodes_that_did_not_answer(nodes: Spine, client: aiohttp.ClientSession, tmp_path: Path) -> None:
    gateway, *_ = await stack_of(nodes, tmp_path, KEYS)
    gateway.peers.failed(gateway.peers.all()[1], "a test says so")
    async with client.post(f"{gateway.url}/v1/agents/reload") as response:
        assert (response.status, response.headers["X-Astromesh-Partial"]) == (200, "two")
    alone = await nodes.node("alone", environ=KEYS)
    status, told, _ = await ask(client, "POST", f"{alone.url}/v1/agents/reload")
    assert (status, told["error"]["code"]) == (503, "service_unavailable")


async def test_sighup_has_the_files_read_anew_and_the_node_runs_on(tmp_path: Path) -> None:
    async with AsyncExitStack() as stack:
        client = await stack.enter_async_context(aiohttp.ClientSession())
        files = tmp_path / "files"
        agent_file(files, "before")
        places = {"ASTROMESH_CONFIG_DIR": str(files / "config")}
        worker = await start(stack, profile(tmp_path / "worker.yaml", ["agents"]), tmp_path / "data", **places)
        agent_file(files, "after")
        worker.signal(signal.SIGHUP)
        assert "2 agents; new: after; gone: -" in await worker.wait_for_log("read the agent files anew")
        assert (await ask(client, "GET", f"{worker.url}/v1/agents/after"))[0] == 200
        gateway = await start(stack, profile(tmp_path / "gateway.yaml", []), tmp_path / "other")
        gateway.signal(signal.SIGHUP)
        await gateway.wait_for_log("there is nothing to read anew")
        assert (await ask(client, "GET", f"{gateway.url}/livez"))[0] == 200


async def test_in_a_mesh_every_node_hears_of_a_new_agent_soon_and_sends_its_questions_there(tmp_path: Path) -> None:
    keys = KEYS | {"ASTROMESH_MESH_KEY": "between-nodes"}
    async with meshed(tmp_path, **keys) as mesh:
        mesh.http.headers.update(ADA)
        gateway = await mesh.node("gateway")
        # The shipped configuration folder has an agent, too, which every worker has.
        one = await mesh.node("one", ["agents", "tools", "memory", "inference"])
        two = await mesh.node("two", ["agents", "tools", "memory", "inference"])
        await mesh.together(gateway, one, two)
        status, _, where = await ask(mesh.http, "POST", f"{gateway.url}/v1/agents", definition())
        assert status == 201
        assert (await ask(mesh.http, "GET", f"{gateway.url}/v1/agents/clerk"))[2] == where
        other = {"one": two, "two": one}[where]
        await mesh.until(lambda: _serves(mesh, other.url, where), "the other worker knows of the agent", 3)
        status, told, _ = await ask(mesh.http, "POST", f"{other.url}/v1/agents", definition())
        assert (status, told["error"]["code"]) == (409, "conflict")
        status, told, _ = await ask(mesh.http, "POST", f"{other.url}/v1/agents/reload")
        assert [row["node"] for row in told["nodes"]] == [{"one": "two", "two": "one"}[where], where]
        assert told["loaded"] == ["assistant", "clerk"]


@pytest.mark.processes
async def test_workers_that_share_a_data_directory_all_have_a_new_agent_at_once(tmp_path: Path) -> None:
    keys = KEYS | {"ASTROMESH_MESH_KEY": "between-nodes"}
    async with meshed(tmp_path, **keys) as mesh:
        mesh.http.headers.update(ADA)
        gateway = await mesh.node("gateway")
        workers = [await mesh.node(name, ["agents", "tools", "memory", "inference"], data="shared") for name in ("one", "two")]
        await mesh.together(gateway, *workers)
        assert (await ask(mesh.http, "POST", f"{gateway.url}/v1/agents", definition()))[0] == 201
        for worker in workers:
            status, told, _ = await ask(mesh.http, "POST", f"{worker.url}/v1/agents/clerk/run", {"query": "What is 17*23?"})
            assert (status, told.get("outcome")) == (200, "answered")
        everywhere = [await ask(mesh.http, "POST", f"{node.url}/v1/agents", definition()) for node in (gateway, *workers)]
        assert [status for status, *_ in everywhere] == [409] * 3


async def _serves(mesh: Meshed, url: str, where: str) -> bool:
    status, _, there = await ask(mesh.http, "GET", f"{url}/v1/agents/clerk")
    return (status, there) == (200, where)
