"""One trace over all nodes that worked on a question, asked at the node that took it in; over real sockets, and over processes."""

import asyncio
import json
from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import yaml
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from app.errors import NotBegun, ProviderTimeout
from app.node import Node
from app.services.agents import Agents
from app.services.inference import Inference
from app.services.memory import Memory
from app.services.observability import Observability
from app.services.tools import Tools
from app.sse import EventStream, encode
from tests.edge.services import Worker, tell, tools
from tests.meshes import Meshed, meshed
from tests.nodes import RunningNode, profile, start
from tests.spine import FakeService, Spine, free_port, service

QUESTION = "What is 17*23, and what time is it in Tokyo?"
TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
CALLER = "00f067aa0ba902b7"
SEES: dict[str, type[Any]] = {"observability": Observability}
WORKER: dict[str, type[Any]] = {"agents": Agents, "tools": Tools, "memory": Memory, **SEES}
OFFERED = ["agents", "tools", "memory"]
MEMBERS = {"worker": OFFERED, "inference": ["inference"], "spare": ["inference"]}


@dataclass
class Chain:
    """A gateway, a worker and an inference node, and who asks them."""

    gateway: Node
    worker: Node
    inference: Node
    http: aiohttp.ClientSession

    async def run(self, query: str = QUESTION, headers: dict[str, str] | None = None) -> tuple[int, str]:
        body = {"query": query, "session_id": "demo"}
        async with self.http.post(f"{self.gateway.url}/v1/agents/assistant/run", json=body, headers=headers) as response:
            return response.status, await response.text()

    async def trace(self, node: Node, trace_id: str, headers: dict[str, str] | None = None) -> Any:
        told, partial = await get(self.http, f"{node.url}/v1/traces/{trace_id}", headers)
        assert partial is None
        return told


async def chained(nodes: Spine, http: aiohttp.ClientSession, **more: Any) -> Chain:
    inference = await nodes.node("inference", {"inference": Inference, **SEES}, **more)
    worker = await nodes.node("worker", WORKER, peers={"inference-1": (inference.url, ["inference"])}, **more)
    gateway = await nodes.node("gateway", SEES, peers={"worker-1": (worker.url, OFFERED)}, **more)
    return Chain(gateway, worker, inference, http)


async def get(http: aiohttp.ClientSession, url: str, headers: dict[str, str] | None = None) -> tuple[Any, str | None]:
    async with http.get(url, headers=headers) as response:
        assert response.status == 200, await response.text()
        return await response.json(), response.headers.get("X-Astromesh-Partial")


def walked(spans: Sequence[Any], depth: int = 0) -> Iterator[tuple[int, Any]]:
    for each in spans:
        yield depth, each
        yield from walked(each["children"], depth + 1)


def lines(told: Any) -> list[str]:
    """The tree, for the eye and for comparison."""
    return [f"{'  ' * depth}{each['node']}: {each['name']} {each['status']}" for depth, each in walked(told["spans"])]


WHOLE = """\
gateway: POST /v1/agents/{}/run ok
  gateway: POST /v1/agents/{}/run ok
    worker: POST /v1/agents/{}/run ok
      worker: invoke_agent assistant ok
        worker: search_memory ok
        worker: POST /v1/chat/completions ok
          inference: POST /v1/chat/completions ok
            inference: chat builtin ok
        worker: execute_tool calculator ok
        worker: execute_tool datetime_now ok
        worker: POST /v1/chat/completions ok
          inference: POST /v1/chat/completions ok
            inference: chat builtin ok
        worker: upsert_memory ok"""


@pytest.mark.parametrize("accept", ["application/json", "text/event-stream"])
async def test_a_trace_of_one_question_shows_all_hops_at_the_node_that_took_it_in(
    nodes: Spine, client: aiohttp.ClientSession, accept: str
) -> None:
    chain = await chained(nodes, client)
    status, text = await chain.run(headers={"Accept": accept, "traceparent": f"00-{TRACE}-{CALLER}-01"})
    assert status == 200
    assert TRACE in text, "the answer names its trace"
    told = await chain.trace(chain.gateway, TRACE)
    assert lines(told) == WHOLE.splitlines()
    assert (told["agent"], told["status"], told["spans"][0]["parent_id"]) == ("assistant", "ok", CALLER)
    listed, _ = await get(client, f"{chain.gateway.url}/v1/traces/?agent=assistant&limit=5")
    [row] = listed["traces"]
    assert (row["trace_id"], row["agent"], row["status"]) == (TRACE, "assistant", "ok")
    assert lines(await chain.trace(chain.worker, TRACE))[0] == "worker: POST /v1/agents/{}/run ok"
    assert (
        lines(await chain.trace(chain.inference, TRACE)) == ["inference: POST /v1/chat/completions ok", "  inference: chat builtin ok"] * 2
    )


async def test_the_spans_carry_the_attributes_of_opentelemetrys_conventions(nodes: Spine, client: aiohttp.ClientSession) -> None:
    chain = await chained(nodes, client)
    await chain.run(headers={"traceparent": f"00-{TRACE}-{CALLER}-01", "X-Request-Id": "mine"})
    told = await chain.trace(chain.gateway, TRACE)
    spans = [each for _, each in walked(told["spans"])]
    server, hop = spans[0]["attributes"], spans[1]["attributes"]
    port = int(chain.worker.url.rsplit(":", 1)[1])
    assert server == {
        "gen_ai.agent.name": "assistant",
        "http.request.method": "POST",
        "http.response.status_code": 200,
        "http.route": "/v1/agents/{}/run",
        "url.path": "/v1/agents/assistant/run",
        "url.scheme": "http",
        "astromesh.request_id": "mine",
        "session.id": "demo",
    }
    assert hop == {
        "http.request.method": "POST",
        "http.response.status_code": 200,
        "url.full": f"{chain.worker.url}/v1/agents/assistant/run",
        "server.address": "127.0.0.1",
        "server.port": port,
        "astromesh.peer": "worker-1",
    }
    assert [each["kind"] for each in spans[:4]] == ["server", "client", "server", "internal"]
    by_name = {each["name"]: each["attributes"] for each in spans}
    run = by_name["invoke_agent assistant"]
    assert (run["gen_ai.operation.name"], run["gen_ai.agent.name"], run["gen_ai.conversation.id"]) == ("invoke_agent", "assistant", "demo")
    assert run["gen_ai.usage.input_tokens"] > run["gen_ai.usage.output_tokens"] > 0
    chat = by_name["chat builtin"]
    assert (chat["gen_ai.operation.name"], chat["gen_ai.request.model"], chat["gen_ai.provider.name"]) == ("chat", "builtin", "builtin")
    assert chat["gen_ai.response.finish_reasons"] == ["stop"]
    assert chat["gen_ai.usage.input_tokens"] > 0
    tool = by_name["execute_tool calculator"]
    assert (tool["gen_ai.operation.name"], tool["gen_ai.tool.name"], tool["gen_ai.tool.type"]) == ("execute_tool", "calculator", "function")
    assert by_name["search_memory"]["gen_ai.memory.record.count"] == 0
    assert by_name["upsert_memory"]["gen_ai.conversation.id"] == "demo"


async def test_what_was_said_and_keys_are_in_no_trace_unless_the_node_is_told_to_keep_what_was_said(
    nodes: Spine, client: aiohttp.ClientSession, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG")
    environ = {"ASTROMESH_API_KEYS": "node:sk-node-1,team-a:sk-team-a,team-b:sk-team-b"}
    mine, other = ({"Authorization": f"Bearer sk-team-{name}"} for name in "ab")
    for content in (False, True):
        chain = await chained(nodes, client, environ=environ, observability={"content": content})
        asked = "My name is Zerlina. What is 17*23?"
        status, _ = await chain.run(asked, {**mine, "traceparent": f"00-{TRACE}-{CALLER}-01"})
        assert status == 200
        seen, hidden = [json.dumps(await chain.trace(chain.gateway, TRACE, headers)) for headers in (mine, other)]
        assert ("Zerlina" in seen, "= 391" in seen, "17*23" in seen) == (content, content, content)
        assert not [word for word in ("Zerlina", "= 391", "17*23") if word in hidden + caplog.text]
        assert "sk-" not in seen + hidden + caplog.text
        assert '"enduser.id": "team-a"' in hidden
        kept = [each for _, each in walked((await chain.trace(chain.gateway, TRACE, mine))["spans"]) if "content" in each]
        if content:
            messages = {name: json.loads(text) for each in kept for name, text in each["content"].items() if name.endswith(".messages")}
            assert messages["gen_ai.input.messages"][-1]["parts"][0].keys() >= {"type"}
        assert {each["name"].split()[0] for each in kept} == ({"invoke_agent", "chat", "execute_tool"} if content else set())


async def test_a_trace_that_the_caller_does_not_want_is_recorded_nowhere(nodes: Spine, client: aiohttp.ClientSession) -> None:
    chain = await chained(nodes, client)
    await chain.run(headers={"traceparent": f"00-{TRACE}-{CALLER}-00"})
    for node in (chain.gateway, chain.worker, chain.inference):
        async with client.get(f"{node.url}/v1/traces/{TRACE}") as response:
            error = (await response.json())["error"]
            assert (response.status, error["code"]) == (404, "trace_not_found")
            assert "GET /v1/traces" in error["message"]


async def test_a_node_in_the_middle_without_traces_leaves_the_tree_whole(nodes: Spine, client: aiohttp.ClientSession) -> None:
    far = await nodes.node("far", {"tools": tools(tell), **SEES})
    off = {"traces": {"enabled": False}}
    middle = await nodes.node("middle", {"agents": service(), **SEES}, peers={"far": (far.url, ["tools"])}, observability=off)
    near = await nodes.node("near", SEES, peers={"middle": (middle.url, ["agents"])})
    await get(client, f"{near.url}/v1/tools/x", {"traceparent": f"00-{TRACE}-{CALLER}-01"})
    told, _ = await get(client, f"{near.url}/v1/traces/{TRACE}")
    assert lines(told) == ["near: GET ok", "  near: GET ok", "    far: GET ok"]


def refusing() -> type[FakeService]:
    async def refuse(request: Request) -> Response:
        raise NotBegun("Too busy.")

    return tools(refuse)


async def test_every_attempt_is_seen_with_why_it_failed(nodes: Spine, client: aiohttp.ClientSession) -> None:
    good = await nodes.node("good", {"tools": tools(tell), **SEES})
    busy = await nodes.node("busy", {"tools": refusing(), **SEES})
    dead = f"http://127.0.0.1:{free_port()}"
    peers = {"good": (good.url, ["tools"]), "busy": (busy.url, ["tools"]), "dead": (dead, ["tools"])}
    near = await nodes.node("near", SEES, peers=peers)
    by_name = {peer.name: peer for peer in near.peers.all()}
    by_name["dead"].state, by_name["dead"].facts = "up", by_name["good"].facts
    by_name["good"].load, by_name["busy"].load = 1000, 500  # the order: dead and busy before good
    await get(client, f"{near.url}/v1/tools/x", {"traceparent": f"00-{TRACE}-{CALLER}-01"})
    told, _ = await get(client, f"{near.url}/v1/traces/{TRACE}")
    attempts = [each for _, each in walked(told["spans"]) if each["kind"] == "client"]
    assert [each["attributes"].get("http.request.resend_count") for each in attempts] == [None, 1, 2]
    seen = {each["attributes"]["astromesh.peer"]: (each["status"], each["error"]) for each in attempts}
    assert seen == {"dead": ("error", "not_begun"), "busy": ("error", "not_begun"), "good": ("ok", None)}
    assert told["status"] == "ok"
    refused = next(each for _, each in walked(told["spans"]) if each["node"] == "busy")
    assert (refused["status"], refused["error"], refused["attributes"]["http.response.status_code"]) == ("error", "not_begun", 503)


async def test_a_client_that_leaves_is_an_outcome_of_its_own_on_every_hop(nodes: Spine, client: aiohttp.ClientSession) -> None:
    worker = Worker()
    far = await nodes.node("far", {"tools": tools(worker.without_reading), **SEES})
    near = await nodes.node("near", SEES, peers={"far": (far.url, ["tools"])})
    asking = asyncio.create_task(client.get(f"{near.url}/v1/tools/x", headers={"traceparent": f"00-{TRACE}-{CALLER}-01"}))
    await worker.begun.wait()
    asking.cancel()
    await worker.stopped.wait()
    told: Any = {"spans": []}
    async with asyncio.timeout(5):
        while len(lines(told)) < 3:
            async with client.get(f"{near.url}/v1/traces/{TRACE}") as response:
                told = await response.json() if response.status == 200 else told
    assert lines(told) == ["near: GET cancelled", "  near: GET cancelled", "    far: GET cancelled"]
    assert told["status"] == "cancelled"


async def test_a_run_whose_model_is_gone_is_a_failed_trace_also_as_a_stream(nodes: Spine, client: aiohttp.ClientSession) -> None:
    gone = f"http://127.0.0.1:{free_port()}"
    worker = await nodes.node("worker", WORKER, peers={"inference-1": (gone, ["inference"])})
    gateway = await nodes.node("gateway", SEES, peers={"worker-1": (worker.url, OFFERED)})
    for number, accept in enumerate(("application/json", "text/event-stream"), 1):
        trace_id = f"{number:032x}"
        headers = {"Accept": accept, "traceparent": f"00-{trace_id}-{CALLER}-01"}
        async with client.post(f"{gateway.url}/v1/agents/assistant/run", json={"query": "Hi"}, headers=headers) as response:
            assert response.status == 503
        told, partial = await get(client, f"{gateway.url}/v1/traces/{trace_id}")
        run = next(each for _, each in walked(told["spans"]) if each["name"] == "invoke_agent assistant")
        assert (told["status"], run["status"], run["error"]) == ("error", "error", "service_unavailable")
        assert partial == "inference-1", "the worker says who may have more"


async def test_a_stream_that_breaks_is_a_failed_trace(nodes: Spine, client: aiohttp.ClientSession) -> None:
    async def events() -> AsyncGenerator[bytes, None]:
        yield encode({"n": 1})
        raise ProviderTimeout("too slow")

    async def breaking(request: Request) -> Any:
        return EventStream(events())

    node = await nodes.node("one", {"tools": tools(breaking), **SEES})
    async with client.get(f"{node.url}/v1/tools/x", headers={"traceparent": f"00-{TRACE}-{CALLER}-01"}) as response:
        assert (response.status, "event: error" in await response.text()) == (200, True)
    told, _ = await get(client, f"{node.url}/v1/traces/{TRACE}")
    assert (told["status"], told["spans"][0]["error"]) == ("error", "provider_timeout")


async def test_a_failing_tool_fails_its_span_and_not_the_run(nodes: Spine, client: aiohttp.ClientSession) -> None:
    chain = await chained(nodes, client)
    await chain.run("What is 1/0?", {"traceparent": f"00-{TRACE}-{CALLER}-01"})
    told = await chain.trace(chain.gateway, TRACE)
    tool = next(each for _, each in walked(told["spans"]) if each["name"] == "execute_tool calculator")
    assert (tool["status"], tool["error"], told["status"]) == ("error", "tool_error", "ok")


async def test_a_node_that_hangs_is_named_and_holds_nobody_up(nodes: Spine, client: aiohttp.ClientSession) -> None:
    async def hang(request: Request) -> Response:
        await asyncio.Event().wait()
        return Response()

    hanging = await nodes.node("hanging", {"tools": tools(tell), "observability": service(Route("/v1/traces/{id}", hang))})
    odd = await nodes.node("odd", {"tools": tools(tell), "observability": service(Route("/v1/traces/{id}", _odd))})
    peers = {"hanging": (hanging.url, ["tools"]), "odd": (odd.url, ["tools"])}
    near = await nodes.node("near", SEES, peers=peers)
    await get(client, f"{near.url}/v1/tools/x", {"traceparent": f"00-{TRACE}-{CALLER}-01"})
    async with asyncio.timeout(1.8):
        told, partial = await get(client, f"{near.url}/v1/traces/{TRACE}")
    assert lines(told) == ["near: GET ok", "  near: GET ok"]
    assert partial == "hanging"


async def _odd(request: Request) -> Response:
    return JSONResponse({"spans": [{"span_id": 5, "children": 7}, None]})


async def test_what_machines_ask_all_the_time_and_who_looks_at_traces_leave_none(nodes: Spine, client: aiohttp.ClientSession) -> None:
    node = await nodes.node("quiet", SEES)
    for path in (
        "livez",
        "readyz",
        "v1/health",
        "metrics",
        "v1/system/status",
        "v1/system/doctor",
        "v1/mesh/state",
        "v1/traces",
        "v1/traces/x",
    ):
        async with client.get(f"{node.url}/{path}") as response:
            await response.read()
    assert (await get(client, f"{node.url}/v1/traces"))[0] == {"traces": [], "count": 0}


async def test_odd_methods_and_paths_make_no_names_of_spans(nodes: Spine, client: aiohttp.ClientSession) -> None:
    far = await nodes.node("far", {"tools": tools(tell), **SEES})
    near = await nodes.node("near", SEES, peers={"far": (far.url, ["tools"])})
    async with client.request("MKCOL", f"{near.url}/v1/tools/x", headers={"traceparent": f"00-{TRACE}-{CALLER}-01"}) as response:
        assert response.status == 405
    told, _ = await get(client, f"{near.url}/v1/traces/{TRACE}")
    assert lines(told) == ["near: HTTP ok", "  near: HTTP ok", "    far: HTTP ok"]
    for _, each in walked(told["spans"]):
        assert (each["attributes"]["http.request.method"], "http.route" in each["attributes"]) == ("_OTHER", False)
        assert each["attributes"]["http.response.status_code"] == 405


async def test_who_has_no_key_leaves_no_trace(nodes: Spine, client: aiohttp.ClientSession) -> None:
    node = await nodes.node("keyed", SEES, environ={"ASTROMESH_API_KEYS": "sk-1"})
    for number in range(3):
        async with client.get(f"{node.url}/v1/tools/x", headers={"traceparent": f"00-{number + 1:032x}-{CALLER}-01"}) as response:
            assert response.status == 401
    told, _ = await get(client, f"{node.url}/v1/traces", {"Authorization": "Bearer sk-1"})
    assert told["count"] == 0


async def test_a_node_without_observability_records_nothing_and_says_that_it_is_off(tmp_path: Path, client: aiohttp.ClientSession) -> None:
    path = profile(tmp_path / "blind.yaml", ["tools"])
    document = yaml.safe_load(path.read_text())
    document["spec"]["services"]["observability"] = False
    path.write_text(yaml.safe_dump(document))
    async with AsyncExitStack() as stack:
        node = await start(stack, path, tmp_path / "data")
        async with client.get(f"{node.url}/v1/traces") as response:
            assert response.status == 404
            assert "spec.services.observability" in (await response.json())["error"]["message"]


async def test_in_a_mesh_the_one_who_is_asked_asks_each_member_once(tmp_path: Path) -> None:
    async with meshed(tmp_path) as mesh:
        gateway = await mesh.node("gateway", ["channels"])
        others = await asyncio.gather(*(mesh.node(name, services) for name, services in MEMBERS.items()))
        await mesh.together(gateway, *others)
        status, answer, _ = await _run_until_known(mesh, gateway)
        assert status == 200
        trace_id = answer["trace"]["trace_id"]
        told, partial = await get(mesh.http, f"{gateway.url}/v1/traces/{trace_id}")
        assert {"gateway", "worker"} < {each["node"] for _, each in walked(told["spans"])}
        assert len(told["spans"]) == 1
        assert partial is None
        models, _ = await get(mesh.http, f"{gateway.url}/v1/models")
        assert {"inference", "spare"} in [set(row["nodes"]) for row in models["data"]]
        for node in others:
            for path in (f"/v1/traces/{trace_id}", "/v1/models"):
                await node.wait_for_log(f"GET {path}")
                assert len([line for line in node.log if f"GET {path} " in line]) == 1


async def _run_until_known(mesh: Meshed, node: RunningNode) -> tuple[int, Any, str]:
    """Until the agents' and models' names have come round."""
    while (told := await mesh.run(node, QUESTION))[0] != 200:
        pass
    return told
