"""The matrix of services: every profile that ships, as it is but for addresses, is asked for real work of every service. The service
answers here, or the answer comes from the peer that has it, or, where no peer has it, the refusal names it."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import yaml
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route, Router

from app.config import load
from app.node import Node
from app.services import SERVICE_NAMES
from app.services.channels.signature import HEADER, sign
from app.session import NO_STORE, new_session_id
from tests.config.profiles import ROOT, SHIPPED
from tests.spine import Spine
from tests.support import serve

SECRET = "the secret of the channel"
OWN = ("api", "observability")
"""What every profile runs, and no node ever asks another for."""


def shipped(name: str) -> Any:
    """The document of a profile, to change addresses in."""
    return yaml.safe_load((ROOT / "config" / "profiles" / f"{name}.yaml").read_text())


SERVICES_OF: Mapping[str, Mapping[str, bool]] = {name: shipped(name)["spec"]["services"] for name in SHIPPED}


def peer_of_everything(of: str) -> Any:
    """The profile of a peer that has every service, in the mesh where the profile ``of`` has one."""
    document, mesh = shipped("full"), shipped(of)["spec"].get("mesh")
    document["metadata"]["name"] = "other"
    document["spec"] |= {"mesh": {**mesh, "node_name": "other", "seeds": []}} if mesh else {}
    return document


class Answered(Exception):
    """An answer that is an error: who gave it, its status and code, and the services that its message names."""


class Asker:
    """Asks one node for real work of each service; ``by`` are the nodes that answered. Replies of the channel come into ``replies``."""

    def __init__(self, http: aiohttp.ClientSession, url: str, replies: asyncio.Queue[Any]) -> None:
        self._http, self._url, self._replies = http, url, replies
        self.by = set[str]()

    async def ask(self, method: str, path: str, body: Any = None, **headers: str) -> Any:
        raw = b"" if body is None else json.dumps(body).encode()
        sent = {"Content-Type": "application/json", **headers}
        async with self._http.request(method, self._url + path, data=raw or None, headers=sent) as response:
            self.by.add(response.headers["X-Astromesh-Node"])
            told: Any = await response.json() if response.content_type == "application/json" else await response.text()
            if response.status >= 400:
                assert response.status != 503 or int(response.headers["Retry-After"]) > 0
                named = [name for name in SERVICE_NAMES if name in told["error"]["message"]]
                raise Answered(f"{response.status} {told['error']['code']}: {', '.join(named)}")
            return told

    async def agents(self) -> None:
        told = await self.ask("POST", "/v1/agents/assistant/run", {"query": "What is 17*23?"})
        assert "391" in told["answer"]

    async def inference(self) -> None:
        asked = {"model": "builtin", "messages": [{"role": "user", "content": "hello"}]}
        assert (await self.ask("POST", "/v1/chat/completions", asked))["choices"][0]["message"]["content"]
        assert len((await self.ask("POST", "/v1/embeddings", {"model": "builtin", "input": ["one", "two"]}))["data"]) == 2

    async def memory(self) -> None:
        async with self._http.get(f"{self._url}/v1/system/status") as response:
            store = (await response.json())["store_id"]
        history = f"/v1/memory/diary/history/{new_session_id(store or NO_STORE)}"
        await self.ask("POST", history, {"messages": [{"role": "user", "content": "It rained."}]})
        assert [each["content"] for each in (await self.ask("GET", history))["messages"]] == ["It rained."]

    async def tools(self) -> None:
        told = await self.ask("POST", "/v1/tools/execute", {"tool_name": "calculator", "arguments": {"expression": "6*7"}})
        assert told["result"]["result"] == 42

    async def channels(self) -> None:
        message = {"id": f"from {self._url}", "sender": "kim", "text": "What is 6*7?"}
        signature = sign(SECRET, json.dumps(message).encode())
        await self.ask("POST", "/v1/channels/crm/webhook", message, **{HEADER: signature})
        assert "crm" in str(await self.ask("GET", "/v1/channels"))
        async with asyncio.timeout(20):
            reply = await self._replies.get()
        assert (reply["in_reply_to"], "42" in reply["text"]) == (message["id"], True)

    async def rag(self) -> None:
        documents = [{"id": "hours", "text": "The shop is open from nine to five."}]
        await self.ask("POST", "/v1/rag/ingest", {"collection": "shop", "create": True, "documents": documents})
        found = await self.ask("POST", "/v1/rag/query", {"collection": "shop", "query": "When is it open?"})
        assert [each["document_id"] for each in found["results"]] == ["hours"]

    async def observability(self) -> None:
        assert "astromesh_http_requests_total" in await self.ask("GET", "/metrics")
        assert (await self.ask("GET", "/v1/metrics/"))["counters"]
        assert "traces" in await self.ask("GET", "/v1/traces/")

    async def api(self) -> None:
        assert (await self.ask("GET", "/openapi.json"))["paths"]
        assert (await self.ask("GET", "/v1/system/status"))["services"].keys() == set(SERVICE_NAMES)


class Stack:
    """Nodes of shipped profiles, each with the shipped agent and a channel of this test's, and what they say when they are asked."""

    def __init__(self, folder: Path, nodes: Spine, http: aiohttp.ClientSession, replies: asyncio.Queue[Any]) -> None:
        self._folder, self._nodes, self._http, self._replies = folder, nodes, http, replies

    async def node(self, document: Any, *, peers: Sequence[Mapping[str, Any]] = (), seeds: Sequence[str] = (), port: int = 0) -> Node:
        """Run a profile with these peers, or with these seeds in its mesh."""
        name = document["metadata"]["name"]
        if "mesh" in document["spec"]:
            document["spec"]["mesh"]["seeds"] = list(seeds)
        else:
            document["spec"]["peers"] = list(peers)
        path = self._folder / f"{name}.yaml"
        path.write_text(yaml.safe_dump(document))
        settings = {"PROFILE": str(path), "HOST": "127.0.0.1", "PORT": str(port), "NODE_NAME": name}
        settings |= {"DATA_DIR": str(self._folder / name), "CONFIG_DIR": str(self._folder), "DRAIN_S": "1"}
        return await self._nodes.run(Node(load({f"ASTROMESH_{key}": value for key, value in settings.items()})))

    async def acquainted(self, *nodes: Node, peers: int) -> None:
        """Until each node has so many peers, and has heard of every one what it serves."""
        async with asyncio.timeout(20):
            for node in nodes:
                while len(node.peers.all()) < peers or not all(peer.usable and peer.facts for peer in node.peers.all()):
                    async with self._http.get(f"{node.url}/v1/system/status") as response:
                        await response.read()

    async def matrix(self, node: Node, services: Sequence[str] = SERVICE_NAMES) -> dict[str, str]:
        """By service: the name of the node that did its work, or the error."""
        cells = await asyncio.gather(*(self._cell(node, service) for service in services))
        return dict(zip(services, cells, strict=True))

    async def _cell(self, node: Node, service: str) -> str:
        asker = Asker(self._http, node.url, self._replies)
        work: Callable[[], Awaitable[None]] = getattr(asker, service)
        try:
            await work()
        except Answered as error:
            return str(error)
        return ", ".join(sorted(asker.by))


@pytest.fixture
async def stack(tmp_path: Path, nodes: Spine, client: aiohttp.ClientSession) -> AsyncIterator[Stack]:
    replies = asyncio.Queue[Any]()

    async def take(request: Request) -> Response:
        replies.put_nowait(await request.json())
        return Response()

    async with serve(Router([Route("/", take, methods=["POST"])])) as url:
        (tmp_path / "agents").symlink_to(ROOT / "config" / "agents")
        channel = {"type": "webhook", "secret": SECRET, "callback_url": f"{url}/", "default_agent": "assistant"}
        (tmp_path / "channels.yaml").write_text(yaml.safe_dump({"channels": {"crm": channel}}))
        yield Stack(tmp_path, nodes, client, replies)


def everything(url: str) -> dict[str, Any]:
    """The entry of that peer in a profile."""
    return {"name": "other", "url": url, "services": [name for name in SERVICE_NAMES if name not in OWN]}


def at(url: str, document: Any) -> list[dict[str, Any]]:
    """The peers of a shipped profile, at the address that the only one has here."""
    [peer] = document["spec"]["peers"]
    return [{**peer, "url": url}]


@pytest.mark.parametrize("name", SHIPPED)
async def test_a_service_that_is_on_answers_here_and_one_that_is_off_from_the_peer_that_has_it(stack: Stack, name: str) -> None:
    other = await stack.node(peer_of_everything(name))
    node = await stack.node(shipped(name), peers=[everything(other.url)], seeds=[other.url])
    await stack.acquainted(node, peers=1)
    assert await stack.matrix(node) == {service: name if on else "other" for service, on in SERVICES_OF[name].items()}


@pytest.mark.parametrize("name", SHIPPED)
async def test_a_service_that_is_off_and_that_no_peer_has_is_refused_by_its_name(stack: Stack, name: str) -> None:
    node = await stack.node(shipped(name))
    off = [service for service, on in SERVICES_OF[name].items() if not on]
    assert await stack.matrix(node, off) == {service: f"503 service_unavailable: {service}" for service in off}
    assert await stack.matrix(node, OWN) == dict.fromkeys(OWN, name)


async def test_the_static_profiles_together_answer_as_far_as_their_peers_reach(stack: Stack) -> None:
    inference = await stack.node(shipped("inference"))
    worker = await stack.node(shipped("worker"), peers=at(inference.url, shipped("worker")))
    gateway = await stack.node(shipped("gateway"), peers=at(worker.url, shipped("gateway")))
    await stack.acquainted(worker, gateway, peers=1)
    here = dict.fromkeys(("agents", "memory", "tools", "rag"), "worker")
    refused = {service: f"503 service_unavailable: {service}" for service in (*here, "channels")}
    assert await stack.matrix(gateway) == {**here, "inference": "inference", **dict.fromkeys(("channels", *OWN), "gateway")}
    assert await stack.matrix(worker) == {**here, "inference": "inference", "channels": refused["channels"], **dict.fromkeys(OWN, "worker")}
    assert await stack.matrix(inference) == {**refused, **dict.fromkeys(("inference", *OWN), "inference")}


async def test_every_node_of_the_mesh_profiles_answers_for_every_service(stack: Stack) -> None:
    gateway = await stack.node(shipped("mesh-gateway"))
    others = [await stack.node(shipped(name), seeds=[gateway.url]) for name in ("mesh-worker", "mesh-inference")]
    nodes = {"mesh-gateway": gateway, **dict(zip(("mesh-worker", "mesh-inference"), others, strict=True))}
    await stack.acquainted(*nodes.values(), peers=2)
    has = {service: name for name in nodes for service, on in SERVICES_OF[name].items() if on and service not in OWN}
    for name, node in nodes.items():
        assert await stack.matrix(node) == {**has, **dict.fromkeys(OWN, name)}


@pytest.mark.parametrize("name", ["worker", "mesh-worker"])
async def test_a_service_of_the_nodes_own_that_is_off_is_not_there_whatever_peers_have(stack: Stack, name: str) -> None:
    other = await stack.node(peer_of_everything(name))
    document = shipped(name)
    document["spec"]["services"]["observability"] = False
    node = await stack.node(document, peers=[everything(other.url)], seeds=[other.url])
    await stack.acquainted(node, peers=1)
    assert await stack.matrix(node, ["observability", "tools"]) == {"observability": "404 not_found: observability", "tools": name}
