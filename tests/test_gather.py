"""Lists that a person expects whole: from here and from peers, in one second, with what is missing named."""

import asyncio
import json
from typing import Any

import aiohttp
import pytest
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from app.context import RequestContext, current
from tests.spine import FakeService, Spine, service


def tools(*names: str, hangs: bool = False, fails: bool = False) -> type[FakeService]:
    async def listed(request: Request) -> Response:
        if hangs:
            await asyncio.Event().wait()
        if fails:
            raise RuntimeError("broken")
        return JSONResponse({"tools": [{"name": name, "description": "d"} for name in names], "count": len(names)})

    return service(Route("/v1/tools", listed))


def switched(available: bool) -> type[FakeService]:
    async def listed(request: Request) -> Response:
        return JSONResponse({"tools": [{"name": "http_request", "available": available}]})

    return service(Route("/v1/tools", listed))


def agents(status: str, *names: str) -> type[FakeService]:
    async def listed(request: Request) -> Response:
        return JSONResponse({"agents": [{"name": name, "status": status} for name in names]})

    return service(Route("/v1/agents", listed))


async def ask(client: aiohttp.ClientSession, url: str, **headers: str) -> tuple[Any, str | None]:
    async with client.get(url, headers={name.replace("_", "-"): value for name, value in headers.items()}) as response:
        assert response.status == 200, await response.text()
        return await response.json(), response.headers.get("X-Astromesh-Partial")


async def test_rows_of_here_and_of_peers_are_one_list_with_the_nodes_of_each(nodes: Spine, client: aiohttp.ClientSession) -> None:
    far = await nodes.node("far", {"tools": tools("both", "there")})
    near = await nodes.node("near", {"tools": tools("here", "both")}, peers={"far": (far.url, ["tools"])})
    told, partial = await ask(client, f"{near.url}/v1/tools")
    assert [(row["name"], row["nodes"]) for row in told["tools"]] == [("here", ["near"]), ("both", ["near", "far"]), ("there", ["far"])]
    assert (told["count"], partial) == (3, None)
    assert all(row["description"] == "d" for row in told["tools"])


@pytest.mark.parametrize("here", [True, False])
async def test_a_tool_that_is_on_somewhere_is_shown_as_it_is_there(here: bool, nodes: Spine, client: aiohttp.ClientSession) -> None:
    far = await nodes.node("far", {"tools": switched(not here)})
    near = await nodes.node("near", {"tools": switched(here)}, peers={"far": (far.url, ["tools"])})
    [row] = (await ask(client, f"{near.url}/v1/tools"))[0]["tools"]
    assert (row["available"], row["nodes"]) == (True, ["near", "far"])


async def test_a_peers_peer_is_seen_through_it_with_its_own_name(nodes: Spine, client: aiohttp.ClientSession) -> None:
    far = await nodes.node("far", {"tools": tools("deep")})
    middle = await nodes.node("middle", {"agents": agents("ready")}, peers={"far": (far.url, ["tools"])})
    near = await nodes.node("near", peers={"middle": (middle.url, ["agents"])})
    told, _ = await ask(client, f"{near.url}/v1/tools")
    assert [(row["name"], row["nodes"]) for row in told["tools"]] == [("deep", ["far"])]


async def test_nodes_that_list_each_other_ask_each_other_once(nodes: Spine, client: aiohttp.ClientSession) -> None:
    far = await nodes.node("far", {"tools": tools("there")})
    near = await nodes.node("near", {"tools": tools("here")}, peers={"far": (far.url, ["tools"])})
    told, _ = await ask(client, f"{near.url}/v1/tools", X_Astromesh_Forwarded=far.node_id)
    assert [row["name"] for row in told["tools"]] == ["here"]


async def test_a_peer_that_hangs_or_fails_is_named_and_holds_nobody_up(nodes: Spine, client: aiohttp.ClientSession) -> None:
    slow = await nodes.node("slow", {"tools": tools(hangs=True)})
    broken = await nodes.node("broken", {"tools": tools(fails=True)})
    good = await nodes.node("good", {"tools": tools("a")})
    peers = {"slow": (slow.url, ["tools"]), "broken": (broken.url, ["tools"]), "good": (good.url, ["tools"])}
    near = await nodes.node("near", peers=peers)
    async with asyncio.timeout(1.8):
        told, partial = await ask(client, f"{near.url}/v1/tools")
    assert [row["name"] for row in told["tools"]] == ["a"]
    assert partial == "slow, broken"


async def test_a_list_that_nobody_can_give_now_is_503_and_never_empty(nodes: Spine, client: aiohttp.ClientSession) -> None:
    slow = await nodes.node("slow", {"tools": tools(hangs=True)})
    near = await nodes.node("near", peers={"slow": (slow.url, ["tools"])})
    async with client.get(f"{near.url}/v1/tools") as response:
        error = (await response.json())["error"]
        assert (response.status, error["code"]) == (503, "service_unavailable")
        assert "slow" in error["message"]


async def test_a_peer_that_answers_with_anything_else_is_missing(nodes: Spine, client: aiohttp.ClientSession) -> None:
    for number, answer in enumerate(({"tools": None}, {"tools": 5}, [], {"other": []}, "text")):

        async def odd(request: Request, answer: Any = answer) -> Response:
            return Response(json.dumps(answer), media_type="application/json")

        peer = await nodes.node(f"odd-{number}", {"tools": service(Route("/v1/tools", odd))})
        near = await nodes.node(f"near-{number}", {"tools": tools("a")}, peers={"odd": (peer.url, ["tools"])})
        told, _ = await ask(client, f"{near.url}/v1/tools")
        assert [row["name"] for row in told["tools"]] == ["a"]


async def test_agents_are_models_when_they_are_ready_and_only_then(nodes: Spine, client: aiohttp.ClientSession) -> None:
    one = await nodes.node("one", {"agents": agents("ready", "good")})
    two = await nodes.node("two", {"agents": agents("error", "bad")})
    near = await nodes.node("near", peers={"one": (one.url, ["agents"]), "two": (two.url, ["agents"])})
    told, _ = await ask(client, f"{near.url}/v1/models")
    assert [row["id"] for row in told["data"]] == ["agent/good"]
    told, _ = await ask(client, f"{near.url}/v1/agents")
    assert {row["name"]: row["status"] for row in told["agents"]} == {"good": "ready", "bad": "error"}


async def test_a_peer_lists_for_the_principal_and_under_the_id_of_the_request(nodes: Spine, client: aiohttp.ClientSession) -> None:
    seen: list[RequestContext] = []

    async def listed(request: Request) -> Response:
        seen.append(current())
        return JSONResponse({"tools": []})

    keys = {"ASTROMESH_API_KEYS": "node:sk-node,team:sk-team"}
    far = await nodes.node("far", {"tools": service(Route("/v1/tools", listed))}, environ=keys)
    near = await nodes.node("near", peers={"far": (far.url, ["tools"])}, environ=keys)
    await ask(client, f"{near.url}/v1/tools", Authorization="Bearer sk-team", X_Request_Id="mine")
    assert [(context.principal, context.request_id) for context in seen] == [("team", "mine")]


ODD_ROWS = '{"tools": [{"name": 5}, {}, 7, {"name": "b", "nodes": 5}, {"name": "c", "nodes": "xyz"}]}'


@pytest.mark.parametrize("raw", ['{"tools": ' + "[" * 100_000, ODD_ROWS])
async def test_odd_rows_of_a_peer_are_left_out(nodes: Spine, client: aiohttp.ClientSession, raw: str) -> None:
    async def odd(request: Request) -> Response:
        return Response(raw, media_type="application/json")

    peer = await nodes.node("odd", {"tools": service(Route("/v1/tools", odd))})
    near = await nodes.node("near", {"tools": tools("a")}, peers={"odd": (peer.url, ["tools"])})
    told, _ = await ask(client, f"{near.url}/v1/tools")
    rows = [(row["name"], row["nodes"]) for row in told["tools"]]
    assert rows in ([("a", ["near"])], [("a", ["near"]), ("b", ["odd"]), ("c", ["odd"])])


async def test_a_node_that_hangs_two_hops_away_costs_only_its_own_rows(nodes: Spine, client: aiohttp.ClientSession) -> None:
    far = await nodes.node("far", {"inference": service(Route("/v1/models", _hang))})
    middle = await nodes.node("middle", {"agents": agents("ready", "helper")}, peers={"far": (far.url, ["inference"])})
    near = await nodes.node("near", peers={"middle": (middle.url, ["agents"])})
    told, partial = await ask(client, f"{near.url}/v1/models")
    assert [row["id"] for row in told["data"]] == ["agent/helper"]
    assert partial == "far"


async def _hang(request: Request) -> Response:
    await asyncio.Event().wait()
    return Response()
