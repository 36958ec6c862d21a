"""The limits of the public edge, and requests that are none: each is answered in the one shape, and the node goes on."""

import asyncio
import contextlib
import http.client
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from urllib.parse import urlsplit

import aiohttp
import pytest
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response

from app.edge import exchange
from app.node import Node
from tests.edge.services import Worker, telling, tools
from tests.edge.wire import Answer, Wire, request, wire
from tests.spine import Spine

MIB = 1024 * 1024
POST = request("POST", "/v1/tools/x", body=b"hello")
HEAD_OF_CHUNKED = b"POST /v1/tools/x HTTP/1.1\r\nHost: node\r\nTransfer-Encoding: chunked\r\n\r\n"


@pytest.fixture
async def node(nodes: Spine) -> Node:
    return await nodes.node("limited", telling(), api={"max_body_bytes": 1024, "header_timeout_s": 0.3, "body_idle_timeout_s": 0.3})


async def goes_on(node: Node) -> None:
    async with wire(node.url) as fresh:
        fresh.send(POST)
        assert (await fresh.answer()).status == 200


def refused(answer: Answer, status: int, code: str) -> None:
    assert (answer.status, answer.error["code"]) == (status, code)


async def test_a_body_that_is_announced_too_long_is_413_before_it_is_sent(node: Node) -> None:
    async with wire(node.url) as connection:
        connection.send(b"POST /v1/tools/x HTTP/1.1\r\nHost: node\r\nContent-Length: 1025\r\nExpect: 100-continue\r\n\r\n")
        refused(await connection.answer(), 413, "body_too_large")


async def test_a_body_that_turns_out_too_long_is_413(node: Node) -> None:
    async with wire(node.url) as connection:
        connection.send(HEAD_OF_CHUNKED + (b"100\r\n" + b"x" * 256 + b"\r\n") * 5)
        answer = await connection.answer()
        refused(answer, 413, "body_too_large")
        assert "max_body_bytes" in answer.error["message"]


async def test_a_body_of_just_the_limit_is_taken(node: Node, client: aiohttp.ClientSession) -> None:
    async def pieces() -> AsyncIterator[bytes]:
        for _ in range(4):
            yield b"x" * 256

    for data in (b"x" * 1024, pieces()):
        async with client.post(f"{node.url}/v1/tools/x", data=data) as response:
            assert (await response.json())["body"] == "x" * 1024


async def test_a_client_that_sends_all_of_its_long_body_first_still_reads_the_413(node: Node) -> None:
    def ask() -> int:
        parts = urlsplit(node.url)
        connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=10)
        with contextlib.closing(connection):
            connection.request("POST", "/v1/tools/x", body=b"x" * (16 * MIB))
            return connection.getresponse().status

    assert await asyncio.to_thread(ask) == 413


@pytest.mark.parametrize("begun", [b"", b"5\r\nhel"])
async def test_a_body_that_stands_still_is_408_and_the_connection_ends(node: Node, begun: bytes) -> None:
    async with wire(node.url) as connection:
        connection.send(HEAD_OF_CHUNKED + begun)
        refused(await connection.answer(), 408, "request_timeout")
        assert await connection.closed() == b""


async def test_a_slow_body_that_moves_is_taken(node: Node) -> None:
    async with wire(node.url) as connection:
        connection.send(HEAD_OF_CHUNKED)
        for _ in range(4):
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.15):  # twice the idle limit in all
                    await connection.reader.read(1)
            connection.send(b"1\r\nx\r\n")
        connection.send(b"0\r\n\r\n")
        assert (await connection.answer()).status == 200


async def test_the_rest_of_a_refused_body_must_come_in_time(nodes: Spine) -> None:
    node = await nodes.node("keyed", telling(), api={"header_timeout_s": 0.3}, environ={"ASTROMESH_API_KEYS": "sk-1"})
    async with wire(node.url) as connection:
        connection.send(b"POST /v1/tools/x HTTP/1.1\r\nHost: node\r\nContent-Length: 100\r\n\r\nhalf")
        refused(await connection.answer(), 401, "invalid_api_key")
        connection.send(b"a bit more")
        assert await connection.closed() == b""


async def test_a_refused_body_that_comes_whole_leaves_the_connection_open(nodes: Spine) -> None:
    node = await nodes.node("keyed", telling(), api={"header_timeout_s": 0.3}, environ={"ASTROMESH_API_KEYS": "sk-1"})
    async with wire(node.url) as connection:
        connection.send(b"POST /v1/tools/x HTTP/1.1\r\nHost: node\r\nContent-Length: 9\r\n\r\nhalf")
        refused(await connection.answer(), 401, "invalid_api_key")
        connection.send(b"other")
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.6):
                await connection.reader.read(1)
        connection.send(request("GET", "/livez"))
        assert (await connection.answer()).status == 200


async def test_half_a_head_behind_a_request_does_not_end_the_work_on_it(nodes: Spine) -> None:
    worker = Worker()
    node = await nodes.node("patient", {"tools": tools(worker.after_the_body)}, api={"header_timeout_s": 0.2, "deadline_s": 0.6})
    async with wire(node.url) as connection:
        connection.send(POST + b"GET /v1/to")
        refused(await connection.answer(), 504, "deadline_exceeded")
        refused(await connection.answer(), 408, "request_timeout")


async def test_a_head_over_the_limit_is_431_whole_or_endless(nodes: Spine) -> None:
    node = await nodes.node("plain", telling())
    whole = request("GET", "/v1/tools/x", *(f"X-{number}: {'v' * 1000}" for number in range(66)))
    endless = b"GET /v1/tools/x HTTP/1.1\r\nHost: node\r\nX-Long: " + b"v" * 70_000
    for raw in (whole, endless, b"GET /" + b"a" * 70_000, request("GET", "/v1/tools/x?" + "q" * 70_000)):
        async with wire(node.url) as connection:
            connection.send(raw)
            refused(await connection.answer(), 431, "header_too_large")
            await connection.closed()
    await goes_on(node)


async def test_an_endless_stream_of_headers_is_cut_off(nodes: Spine) -> None:
    node = await nodes.node("plain", telling())
    async with wire(node.url) as connection:
        connection.send(b"GET /v1/tools/x HTTP/1.1\r\nHost: node\r\n")
        for _ in range(100):
            connection.send((b"X-More: " + b"v" * 1000 + b"\r\n") * 10)
        refused(await connection.answer(), 431, "header_too_large")
    await goes_on(node)


async def test_a_head_of_just_under_the_limit_is_taken(nodes: Spine) -> None:
    node = await nodes.node("plain", telling())
    async with wire(node.url) as connection:
        connection.send(request("GET", "/v1/tools/x", *(f"X-{number}: {'v' * 1000}" for number in range(62))))
        assert (await connection.answer()).status == 200


async def test_half_a_head_is_answered_408_and_closed(node: Node) -> None:
    async with wire(node.url) as connection:
        connection.send(b"GET /v1/tools/x HTTP/1.1\r\nHost: no")
        refused(await connection.answer(), 408, "request_timeout")
        assert await connection.closed() == b""


async def test_a_head_that_drips_is_closed_as_well(node: Node) -> None:
    async with wire(node.url) as connection:
        connection.send(b"GET /v1/tools/x HTTP/1.1\r\n")
        head = asyncio.create_task(connection.head())
        while not head.done():
            connection.send(b"X: y\r\n")
            await asyncio.wait([head], timeout=0.05)
        assert (await head)[0] == 408


async def test_a_connection_that_never_speaks_is_closed_and_one_between_requests_is_not(node: Node) -> None:
    async with wire(node.url) as silent, wire(node.url) as speaking:
        speaking.send(POST)
        assert (await speaking.answer()).status == 200
        assert await silent.closed() == b""  # at header_timeout_s; the other one has been idle as long
        speaking.send(POST)
        assert (await speaking.answer()).status == 200


async def test_the_second_head_on_a_connection_is_limited_like_the_first(node: Node) -> None:
    async with wire(node.url) as connection:
        connection.send(POST)
        assert (await connection.answer()).status == 200
        connection.send(b"GET /v1/tools/x HTTP/1.1\r\nX-Half")
        refused(await connection.answer(), 408, "request_timeout")


async def test_a_long_body_with_the_start_of_the_next_request_behind_it_is_no_long_head(nodes: Spine) -> None:
    node = await nodes.node("plain", telling())
    async with wire(node.url) as connection:
        next_one = request("POST", "/v1/tools/x", body=b"next")
        connection.send(request("POST", "/v1/tools/x", body=b"x" * 200_000) + next_one[:20])
        first = await connection.answer()
        assert (first.status, len(first.body) > 200_000) == (200, True)
        connection.send(next_one[20:])
        assert b"next" in (await connection.answer()).body


@pytest.mark.parametrize(
    "raw",
    [
        b"NOT HTTP AT ALL\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",  # TLS spoken to a plain port
        b"GET /v1/tools/x HTTP/1.1\r\nHost node\r\n\r\n",
        b"GET /v1/tools/x HTTP/1.1\r\nBad Header: 1\r\n\r\n",
        b"GET  HTTP/1.1\r\n\r\n",
        b"GET noslash HTTP/1.1\r\nHost: node\r\n\r\n",
        b"POST /v1/tools/x HTTP/1.1\r\nHost: node\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"POST /v1/tools/x HTTP/1.1\r\nHost: node\r\nTransfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n0\r\n\r\n",
        b"POST /v1/tools/x HTTP/1.1\r\nHost: node\r\nContent-Length: 4\r\nContent-Length: 5\r\n\r\nhello",
        b"POST /v1/tools/x HTTP/1.1\r\nHost: node\r\nContent-Length: -1\r\n\r\n",
        b"POST /v1/tools/x HTTP/1.1\r\nHost: node\r\nContent-Length: 5x\r\n\r\nhello",
        b"POST /v1/tools/x HTTP/1.1\r\nHost: node\r\nTransfer-Encoding: gzip\r\n\r\nhello",
    ],
)
async def test_what_is_no_http_or_could_smuggle_is_400_and_the_connection_ends(node: Node, raw: bytes) -> None:
    async with wire(node.url) as connection:
        connection.send(raw)
        refused(await connection.answer(), 400, "malformed_request")
        assert await connection.closed() == b""
    await goes_on(node)


async def test_a_chunk_that_is_none_ends_the_connection_and_the_work(nodes: Spine) -> None:
    node = await nodes.node("plain", telling())
    async with wire(node.url) as connection:
        connection.send(HEAD_OF_CHUNKED + b"5\r\nhello\r\nxyz\r\n")
        assert b"200 OK" not in await connection.closed()
    await goes_on(node)


async def test_trailers_are_not_kept(node: Node) -> None:
    async with wire(node.url) as connection:
        connection.send(HEAD_OF_CHUNKED + b"5\r\nhello\r\n0\r\nX-Astromesh-Principal: root\r\nX-Late: 1\r\n\r\n")
        answer = await connection.answer()
        assert answer.status == 200
        assert b"x-late" not in answer.body
        assert b"root" not in answer.body


async def test_pipelined_requests_are_answered_in_order(node: Node) -> None:
    async with wire(node.url) as connection:
        connection.send(b"".join(request("POST", "/v1/tools/x", body=b"number %d" % number) for number in range(5)))
        for number in range(5):
            assert b"number %d" % number in (await connection.answer()).body


async def test_a_connection_over_the_limit_takes_the_place_of_the_one_that_is_idle_for_longest(nodes: Spine) -> None:
    node = await nodes.node("small", telling(), api={"max_connections": 2})
    async with wire(node.url) as first, wire(node.url) as second:
        for connection in (first, second, first):
            connection.send(POST)
            assert (await connection.answer()).status == 200
        async with wire(node.url) as third:
            third.send(POST)
            assert (await third.answer()).status == 200
            assert await second.closed() == b""
            for connection in (first, third):
                connection.send(POST)
                assert (await connection.answer()).status == 200


async def test_half_a_head_makes_room_for_a_whole_one(nodes: Spine) -> None:
    node = await nodes.node("small", telling(), api={"max_connections": 1})
    async with wire(node.url) as slow:
        slow.send(b"GET /v1/tools/x HTTP/1.1\r\nHost: no")
        async with wire(node.url) as other:
            other.send(POST)
            assert (await other.answer()).status == 200
            assert await slow.closed() == b""


async def test_connections_over_the_limit_are_turned_away_while_all_are_at_work(nodes: Spine) -> None:
    worker = Worker()
    node = await nodes.node("small", {"tools": tools(worker.without_reading)}, api={"max_connections": 1})
    async with wire(node.url) as busy:
        busy.send(request("GET", "/v1/tools/x"))
        await asyncio.wait_for(worker.begun.wait(), 5)
        async with wire(node.url) as second:
            refused(await second.answer(), 503, "too_many_connections")
        assert not worker.stopped.is_set()
    await asyncio.wait_for(worker.stopped.wait(), 5)
    async with asyncio.timeout(10):
        while not await _is_alive(node):
            pass


async def _is_alive(node: Node) -> bool:
    async with wire(node.url) as connection:
        connection.send(request("GET", "/livez"))
        return (await connection.answer()).status == 200


async def test_requests_over_the_limit_are_not_begun_and_health_is_still_answered(nodes: Spine, client: aiohttp.ClientSession) -> None:
    worker = Worker()
    node = await nodes.node("small", {"tools": tools(worker.after_the_body)}, api={"max_concurrency": 1})
    busy = asyncio.create_task(client.post(f"{node.url}/v1/tools/x").__aenter__())
    await asyncio.wait_for(worker.begun.wait(), 5)
    async with client.post(f"{node.url}/v1/tools/x") as response:
        assert (response.status, (await response.json())["error"]["code"]) == (503, "not_begun")
        assert response.headers["X-Astromesh-Not-Begun"] == "1"
        assert response.headers["Retry-After"] == "1"
    async with client.get(f"{node.url}/livez") as response:
        assert response.status == 200
    busy.cancel()


async def test_a_body_that_comes_slowly_gives_way_where_the_node_is_at_its_limit(nodes: Spine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exchange, "GRACE_S", 0.05)
    node = await nodes.node("small", telling(), api={"max_concurrency": 1})
    async with wire(node.url) as slow:
        slow.send(b"POST /v1/tools/x HTTP/1.1\r\nHost: node\r\nContent-Length: 5000\r\n\r\nh")
        async with asyncio.timeout(10):
            while await _status(node) != 200:
                pass
        answer = await slow.answer()
        refused(answer, 408, "request_timeout")
        assert "at its limit of 1 requests" in answer.error["message"]
        assert await slow.closed() == b""


async def _status(node: Node) -> int:
    async with wire(node.url) as connection:
        connection.send(POST)
        return (await connection.answer()).status


async def test_an_upgrade_is_answered_as_plain_http(nodes: Spine) -> None:
    async def hello(request: Request) -> Response:
        return PlainTextResponse("hello")

    node = await nodes.node("plain", {"tools": tools(hello)})
    async with wire(node.url) as connection:
        connection.send(request("GET", "/v1/tools/x", "Connection: Upgrade", "Upgrade: h2c"))
        answer = await connection.answer()
        assert (answer.status, answer.body) == (200, b"hello")


async def test_many_connections_at_once_are_all_answered(node: Node) -> None:
    async def ask(connection: Wire) -> int:
        connection.send(POST)
        return (await connection.answer()).status

    async def one() -> int:
        async with wire(node.url) as connection:
            return await ask(connection)

    assert set(await asyncio.gather(*(one() for _ in range(200)))) == {200}


async def test_stray_bytes_behind_a_request_do_not_take_its_answer(node: Node) -> None:
    async with wire(node.url) as connection:
        connection.send(request("POST", "/v1/tools/x", body=b"whole") + b" xx\r\n\r\n")
        assert b"whole" in (await connection.answer()).body
        assert await connection.closed() == b""


async def test_what_the_server_refuses_by_itself_names_the_node_and_an_id_too(node: Node) -> None:
    async with wire(node.url) as connection:
        connection.send(b"garbage\r\n\r\n")
        headers = (await connection.answer()).headers
        assert headers["x-request-id"].startswith("req_")
        assert headers["x-astromesh-node"]


async def test_clients_that_read_no_answers_do_not_hold_the_node(nodes: Spine, client: aiohttp.ClientSession) -> None:
    node = await nodes.node("patient", telling(), environ={"ASTROMESH_API_KEYS": "node:sk-1"})
    async with AsyncExitStack() as stack:
        for _ in range(3):
            deaf = await stack.enter_async_context(wire(node.url))
            deaf.writer.transport.set_write_buffer_limits(high=1 << 24)
            deaf.send(request("GET", "/v1/tools/x", f"X-Request-Id: {'x' * 128}") * 20_000)
        headers = {"Authorization": "Bearer sk-1"}
        async with asyncio.timeout(15):
            while True:
                async with client.get(f"{node.url}/v1/system/status", headers=headers) as response:
                    if (await response.json())["in_flight"] == 1:
                        break


async def test_a_client_that_never_reads_its_last_answer_is_let_go(nodes: Spine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.flow.LINGER_S", 0.1)
    node = await nodes.node("generous", telling(), api={"max_connections": 1})
    async with wire(node.url) as deaf:
        deaf.writer.transport.pause_reading()  # type: ignore[attr-defined]
        deaf.send(request("POST", "/v1/tools/x", "Connection: close", body=b"x" * 9_000_000))
        async with asyncio.timeout(10):
            while True:
                async with wire(node.url) as next_one:
                    next_one.send(request("GET", "/livez"))
                    if (await next_one.answer()).status == 200:
                        break
