"""The life of a node as a process: how it starts, what stops it from starting, how it drains, and with which code it ends."""

import asyncio
import json
import signal
import socket
import sys
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from starlette.types import Receive, Scope, Send

from app import sse
from tests import nodes
from tests.edge.wire import request, wire
from tests.nodes import ROOT, RunningNode, profile
from tests.support import serve

SOON_S = 3.0
CHAT = {"model": "slow", "messages": [{"role": "user", "content": "hi"}]}
ALL = ["agents", "inference", "memory", "tools"]


@dataclass
class SlowModel:
    """An OpenAI-compatible server with one model, whose answers wait until they are released; a stream begins first."""

    begun: asyncio.Event = field(default_factory=asyncio.Event)
    release: asyncio.Event = field(default_factory=asyncio.Event)
    flood: bool = False
    keys: list[str] = field(default_factory=list)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.keys += [value.decode() for name, value in scope["headers"] if name == b"authorization"]
        raw = (await receive())["body"] if scope["method"] == "POST" else b"{}"
        streaming = json.loads(raw).get("stream", False)
        kind = b"text/event-stream" if streaming else b"application/json"
        if scope["path"].endswith("/chat/completions") and not streaming:
            self.begun.set()
            await self.release.wait()
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", kind)]})
        if scope["path"].endswith("/models"):
            await send({"type": "http.response.body", "body": b'{"data": [{"id": "slow"}]}'})
        elif not streaming:
            choice = {"index": 0, "message": {"role": "assistant", "content": "done"}, "finish_reason": "stop"}
            answer = {"id": "c", "object": "chat.completion", "created": 0, "model": "slow", "choices": [choice]}
            await send({"type": "http.response.body", "body": json.dumps(answer).encode()})
        else:
            await self._stream(send)

    async def _stream(self, send: Send) -> None:
        def piece(delta: Mapping[str, str], finish: str | None) -> bytes:
            choice = {"index": 0, "delta": delta, "finish_reason": finish}
            return sse.encode({"id": "c", "object": "chat.completion.chunk", "created": 0, "model": "slow", "choices": [choice]})

        await send({"type": "http.response.body", "body": piece({"content": "first"}, None), "more_body": True})
        self.begun.set()
        for _ in range(300 if self.flood else 0):  # more than all buffers on the way take
            await send({"type": "http.response.body", "body": piece({"content": "x" * 100_000}, None), "more_body": True})
        await self.release.wait()
        await send({"type": "http.response.body", "body": piece({}, "stop") + b"data: [DONE]\n\n"})


@dataclass
class World:
    folder: Path
    stack: AsyncExitStack
    client: aiohttp.ClientSession
    model: SlowModel
    model_url: str

    async def full(self, **environ: str) -> RunningNode:
        """A full node with the slow model attached."""
        path = profile(self.folder / "full.yaml", ALL)
        return await nodes.start(self.stack, path, self.folder / "data", VLLM_BASE_URL=self.model_url, **environ)

    def ask(self, node: RunningNode, **more: Any) -> Any:
        return self.client.post(f"{node.url}/v1/chat/completions", json=CHAT | more)


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    model = SlowModel()
    async with AsyncExitStack() as stack:
        url = await stack.enter_async_context(serve(model))
        client = await stack.enter_async_context(aiohttp.ClientSession())
        yield World(tmp_path, stack, client, model, url)
        model.release.set()


async def ended(path: Path, data_dir: Path, **environ: str) -> tuple[int, str]:
    """The exit code and the whole log of a node that does not stay."""
    async with AsyncExitStack() as stack:
        running = await nodes.launch(stack, path, data_dir, **environ)
        code = await running.exit_code()
    return code, "\n".join(running.log)


async def status_of(world: World, url: str) -> int:
    async with world.client.get(url) as response:
        return response.status


# Draining


async def test_sigterm_under_a_chat_lets_it_finish_refuses_new_work_and_exits_0(world: World) -> None:
    node = await world.full(ASTROMESH_DRAIN_S="20")
    async with wire(node.url) as kept:
        kept.send(request("GET", "/livez"))
        assert "connection" not in (await kept.answer()).headers
        chat = asyncio.create_task(world.ask(node).__aenter__())
        await asyncio.wait_for(world.model.begun.wait(), 10)
        node.signal(signal.SIGTERM)
        await node.wait_for_log("draining: 1 requests in flight")
        kept.send(request("GET", "/livez"))
        answer = await kept.answer()
        assert (answer.status, answer.headers["connection"]) == (200, "close")
    async with world.client.get(f"{node.url}/readyz") as response:
        assert (response.status, (await response.json())["status"]) == (503, "draining")
    async with world.client.get(f"{node.url}/v1/system/status") as response:
        assert (await response.json())["draining"] is True
    async with asyncio.timeout(SOON_S):  # the notice time: until it is over, new work is still taken
        while True:
            async with world.client.get(f"{node.url}/v1/tools") as response:
                if response.status != 200:
                    assert (response.status, (await response.json())["error"]["code"]) == (503, "not_begun")
                    assert response.headers["X-Astromesh-Not-Begun"] == "1"
                    break
                assert response.headers["Connection"] == "close"
    assert await status_of(world, f"{node.url}/livez") == 200
    assert not chat.done()
    world.model.release.set()
    response = await chat
    assert response.headers["Connection"] == "close"
    assert (await response.json())["choices"][0]["message"]["content"] == "done"
    assert await node.exit_code(SOON_S) == 0


async def test_an_idle_stream_ends_at_the_drain_deadline_with_an_error_event_that_says_so_and_the_node_exits_0(world: World) -> None:
    node = await world.full(ASTROMESH_DRAIN_S="1")
    async with world.ask(node, stream=True) as response:
        events = sse.decode(response.content.iter_any())
        assert "first" in (await anext(events)).data
        node.signal(signal.SIGTERM)
        rest = [event async for event in events]
    assert [event.name for event in rest] == ["error"]
    assert json.loads(rest[0].data)["error"]["code"] == "shutting_down", "a client can tell it from its own deadline"
    assert await node.exit_code(SOON_S) == 0


async def test_a_client_that_does_not_read_its_stream_does_not_keep_the_node(world: World) -> None:
    world.model.flood = True
    node = await world.full(ASTROMESH_DRAIN_S="1")
    async with wire(node.url) as stalled:
        body = json.dumps(CHAT | {"stream": True}).encode()
        stalled.send(request("POST", "/v1/chat/completions", "Content-Type: application/json", body=body))
        assert (await stalled.head())[0] == 200
        node.signal(signal.SIGTERM)
        assert await node.exit_code(1 + SOON_S) == 0


async def test_what_is_no_stream_of_events_is_cut_at_the_drain_deadline_with_an_error_of_its_own(world: World) -> None:
    node = await world.full(ASTROMESH_DRAIN_S="0.4")
    chat = asyncio.create_task(world.ask(node).__aenter__())
    await asyncio.wait_for(world.model.begun.wait(), 10)
    node.signal(signal.SIGTERM)
    response = await chat
    assert (response.status, (await response.json())["error"]["code"]) == (503, "shutting_down")
    assert not {"Retry-After", "X-Astromesh-Not-Begun"} & set(response.headers), "it has begun: nobody repeats it unasked"
    assert await node.exit_code(SOON_S) == 0


async def test_connections_without_a_request_do_not_hold_up_the_stop(world: World) -> None:
    node = await world.full(ASTROMESH_DRAIN_S="20")
    async with wire(node.url) as silent, wire(node.url) as half, wire(node.url) as idle:
        half.send(b"GET /livez HTTP/1.1\r\nHo")
        idle.send(request("GET", "/livez"))
        assert (await idle.answer()).status == 200
        node.signal(signal.SIGTERM)
        assert await node.exit_code(SOON_S) == 0
        for connection in (silent, half, idle):
            assert await connection.closed() == b""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_second_signal_ends_it_at_once(world: World, number: signal.Signals) -> None:
    node = await world.full(ASTROMESH_DRAIN_S="60")
    chat = asyncio.create_task(world.ask(node).__aenter__())
    await asyncio.wait_for(world.model.begun.wait(), 10)
    node.signal(number)
    await node.wait_for_log("draining")
    node.signal(number)
    assert await node.exit_code(SOON_S) == 1
    with suppress(aiohttp.ClientError):
        assert (await chat).status >= 500


async def test_a_second_signal_is_not_blamed_on_the_peers_that_work_for_the_node(world: World) -> None:
    worker = await world.full()
    gateway_profile = profile(world.folder / "gateway.yaml", [], peers={"worker": (worker.url, ALL)})
    gateway = await nodes.start(world.stack, gateway_profile, world.folder / "gateway", ASTROMESH_DRAIN_S="60")
    chats = [asyncio.create_task(world.ask(gateway, stream=stream).__aenter__()) for stream in (False, True)]
    await asyncio.wait_for(world.model.begun.wait(), 10)
    stream = await chats[1]
    gateway.signal(signal.SIGTERM)
    await gateway.wait_for_log("draining: 2 requests in flight")
    gateway.signal(signal.SIGTERM)
    assert await gateway.exit_code(SOON_S) == 1
    with suppress(aiohttp.ClientError):
        await chats[0]
    stream.close()
    assert not [line for line in gateway.log if "left the routing view" in line or " error " in line or "Traceback" in line]


# Starting, and what stops a node


async def test_a_port_in_use_is_78_with_the_address_and_the_remedy(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        code, log = await ended(profile(tmp_path / "full.yaml", ALL), tmp_path / "data", ASTROMESH_PORT=port)
    assert code == 78
    assert f"127.0.0.1:{port}" in log
    assert "ASTROMESH_PORT" in log
    assert "Traceback" not in log


async def test_a_data_directory_that_cannot_be_used_is_78_with_the_reason_and_the_remedy(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a directory")
    code, log = await ended(profile(tmp_path / "full.yaml", ALL), tmp_path / "file" / "data")
    assert code == 78
    assert str(tmp_path / "file" / "data") in log
    assert "ASTROMESH_DATA_DIR" in log
    assert "Traceback" not in log


async def test_a_role_that_keeps_nothing_needs_no_data_directory(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a directory")
    path = profile(tmp_path / "gateway.yaml", ["inference", "tools"])
    async with nodes.node(path, tmp_path / "file" / "data", TMPDIR=str(tmp_path)) as node:
        node.signal(signal.SIGTERM)
        assert await node.exit_code() == 0


async def test_a_bad_profile_and_a_bad_environment_are_78_with_all_problems_at_once(tmp_path: Path) -> None:
    path = profile(tmp_path / "bad.yaml", ALL, api={"max_body_bytes": -1}, memroy={})
    code, log = await ended(path, tmp_path / "data", ASTROMESH_DRAIN_S="soon")
    assert code == 78
    for part in ("spec.api.max_body_bytes", "memroy", "memory", "ASTROMESH_DRAIN_S", "'soon'"):
        assert part in log
    assert "Traceback" not in log


FAILING = """
import asyncio, sys
from app import __main__ as main, services
from tests.spine import FakeService

class Failing(FakeService):
    async def run(self):
        raise RuntimeError("the background work broke")

services.SERVICES["tools"] = services.ServiceEntry("failing:Failing", {"tools": None})
sys.modules["failing"] = sys.modules["__main__"]
sys.exit(main.main())
"""


async def test_background_work_that_fails_stops_the_node_with_1_and_its_reason(tmp_path: Path) -> None:
    path = profile(tmp_path / "full.yaml", ["tools"])
    environ = {"ASTROMESH_PROFILE": str(path), "ASTROMESH_DATA_DIR": str(tmp_path / "data"), "TMPDIR": str(tmp_path)}
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", FAILING, cwd=ROOT, env=environ, stdout=PIPE, stderr=PIPE)
    async with asyncio.timeout(20):
        _, log = await process.communicate()
    assert process.returncode == 1
    assert b"the background work broke" in log


@pytest.mark.parametrize(("host", "reached", "form"), [("0.0.0.0", "127.0.0.1", "text"), ("127.0.0.1", "127.0.0.1", "json")])
async def test_a_node_tells_the_url_it_answers_at_and_the_address_it_listens_on(world: World, host: str, reached: str, form: str) -> None:
    node = await world.full(ASTROMESH_HOST=host, ASTROMESH_LOG_FORMAT=form)
    assert node.url.startswith(f"http://{reached}:")
    assert await status_of(world, f"{node.url}/livez") == 200
    assert (world.folder / "astromesh.url").read_text() == node.url, "what the health check reads is the URL alone"
    line = await node.wait_for_log("listening on")
    every = f"(at every address of this machine: 0.0.0.0 port {node.url.rsplit(':', 1)[1]})"
    assert (every in line) == (host == "0.0.0.0")


# Logs and secrets


async def test_json_log_lines_parse_and_carry_the_request_id(world: World) -> None:
    node = await world.full(ASTROMESH_LOG_FORMAT="json")
    async with world.client.get(f"{node.url}/v1/tools", headers={"X-Request-Id": "find-me"}) as response:
        assert response.status == 200
    await node.wait_for_log("find-me")
    lines = [json.loads(line) for line in node.log]
    assert all({"time", "level", "logger", "message"} <= set(line) for line in lines)
    [line] = [line for line in lines if line.get("request_id") == "find-me"]
    assert line["level"] == "info"
    assert "GET /v1/tools 200" in line["message"]


async def test_no_key_is_in_any_log_line_or_answer(world: World) -> None:
    secrets = ["sk-node-2f9c", "sk-team-77ab", "sk-openai-c41d"]
    environ = {"ASTROMESH_API_KEYS": f"node:{secrets[0]},team:{secrets[1]}", "OPENAI_API_KEY": secrets[2]}
    environ |= {"OPENAI_BASE_URL": world.model_url, "ASTROMESH_LOG_FORMAT": "json", "ASTROMESH_LOG_LEVEL": "debug"}
    world.model.release.set()
    node = await world.full(**environ)
    headers = {"Authorization": f"Bearer {secrets[1]}"}
    shown = []
    for path in ("v1/system/status", "v1/system/doctor", "v1/providers", "v1/models", "metrics", "v1/agents", "v1/tools", "readyz"):
        async with world.client.get(f"{node.url}/{path}", headers=headers) as response:
            assert response.status == 200, path
            shown.append(await response.text())
    for body in (CHAT | {"model": "openai/slow"}, CHAT | {"model": "none"}):
        async with world.client.post(f"{node.url}/v1/chat/completions", json=body, headers=headers) as response:
            shown.append(await response.text())
    async with world.client.get(f"{node.url}/v1/tools", headers={"Authorization": "Bearer sk-wrong-key"}) as response:
        assert response.status == 401
        shown.append(await response.text())
    node.signal(signal.SIGTERM)
    assert await node.exit_code() == 0
    await world.stack.aclose()
    shown += node.log
    assert f"Bearer {secrets[2]}" in world.model.keys  # the provider's key went to the provider, and the client's went nowhere
    assert not [key for key in world.model.keys if secrets[0] in key or secrets[1] in key]
    for secret in (*secrets, "sk-wrong-key"):
        assert not [text for text in shown if secret in text]


async def test_a_node_without_any_key_says_so_at_start(world: World) -> None:
    node = await world.full()
    assert "ASTROMESH_API_KEYS" in await node.wait_for_log("no API key is set")
