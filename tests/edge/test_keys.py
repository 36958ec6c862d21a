"""Who may call: keys of clients, what needs none, and whose word about principals and hops is believed."""

import base64
from typing import Any

import aiohttp
import pytest
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from app.config.settings import ApiKey
from app.edge.auth import Auth
from app.edge.head import is_public
from app.errors import Unauthorized
from app.node import Node
from tests.edge.services import telling
from tests.spine import Spine, service

KEYS = {"ASTROMESH_API_KEYS": "node:sk-node,team-a:sk-a,team-b:sk-b"}


@pytest.fixture
async def node(nodes: Spine) -> Node:
    return await nodes.node("keyed", telling(), environ=KEYS)


def basic(user: str, password: str) -> str:
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


async def told(client: aiohttp.ClientSession, node: Node, **headers: str) -> Any:
    sent = {name.replace("_", "-"): value for name, value in headers.items()}
    async with client.get(f"{node.url}/v1/tools/x", headers=sent) as response:
        assert response.status == 200
        return await response.json()


@pytest.mark.parametrize(
    "authorization",
    [
        None,
        "Bearer",
        "Bearer sk-",
        "Bearer sk-a2",
        "Bearer team-a:sk-a",
        "sk-a",
        "Basic sk-a",
        "Basic !!",
        basic("sk-a", ""),
        "Digest sk-a",
    ],
)
async def test_without_a_valid_key_the_answer_is_401_in_the_one_shape(
    node: Node, client: aiohttp.ClientSession, authorization: str | None
) -> None:
    for path in ("/v1/tools/x", "/v1/system/status", "/v1/system/doctor", "/metrics", "/v1/models", "/nothing/here"):
        async with client.get(node.url + path, headers={"Authorization": authorization} if authorization else {}) as response:
            assert response.status == 401
            assert response.headers["WWW-Authenticate"].startswith("Bearer")
            error = (await response.json())["error"]
            assert (error["code"], error["type"]) == ("invalid_api_key", "authentication_error")
            assert "sk-node" not in error["message"]


@pytest.mark.parametrize("authorization", ["Bearer sk-a", "bearer  sk-a", basic("anyone", "sk-a"), basic("", "sk-a")])
async def test_a_key_is_accepted_as_bearer_or_as_the_password_of_basic(
    node: Node, client: aiohttp.ClientSession, authorization: str
) -> None:
    assert (await told(client, node, Authorization=authorization))["context"]["principal"] == "team-a"


async def test_liveness_readiness_and_health_need_no_key(node: Node, client: aiohttp.ClientSession) -> None:
    for path in ("/livez", "/readyz", "/v1/health", "/livez/", "/v1/health/"):
        for headers in ({}, {"Authorization": "Bearer wrong"}):
            async with client.get(node.url + path, headers=headers) as response:
                assert response.status == 200


@pytest.mark.parametrize(
    ("path", "public"),
    [
        ("/v1/channels/whatsapp/webhook", True),
        ("/v1/channels/whatsapp/webhook/", True),
        ("/v1/channels/whatsapp", False),
        ("/v1/agents/webhook", False),
        ("/livez/x", False),
        ("/", False),
    ],
)
def test_only_these_paths_are_public(path: str, public: bool) -> None:
    assert is_public(path) is public


async def test_what_clients_say_in_the_nodes_headers_is_dropped(node: Node, client: aiohttp.ClientSession) -> None:
    lies = {"X_Astromesh_Principal": "root", "X_Astromesh_Forwarded": "abc", "X_Astromesh_Agent_Depth": "9"}
    lies |= {"X_Forwarded_For": "1.2.3.4", "X_Forwarded_Host": "evil", "X_Astromesh_Deadline_Ms": "1"}
    found = await told(client, node, Authorization="Bearer sk-a", X_Mine="kept", **lies)
    assert [name for name in found["headers"] if name.startswith(("x-astromesh", "x-forwarded"))] == []
    assert found["headers"]["x-mine"] == "kept"
    context = found["context"]
    assert (context["principal"], context["hops"], context["agent_depth"], context["from_peer"]) == ("team-a", [], 0, False)
    assert context["remaining_s"] > 100


async def test_a_peer_is_believed(node: Node, client: aiohttp.ClientSession) -> None:
    says = {"X_Astromesh_Principal": "team-b", "X_Astromesh_Forwarded": "n1, n2", "X_Astromesh_Agent_Depth": "2"}
    context = (await told(client, node, Authorization="Bearer sk-node", X_Astromesh_Deadline_Ms="5000", **says))["context"]
    assert (context["principal"], context["hops"], context["agent_depth"]) == ("team-b", ["n1", "n2"], 2)
    assert 0 < context["remaining_s"] <= 5


async def test_a_principal_is_not_believed_of_a_holder_of_the_nodes_key_that_forwards_nothing(
    node: Node, client: aiohttp.ClientSession
) -> None:
    context = (await told(client, node, Authorization="Bearer sk-node", X_Astromesh_Principal="team-b"))["context"]
    assert context["principal"] == "node"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("X-Astromesh-Forwarded", "a b"),
        ("X-Astromesh-Forwarded", ",".join("abcdefghi")),
        ("X-Astromesh-Deadline-Ms", "-1"),
        ("X-Astromesh-Deadline-Ms", "9" * 13),
        ("X-Astromesh-Agent-Depth", "deep"),
        ("X-Session-Id", "../../etc"),
    ],
)
async def test_a_malformed_header_of_a_peer_is_400_and_named(nodes: Spine, client: aiohttp.ClientSession, name: str, value: str) -> None:
    node = await nodes.node("open", telling())
    async with client.get(f"{node.url}/v1/tools/x", headers={name: value}) as response:
        assert response.status == 400
        message = (await response.json())["error"]["message"]
        assert name.lower() in message.lower() or "session id" in message
        assert repr(value)[:10] in message


async def test_a_peer_cannot_ask_for_more_time_than_the_node_gives(nodes: Spine, client: aiohttp.ClientSession) -> None:
    node = await nodes.node("open", telling(), api={"deadline_s": 7})
    assert (await told(client, node, X_Astromesh_Deadline_Ms="60000"))["context"]["remaining_s"] <= 7


def test_every_key_is_compared_and_none_is_shown() -> None:
    auth = Auth([ApiKey("a", "sk-1"), ApiKey("b", "sk-2")])
    assert auth.caller(b"Bearer sk-2", False).principal == "b"
    assert not auth.caller(b"Bearer sk-2", False).may_be_peer
    assert auth.caller(b"Bearer sk-1", False).may_be_peer
    assert "sk-1" not in repr(ApiKey("a", "sk-1"))


async def test_a_peer_that_has_another_first_key_is_not_used_and_named(nodes: Spine, client: aiohttp.ClientSession) -> None:
    keys = "team-a:sk-a,team-b:sk-b"
    far = await nodes.node("far", telling(), environ={"ASTROMESH_API_KEYS": f"fresh:sk-new,node:sk-node,{keys}"})
    near = await nodes.node("near", peers={"far": (far.url, ["tools"])}, environ={"ASTROMESH_API_KEYS": f"node:sk-node,{keys}"})
    async with client.get(f"{near.url}/v1/tools/x", headers={"Authorization": "Bearer sk-a"}) as response:
        error = (await response.json())["error"]
        assert (response.status, error["code"]) == (503, "service_unavailable")
        assert "the first of ASTROMESH_API_KEYS must be the same" in error["message"]


async def test_a_401_of_the_service_itself_goes_to_the_client_and_says_nothing_about_its_node(
    nodes: Spine, client: aiohttp.ClientSession
) -> None:
    async def unsigned(request: Request) -> Response:
        raise Unauthorized("The header X-Signature is missing; sign the body.")

    far = await nodes.node("far", {**telling(), "channels": service(Route("/v1/channels/{name}/webhook", unsigned, methods=["POST"]))})
    near = await nodes.node("near", peers={"far": (far.url, ["channels", "tools"])})
    async with client.post(f"{near.url}/v1/channels/crm/webhook") as response:
        assert (response.status, response.headers["X-Astromesh-Node"]) == (401, "far")
        assert "X-Signature" in (await response.json())["error"]["message"]
    [peer] = near.peers.all()
    assert (peer.state, peer.reason) == ("up", "")
    async with client.get(f"{near.url}/v1/tools/x") as response:
        assert response.status == 200
