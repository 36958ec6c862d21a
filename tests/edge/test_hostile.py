"""Hostile clients against real nodes, which go on serving others: beside each of them a bystander asks, all of whose requests are answered
within a second. What the hostile ones hear is checked as well, and that the node logs no failure of its own."""

import asyncio
import itertools
import json
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from tests.edge.wire import Wire, request, wire
from tests.nodes import RunningNode, profile, start

pytestmark = pytest.mark.hostile
MIB = 1024 * 1024
SERVED = ["agents", "inference", "memory", "tools"]
SERVING = "/v1/tools/execute 200"
RUN = "/v1/agents/assistant/run"
POST = b"POST /v1/tools/execute HTTP/1.1\r\nHost: node\r\nContent-Type: application/json\r\n"
CHUNKED = POST + b"Transfer-Encoding: chunked\r\n\r\n"


class Stage:
    """Nodes as processes, for one test; at its end none of them may have failed at anything."""

    def __init__(self, folder: Path, stack: AsyncExitStack) -> None:
        self._folder, self._stack = folder, stack
        self.nodes: list[RunningNode] = []

    async def node(self, name: str, services: list[str], *, inside: tuple[str, ...] = (), **spec: Any) -> RunningNode:
        self.nodes.append(await start(self._stack, profile(self._folder / f"{name}.yaml", services, **spec), self._folder / name, inside))
        return self.nodes[-1]

    async def pair(self) -> tuple[RunningNode, RunningNode]:
        """A gateway, and the worker that it passes everything on to; both patient for one second."""
        patience = {"body_idle_timeout_s": 1, "header_timeout_s": 1}
        worker = await self.node("worker", SERVED, api=patience)
        gateway = await self.node("gateway", [], peers={"worker": (worker.url, SERVED)}, api=patience)
        await gateway.wait_for_log("peer worker at")
        return gateway, worker


@pytest.fixture
async def stage(tmp_path: Path) -> AsyncIterator[Stage]:
    async with AsyncExitStack() as stack:
        made = Stage(tmp_path, stack)
        yield made
        for node in made.nodes:
            assert node.process.returncode is None
            assert [line for line in node.log if " error " in line or " critical " in line or "Traceback" in line] == []


@asynccontextmanager
async def companion(module: str, *arguments: str) -> AsyncIterator[Process]:
    """A process that ends when its standard input does."""
    process = await asyncio.create_subprocess_exec(sys.executable, "-m", f"tests.edge.{module}", *arguments, stdin=PIPE, stdout=PIPE)
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate(b"")


@asynccontextmanager
async def bystander(node: RunningNode) -> AsyncIterator[None]:
    """Somebody who asks all the while and is served."""
    async with companion("bystander", node.url) as process:
        await node.wait_for_log(SERVING)
        yield
        told, _ = await asyncio.wait_for(process.communicate(b""), 20)
    found = json.loads(told)
    assert found["wrong"] == []
    assert found["longest_s"] < 1


@asynccontextmanager
async def idlers(node: RunningNode, count: int, *more: str) -> AsyncIterator[None]:
    """So many connections that ask nothing, held by another process."""
    async with companion("idlers", node.url, str(count), *more) as process:
        assert process.stdout is not None
        assert await asyncio.wait_for(process.stdout.readline(), 40) == b"open\n"
        yield


@asynccontextmanager
async def wires(node: RunningNode, count: int) -> AsyncIterator[list[Wire]]:
    async with AsyncExitStack() as stack:
        yield [await stack.enter_async_context(wire(node.url)) for _ in range(count)]


async def pause(seconds: float) -> None:
    """Let time pass, as slow clients do."""
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await asyncio.Event().wait()


async def heard(connection: Wire) -> bytes:
    """All that the node says until it closes, also where it closes hard."""
    with suppress(ConnectionError):
        return await connection.closed()
    return b""


async def heard_until_silence(connection: Wire) -> bytes:
    """All that the node says, until it closes or says nothing for longer than it waits for the rest of anything."""
    told = b""
    with suppress(TimeoutError, ConnectionError):
        while True:
            async with asyncio.timeout(1.5):
                if not (data := await connection.reader.read(MIB)):
                    break
                told += data
    return told


def resident_mb(node: RunningNode) -> float:
    status = Path(f"/proc/{node.process.pid}/status").read_text()
    return int(status.split("VmRSS:")[1].split()[0]) / 1024


# Connections and time


async def test_heads_that_drip_are_cut_off(stage: Stage) -> None:
    node = await stage.node("full", SERVED, api={"header_timeout_s": 1})
    async with bystander(node), wires(node, 300) as slow:
        for number in range(8):
            for connection in slow:
                connection.send(b"X-Drip: y\r\n" if number else b"GET /v1/tools HTTP/1.1\r\n")
            await pause(0.1)
        answers = await asyncio.gather(*(heard(connection) for connection in slow))
    assert all(answer.startswith(b"HTTP/1.1 408") for answer in answers)


async def test_bodies_that_drip_give_way_where_the_node_is_full(stage: Stage) -> None:
    node = await stage.node("full", SERVED, api={"max_concurrency": 200, "body_idle_timeout_s": 2})
    async with bystander(node), wires(node, 450) as slow:
        begun = list[Wire]()
        for number in range(30):
            fresh = slow[len(begun) : len(begun) + (150 if not begun else 15)]
            begun += fresh
            for connection in fresh:
                connection.send(POST + b"Content-Length: 9000\r\n\r\n{")
            for connection in begun if number % 5 == 0 else ():
                connection.send(b" ")
            await pause(0.1)
        answers = await asyncio.gather(*(heard(connection) for connection in begun))
    assert len(begun) == 450
    assert all(b"408 Request Timeout" in answer or b"503 Service Unavailable" in answer for answer in answers if answer)
    assert any(b"at its limit of 200 requests" in answer for answer in answers)
    assert any(b"stood still for 2 s" in answer for answer in answers)


async def test_ten_thousand_idle_connections_and_more_than_may_be_open_keep_nobody_out(stage: Stage) -> None:
    node = await stage.node("full", SERVED)
    async with bystander(node), idlers(node, 10_500):
        await node.wait_for_more(SERVING, 20)
        assert resident_mb(node) < 600


async def test_ten_thousand_half_heads_keep_nobody_out(stage: Stage) -> None:
    node = await stage.node("full", SERVED, api={"max_connections": 2_000})
    async with bystander(node), idlers(node, 10_000, "half"):
        await node.wait_for_more(SERVING, 20)
        assert resident_mb(node) < 600


async def test_a_process_that_may_open_few_files_says_so_and_serves(stage: Stage) -> None:
    node = await stage.node("full", SERVED, inside=("sh", "-c", 'ulimit -n 400; exec "$@"', "sh"))
    assert "raise `ulimit -n`" in await node.wait_for_log("this process may have 400 files open")
    async with bystander(node), idlers(node, 1_000):
        await node.wait_for_more(SERVING, 20)


async def test_clients_that_break_off_leave_nothing_behind(stage: Stage) -> None:
    node = await stage.node("full", SERVED)
    halves = (
        b"GET /v1/to",
        b"POST ",
        POST,
        POST + b"Content-Length: 100\r\n\r\nhalf",
        CHUNKED + b"5\r\nhel",
        CHUNKED,
        b"\r\n",
        b"\x16\x03\x01",
    )
    async with bystander(node):
        for number in range(600):
            async with wire(node.url) as connection:
                connection.send(halves[number % len(halves)])
                await connection.writer.drain()
                if number % 3 == 0:
                    connection.writer.transport.abort()
        async with asyncio.timeout(10):
            while await in_flight(node) > 3:  # the question itself, the bystander's, one that is being cleared away
                pass


async def in_flight(node: RunningNode) -> int:
    async with wire(node.url) as connection:
        connection.send(request("GET", "/v1/system/status"))
        return int(json.loads((await connection.answer()).body)["in_flight"])


# Sizes


async def test_heads_of_twenty_megabytes_are_refused_and_not_kept(stage: Stage) -> None:
    node = await stage.node("full", SERVED)
    endless = b"GET /v1/tools HTTP/1.1\r\nX-Long: " + b"v" * (20 * MIB)
    many = b"GET /v1/tools HTTP/1.1\r\n" + b"X-More: v\r\n" * (2 * MIB)
    target = b"GET /" + b"a" * (20 * MIB)
    async with bystander(node):
        for raw in (endless, many, target) * 5:
            async with wire(node.url) as connection:
                connection.send(raw)
                answer = await heard(connection)
                assert answer.startswith(b"HTTP/1.1 431") or not answer
    assert resident_mb(node) < 300


BODIES = {
    "deep": b"[" * (5 * MIB),
    "deep objects": b'{"query":' * MIB,
    "deep within": b'{"messages":[' + b"[" * 900 + b"]" * 900 + b"]}",
    "a long number": b'{"messages":' + b"9" * MIB + b"}",
    "a large number": b'{"max_tokens":1e999999}',
    "wide": b'{"messages":[' + b"{}," * (2 * MIB) + b"{}]}",
    "wide and nearly right": b'{"messages":[' + b'{"role":"user"},' * (50 * 1024) + b'{"role":1}]}',
    "surrogates": b'{"' + b"\\ud800" * MIB + b'":1}',
}


async def test_json_of_any_depth_and_width_is_refused_in_words(stage: Stage) -> None:
    node = await stage.node("full", SERVED)
    paths = (RUN, "/v1/chat/completions", "/v1/tools/execute", "/v1/memory/a/history/s", "/v1/embeddings")
    async with bystander(node):
        for (kind, body), path in itertools.product(BODIES.items(), paths):
            async with wire(node.url) as connection:
                connection.send(request("POST", path, "Content-Type: application/json", body=body))
                answer = await connection.answer()
                assert answer.status in (400, 422), (kind, path, answer.status)
                assert 0 < len(answer.error["message"]) < 2_000, (kind, path)


# Bytes that are none of the protocol's


NO_UTF8 = (
    (b"GET /v1/agents/\xff\xfe HTTP/1.1\r\nHost: n\r\n\r\n", {400}),
    (b"GET /v1/agents/%ff%fe HTTP/1.1\r\nHost: n\r\n\r\n", {404}),
    (b"GET /v1/models/%c3%28 HTTP/1.1\r\nHost: n\r\n\r\n", {404}),
    (b"GET /v1/memory/%ed%a0%80/history/%00 HTTP/1.1\r\nHost: n\r\n\r\n", {400}),
    (b"GET /v1/agents/..%2f..%2fetc%2fpasswd HTTP/1.1\r\nHost: n\r\n\r\n", {404}),
    (b"GET /v1/memory/a/history/s?max_turns=%ff HTTP/1.1\r\nHost: n\r\n\r\n", {400}),
    (b"GET /v1/tools HTTP/1.1\r\nHost: n\r\nX-Session-Id: \xff\xfe\r\n\r\n", {400}),
    (b"GET /v1/tools HTTP/1.1\r\nHost: n\r\nX-Request-Id: \xff\r\nTraceparent: \xff\r\nCookie: \xff\r\n\r\n", {200}),
    (b"GET /v1/tools HTTP/1.1\r\nHost: n\r\nAuthorization: Basic \xff\xff\r\n\r\n", {200}),
    (b"GET /v1/tools HTTP/1.1\r\nHost: n\r\nX-Nul: a\x00b\r\n\r\n", {400}),
    (b"GET /v1/tools HTTP/1.1\r\nHost: n\r\n\xff: x\r\n\r\n", {400}),
    (POST.replace(b"application/json", b"\xff/\xff") + b"Content-Length: 2\r\n\r\n{}", {415}),
    (POST + b"Content-Length: 17\r\n\r\n" + b'{"tool_name":"\xff"}', {400}),
    (POST + b"Content-Length: 3\r\n\r\n\xed\xa0\x80", {400}),
    (POST + b"Content-Length: 4\r\n\r\n\xff\xfe{\x00", {400}),
)


async def test_what_is_no_utf8_is_refused_or_passed_over_and_never_a_failure(stage: Stage) -> None:
    for node in await stage.pair():
        async with bystander(node):
            for raw, statuses in NO_UTF8:
                async with wire(node.url) as connection:
                    connection.send(raw)
                    answer = await connection.answer()
                assert answer.status in statuses, (raw, answer.body)
                assert answer.status == 200 or answer.error["message"]


CHUNKS = (
    b"ffffffffffffffff1\r\n",
    b"-1\r\nx\r\n",
    b"0x5\r\nhello\r\n",
    b"5 5\r\nhello\r\n",
    b"g\r\n",
    b"\r\n\r\n",
    b"5\nhello\n0\n\n",
    b"5\r\nhelloworld\r\n",
    b"5\r\nhello0\r\n\r\n",
    b"00000000000000000000000000000000000005x\r\nhello\r\n",
    b"5;" + b"a" * (2 * MIB),
    b"0\r\n" + b"X-Trailer: v\r\n" * 200_000,
)


async def test_chunks_that_are_none_end_the_request_and_the_connection(stage: Stage) -> None:
    for node in await stage.pair():
        async with bystander(node):
            for chunks in CHUNKS:
                async with wire(node.url) as connection:
                    connection.send(CHUNKED + chunks)
                    answer = await heard(connection)
                assert not answer.startswith(b"HTTP/1.1 2"), chunks[:50]
                assert answer.count(b"HTTP/1.1 4") <= 1, chunks[:50]


async def test_floods_of_pipelined_requests_are_answered_at_the_pace_at_which_they_are_read(stage: Stage) -> None:
    node = await stage.node("full", SERVED)
    flood = request("GET", "/v1/tools/builtin") * 500
    async with bystander(node), wires(node, 10) as flooding:
        for connection in flooding[1:]:
            connection.send(flood * 4)  # and reads nothing of some megabytes of answers
        flooding[0].send(flood)
        for _ in range(500):
            assert (await flooding[0].answer()).status == 200
    assert resident_mb(node) < 300


# Requests within requests

HIDDEN = b"GET /smuggled HTTP/1.1\r\nHost: node\r\n\r\n"
BODY = b'{"tool_name":"datetime_now"}'


def smuggling(*lines: bytes, body: bytes) -> bytes:
    return POST + b"".join(line + b"\r\n" for line in lines) + b"\r\n" + body


CASES = {
    "CL.TE": smuggling(b"Content-Length: %d" % (5 + len(HIDDEN)), b"Transfer-Encoding: chunked", body=b"0\r\n\r\n" + HIDDEN),
    "TE.CL": smuggling(b"Transfer-Encoding: chunked", b"Content-Length: 4", body=b"%x\r\n" % len(HIDDEN) + HIDDEN + b"\r\n0\r\n\r\n"),
    "TE, spaced": smuggling(b"Transfer-Encoding : chunked", b"Content-Length: 5", body=b"0\r\n\r\n" + HIDDEN),
    "TE, with a tab": smuggling(b"Transfer-Encoding:\tchunked", b"Content-Length: 5", body=b"0\r\n\r\n" + HIDDEN),
    "TE, folded": smuggling(b"Transfer-Encoding:", b" chunked", b"Content-Length: 5", body=b"0\r\n\r\n" + HIDDEN),
    "TE, twice": smuggling(b"Transfer-Encoding: chunked", b"Transfer-Encoding: identity", b"Content-Length: 5", body=b"0\r\n\r\n" + HIDDEN),
    "TE, unknown": smuggling(b"Transfer-Encoding: xchunked", b"Content-Length: 5", body=b"0\r\n\r\n" + HIDDEN),
    "TE, listed": smuggling(b"Transfer-Encoding: identity, chunked", b"Content-Length: 5", body=b"0\r\n\r\n" + HIDDEN),
    "TE, behind a nul": smuggling(b"Transfer-Encoding: \x00chunked", b"Content-Length: 5", body=b"0\r\n\r\n" + HIDDEN),
    "TE, by a bare line feed": smuggling(b"X: y\nTransfer-Encoding: chunked", b"Content-Length: 5", body=b"0\r\n\r\n" + HIDDEN),
    "TE, by a bare return": smuggling(b"X: y\rTransfer-Encoding: chunked", b"Content-Length: 5", body=b"0\r\n\r\n" + HIDDEN),
    "CL, twice": smuggling(b"Content-Length: 0", b"Content-Length: %d" % len(HIDDEN), body=HIDDEN),
    "CL, listed": smuggling(b"Content-Length: 0, %d" % len(HIDDEN), body=HIDDEN),
    "CL, signed": smuggling(b"Content-Length: +%d" % len(HIDDEN), body=HIDDEN),
    "CL, in hexadecimal": smuggling(b"Content-Length: 0x%x" % len(HIDDEN), body=HIDDEN),
    "CL, too large": smuggling(b"Content-Length: 18446744073709551616", body=HIDDEN),
    "an upgrade": smuggling(b"Connection: Upgrade, HTTP2-Settings", b"Upgrade: h2c", b"Content-Length: %d" % len(BODY), body=BODY),
    "what a connection may not name": smuggling(b"Connection: close, Content-Length", b"Content-Length: %d" % len(BODY), body=BODY),
}


HARMLESS = {"an upgrade", "what a connection may not name"}


async def test_no_request_is_smuggled_in_another_through_a_gateway_or_to_a_node(stage: Stage) -> None:
    gateway, worker = await stage.pair()
    for node in (gateway, worker):
        async with bystander(node), wires(node, len(CASES)) as connections:
            for connection, raw in zip(connections, CASES.values(), strict=True):
                connection.send(raw)
            answers = await asyncio.gather(*(heard_until_silence(connection) for connection in connections))
        for case, answer in zip(CASES, answers, strict=True):
            assert answer.startswith(b"HTTP/1.1 "), case
            assert (b"HTTP/1.1 200" in answer) is (case in HARMLESS), (case, answer)
    async with wire(worker.url) as connection:
        connection.send(request("GET", "/v1/tools/last"))
        await connection.answer()
    await worker.wait_for_log("/v1/tools/last")
    assert [line for node in stage.nodes for line in node.log if "smuggled" in line] == []
