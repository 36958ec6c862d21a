"""Tools end to end: a gateway and a worker as real processes, a scripted model server, and the examples of docs/tools.md as they are."""

import json
import re
import shlex
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import yaml
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route, Router

from tests.nodes import ROOT, RunningNode, profile, start
from tests.support import serve

REFERENCE = (ROOT / "docs/tools.md").read_text()
WORKER = ["agents", "tools", "memory", "inference", "rag"]


@dataclass
class World:
    """What the agent works with: ``script`` holds the model's messages, ``asked`` what the model was asked."""

    script: list[dict[str, Any]] = field(default_factory=list)
    asked: list[dict[str, Any]] = field(default_factory=list)
    posted: list[tuple[str, Any]] = field(default_factory=list)

    async def complete(self, request: Request) -> Response:
        self.asked.append(await request.json())
        message = {"role": "assistant", **self.script.pop(0)}
        choice = {"index": 0, "message": message, "finish_reason": "tool_calls" if "tool_calls" in message else "stop"}
        usage = {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}
        return JSONResponse({"id": "1", "object": "chat.completion", "created": 0, "model": "m", "choices": [choice], "usage": usage})

    async def models(self, request: Request) -> Response:
        return JSONResponse({"object": "list", "data": [{"id": "m", "object": "model"}]})

    async def page(self, request: Request) -> Response:
        return PlainTextResponse("The train to Bern leaves at noon.")

    async def order_status(self, request: Request) -> Response:
        self.posted.append((request.headers["authorization"], await request.json()))
        return JSONResponse({"state": "sent"})

    def app(self) -> Router:
        return Router(
            [
                Route("/v1/chat/completions", self.complete, methods=["POST"]),
                Route("/v1/models", self.models),
                Route("/page", self.page),
                Route("/order-status", self.order_status, methods=["POST"]),
            ]
        )

    def told(self) -> list[str]:
        """The results that the model was told last."""
        return [message["content"] for message in self.asked[-1]["messages"] if message["role"] == "tool"]


@dataclass
class Nodes:
    gateway: RunningNode
    world: World
    url: str
    http: aiohttp.ClientSession

    async def post(self, path: str, body: Any) -> Any:
        async with self.http.post(self.gateway.url + path, json=body) as response:
            assert response.status == 200, await response.text()
            assert response.headers["X-Astromesh-Node"] == "worker"
            return await response.json()


def examples() -> dict[str, Any]:
    """The bodies of the reference's curl commands, by their tool."""
    bodies = [json.loads(shlex.split(command)[-1]) for command in re.findall(r"^curl .*\n +-d .*$", REFERENCE.replace("\\\n", "\n"), re.M)]
    return {body["tool_name"]: body for body in bodies}


def agent_files(folder: Path, url: str) -> None:
    """The agents of the reference: one as it is, and one with the webhook of the reference, at the shop that there is here."""
    blocks = [yaml.safe_load(block) for block in re.findall(r"```yaml\n(.*?)```", REFERENCE, re.S)]
    [researcher] = [block for block in blocks if block.get("kind") == "Agent"]
    [hooked] = [block for block in blocks if any(tool.get("type") == "webhook" for tool in _tools(block)) and "kind" not in block]
    hooked["spec"]["tools"][0]["url"] = f"{url}/order-status"
    clerk = {**researcher, "metadata": {"name": "clerk"}, "spec": hooked["spec"]}
    folder.mkdir(parents=True)
    for agent in (researcher, clerk):
        (folder / f"{agent['metadata']['name']}.agent.yaml").write_text(yaml.safe_dump(agent))


def _tools(block: Any) -> list[Any]:
    tools = block["spec"].get("tools")
    return tools if isinstance(tools, list) else []


@pytest.fixture(scope="module")
async def running(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Nodes]:
    folder = tmp_path_factory.mktemp("nodes")
    (folder / "handbook").mkdir()
    (folder / "handbook" / "travel.md").write_text("Take the train.")
    world = World()
    async with AsyncExitStack() as stack:
        http = await stack.enter_async_context(aiohttp.ClientSession())
        url = await stack.enter_async_context(serve(world.app()))
        agent_files(folder / "config" / "agents", url)
        tools = {
            "http_request": {"allow": [url.removeprefix("http://")], "allow_networks": ["127.0.0.0/8"]},
            "read_file": {"roots": {"handbook": str(folder / "handbook")}},
        }
        worker_profile = profile(folder / "worker.yaml", WORKER, tools=tools)
        environ = {"ASTROMESH_CONFIG_DIR": str(folder / "config"), "OPENAI_BASE_URL": f"{url}/v1", "SHOP_TOKEN": "a-secret-of-the-shop"}
        worker = await start(stack, worker_profile, folder / "w", **environ)
        gateway_profile = profile(folder / "gateway.yaml", ["channels"], peers={"worker-1": (worker.url, WORKER)})
        yield Nodes(await start(stack, gateway_profile, folder / "g"), world, url, http)


@pytest.fixture
def nodes(running: Nodes) -> Nodes:
    """The nodes of all these tests, in a world where nothing was asked yet."""
    for seen in (running.world.script, running.world.asked, running.world.posted):
        seen.clear()
    return running


def calling(name: str, arguments: Any) -> dict[str, Any]:
    function = {"name": name, "arguments": json.dumps(arguments)}
    return {"content": None, "tool_calls": [{"id": f"call_{name}", "type": "function", "function": function}]}


async def test_the_commands_of_the_reference_work_through_a_gateway(nodes: Nodes) -> None:
    bodies = examples()
    assert bodies.keys() == {"http_request", "read_file", "json_transform", "knowledge_search", "text_summarize"}
    nodes.world.script = [{"content": "In short."}]
    hours = {"collection": "handbook", "create": True, "documents": [{"id": "hours", "text": "Our opening hours are 9 to 17."}]}
    await nodes.post("/v1/rag/ingest", hours)
    results = {name: await nodes.post("/v1/tools/execute", body) for name, body in bodies.items()}
    assert results["read_file"]["result"]["text"] == "Take the train."
    assert results["json_transform"]["result"] == ["Ada", "Kim"]
    assert [row["source"]["document_id"] for row in results["knowledge_search"]["result"]["results"]] == ["hours"]
    assert results["text_summarize"]["result"]["summary"] == "In short."
    assert "en.wikipedia.org:443 may not be asked; allowed is 127.0.0.1:" in results["http_request"]["error"]


async def test_a_client_can_have_nothing_asked_but_what_is_allowed(nodes: Nodes) -> None:
    allowed = {"tool_name": "http_request", "arguments": {"url": f"{nodes.url}/page"}}
    assert (await nodes.post("/v1/tools/execute", allowed))["result"]["body"] == "The train to Bern leaves at noon."
    other = {"tool_name": "http_request", "arguments": {"url": f"{nodes.gateway.url}/v1/system/status"}}
    assert "may not be asked" in (await nodes.post("/v1/tools/execute", other))["error"]
    webhook = {"tool_name": "order_status", "arguments": {"order": "A7"}}
    async with nodes.http.post(f"{nodes.gateway.url}/v1/tools/execute", json=webhook) as response:
        assert (response.status, (await response.json())["error"]["code"]) == (404, "tool_not_found")
    assert not nodes.world.posted


async def test_the_references_agent_uses_its_tools_and_no_other(nodes: Nodes) -> None:
    nodes.world.script = [
        calling("read_file", {"path": "handbook/travel.md"}),
        calling("http_request", {"url": f"{nodes.url}/page"}),
        calling("text_summarize", {"text": "long"}),
        {"content": "By train, at noon."},
    ]
    answer = await nodes.post("/v1/agents/researcher/run", {"query": "How do I get to Bern?"})
    assert answer["answer"] == "By train, at noon."
    told = nodes.world.told()
    assert "Take the train." in told[0]
    assert "leaves at noon" in told[1]
    assert "not permitted to this agent" in told[2]
    statuses = [call["status"] for step in answer["steps"] for call in step["tool_calls"]]
    assert statuses == ["ok", "ok", "error"]
    announced = [tool["function"]["name"] for tool in nodes.world.asked[0]["tools"]]
    assert announced == ["read_file", "http_request", "json_transform"]


async def test_the_references_webhook_is_posted_with_its_secret_which_nobody_sees(nodes: Nodes) -> None:
    nodes.world.script = [calling("order_status", {"order": "A7"}), {"content": "It was sent."}]
    answer = await nodes.post("/v1/agents/clerk/run", {"query": "Where is A7?"})
    assert nodes.world.posted == [("Bearer a-secret-of-the-shop", {"order": "A7"})]
    assert answer["steps"][0]["tool_calls"][0]["result"] == {"state": "sent"}
    async with nodes.http.get(f"{nodes.gateway.url}/v1/agents/clerk") as response:
        shown = await response.text()
    assert "a-secret-of-the-shop" not in json.dumps([answer, nodes.world.asked]) + shown + "\n".join(nodes.gateway.log)
