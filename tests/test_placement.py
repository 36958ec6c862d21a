"""Who answers for a service and a key: here, a peer that has it, a peer of last resort, or nobody."""

import random
import socket
from dataclasses import replace
from typing import Any

import aiohttp
import pytest
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from app import paths
from app.call import call
from app.node import Node
from app.session import NO_STORE, new_session_id
from tests.spine import FakeService, Spine, free_port, service, static

STORES = ["a" * 12, "b" * 12]


def named(name: str, **facts: Any) -> type[FakeService]:
    async def answer(request: Request) -> Response:
        return JSONResponse({"node": name})

    return service(Route("/v1/{rest:path}", answer, methods=["GET", "POST"]), **facts)


async def answered_by(client: aiohttp.ClientSession, url: str, path: str, **headers: str) -> str:
    sent = {name.replace("_", "-"): value for name, value in headers.items()}
    async with client.post(url + path, json={"query": "hi", "model": "m"}, headers=sent) as response:
        told = await response.json()
        return str(told["node"] if response.status == 200 else told["error"]["code"])


def peer(node: Node, name: str) -> Any:
    return next(each for each in node.peers.all() if each.name == name)


async def test_a_local_service_answers_for_its_keys_and_for_those_that_nobody_has(nodes: Spine, client: aiohttp.ClientSession) -> None:
    far = await nodes.node("far", {"agents": named("far", keys=["theirs"])})
    near = await nodes.node("near", {"agents": named("near", keys=["mine"])}, peers={"far": (far.url, ["agents"])})
    for agent, expected in (("mine", "near"), ("theirs", "far"), ("nobodys", "near")):
        assert await answered_by(client, near.url, f"/v1/agents/{agent}/run") == expected


async def test_an_agent_is_run_where_its_sessions_store_is(nodes: Spine, client: aiohttp.ClientSession) -> None:
    peers = {}
    for name, store in zip(("one", "two"), STORES, strict=True):
        made = await nodes.node(name, {"agents": named(name), "memory": named(name, store_id=store)})
        peers[name] = (made.url, ["agents", "memory"])
    gateway = await nodes.node("gateway", peers=peers)
    for name, store in zip(("one", "two"), STORES, strict=True):
        for _ in range(6):
            session = new_session_id(store)
            assert await answered_by(client, gateway.url, "/v1/agents/a/run", X_Session_Id=session) == name


async def test_a_session_whose_store_is_not_here_is_refused_rather_than_forgotten(nodes: Spine, client: aiohttp.ClientSession) -> None:
    one = await nodes.node("one", {"agents": named("one"), "memory": named("one", store_id=STORES[0])})
    gateway = await nodes.node("gateway", peers={"one": (one.url, ["agents", "memory"])})
    for session in (new_session_id(STORES[0]), new_session_id(NO_STORE), "chat-1"):
        assert await answered_by(client, gateway.url, "/v1/agents/a/run", X_Session_Id=session) == "one"
    assert await answered_by(client, gateway.url, "/v1/agents/a/run", X_Session_Id=new_session_id(STORES[1])) == "store_unavailable"


async def test_a_suspect_peer_is_asked_only_when_nobody_else_is_there(nodes: Spine, client: aiohttp.ClientSession) -> None:
    one = await nodes.node("one", {"tools": named("one")})
    two = await nodes.node("two", {"tools": named("two")})
    near = await nodes.node("near", peers={"one": (one.url, ["tools"]), "two": (two.url, ["tools"])})
    for _ in range(6):
        peer(near, "one").state = "suspect"
        assert await answered_by(client, near.url, "/v1/tools/x") == "two"
    peer(near, "one").state, peer(near, "two").state = "suspect", "down"
    assert await answered_by(client, near.url, "/v1/tools/x") == "one"


async def test_a_draining_peer_gets_nothing_new(nodes: Spine, client: aiohttp.ClientSession) -> None:
    one = await nodes.node("one", {"tools": named("one")})
    two = await nodes.node("two", {"tools": named("two")})
    near = await nodes.node("near", peers={"one": (one.url, ["tools"]), "two": (two.url, ["tools"])})
    one._draining.set()
    await static(near).probe(peer(near, "one"))
    assert not peer(near, "one").usable
    assert {await answered_by(client, near.url, "/v1/tools/x") for _ in range(6)} == {"two"}


async def test_a_peer_that_is_at_its_limit_is_passed_over(nodes: Spine, client: aiohttp.ClientSession) -> None:
    full = await nodes.node("full", {"tools": named("full")})
    free = await nodes.node("free", {"tools": named("free")})
    near = await nodes.node("near", peers={"full": (full.url, ["tools"]), "free": (free.url, ["tools"])})
    full._edge.refusing = True
    assert {await answered_by(client, near.url, "/v1/tools/x") for _ in range(6)} == {"free"}
    free._edge.refusing = True
    assert await answered_by(client, near.url, "/v1/tools/x") == "service_unavailable"


async def test_why_nobody_answers_is_told_with_each_peers_reason(nodes: Spine, client: aiohttp.ClientSession) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        dead = f"http://127.0.0.1:{taken.getsockname()[1]}"
    near = await nodes.node("near", peers={"dead": (dead, ["tools"])})
    async with client.post(f"{near.url}/v1/tools/x") as response:
        message = (await response.json())["error"]["message"]
    assert "tools" in message
    assert "dead" in message
    assert "refused" in message


async def test_of_each_peer_the_true_reason_is_told_why_it_does_not_answer(nodes: Spine, client: aiohttp.ClientSession) -> None:
    peers = {}
    for name, store in zip(("one", "two"), STORES, strict=True):
        made = await nodes.node(name, {"memory": named(name, store_id=store)})
        peers[name] = (made.url, ["memory", "tools"])
    far = await nodes.node("far", {"inference": model("far")})
    three = await nodes.node("three", peers={"far": (far.url, ["inference"])})
    near = await nodes.node("near", peers={**peers, "three": (three.url, ["tools"])})
    for node, name in ((made, "two"), (three, "three")):
        node._draining.set()
        await static(near).probe(peer(near, name))
    reasons = {
        f"/v1/memory/a/history/{new_session_id(STORES[1])}": "(one: it keeps another store; two: it is shutting down)",
        "/v1/tools/x": "(one: it does not have it; two: it is shutting down; three: it is shutting down)",
        "/v1/chat/completions": "(three: it is shutting down)",
    }
    for path, told in reasons.items():
        async with client.post(near.url + path, json={"model": "m"}) as response:
            assert response.status == 503
            assert told in (await response.json())["error"]["message"]


def model(name: str) -> type[FakeService]:
    async def listed(request: Request) -> Response:
        return JSONResponse({"object": "list", "data": [{"id": "m", "object": "model"}]})

    async def answer(request: Request) -> Response:
        return JSONResponse({"node": name})

    return service(Route("/v1/models", listed), Route("/v1/chat/completions", answer, methods=["POST"]))


def no_agents() -> type[FakeService]:
    async def listed(request: Request) -> Response:
        return JSONResponse({"agents": []})

    return service(Route("/v1/agents", listed))


async def reached(client: aiohttp.ClientSession, node: Node, *asked_by: Node) -> list[str]:
    """What the node says that it reaches, to a person, or to a node at the end of these."""
    hops = {"X-Astromesh-Forwarded": ",".join(each.node_id for each in asked_by)} if asked_by else {}
    async with client.get(f"{node.url}/v1/system/status", headers=hops) as response:
        return list((await response.json())["reaches"])


async def test_what_a_gateway_lists_it_also_serves_however_many_nodes_are_on_the_way(nodes: Spine, client: aiohttp.ClientSession) -> None:
    made = [await nodes.node("far", {"inference": model("far")})]
    for name, services in (("worker", {"agents": no_agents()}), ("gateway", {}), ("front", {}), ("foremost", {})):
        before = made[-1]
        made.append(await nodes.node(name, services, peers={"next": (before.url, ["inference" if before is made[0] else "agents"])}))
    for node in made[1:]:
        async with client.get(f"{node.url}/v1/models") as response:
            listed = "m" in [row["id"] for row in (await response.json())["data"]]
        assert listed == (node is not made[4]), "a request passes three nodes and no more"
        assert await answered_by(client, node.url, "/v1/chat/completions") == ("far" if listed else "service_unavailable")
        assert ("inference" in await reached(client, node)) == listed
    assert await reached(client, made[4]) == ["agents"]


async def test_a_node_tells_others_how_far_it_is_to_what_it_reaches_and_people_only_that(
    nodes: Spine, client: aiohttp.ClientSession
) -> None:
    far = await nodes.node("far", {"inference": model("far")})
    worker = await nodes.node("worker", {"agents": named("worker")}, peers={"far": (far.url, ["inference"])})
    gateway = await nodes.node("gateway", peers={"worker": (worker.url, ["agents"])})
    assert await reached(client, gateway) == ["agents", "inference"]
    front, foremost = await nodes.node("front"), await nodes.node("foremost")
    assert await reached(client, gateway, front) == ["agents", "inference/2"]
    assert await reached(client, gateway, foremost, front) == ["agents"]
    assert await reached(client, gateway, worker) == []


async def test_peers_that_name_each_other_do_not_echo_what_one_of_them_reaches(nodes: Spine, client: aiohttp.ClientSession) -> None:
    far = await nodes.node("far", {"inference": model("far")})
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    two = await nodes.node("two", peers={"one": (url, ["inference"])})
    one = await nodes.node("one", peers={"two": (two.url, ["inference"]), "far": (far.url, ["inference"])}, api={"port": port})
    await static(two).probe(peer(two, "one"))
    assert await answered_by(client, two.url, "/v1/chat/completions") == "far"
    await static(one).probe(peer(one, "two"))
    assert peer(one, "two").facts.reaches == frozenset(), "what it has from here"
    far._draining.set()
    await static(one).probe(peer(one, "far"))
    assert one._placement.reaches() == {}
    await static(two).probe(peer(two, "one"))
    assert two._placement.reaches() == {}
    assert await answered_by(client, two.url, "/v1/chat/completions") == "service_unavailable"


async def test_a_circle_of_peers_forgets_what_nobody_offers_any_more(nodes: Spine) -> None:
    far = await nodes.node("far", {"inference": model("far")})
    port = free_port()
    three = await nodes.node("three", peers={"one": (f"http://127.0.0.1:{port}", ["agents"]), "far": (far.url, ["inference"])})
    two = await nodes.node("two", peers={"next": (three.url, ["agents"])})
    one = await nodes.node("one", peers={"next": (two.url, ["agents"])}, api={"port": port})
    await static(three).probe(peer(three, "one"))
    assert [node._placement.reaches() for node in (three, two, one)] == [{"inference": 1}, {"inference": 2}, {"inference": 3}]
    far._draining.set()
    await static(three).probe(peer(three, "far"))
    assert three._placement.reaches() == {}
    for node, name in ((two, "next"), (one, "next"), (three, "one")):
        await static(node).probe(peer(node, name))
        assert node._placement.reaches() == {}


async def test_nobody_is_refused_by_old_news(nodes: Spine, client: aiohttp.ClientSession) -> None:
    far = await nodes.node("far", {"inference": named("far")})
    middle = await nodes.node("middle", {"tools": named("middle")}, peers={"far": (far.url, ["inference"])})
    near = await nodes.node("near", peers={"middle": (middle.url, ["tools"])})
    known = peer(near, "middle")
    known.facts = replace(known.facts, reaches=frozenset())  # as it was before the middle had found the far one
    static(near)._asked_at["middle"] = float("-inf")
    assert await answered_by(client, near.url, "/v1/chat/completions") == "far"
    known.state, known.facts = "unknown", None  # not heard from yet
    static(near)._asked_at["middle"] = float("-inf")
    assert await answered_by(client, near.url, "/v1/tools/x") == "middle"


async def test_a_call_inside_the_node_goes_the_way_of_a_request(nodes: Spine) -> None:
    far = await nodes.node("far", {"tools": named("far")})
    near = await nodes.node("near", {"agents": named("near")}, peers={"far": (far.url, ["tools"])})
    agents: Any = near._services["agents"]
    async with call(agents.node.locate("tools", None), "POST", "/v1/tools/x", body={}) as reply:
        assert await reply.json() == {"node": "far"}
        assert reply.header("X-Astromesh-Node") == "far"


@pytest.mark.parametrize(
    ("path", "owner"),
    [
        ("/v1/agents", ("agents", None)),
        ("/v1/agents/a/run", ("agents", "a")),
        ("/v1/ws/agent/a", ("agents", "a")),
        ("/v1/memory/a/history/s", ("memory", "s")),
        ("/v1/memory/a/history/s/turns/t", ("memory", "s")),
        ("/v1/memory/a", ("memory", None)),
        ("/v1/tools/builtin", ("tools", None)),
        ("/v1/rag/docs", ("rag", None)),
        ("/v1/channels/whatsapp/webhook", ("channels", None)),
        ("/metrics", ("observability", None)),
        ("/v1/metrics", ("observability", None)),
        ("/v1/traces/x", ("observability", None)),
        ("/v1/chat/completions", None),
        ("/v2/agents", None),
        ("/agents", None),
        ("", None),
    ],
)
def test_a_path_has_one_owner(path: str, owner: tuple[str, str | None] | None) -> None:
    assert paths.owner(path) == owner


def test_a_label_of_a_path_holds_nothing_that_a_client_wrote() -> None:
    assert paths.template("/v1/agents/secret/run") == "/v1/agents/{}/run"
    assert paths.template("/v1/memory/a/history/s/turns/t") == "/v1/memory/{}/history/{}/turns/{}"
    assert paths.template("/v1/models/org/name") == "/v1/models/{}"
    assert paths.template("/admin.php") == "other"
    words = ["v1", "agents", "run", "models", "memory", "history", "system", "x"]
    shuffled = ["/" + "/".join(random.Random(seed).choices(words, k=seed % 7 + 1)) for seed in range(2000)]
    assert len({paths.template(path) for path in shuffled}) < 25
