"""/openapi.json: it has every route and no other, shows the schemas that check requests, and real answers are as it says."""

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from jsonschema import Draft202012Validator
from starlette.routing import Route

from app import paths
from app.config import load
from app.node import Node
from app.services import SERVICES
from app.system.openapi import document
from tests.api import KEY, SERVED, VERIFY_TOKEN, environ, signed
from tests.edge.services import telling
from tests.nodes import profile, start
from tests.spine import Spine

APP = Path(__file__).resolve().parents[2] / "app"
DOCUMENT: dict[str, Any] = json.loads(document())
OPERATIONS = {(method.upper(), path): operation for path, methods in DOCUMENT["paths"].items() for method, operation in methods.items()}
HELLO = [{"role": "user", "content": "What is 17*23?"}]
TURN = {"messages": [{"role": "user", "content": "hello"}]}
HISTORY = "/v1/memory/{agent}/history/{session}"
COLLECTION = "/v1/rag/collections/{collection}"
LONELY = ("/v1/mesh/join", "/v1/mesh/gossip", "/v1/mesh/sync", "/v1/mesh/probe")
"""What nodes alone say, signed; their own tests have it."""


# What it has


def routes_of(node: Node) -> Iterator[tuple[str, str]]:
    """(method, path) of every route that the node and its services have."""
    for route in [*node._system._router.routes, *(route for service in node._services.values() for route in service.routes)]:
        assert isinstance(route, Route)
        for method in (route.methods or set()) - {"HEAD"}:
            yield method, route.path.replace(":path}", "}")


async def test_every_route_is_in_the_document_and_every_operation_has_a_route(tmp_path: Path) -> None:
    path = profile(tmp_path / "full.yaml", SERVED)
    node = Node(load({"ASTROMESH_PROFILE": str(path), "ASTROMESH_DATA_DIR": str(tmp_path / "data")}))
    of_the_front = {("GET", "/v1/models/{model}")}
    assert set(routes_of(node)) | of_the_front == set(OPERATIONS)


def test_the_path_table_and_the_document_have_the_same_paths() -> None:
    described = {path.replace("{box}", box) for path in DOCUMENT["paths"] for box in ("inbox", "outbox")}
    assert {"/".join("{}" if part.startswith("{") else part for part in path.split("/")) for path in described} == paths._ROUTES


@pytest.mark.parametrize("service", [name for name in SERVICES if (APP / "services" / name / "schema.json").exists()])
def test_the_schemas_of_requests_are_those_that_check_them(service: str) -> None:
    requests = json.loads((APP / "services" / service / "schema.json").read_bytes())["requests"]
    for name, schema in requests.items():
        shown = json.dumps(DOCUMENT["components"]["schemas"][f"{service}.{name}"])
        assert json.loads(shown.replace(f"#/components/schemas/{service}.{name}/$defs/", "#/$defs/")) == schema


def references(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        if isinstance(value.get("$ref"), str):
            yield value["$ref"]
        value = list(value.values())
    for each in value if isinstance(value, list) else []:
        yield from references(each)


def test_every_schema_is_one_and_every_reference_leads_somewhere() -> None:
    for schema in DOCUMENT["components"]["schemas"].values():
        Draft202012Validator.check_schema(schema)
    for reference in references(DOCUMENT):
        found: Any = DOCUMENT
        for part in reference.removeprefix("#/").split("/"):
            found = found[part]
        assert found


def test_examples_fit_their_schemas() -> None:
    for (method, path), operation in OPERATIONS.items():
        for kind in operation.get("requestBody", {}).get("content", {}).values():
            for example in kind.get("examples", {}).values():
                assert list(validator(kind["schema"]).iter_errors(example["value"])) == [], (method, path)


def test_operations_have_ids_of_their_own_and_say_what_they_do() -> None:
    assert len({operation["operationId"] for operation in OPERATIONS.values()}) == len(OPERATIONS)
    assert all(operation["summary"] for operation in OPERATIONS.values())


# Who shows it


async def test_a_node_shows_also_what_it_would_pass_on(nodes: Spine) -> None:
    far = await nodes.node("far", telling())
    near = await nodes.node("near", peers={"far": (far.url, ["tools"])})
    async with aiohttp.ClientSession() as client:
        for node in (far, near):
            async with client.get(f"{node.url}/openapi.json") as response:
                assert (response.status, response.headers["Content-Type"]) == (200, "application/json")
                assert await response.json() == DOCUMENT


async def test_a_node_with_keys_shows_it_to_their_holders_and_one_without_a_public_api_to_nobody(tmp_path: Path) -> None:
    async with AsyncExitStack() as stack:
        keys = {"ASTROMESH_API_KEYS": "node:sk-node,test:sk-test", "ASTROMESH_MESH_KEY": "mesh-key-of-the-test"}
        node = await start(stack, profile(tmp_path / "keyed.yaml", []), tmp_path / "keyed", **keys)
        closed = await start(stack, profile(tmp_path / "closed.yaml", [], public=False), tmp_path / "closed", **keys)
        client = await stack.enter_async_context(aiohttp.ClientSession())
        for url, headers, status in ((node.url, {}, 401), (node.url, KEY, 200), (closed.url, KEY, 404)):
            async with client.get(f"{url}/openapi.json", headers=headers) as response:
                assert response.status == status


# Whether answers are as it says


def validator(schema: dict[str, Any]) -> Draft202012Validator:
    return Draft202012Validator({**schema, "components": DOCUMENT["components"]})


@dataclass
class Recorder:
    """Asks a node, and compares each answer with the document; ``seen`` are the operations and statuses that it met."""

    client: aiohttp.ClientSession
    url: str
    seen: set[tuple[str, str, int]] = field(default_factory=set)

    async def ask(self, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None, /, **names: str) -> Any:
        target = path.split("?")[0]
        for name, value in names.items():
            path = path.replace(f"{{{name}}}", value)
        data = body if isinstance(body, bytes) else None if body is None else json.dumps(body).encode()
        sent = {**KEY, **({"Content-Type": "application/json"} if body is not None else {}), **(headers or {})}
        async with self.client.request(method, self.url + path, data=data, headers=sent) as response:
            raw = await response.read()
            self.compare((method, target), response, raw)
            return json.loads(raw) if response.content_type == "application/json" else raw

    def compare(self, operation: tuple[str, str], response: aiohttp.ClientResponse, raw: bytes) -> None:
        documented = OPERATIONS[operation]["responses"]
        assert str(response.status) in documented, f"{operation} answered {response.status}, which is not documented: {raw[:300]!r}"
        told = documented[str(response.status)]
        assert response.content_type in told["content"], operation
        for name in told["headers"]:
            assert name in response.headers or name == "Retry-After", (operation, name)
        if response.content_type == "application/json":
            wrong = [error.message for error in validator(told["content"][response.content_type]["schema"]).iter_errors(json.loads(raw))]
            assert wrong == [], (operation, response.status)
        self.seen.add((*operation, response.status))


@pytest.fixture
async def recorder(tmp_path: Path) -> AsyncIterator[Recorder]:
    """A full node in a mesh of its own, with a key."""
    async with AsyncExitStack() as stack:
        path = profile(tmp_path / "full.yaml", SERVED, api={"max_body_bytes": 4096}, mesh={"enabled": True}, channels={"max_attempts": 1})
        node = await start(stack, path, tmp_path / "full", **environ(tmp_path))
        yield Recorder(await stack.enter_async_context(aiohttp.ClientSession()), node.url)


async def converse(recorder: Recorder) -> None:
    """Agents, completions and memory, as a client uses them."""
    ask, demo = recorder.ask, {"agent": "assistant", "session": "demo"}
    for stream in (False, True):
        for model in ("default", "agent/assistant"):
            await ask("POST", "/v1/chat/completions", {"model": model, "messages": HELLO, "stream": stream})
        accept = {"Accept": "text/event-stream"} if stream else {}
        run = await ask("POST", "/v1/agents/{name}/run", {"query": "What is 17*23?", "session_id": "demo"}, accept, name="assistant")
        if not stream:
            await ask("GET", "/v1/traces/{trace_id}", trace_id=run["trace"]["trace_id"])
    await ask("GET", HISTORY + "?max_turns=1", **demo)
    await ask("POST", HISTORY, TURN, **demo)
    for _ in range(2):
        await ask("PUT", HISTORY + "/turns/{turn_id}", TURN, turn_id="t1", **demo)
    await ask("PUT", HISTORY + "/turns/{turn_id}", {"messages": [{"role": "user", "content": "other"}]}, turn_id="t1", **demo)
    await ask("PUT", HISTORY + "/summary", {"turn_id": "t1", "text": "They greeted each other."}, **demo)
    await ask("GET", HISTORY, **demo)
    record = {"token": "t", "fingerprint": "0" * 64, "state": "running"}
    for state in ("running", "done", "done"):
        await ask("PUT", "/v1/memory/{agent}/runs/{session}/{key}", {**record, "state": state}, key="1" * 64, **demo)
    await ask("POST", "/v1/agents/{name}/run", {"query": "x"}, {"Idempotency-Key": "k"}, name="assistant")
    await ask("POST", "/v1/agents/{name}/run", {"query": "y"}, {"Idempotency-Key": "k"}, name="assistant")
    await ask("PUT", HISTORY + "/turns/{turn_id}", {**TURN, "semantic": True}, turn_id="t2", **demo)
    await ask("GET", "/v1/memory/{agent}/semantic?query=hello&max_results=3", agent="assistant")
    await ask("DELETE", "/v1/memory/{agent}/semantic", agent="assistant")
    await ask("DELETE", HISTORY, **demo)
    await ask("GET", HISTORY, **demo)


async def make_agents(recorder: Recorder) -> None:
    """An agent's life over HTTP, and a socket that is asked for without an upgrade."""
    ask = recorder.ask
    clerk: dict[str, Any] = {"apiVersion": "astromesh/v1", "kind": "Agent", "metadata": {"name": "clerk"}, "spec": {}}
    for body in (clerk, clerk, {}):
        await ask("POST", "/v1/agents", body)
    await ask("DELETE", "/v1/agents/{name}", name="clerk")
    for body in (clerk, clerk, {"spec": 1}):
        await ask("PUT", "/v1/agents/{name}", body, name="clerk")
    await ask("POST", "/v1/agents/reload")
    for name in ("assistant", "nobody"):
        await ask("DELETE", "/v1/agents/{name}", name=name)
        await ask("GET", "/v1/ws/agent/{name}", name=name)


async def correspond(recorder: Recorder) -> None:
    """A platform's messages, and an operator with a dead letter: nobody is where the answers go."""
    ask = recorder.ask
    challenge = f"?hub.mode=subscribe&hub.challenge=42&hub.verify_token={VERIFY_TOKEN}"
    assert await ask("GET", "/v1/channels/{name}/webhook" + challenge, None, {"Authorization": ""}, name="whatsapp") == b"42"
    raw = b'{"id": "m-1", "sender": "kim", "text": "What is 17*23?"}'
    for headers in (signed(raw), {}):
        await ask("POST", "/v1/channels/{name}/webhook", raw, headers, name="crm")
    async with asyncio.timeout(20):
        while not (dead := await ask("GET", "/v1/channels/{name}/{box}?state=dead", name="crm", box="outbox"))["count"]:
            pass
    await ask("GET", "/v1/channels/{name}/{box}", name="crm", box="inbox")
    await ask("GET", "/v1/channels")
    token = dead["outbox"][0]["token"]
    for letter in (token, "none"):
        await ask("POST", "/v1/channels/{name}/{box}/{letter}/retry", None, {}, name="crm", box="outbox", letter=letter)


async def know(recorder: Recorder) -> None:
    """Collections, documents and jobs, from their making to their end."""
    ask, here = recorder.ask, {"collection": "handbook"}
    for description in ("first", "first", "other"):
        await ask("POST", "/v1/rag/collections", {"name": "handbook", "description": description})
        await ask("PUT", COLLECTION, {"description": description}, collection="second")
    await ask("GET", "/v1/rag/collections")
    await ask("GET", COLLECTION, **here)
    sent = {"documents": [{"id": "hours", "text": "Open from 9."}]}
    for wait in (True, False):
        for path, body in (("/v1/rag/ingest", here), (COLLECTION + "/ingest", {})):
            told = await ask("POST", path, {**sent, **body, "wait": wait}, **here)
    job = {**here, "job": told["job"]["id"]}
    await ask("GET", COLLECTION + "/jobs?limit=1", **here)
    await ask("GET", COLLECTION + "/jobs/{job}", **job)
    await ask("DELETE", COLLECTION + "/jobs/{job}", **job)
    await ask("POST", "/v1/rag/query", {"query": "open", **here})
    await ask("POST", COLLECTION + "/query", {"query": "open", "mode": "vectors"}, **here)
    await ask("POST", COLLECTION + "/query", {"query": "open"}, **here)
    await ask("POST", COLLECTION + "/query", {"query": "open", "model": "other"}, **here)
    document = {**here, "document": "a%2Fb"}
    await ask("PUT", COLLECTION + "/documents/{document}", {"text": "Closed on Sundays."}, **document)
    await ask("GET", COLLECTION + "/documents/{document}", **document)
    await ask("GET", COLLECTION + "/documents?limit=1", **here)
    for _ in range(2):
        await ask("DELETE", COLLECTION + "/documents/{document}", **document)
    await ask("DELETE", COLLECTION + "/documents?filter=%7B%22a%22:1%7D", **here)
    for _ in range(2):
        await ask("DELETE", COLLECTION, **here)


async def mistake(recorder: Recorder) -> None:
    """What clients do wrong, one of each kind."""
    ask = recorder.ask
    await ask("POST", "/v1/agents/{name}/run", {"query": "x"}, name="nobody")
    await ask("POST", "/v1/agents/{name}/run", {"query": "x"}, {"X-Session-Id": "../x"}, name="assistant")
    await ask("POST", "/v1/agents/{name}/run", {"query": ""}, name="assistant")
    await ask("POST", "/v1/chat/completions", {"model": "no-such-model", "messages": HELLO})
    await ask("POST", "/v1/chat/completions", b"{")
    await ask("POST", "/v1/chat/completions", {"messages": HELLO}, {"Content-Type": "text/plain"})
    await ask("POST", "/v1/tools/execute", {"tool_name": "nothing"})
    await ask("POST", "/v1/tools/execute", {"tool_name": "calculator", "arguments": {"expression": "1/0"}})
    await ask("POST", "/v1/embeddings", b" " * 5000)
    await ask("GET", HISTORY + "?max_turns=no", agent="assistant", session="demo")
    await ask("GET", "/v1/models/{model}", model="no-such-model")
    await ask("POST", "/v1/mesh/join", {})


async def test_real_answers_are_documented_and_every_documented_success_is_met(recorder: Recorder) -> None:
    ask = recorder.ask
    plain = (
        "/livez",
        "/readyz",
        "/v1/health",
        "/openapi.json",
        "/metrics",
        "/v1/system/status",
        "/v1/system/doctor",
        "/v1/mesh/state",
        "/v1/metrics",
    )
    for path in (*plain, "/v1/traces", "/v1/agents", "/v1/models", "/v1/providers", "/v1/tools", "/v1/tools/builtin"):
        await ask("GET", path)
    await ask("GET", "/metrics", None, {"Accept": "application/openmetrics-text"})
    await ask("GET", "/v1/agents/{name}", name="assistant")
    await ask("GET", "/v1/models/{model}", model="agent%2Fassistant")
    await ask("POST", "/v1/tools/execute", {"tool_name": "calculator", "arguments": {"expression": "1+1"}})
    for encoding in ("float", "base64"):
        await ask("POST", "/v1/embeddings", {"input": "hello", "encoding_format": encoding})
    await converse(recorder)
    await make_agents(recorder)
    await correspond(recorder)
    await know(recorder)
    await mistake(recorder)
    await ask("POST", "/v1/mesh/leave", {"node_id": "self"}, {"Authorization": "Bearer sk-node"})
    await ask("GET", "/v1/system/status")
    wanted = {
        (*of, int(status)) for of, told in OPERATIONS.items() for status in told["responses"] if status < "300" and of[1] not in LONELY
    }
    assert wanted - recorder.seen == set()
    assert {400, 404, 409, 413, 415, 422} <= {status for *_, status in recorder.seen}


async def test_every_operation_with_a_body_wants_it_declared_as_json(recorder: Recorder) -> None:
    with_body = [of for of, operation in OPERATIONS.items() if "requestBody" in operation and "415" in operation["responses"]]
    assert len(with_body) > 8
    for method, path in with_body:
        await recorder.ask(
            method,
            path,
            {},
            {"Content-Type": "text/plain"},
            name="assistant",
            agent="a",
            session="s",
            turn_id="t",
            key="0" * 64,
            collection="c",
            document="d",
        )
        assert (method, path, 415) in recorder.seen, path


async def test_every_operation_but_the_public_ones_needs_a_key(recorder: Recorder) -> None:
    public = {of for of, operation in OPERATIONS.items() if operation.get("security") == []}
    assert {path for _, path in public} == {"/livez", "/readyz", "/v1/health", "/v1/channels/{name}/webhook"}
    for method, path in OPERATIONS.keys() - public:
        await recorder.ask(method, path, {} if method in ("POST", "PUT") else None, {"Authorization": "Bearer wrong"})
        assert (method, path, 401) in recorder.seen
