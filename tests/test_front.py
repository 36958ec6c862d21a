"""Requests whose body decides where they go: models, agents, sessions; and the lists of both."""

import json
from typing import Any

import aiohttp
import pytest
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from yarl import URL

from app.context import current
from app.session import NO_STORE, store_of
from tests.spine import FakeService, Spine, service

STORE = "c" * 12


def telling(name: str) -> Any:
    async def tell(request: Request) -> Response:
        return JSONResponse({"service": name, "body": (await request.body()).decode(), "session": current().session})

    return tell


def agents(*names: str) -> type[FakeService]:
    rows = [{"name": name, "status": "ready"} for name in names] + [{"name": "broken", "status": "error"}]

    async def listed(request: Request) -> Response:
        return JSONResponse({"agents": rows})

    return service(
        Route("/v1/agents", listed),
        Route("/v1/agents/{name}/run", telling("agents"), methods=["POST"]),
        Route("/v1/chat/completions", telling("agents"), methods=["POST"]),
        keys=names,
    )


def inference(*models: str) -> type[FakeService]:
    async def listed(request: Request) -> Response:
        return JSONResponse(
            {"object": "list", "data": [{"id": model, "object": "model", "created": 7, "owned_by": "x"} for model in models]}
        )

    completions = Route("/v1/chat/completions", telling("inference"), methods=["POST"])
    return service(Route("/v1/models", listed), completions, Route("/v1/embeddings", telling("inference"), methods=["POST"]))


async def post(client: aiohttp.ClientSession, url: str, body: Any, **headers: str) -> tuple[int, Any]:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    sent = {"Content-Type": "application/json"} | {name.replace("_", "-"): value for name, value in headers.items()}
    async with client.post(url, data=raw, headers=sent) as response:
        return response.status, await response.json()


async def test_the_model_of_a_chat_decides_between_agents_and_inference(nodes: Spine, client: aiohttp.ClientSession) -> None:
    node = await nodes.node("full", {"agents": agents("helper"), "inference": inference("m")})
    for model, answered in (("agent/helper", "agents"), ("m", "inference"), ("agentic", "inference"), ("agent/none", "agents")):
        status, told = await post(client, f"{node.url}/v1/chat/completions", {"model": model})
        assert (status, told["service"]) == (200, answered)


async def test_the_body_is_passed_on_byte_for_byte(nodes: Spine, client: aiohttp.ClientSession) -> None:
    node = await nodes.node("full", {"agents": agents("a"), "inference": inference("m")})
    raw = b' {"model" : "m", "n": 1.50, "x": "\\u00e9", "x": 2}\n'
    for path in ("/v1/chat/completions", "/v1/embeddings", "/v1/agents/a/run", "/v1/chat/completions/"):
        assert (await post(client, node.url + path, raw))[1]["body"] == raw.decode()


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        (b"", 400, "invalid_json"),
        (b"{", 400, "invalid_json"),
        (b"\xff", 400, "invalid_json"),
        (b"[" * 100_000, 400, "invalid_json"),
        (b'{"model": NaN}', 400, "invalid_json"),
        ([], 422, "invalid_body"),
        ({"model": ""}, 422, "invalid_body"),
        ({"model": 7}, 422, "invalid_body"),
        ({"model": "m", "session_id": "no spaces"}, 400, "invalid_request"),
    ],
)
async def test_a_body_that_names_no_model_is_an_error_of_the_client(
    nodes: Spine, client: aiohttp.ClientSession, body: Any, status: int, code: str
) -> None:
    node = await nodes.node("full", {"agents": agents("a"), "inference": inference("m")})
    answered, told = await post(client, f"{node.url}/v1/chat/completions", body)
    assert (answered, told["error"]["code"]) == (status, code)


async def test_a_run_without_a_session_gets_one_that_names_the_nodes_store(nodes: Spine, client: aiohttp.ClientSession) -> None:
    node = await nodes.node("full", {"agents": agents("a"), "memory": service(store_id=STORE)})
    sessions = {(await post(client, f"{node.url}/v1/agents/a/run", {"query": "hi"}))[1]["session"] for _ in range(3)}
    assert len(sessions) == 3
    assert {store_of(session) for session in sessions} == {STORE}


async def test_a_run_at_a_gateway_gets_a_session_of_one_of_its_peers_stores(nodes: Spine, client: aiohttp.ClientSession) -> None:
    worker = await nodes.node("worker", {"agents": agents("a"), "memory": service(store_id=STORE)})
    gateway = await nodes.node("gateway", peers={"worker": (worker.url, ["agents", "memory"])})
    _, told = await post(client, f"{gateway.url}/v1/agents/a/run", {"query": "hi"})
    assert store_of(told["session"]) == STORE


async def test_where_no_store_is_known_a_session_names_none(nodes: Spine, client: aiohttp.ClientSession) -> None:
    node = await nodes.node("full", {"agents": agents("a")})
    _, told = await post(client, f"{node.url}/v1/agents/a/run", {"query": "hi"})
    assert store_of(told["session"]) == NO_STORE


async def test_a_session_is_named_by_the_body_or_the_header_before_a_new_one_is_made(nodes: Spine, client: aiohttp.ClientSession) -> None:
    node = await nodes.node("full", {"agents": agents("a"), "inference": inference("m")})
    run, chat = f"{node.url}/v1/agents/a/run", f"{node.url}/v1/chat/completions"
    assert (await post(client, run, {"session_id": "mine"}))[1]["session"] == "mine"
    assert (await post(client, run, {"session_id": "mine"}, X_Session_Id="mine"))[1]["session"] == "mine"
    assert (await post(client, run, {}, X_Session_Id="other"))[1]["session"] == "other"
    assert (await post(client, chat, {"model": "agent/a", "session_id": "mine"}))[1]["session"] == "mine"
    assert (await post(client, chat, {"model": "agent/a"}))[1]["session"] is None  # the messages are the whole history


@pytest.mark.parametrize("path", ["/v1/agents/a/run", "/v1/chat/completions"])
async def test_two_different_sessions_in_one_request_are_refused_and_both_named(
    nodes: Spine, client: aiohttp.ClientSession, path: str
) -> None:
    node = await nodes.node("full", {"agents": agents("a"), "inference": inference("m")})
    for model in ("agent/a", "m"):
        status, told = await post(client, node.url + path, {"model": model, "session_id": "mine"}, X_Session_Id="other")
        assert (status, told["error"]["code"], told["error"]["param"]) == (400, "invalid_request", "session_id")
        assert "'mine'" in told["error"]["message"]
        assert "'other'" in told["error"]["message"]


async def test_models_are_those_of_inference_and_the_ready_agents(nodes: Spine, client: aiohttp.ClientSession) -> None:
    node = await nodes.node("full", {"agents": agents("helper"), "inference": inference("m", "org/large")})
    async with client.get(f"{node.url}/v1/models") as response:
        listed = await response.json()
    assert listed["object"] == "list"
    assert sorted(row["id"] for row in listed["data"]) == ["agent/helper", "m", "org/large"]
    assert all(row["object"] == "model" and row["nodes"] == ["full"] for row in listed["data"])


async def test_one_model_is_found_by_its_name_whatever_is_in_it(nodes: Spine, client: aiohttp.ClientSession) -> None:
    node = await nodes.node("full", {"agents": agents("helper"), "inference": inference("m", "org/large", "odd%20name")})
    for path, model in (("m", "m"), ("org/large", "org/large"), ("org%2Flarge", "org/large"), ("agent/helper", "agent/helper")):
        async with client.get(f"{node.url}/v1/models/{path}") as response:
            assert (response.status, (await response.json())["id"]) == (200, model)
    async with client.get(URL(f"{node.url}/v1/models/odd%2520name", encoded=True)) as response:
        assert (await response.json())["id"] == "odd%20name"
    async with client.get(f"{node.url}/v1/models/none") as response:
        error = (await response.json())["error"]
        assert (response.status, error["code"]) == (404, "model_not_found")
        assert "org/large" in error["message"]


async def test_services_that_nobody_offers_are_503_and_named(nodes: Spine, client: aiohttp.ClientSession) -> None:
    node = await nodes.node("empty")
    asked = [
        ("POST", "/v1/chat/completions", "inference"),
        ("POST", "/v1/embeddings", "inference"),
        ("POST", "/v1/agents/a/run", "agents"),
        ("GET", "/v1/agents/a", "agents"),
        ("GET", "/v1/memory/a/history/s", "memory"),
        ("POST", "/v1/tools/execute", "tools"),
        ("GET", "/v1/rag/x", "rag"),
        ("GET", "/v1/channels/whatsapp/webhook", "channels"),
        ("GET", "/v1/models", "inference"),
        ("GET", "/v1/tools", "tools"),
        ("GET", "/v1/ws/agent/a", "agents"),
    ]
    for method, path, name in asked:
        async with client.request(method, node.url + path, json={"model": "m"} if method == "POST" else None) as response:
            error = (await response.json())["error"]
            assert (response.status, error["code"]) == (503, "service_unavailable"), path
            assert name in error["message"]
            assert "Retry-After" in response.headers
