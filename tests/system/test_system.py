"""What a node says of itself: health, readiness, status and doctor, in the shapes that existing clients read."""

import asyncio
import os
from collections.abc import Mapping
from typing import Any

import aiohttp
import pytest
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from app import __version__
from app.node import Node
from app.services.contract import Check
from app.system import health
from tests.spine import FakeService, Spine, free_port, service, static


async def ask(client: aiohttp.ClientSession, node: Node, path: str, status: int = 200) -> Any:
    async with client.get(node.url + path) as response:
        assert response.status == status
        return await response.json()


def checked(outcome: Mapping[str, Check] | Exception | None) -> type[FakeService]:
    """A service whose check comes out like this; None: never."""

    async def check(self: FakeService) -> Mapping[str, Check]:
        if isinstance(outcome, Exception):
            raise outcome
        if outcome is None:
            await asyncio.Event().wait()
            return {}
        return outcome

    return type("Checked", (service(),), {"check": check})


async def until_state(client: aiohttp.ClientSession, node: Node, state: str) -> Any:
    async with asyncio.timeout(10):
        while True:
            [peer] = (await ask(client, node, "/v1/system/status"))["peers"]
            if peer["state"] == state:
                return peer


async def test_status_has_the_shape_that_clients_read_with_real_values(nodes: Spine, client: aiohttp.ClientSession) -> None:
    far = await nodes.node("far", {"inference": service()})
    offered = {"agents": service(keys=["a", "b"]), "memory": service(store_id="d" * 12)}
    node = await nodes.node("near", offered, peers={"far": (far.url, ["inference"])})
    status = await ask(client, node, "/v1/system/status")
    expected = {
        "version": __version__,
        "mode": "near",
        "pid": os.getpid(),
        "node_id": node.node_id,
        "node_name": "near",
        "agents_loaded": 2,
        "reaches": ["inference"],
        "keys": {"agents": ["a", "b"]},
        "store_id": "d" * 12,
        "draining": False,
        "in_flight": 1,
        "mesh": None,
    }
    assert {name: status[name] for name in expected} == expected
    on = {"api", "agents", "memory", "observability"}
    assert status["services"] == {
        name: name in on for name in ("api", "agents", "inference", "memory", "tools", "channels", "rag", "observability")
    }
    assert status["profile"].endswith("near.yaml")
    assert 0 < status["uptime_seconds"] < 60
    [peer] = status["peers"]
    assert {name: peer[name] for name in ("name", "url", "services", "state", "node_id")} == {
        "name": "far",
        "url": far.url,
        "services": ["inference"],
        "state": "up",
        "node_id": far.node_id,
    }


async def test_requests_at_work_are_counted(nodes: Spine, client: aiohttp.ClientSession) -> None:
    begun, done = asyncio.Event(), asyncio.Event()

    async def work(request: Request) -> Response:
        begun.set()
        await done.wait()
        return Response()

    node = await nodes.node("busy", {"tools": service(Route("/v1/tools/x", work))})
    working = asyncio.create_task(client.get(f"{node.url}/v1/tools/x").__aenter__())
    await asyncio.wait_for(begun.wait(), 5)
    assert (await ask(client, node, "/v1/system/status"))["in_flight"] == 2
    done.set()
    await working
    assert (await ask(client, node, "/v1/system/status"))["in_flight"] == 1


async def test_a_peers_state_follows_its_death_and_return(nodes: Spine, client: aiohttp.ClientSession) -> None:
    port = free_port()
    node = await nodes.node("near", peers={"far": (f"http://127.0.0.1:{port}", ["tools"])})
    peer = await until_state(client, node, "down")
    assert "refused" in peer["reason"]
    assert (await ask(client, node, "/v1/system/status"))["reaches"] == []
    doctor = await ask(client, node, "/v1/system/doctor")
    assert doctor["checks"]["peer.far"]["status"] == "degraded"
    assert "refused" in doctor["checks"]["peer.far"]["message"]
    assert doctor["healthy"] is True
    far = await nodes.node("far", {"tools": service()}, api={"port": port})
    peer = await until_state(client, node, "up")
    assert (peer["reason"], peer["node_id"]) == ("", far.node_id)
    assert (await ask(client, node, "/v1/system/status"))["reaches"] == ["tools"]
    assert (await ask(client, node, "/v1/system/doctor"))["checks"]["peer.far"]["status"] == "ok"
    far._draining.set()
    await static(node).probe(node.peers.all()[0])
    await until_state(client, node, "draining")


async def test_a_peer_that_lacks_what_the_profile_asks_of_it_is_told_in_doctor_with_what_follows(
    nodes: Spine, client: aiohttp.ClientSession
) -> None:
    far = await nodes.node("far", {"tools": service()})
    node = await nodes.node("near", peers={"far": (far.url, ["tools", "memory"])})
    check = (await ask(client, node, "/v1/system/doctor"))["checks"]["peer.far"]
    assert check["status"] == "degraded"
    assert "without memory, which this node's profile asks of it" in check["message"]
    assert "503" in check["message"]
    assert "tools" not in check["message"]


async def test_a_peer_that_is_the_node_itself_is_warned_of_and_never_asked(
    nodes: Spine, client: aiohttp.ClientSession, caplog: pytest.LogCaptureFixture
) -> None:
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    far = await nodes.node("far", {"inference": service()})
    peers = {"me": (url, ["tools", "memory"]), "far": (far.url, ["inference"])}
    node = await nodes.node("self", {"tools": service()}, peers=peers, api={"port": port})
    for _ in range(2):
        await static(node).probe(node.peers.all()[0])
    check = (await ask(client, node, "/v1/system/doctor"))["checks"]["peer.me"]
    assert check["status"] == "degraded"
    assert f"{url} leads back to this node itself" in check["message"]
    assert [record.message for record in caplog.records if "leads back" in record.message] == [f"peer me: {check['message']}"]
    assert (await ask(client, node, "/v1/system/status"))["reaches"] == ["inference"]
    assert [peer.name for peer in node._placement.askable(["tools", "inference"])] == ["far"]
    error = (await ask(client, node, "/v1/memory/a/history/s", 503))["error"]
    assert "me: it is this node itself" in error["message"]


async def test_readiness_does_not_depend_on_a_peer(nodes: Spine, client: aiohttp.ClientSession) -> None:
    node = await nodes.node("near", {"tools": service()}, peers={"gone": (f"http://127.0.0.1:{free_port()}", ["inference"])})
    assert (await ask(client, node, "/readyz"))["status"] == "ready"


async def test_an_error_of_a_service_ends_readiness_and_nothing_else(nodes: Spine, client: aiohttp.ClientSession) -> None:
    outcome = {"disk": Check("error", "it is full"), "wal": Check("ok", "fine")}
    node = await nodes.node("ill", {"memory": checked(outcome), "tools": service()})
    ready = await ask(client, node, "/readyz", 503)
    assert ready["status"] == "not ready"
    assert ready["checks"]["disk"] == {"status": "error", "message": "it is full"}
    assert ready["checks"]["tools"]["status"] == "ok"
    doctor = await ask(client, node, "/v1/system/doctor")
    assert doctor["healthy"] is False
    assert (await ask(client, node, "/livez"))["status"] == "ok"


async def test_a_degraded_service_is_ready(nodes: Spine, client: aiohttp.ClientSession) -> None:
    node = await nodes.node("so-so", {"inference": checked({"ollama": Check("degraded", "down")})})
    assert (await ask(client, node, "/readyz"))["status"] == "ready"
    assert (await ask(client, node, "/v1/system/doctor"))["healthy"] is True


@pytest.mark.parametrize("outcome", [RuntimeError("the check broke"), None])
async def test_a_check_that_fails_or_hangs_is_an_error_and_hangs_nobody(
    nodes: Spine, client: aiohttp.ClientSession, monkeypatch: pytest.MonkeyPatch, outcome: Exception | None
) -> None:
    monkeypatch.setattr(health, "CHECK_TIMEOUT_S", 0.1)
    node = await nodes.node("ill", {"memory": checked(outcome)})
    async with asyncio.timeout(3):
        ready = await ask(client, node, "/readyz", 503)
    assert ready["checks"]["memory"]["status"] == "error"


async def test_checks_are_run_once_for_many_who_ask(nodes: Spine, client: aiohttp.ClientSession) -> None:
    runs = 0

    async def check(self: FakeService) -> Mapping[str, Check]:
        nonlocal runs
        runs += 1
        return {}

    node = await nodes.node("asked", {"memory": type("Counting", (service(),), {"check": check})})
    await asyncio.gather(*(ask(client, node, "/readyz") for _ in range(20)))
    assert runs == 1


async def test_health_names_version_and_node(nodes: Spine, client: aiohttp.ClientSession) -> None:
    node = await nodes.node("plain")
    assert await ask(client, node, "/v1/health") == {"status": "ok", "version": __version__, "node_name": "plain"}
    assert await ask(client, node, "/livez") == {"status": "ok"}


async def test_the_mesh_is_off_and_says_how_to_turn_it_on(nodes: Spine, client: aiohttp.ClientSession) -> None:
    node = await nodes.node("plain")
    error = (await ask(client, node, "/v1/mesh/state", 503))["error"]
    assert "spec.mesh" in error["message"]


async def test_the_profiles_warnings_are_in_doctor(nodes: Spine, client: aiohttp.ClientSession) -> None:
    node = await nodes.node("lonely", {"agents": service()})
    checks = (await ask(client, node, "/v1/system/doctor"))["checks"]
    assert any("memory" in check["message"] for name, check in checks.items() if name.startswith("profile."))


async def test_doctor_says_what_nobody_has(nodes: Spine, client: aiohttp.ClientSession) -> None:
    worker = await nodes.node("worker", {"agents": service()})
    gateway = await nodes.node("gateway", {"channels": service()}, {"worker": (worker.url, ["agents"])})
    doctor = await ask(client, gateway, "/v1/system/doctor")
    absent = {name for name, check in doctor["checks"].items() if check["status"] == "unavailable"}
    assert absent == {"inference", "memory", "tools", "rag"}
    assert doctor["checks"]["inference"]["message"] == "no node that is up has inference; requests for it get 503 until one has"
    assert doctor["healthy"] is True
