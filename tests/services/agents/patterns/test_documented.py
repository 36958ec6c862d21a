"""The examples of docs/patterns.md, each on real nodes: a gateway, two workers that share the agents, one node for models and memory."""

import json
import re
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import yaml
from openai import AsyncOpenAI
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from app import sse
from app.services.agents.cast import roles_of
from app.services.agents.library import Library
from app.services.agents.patterns import PATTERNS
from app.services.agents.settings import Orchestration
from tests.nodes import RunningNode, profile, start
from tests.services.agents.world import Body, ScriptedModel, calls, said, told
from tests.support import serve

ROOT = Path(__file__).parents[4]
DOCUMENTED = (ROOT / "docs" / "patterns.md").read_text()
EXAMPLES = {yaml.safe_load(text)["metadata"]["name"]: text for text in re.findall(r"```yaml\n(.*?)```", DOCUMENTED, re.DOTALL)}
ELSEWHERE = {"billing", "researcher", "newsroom"}
"""These run on the second worker."""
MULTIPLY = calls(("calculator", {"expression": "17*23"}))


def model_server(script: dict[str, list[Any]]) -> tuple[ScriptedModel, ASGIApp]:
    """An OpenAI-compatible server with the models of ``script``."""
    model = ScriptedModel(dict(script))

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] == "/v1/models":
            await JSONResponse({"object": "list", "data": [{"id": name, "object": "model"} for name in script]})(scope, receive, send)
        else:
            await model(scope, receive, send)

    return model, app


@dataclass
class Place:
    """The nodes; ``model`` is what their models say."""

    gateway: RunningNode
    model: ScriptedModel
    http: aiohttp.ClientSession
    nodes: list[RunningNode] = field(default_factory=list)

    def play(self, large: list[Any], small: list[Any]) -> None:
        """What the models say from now on; what they were asked before is forgotten."""
        self.model.script, self.model.requests = {"large": large, "small": small}, []

    async def run(self, agent: str, query: str, session: str | None = None) -> Body:
        body = {"query": query} | ({"session_id": session} if session else {})
        async with self.http.post(f"{self.gateway.url}/v1/agents/{agent}/run", json=body) as response:
            result: Body = await response.json()
            assert response.status == 200, result
            return result

    async def until_peers_are_up(self) -> None:
        for node in self.nodes:
            up = False
            while not up:
                async with self.http.get(f"{node.url}/v1/system/status") as response:
                    up = all(peer["state"] == "up" for peer in (await response.json())["peers"])


@pytest.fixture(scope="module")
async def nodes(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Place]:
    """The nodes of all these tests; each has its models say what it wants."""
    folder = tmp_path_factory.mktemp("place")
    async with AsyncExitStack() as stack:
        model, app = model_server({"large": [], "small": []})
        url = await stack.enter_async_context(serve(app))
        http = await stack.enter_async_context(aiohttp.ClientSession())
        folders = {where: folder / where / "agents" for where in ("first", "second")}
        for name, text in EXAMPLES.items():
            path = folders["second" if name in ELSEWHERE else "first"] / f"{name}.agent.yaml"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        provider = {"OPENAI_BASE_URL": f"{url}/v1", "OPENAI_API_KEY": "sk-test"}
        base = await start(stack, profile(folder / "base.yaml", ["inference", "memory"]), folder / "b", **provider)
        peers = {"base": (base.url, ["inference", "memory"])}
        second = profile(folder / "second.yaml", ["agents", "tools"], peers=peers)
        second_node = await start(stack, second, folder / "s", ASTROMESH_CONFIG_DIR=str(folder / "second"))
        peers["second"] = (second_node.url, ["agents", "tools"])
        first = profile(folder / "first.yaml", ["agents", "tools"], peers=peers)
        first_node = await start(stack, first, folder / "f", ASTROMESH_CONFIG_DIR=str(folder / "first"))
        peers["first"] = (first_node.url, ["agents", "tools"])
        gateway = await start(stack, profile(folder / "gateway.yaml", [], peers=peers), folder / "g")
        made = Place(gateway, model, http, [second_node, first_node, gateway])
        await made.until_peers_are_up()
        yield made


def plan(key: str, *entries: str) -> str:
    return json.dumps({key: entries})


async def test_plan_and_execute_over_nodes(nodes: Place) -> None:
    nodes.play(large=[plan("steps", "Multiply 17 by 23.")], small=[MULTIPLY, "391", "It is 391."])
    result = await nodes.run("researcher", "What is 17*23?")
    assert (result["answer"], result["outcome"]) == ("It is 391.", "answered")
    assert [(step["role"], step["model"]) for step in result["steps"]] == [
        ("planner", "large"),
        *[("worker", "small")] * 2,
        ("synthesizer", "small"),
    ]
    assert result["steps"][1]["tool_calls"][0]["result"]["result"] == 391


async def test_parallel_fan_out_over_nodes_as_a_streamed_chat_completion(nodes: Place) -> None:
    def work(request: Body) -> str:
        return "Wet." if "rain" in said(request).split("Your task: ")[1] else "Dry."

    nodes.play(large=[plan("tasks", "On rain.", "On sand.", "On glass."), work, "One is wet."], small=[work, work])
    async with AsyncOpenAI(base_url=f"{nodes.gateway.url}/v1", api_key="unused", max_retries=0) as sdk:
        messages: Any = [{"role": "user", "content": "Which is wet?"}]
        stream = await sdk.chat.completions.create(model="agent/comparer", messages=messages, stream=True)
        text = "".join([chunk.choices[0].delta.content or "" async for chunk in stream if chunk.choices])
    assert text == "One is wet."
    answered = [request for request in nodes.model.requests if said(request, "system").startswith("Compare the results in one table.")]
    assert "1. On rain.\nResult: Wet.\n2. On sand.\nResult: Dry." in said(answered[0])
    assert sorted(request["model"] for request in nodes.model.requests) == ["large"] * 3 + ["small"] * 2


async def test_pipeline_over_nodes(nodes: Place) -> None:
    nodes.play(large=["A short piece."], small=["A draft.", MULTIPLY, "A checked draft."])
    result = await nodes.run("newsroom", "On the fair.")
    assert result["answer"] == "A short piece."
    assert [step["role"] for step in result["steps"]] == ["stage:draft", "stage:check", "stage:check", "stage:edit"]
    edit = nodes.model.asked("large")[0]
    assert ("The unchecked one was:\nA draft." in said(edit, "system"), said(edit)) == (True, "A checked draft.")


async def test_a_supervisor_leads_agents_of_another_node(nodes: Place) -> None:
    asked = calls(("ask_researcher", {"query": "How many came to the fair?"}))
    written = calls(("ask_newsroom", {"query": "391 came to the fair."}))
    large = [asked, plan("steps"), written, "The fair: 391 came.", "Print: The fair: 391 came."]
    nodes.play(large=large, small=["391 came.", "A draft.", "A check."])
    result = await nodes.run("editor", "A piece on the fair, please.")
    assert result["answer"] == "Print: The fair: 391 came."
    assert told(nodes.model.requests[-1]) == ["391 came.", "The fair: 391 came."]
    assert {row["model"]: row["calls"] for row in result["usage"]["by_model"]} == {"large": 5, "small": 3}


async def test_a_swarm_passes_a_conversation_to_another_node_and_the_session_stays_there(nodes: Place) -> None:
    nodes.play(large=[MULTIPLY, "You owe 391.", "Since May."], small=[calls(("pass_to_billing", {}))])
    first = await nodes.run("frontdesk", "What do I owe?")
    assert (first["answer"], [step["agent"] for step in first["steps"]]) == ("You owe 391.", ["frontdesk", "billing", "billing"])
    body, accept = {"query": "Since when?", "session_id": first["session_id"]}, {"Accept": "text/event-stream"}
    async with nodes.http.post(f"{nodes.gateway.url}/v1/agents/frontdesk/run", json=body, headers=accept) as response:
        events = [(event.name, json.loads(event.data)) async for event in sse.decode(response.content.iter_any())]
    assert events[0] == ("step", {"step": 1, "role": "reasoner", "model": "large", "agent": "billing"})
    assert "".join(data["text"] for name, data in events if name == "token") == "Since May."
    assert events[-1][0] == "done"
    assert "What do I owe?" in [message["content"] for message in nodes.model.requests[-1]["messages"]]


def test_every_pattern_has_an_example_that_loads_without_a_warning(tmp_path: Path) -> None:
    for name, text in EXAMPLES.items():
        (tmp_path / f"{name}.agent.yaml").write_text(text)
    library = Library(tmp_path, Orchestration())
    library.load()
    assert (library.broken, [agent.warnings for agent in library.agents.values() if agent.warnings]) == ([], [])
    assert {agent.pattern for agent in library.agents.values()} == PATTERNS.keys() - {"react"}
    assert not any(agent.unavailable for agent in library.agents.values())


def test_the_documentation_has_the_roles_of_every_pattern() -> None:
    rows = dict(re.findall(r"^\| `(\w+)` \| .* \| (`.*) \|$", DOCUMENTED, re.MULTILINE))
    assert {name: tuple(re.findall(r"`([^`]+)`", roles)) for name, roles in rows.items()} == {
        name: roles_of(name, ("<name>",)) for name in PATTERNS
    }
