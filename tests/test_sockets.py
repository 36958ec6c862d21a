"""Agents over WebSockets, gateway and worker as real nodes on real sockets, asked by the library websockets."""

import asyncio
import base64
import json
import signal
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from typing import Any, cast

import aiohttp
import pytest
from starlette.routing import Route
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.typing import Origin, Subprotocol

from app.services.agents import link
from tests.edge.wire import request, wire
from tests.nodes import profile, start
from tests.services.agents.world import agent_file
from tests.spine import Spine, service
from tests.talks import PATIENCE_S, Model, ask, events, socket_url, stack

KEYS = {"ASTROMESH_API_KEYS": "node:sk-1,ada:sk-2"}
UPGRADE = ("Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: MDEyMzQ1Njc4OWFiY2RlZg==")
ADA = {"Authorization": "Bearer sk-2"}


async def closed(client: ClientConnection) -> tuple[int, str]:
    """The code and the reason with which the other side closes, after whatever it still says."""
    async with asyncio.timeout(PATIENCE_S):
        with suppress(ConnectionClosed):
            while True:
                await client.recv()
    received = client.protocol.close_rcvd
    assert received is not None, "the connection was cut"
    return received.code, received.reason


async def test_several_questions_on_one_socket_are_answered_as_events_one_after_the_other(nodes: Spine, tmp_path: Path) -> None:
    made = await stack(nodes, tmp_path)
    async with connect(made.address) as client:
        assert client.response is not None
        assert client.response.headers["X-Astromesh-Node"] == "worker"
        first, second = await ask(client, "one"), await ask(client, "two")
        for told, answer in ((first, "You said: one"), (second, "You said: two")):
            assert [event["type"] for event in told] == ["step", "token", "token", "done"]
            assert "".join(event["text"] for event in told if event["type"] == "token") == told[-1]["answer"] == answer
        assert first[-1]["session_id"] == second[-1]["session_id"], "a socket is one conversation"
        assert first[-1]["trace"] != second[-1]["trace"]
        for query in ("a", "b", "c"):
            await client.send(json.dumps({"query": query}))
        assert [(await events(client))[-1]["answer"] for _ in range(3)] == ["You said: a", "You said: b", "You said: c"]
        named = await ask(client, "three", session_id="ada-1", context={"x": 1})
        assert named[-1]["session_id"] == "ada-1"
    assert client.close_code == 1000


@pytest.mark.parametrize(
    ("message", "code"),
    [
        ("{", "invalid_json"),
        (b"\xff", "invalid_json"),
        ("[]", "invalid_body"),
        ("{}", "invalid_body"),
        ('{"query": "x", "more": 1}', "invalid_body"),
        ('{"query": "x", "session_id": "no spaces"}', "invalid_request"),
    ],
)
async def test_a_bad_message_gets_an_error_event_and_the_socket_lives(nodes: Spine, tmp_path: Path, message: Any, code: str) -> None:
    made = await stack(nodes, tmp_path)
    async with connect(made.address) as client:
        await client.send(message)
        [told] = await events(client)
        assert (told["type"], told["error"]["code"], set(told["error"])) == ("error", code, {"message", "type", "code", "param"})
        assert (await ask(client))[-1]["answer"] == "You said: hello"


async def test_two_sessions_for_one_question_are_refused(nodes: Spine, tmp_path: Path) -> None:
    made = await stack(nodes, tmp_path)
    async with connect(made.address, additional_headers={"X-Session-Id": "one"}) as client:
        assert (await ask(client, session_id="two"))[-1]["error"]["param"] == "session_id"
        assert (await ask(client))[-1]["session_id"] == "one"


@pytest.mark.parametrize("politely", [True, False])
async def test_a_client_that_leaves_cancels_its_run_within_a_tenth_of_a_second(nodes: Spine, tmp_path: Path, politely: bool) -> None:
    made = await stack(nodes, tmp_path)
    async with connect(made.address) as client:
        await client.send('{"query": "wait"}')
        await asyncio.wait_for(made.model.begun.wait(), PATIENCE_S)
        if politely:
            leaving = asyncio.create_task(client.close())
        else:
            client.transport.abort()
        await asyncio.wait_for(made.model.stopped.wait(), 0.1)
        if politely:
            await leaving
            assert client.close_code == 1000
    async with asyncio.timeout(PATIENCE_S):
        await asyncio.gather(made.gateway._edge.wait_idle(), made.worker._edge.wait_idle())


async def test_pings_are_answered_from_end_to_end_also_during_a_run(nodes: Spine, tmp_path: Path) -> None:
    made = await stack(nodes, tmp_path)
    async with connect(made.address) as client:
        await client.send('{"query": "wait"}')
        await asyncio.wait_for(made.model.begun.wait(), PATIENCE_S)
        assert await asyncio.wait_for(await client.ping(), PATIENCE_S) < PATIENCE_S


async def test_a_message_of_a_megabyte_is_refused_with_1009_and_one_within_the_limit_is_taken(nodes: Spine, tmp_path: Path) -> None:
    made = await stack(nodes, tmp_path)
    async with connect(made.address) as client:
        assert (await ask(client, "x" * 500_000))[-1]["answer"] == "You said: " + "x" * 500_000
        await client.send(json.dumps({"query": "x" * 1_000_000}))
        assert (await closed(client))[0] == 1009
    async with connect(made.address) as client:
        assert (await ask(client))[-1]["type"] == "done"


async def test_who_asks_more_than_may_wait_is_sent_away(nodes: Spine, tmp_path: Path) -> None:
    made = await stack(nodes, tmp_path)
    async with connect(made.address) as client:
        for query in ["wait"] + ["next"] * 20:
            await client.send(json.dumps({"query": query}))
        code, reason = await closed(client)
        assert (code, reason) == (1008, "too many questions wait; wait for the answers to those before")
    await asyncio.wait_for(made.model.stopped.wait(), PATIENCE_S)


async def test_what_waits_is_bounded_in_bytes_too(nodes: Spine, tmp_path: Path) -> None:
    made = await stack(nodes, tmp_path)
    async with connect(made.address) as client:
        for query in ["wait"] + ["x" * 500_000] * 3:
            await client.send(json.dumps({"query": query}))
        assert (await closed(client))[0] == 1008


async def test_what_is_no_frame_ends_the_socket_and_harms_nobody_else(nodes: Spine, tmp_path: Path) -> None:
    made = await stack(nodes, tmp_path)
    async with connect(made.address) as bystander:
        for garbage in (b"\x81\x02{}", b"\xff" * 100, b"GET / HTTP/1.1\r\n\r\n", b"\x81\xff" + b"\xff" * 8, b"\x80\x80\0\0\0\0"):
            async with wire(made.gateway.url) as connection:
                connection.send(request("GET", "/v1/ws/agent/tester", *UPGRADE) + garbage)
                assert (await connection.head())[0] == 101
                connection.writer.write_eof()
                assert (await connection.closed())[:1] in (b"\x88", b"")
        assert (await ask(bystander))[-1]["type"] == "done"
    assert made.gateway.peers.all()[0].state == "up"


async def test_a_client_that_does_not_read_holds_the_model_back(nodes: Spine, tmp_path: Path) -> None:
    made = await stack(nodes, tmp_path)
    async with connect(made.address, max_queue=1) as client:
        await client.send('{"query": "flood"}')
        async with asyncio.timeout(PATIENCE_S):
            said = -1
            while said != made.model.said or not said:  # the buffers on the way fill up, and then it stands still
                said = made.model.said
                await asyncio.gather(*(_turn() for _ in range(100)))
        assert said * 10_000 < 32 * 1024 * 1024
        client.transport.abort()
        await asyncio.wait_for(made.model.stopped.wait(), 1)


async def _turn() -> None:
    await asyncio.to_thread(lambda: None)


# What may open one


async def test_a_key_is_needed_and_may_come_as_a_subprotocol_which_goes_no_further(nodes: Spine, tmp_path: Path) -> None:
    made = await stack(nodes, tmp_path, environ=KEYS)
    for node in (made.gateway, made.worker):
        with pytest.raises(InvalidStatus) as refused:
            await connect(socket_url(node.url))
        assert refused.value.response.status_code == 401
        assert json.loads(refused.value.response.body or b"")["error"]["code"] == "invalid_api_key"
    async with connect(made.address, additional_headers=ADA) as client:
        assert (await ask(client))[-1]["type"] == "done"
    key = base64.urlsafe_b64encode(b"sk-2").decode().rstrip("=")
    offered = [Subprotocol("astromesh"), Subprotocol(f"astromesh.key.{key}")]
    async with connect(made.address, subprotocols=offered) as client:
        assert client.subprotocol == "astromesh"
        assert (await ask(client))[-1]["type"] == "done"
    assert made.model.principals == ["ada", "ada"]
    for wrong in ("c2stOQ", "!"):
        with pytest.raises(InvalidStatus) as refused:
            await connect(made.address, subprotocols=[Subprotocol("astromesh"), Subprotocol(f"astromesh.key.{wrong}")])
        assert refused.value.response.status_code == 401


@pytest.mark.parametrize(
    ("origin", "allowed", "status"),
    [
        ("https://evil.example", [], 403),
        ("null", [], 403),
        ("http://[", [], 403),
        ("https://app.example.com", [], 403),
        ("https://app.example.com", ["https://app.example.com"], 101),
        ("https://evil.example", ["https://app.example.com"], 403),
        ("https://anything.example", ["*"], 101),
        ("own", [], 101),
        (None, [], 101),
    ],
)
async def test_pages_of_other_origins_are_refused_unless_they_are_configured(
    nodes: Spine, tmp_path: Path, origin: Origin | None, allowed: list[str], status: int
) -> None:
    made = await stack(nodes, tmp_path, {"cors_origins": allowed})
    page = Origin(made.gateway.url) if origin == "own" else origin
    if status == 101:
        async with connect(made.address, origin=page) as client:
            assert (await ask(client))[-1]["type"] == "done"
        return
    with pytest.raises(InvalidStatus) as refused:
        await connect(made.address, origin=page)
    assert refused.value.response.status_code == status
    told = json.loads(refused.value.response.body or b"")["error"]
    assert (told["code"], "spec.api.cors_origins" in told["message"]) == ("forbidden_origin", True)


async def test_what_is_no_upgrade_or_a_wrong_one_gets_a_proper_answer(nodes: Spine, tmp_path: Path) -> None:
    made = await stack(nodes, tmp_path)
    path = "/v1/ws/agent/tester"
    async with aiohttp.ClientSession() as http, http.get(made.gateway.url + path) as response:
        assert (response.status, (await response.json())["error"]["code"]) == (426, "upgrade_required")
        assert response.headers["Upgrade"] == "websocket"
    with pytest.raises(InvalidStatus) as refused:
        await connect(socket_url(made.gateway.url, "nobody"))
    assert (refused.value.response.status_code, json.loads(refused.value.response.body or b"")["error"]["code"]) == (404, "agent_not_found")
    upgrade = ("Connection: Upgrade", "Upgrade: websocket")
    for node in (made.gateway, made.worker):
        async with wire(node.url) as connection:
            connection.send(request("GET", path, *upgrade))
            answer = await connection.answer()
            assert (answer.status, "sec-websocket-key" in answer.error["message"].lower()) == (400, True)
            assert await connection.closed() == b""
        async with wire(node.url) as connection:
            connection.send(request("GET", path, *upgrade, body=b"a body"))
            assert (await connection.answer()).status == 426
        async with wire(node.url) as connection:  # elsewhere an upgrade is declined, as ever
            connection.send(request("GET", "/livez", *upgrade))
            assert (await connection.answer()).status == 200
            connection.send(request("GET", "/livez"))
            assert (await connection.answer()).status == 200


async def test_sockets_and_requests_have_limits_of_their_own(nodes: Spine, tmp_path: Path) -> None:
    made = await stack(nodes, tmp_path, {"max_concurrency": 2})
    async with connect(made.address), connect(made.address), aiohttp.ClientSession() as http:
        with pytest.raises(InvalidStatus) as refused:
            await connect(made.address)
        assert refused.value.response.status_code == 503
        async with http.get(f"{made.gateway.url}/v1/agents") as response:
            assert response.status == 200
        async with http.get(f"{made.gateway.url}/v1/system/status") as response:
            assert (await response.json())["in_flight"] == 1, "itself"


async def test_questions_count_as_requests_of_their_client_and_one_too_many_ends_the_socket(nodes: Spine, tmp_path: Path) -> None:
    limits = {"keys": {"ada": {"requests_per_minute": 1, "burst": 3, "concurrent": 1}}}
    made = await stack(nodes, tmp_path, {"limits": limits}, environ=KEYS)
    async with connect(made.address, additional_headers=ADA) as client:
        with pytest.raises(InvalidStatus) as refused:
            await connect(made.address, additional_headers=ADA)
        assert refused.value.response.status_code == 429, "a socket is at work while it is open"
        for _ in range(2):
            assert (await ask(client))[-1]["type"] == "done"
        await client.send('{"query": "one too many"}')
        told = await events(client)
        assert (told[-1]["type"], told[-1]["error"]["code"]) == ("error", "rate_limited")
        assert await closed(client) == (1008, "rate_limited")
    assert made.model.principals == ["ada"] * 2


async def test_a_question_that_comes_with_the_upgrade_is_answered_too(nodes: Spine, tmp_path: Path) -> None:
    made = await stack(nodes, tmp_path)
    text = b'{"query": "early"}'
    frame = bytes((0x81, 0x80 | len(text), 0, 0, 0, 0)) + text
    async with wire(made.gateway.url) as connection:
        connection.send(request("GET", "/livez") + request("GET", "/v1/ws/agent/tester", *UPGRADE) + frame)
        assert (await connection.answer()).status == 200
        status, answered = await connection.head()
        assert (status, answered["connection"], answered["upgrade"]) == (101, "upgrade", "websocket")
        async with asyncio.timeout(PATIENCE_S):
            assert b"early" in await connection.reader.readuntil(b'"type":"done"')


async def test_a_socket_passes_two_nodes_that_sign_what_they_send(nodes: Spine, tmp_path: Path) -> None:
    signed = KEYS | {"ASTROMESH_MESH_KEY": "between-nodes"}
    made = await stack(nodes, tmp_path, environ=signed)
    outer = await nodes.node("outer", peers={"gateway": (made.gateway.url, ["channels"])}, environ=signed)
    for _ in range(2):
        async with connect(socket_url(outer.url), additional_headers=ADA) as client:
            assert client.response is not None
            assert client.response.headers["X-Astromesh-Node"] == "worker"
            assert (await ask(client))[-1]["type"] == "done"
    assert made.model.principals == ["ada", "ada"]


async def test_a_client_that_answers_no_ping_is_taken_for_gone(nodes: Spine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(link, "PING_S", 0.2)
    made = await stack(nodes, tmp_path)
    async with connect(made.address) as client:  # one that answers stays
        async with wire(made.gateway.url) as connection:
            connection.send(request("GET", "/v1/ws/agent/tester", *UPGRADE))
            assert (await connection.head())[0] == 101
            assert await connection.closed() == b"\x89\x00\x88\x15\x03\xf3no answer to a ping", "a ping, and the reason of the end"
        assert made.gateway.peers.all()[0].state == "up"
        assert (await ask(client))[-1]["type"] == "done"


# How they end


@pytest.mark.parametrize("busy", [True, False])
async def test_a_worker_that_is_killed_ends_the_socket_with_peer_lost_and_1011(nodes: Spine, tmp_path: Path, busy: bool) -> None:
    async with AsyncExitStack() as running:
        made = await _with_worker_process(nodes, running, tmp_path)
        client = await running.enter_async_context(connect(made.address))
        if busy:
            await client.send('{"query": "wait"}')
            await asyncio.wait_for(made.model.begun.wait(), PATIENCE_S)
        made.process.signal(signal.SIGKILL)
        told = (await events(client))[-1]
        assert (told["type"], told["error"]["code"]) == ("error", "peer_lost")
        assert await closed(client) == (1011, "peer_lost")


async def test_a_worker_that_drains_finishes_the_run_and_then_says_1012_to_all(nodes: Spine, tmp_path: Path) -> None:
    async with AsyncExitStack() as running:
        made = await _with_worker_process(nodes, running, tmp_path, ASTROMESH_DRAIN_S="4")
        idle = await running.enter_async_context(connect(made.address))
        busy = await running.enter_async_context(connect(made.address))
        assert (await ask(idle))[-1]["type"] == "done"
        await busy.send('{"query": "wait"}')
        await asyncio.wait_for(made.model.begun.wait(), PATIENCE_S)
        made.process.signal(signal.SIGTERM)
        assert (await closed(idle))[0] == 1012
        assert not made.model.stopped.is_set()
        told = await events(busy)
        assert (told[-1]["type"], told[-1]["error"]["code"]) == ("error", "shutting_down")
        assert await closed(busy) == (1012, "shutting_down")
        assert await made.process.exit_code() == 0


async def test_a_gateway_that_drains_says_1012_at_its_deadline(nodes: Spine, tmp_path: Path) -> None:
    made = await stack(nodes, tmp_path)
    async with AsyncExitStack() as running:
        peers = {"worker": (made.worker.url, ["agents"])}
        gateway = await start(running, profile(tmp_path / "edge.yaml", [], peers=peers), tmp_path / "edge", ASTROMESH_DRAIN_S="1")
        client = await running.enter_async_context(connect(socket_url(gateway.url)))
        await client.send('{"query": "wait"}')
        await asyncio.wait_for(made.model.begun.wait(), PATIENCE_S)
        gateway.signal(signal.SIGTERM)
        assert await closed(client) == (1012, "shutting_down")
        await asyncio.wait_for(made.model.stopped.wait(), PATIENCE_S)
        assert await gateway.exit_code() == 0


async def test_a_run_that_fails_is_an_error_event_and_the_socket_lives(nodes: Spine, tmp_path: Path) -> None:
    made = await stack(nodes, tmp_path)
    agent_file(tmp_path, "lost", model={"primary": {"model": "m"}}, prompts={"system": "{{ context.a.b }}"})
    async with aiohttp.ClientSession() as http, http.post(f"{made.gateway.url}/v1/agents/reload") as response:
        assert response.status == 200
    async with connect(socket_url(made.gateway.url, "lost")) as client:
        assert (await ask(client))[-1]["error"]["code"] == "invalid_body"
        assert (await ask(client, context={"a": {"b": "c"}}))[-1]["type"] == "done"


class _WithProcess:
    """The gateway and the model in this process, the worker in its own."""

    def __init__(self, folder: Path, model: Model, environ: dict[str, str]) -> None:
        self.model, self._folder, self._environ = model, folder, environ

    async def start(self, nodes: Spine, running: AsyncExitStack) -> None:
        agent_file(self._folder)
        behind = {"inference": service(Route("/v1/chat/completions", cast(Any, self.model), methods=["POST"]))}
        inference = await nodes.node("inference", behind)
        path = profile(self._folder / "worker.yaml", ["agents"], peers={"inference": (inference.url, ["inference"])})
        environ = self._environ | {"ASTROMESH_CONFIG_DIR": str(self._folder / "config")}
        self.process = await start(running, path, self._folder / "worker-data", **environ)
        self.gateway = await nodes.node("gateway", peers={"worker": (self.process.url, ["agents"])})
        self.address = socket_url(self.gateway.url)


async def _with_worker_process(nodes: Spine, running: AsyncExitStack, folder: Path, **environ: str) -> _WithProcess:
    made = _WithProcess(folder, Model(), environ)
    await made.start(nodes, running)
    return made
