"""The main job, end to end: a gateway, a worker and an inference node as real processes, asked by real clients."""

import json
import re
import signal
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import pytest
from openai import AsyncOpenAI, NotFoundError
from websockets.asyncio.client import connect

from app import sse
from tests.nodes import RunningNode, profile, start
from tests.talks import ask

QUESTION = "What is 17*23, and what time is it in Tokyo?"
WORKER = ["agents", "tools", "memory", "rag"]


@dataclass
class Chain:
    gateway: RunningNode
    worker: RunningNode
    inference: RunningNode
    http: aiohttp.ClientSession

    def sdk(self) -> AsyncOpenAI:
        return AsyncOpenAI(base_url=f"{self.gateway.url}/v1", api_key="unused", max_retries=0)

    async def run(self, query: str, session: str | None = None) -> tuple[aiohttp.ClientResponse, dict[str, object]]:
        asked = {"query": query} | ({"session_id": session} if session else {})
        async with self.http.post(f"{self.gateway.url}/v1/agents/assistant/run", json=asked) as response:
            return response, await response.json()

    async def until_peers_are_up(self, node: RunningNode) -> None:
        while True:
            async with self.http.get(f"{node.url}/v1/system/status") as response:
                if all(peer["state"] == "up" for peer in (await response.json())["peers"]):
                    return


@asynccontextmanager
async def chained(folder: Path) -> AsyncIterator[Chain]:
    async with AsyncExitStack() as stack:
        http = await stack.enter_async_context(aiohttp.ClientSession())
        inference = await start(stack, profile(folder / "inference.yaml", ["inference"]), folder / "i")
        worker_profile = profile(folder / "worker.yaml", WORKER, peers={"inference-1": (inference.url, ["inference"])})
        worker = await start(stack, worker_profile, folder / "w")
        gateway_profile = profile(folder / "gateway.yaml", ["channels"], peers={"worker-1": (worker.url, WORKER)})
        gateway = await start(stack, gateway_profile, folder / "g")
        made = Chain(gateway, worker, inference, http)
        await made.until_peers_are_up(worker)
        await made.until_peers_are_up(gateway)
        yield made


@pytest.fixture(scope="module")
async def chain(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Chain]:
    """One for all tests that leave it as it is."""
    async with chained(tmp_path_factory.mktemp("chain")) as made:
        yield made


@pytest.fixture
async def mortal(tmp_path: Path) -> AsyncIterator[Chain]:
    """One of the test's own, to kill nodes of."""
    async with chained(tmp_path) as made:
        yield made


async def test_a_question_to_the_gateway_is_answered_by_the_workers_agent_with_tools_and_a_model(chain: Chain) -> None:
    response, told = await chain.run(QUESTION)
    assert response.status == 200, told
    assert response.headers["X-Astromesh-Node"] == "worker"
    assert re.search(r"391.* in Asia/Tokyo it is .*\d\d:\d\d", str(told["answer"]), re.IGNORECASE)
    calls = [call["name"] for step in told["steps"] for call in step["tool_calls"]]  # type: ignore[attr-defined]
    assert sorted(calls) == ["calculator", "datetime_now"]


async def test_the_second_turn_of_a_session_remembers_the_first(chain: Chain) -> None:
    _, first = await chain.run("My name is Ada.")
    session = str(first["session_id"])
    _, second = await chain.run("What is my name?", session)
    assert "Ada" in str(second["answer"])
    async with chain.http.get(f"{chain.gateway.url}/v1/memory/assistant/history/{session}") as response:
        assert response.headers["X-Astromesh-Node"] == "worker"
        assert len((await response.json())["turns"]) == 2
    async with chain.http.get(f"{chain.worker.url}/v1/system/status") as response:
        assert session.split("_")[1] == (await response.json())["store_id"]
    _, stranger = await chain.run("What is my name?")
    assert "Ada" not in str(stranger["answer"])


async def test_a_run_streams_typed_events_through_the_gateway(chain: Chain) -> None:
    accept = {"Accept": "text/event-stream"}
    async with chain.http.post(f"{chain.gateway.url}/v1/agents/assistant/run", json={"query": QUESTION}, headers=accept) as response:
        events = [event async for event in sse.decode(response.content.iter_any())]
    names = [event.name for event in events]
    assert {"step", "tool_call", "tool_result", "token"} < set(names)
    assert names[-1] == "done"
    assert "391" in json.loads(events[-1].data)["answer"]


async def test_the_openai_sdk_talks_to_an_agent_streaming_and_not(chain: Chain) -> None:
    async with chain.sdk() as sdk:
        whole = await sdk.chat.completions.create(model="agent/assistant", messages=[{"role": "user", "content": QUESTION}])
        assert "391" in (whole.choices[0].message.content or "")
        assert whole.choices[0].finish_reason == "stop"
        assert whole.usage is not None
        assert whole.usage.total_tokens > 0
        stream = await sdk.chat.completions.create(model="agent/assistant", messages=[{"role": "user", "content": QUESTION}], stream=True)
        pieces = [chunk.choices[0].delta.content or "" async for chunk in stream if chunk.choices]
        assert len(pieces) > 3
        assert "391" in "".join(pieces)


async def test_the_openai_sdk_talks_to_the_model_itself_through_two_hops(chain: Chain) -> None:
    async with chain.sdk() as sdk:
        models = {model.id async for model in await sdk.models.list()}
        assert {"builtin", "agent/assistant"} <= models
        whole = await sdk.chat.completions.with_raw_response.create(model="builtin", messages=[{"role": "user", "content": "hello"}])
        assert whole.headers["X-Astromesh-Node"] == "inference"
        vectors = await sdk.embeddings.create(model="builtin", input=["one", "two"])
        assert len(vectors.data) == 2
        with pytest.raises(NotFoundError, match="builtin"):
            await sdk.chat.completions.create(model="gpt-none", messages=[{"role": "user", "content": "hello"}])


async def test_a_conversation_over_a_websocket_goes_through_the_gateway_and_is_remembered(chain: Chain) -> None:
    url = chain.gateway.url.replace("http://", "ws://")
    async with connect(f"{url}/v1/ws/agent/assistant") as client:
        first = await ask(client, "My name is Ada.")
        assert "Ada" in (await ask(client, "What is my name?"))[-1]["answer"]
        told = await ask(client, "What is 17*23?")
        assert {"step", "tool_call", "tool_result", "token", "done"} == {event["type"] for event in told}
    async with chain.http.get(f"{chain.gateway.url}/v1/traces/{told[-1]['trace']['trace_id']}") as response:
        traced = (await response.json())["spans"]
    assert [span["name"] for span in traced] == ["question on a WebSocket"], "a question has a trace of its own"
    session = first[-1]["session_id"]
    _, again = await chain.run("What is my name?", session)
    assert "Ada" in str(again["answer"])
    async with chain.http.get(f"{chain.gateway.url}/metrics") as response:
        counted = 'astromesh_http_requests_total{method="GET",path="/v1/ws/agent/{}",principal="",status="101"} 1.0'
        assert counted in await response.text()


async def test_a_killed_worker_gives_a_clear_error_at_once_and_comes_back(mortal: Chain, tmp_path: Path) -> None:
    _, first = await mortal.run("My name is Ada.")
    port = mortal.worker.url.rsplit(":", 1)[1]
    mortal.worker.signal(signal.SIGKILL)
    await mortal.worker.exit_code()
    response, told = await mortal.run(QUESTION)
    assert response.status == 503
    assert told["error"]["code"] == "service_unavailable"  # type: ignore[index]
    async with AsyncExitStack() as stack:
        await start(stack, tmp_path / "worker.yaml", tmp_path / "w", ASTROMESH_PORT=port)
        await mortal.until_peers_are_up(mortal.gateway)
        _, second = await mortal.run("What is my name?", str(first["session_id"]))
        assert "Ada" in str(second["answer"])


async def test_a_killed_inference_node_is_named_to_the_client(mortal: Chain) -> None:
    mortal.inference.signal(signal.SIGKILL)
    await mortal.inference.exit_code()
    response, told = await mortal.run(QUESTION)
    assert response.status == 503
    assert "inference" in str(told["error"])
