"""HTTP/1.1 on the wire, as the node's own protocol speaks it: what a client may say, and in which order it is answered."""

import asyncio
import logging
from typing import Any

import pytest
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from app.edge.protocol import limited
from app.node import Node
from tests.edge.services import telling, tools
from tests.edge.wire import Wire, request, wire
from tests.spine import FakeService, Spine, service

EXPECTING = b"POST /v1/tools/x HTTP/1.1\r\nHost: node\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n"


@pytest.fixture
async def node(nodes: Spine) -> Node:
    return await nodes.node("plain", telling())


class Plain:
    """An ASGI app that sends these messages and reads nothing."""

    def __init__(self, *messages: dict[str, Any]) -> None:
        self._messages = messages

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        for message in self._messages:
            await send(message)


def sending(*messages: dict[str, Any]) -> dict[str, type[FakeService]]:
    return {"tools": service(Route("/v1/tools/x", Plain(*messages)))}


def start(status: int = 200, *headers: tuple[bytes, bytes]) -> dict[str, Any]:
    return {"type": "http.response.start", "status": status, "headers": list(headers)}


def body(data: bytes, *, more: bool = False) -> dict[str, Any]:
    return {"type": "http.response.body", "body": data, "more_body": more}


async def still_open(connection: Wire) -> bool:
    connection.send(request("GET", "/livez"))
    return (await connection.answer()).status == 200


# What a request may look like


@pytest.mark.parametrize(
    ("target", "status"),
    [("http://other:81/v1/tools/x?q=1", 200), ("/v1/tools/%78", 200), ("/v1/tools/x#part", 200), ("http://other", 404), ("*", 404)],
)
async def test_the_target_may_be_a_whole_url_escaped_or_an_asterisk(node: Node, target: str, status: int) -> None:
    async with wire(node.url) as connection:
        connection.send(request("OPTIONS" if target == "*" else "GET", target))
        answer = await connection.answer()
        assert answer.status == status
        assert (b'"path":"/v1/tools/x"' in answer.body) is (status == 200)
        assert await still_open(connection)


@pytest.mark.parametrize("target", ["node:443", "/v1/tools/x"])
async def test_connect_is_refused_once_and_the_connection_closed(node: Node, target: str) -> None:
    async with wire(node.url) as connection:
        connection.send(request("CONNECT", target))
        answer = await connection.answer()
        assert (answer.status, answer.error["code"]) == (501, "not_implemented")
        assert await connection.closed() == b""


@pytest.mark.parametrize("target", ["/v1/tools/\xe9", "/v1/tools/x?\xe9"])
async def test_a_target_that_is_none_is_400(node: Node, target: str) -> None:
    async with wire(node.url) as connection:
        connection.send(request("GET", target))
        assert (await connection.answer()).error["code"] == "malformed_request"
        assert await connection.closed() == b""


async def test_names_of_headers_come_in_lower_case_and_their_values_as_they_are(node: Node) -> None:
    async with wire(node.url) as connection:
        connection.send(request("GET", "/v1/tools/x", "X-Mixed:  As It Is", "x-EMPTY:"))
        answer = await connection.answer()
        assert b'"x-mixed":"As It Is"' in answer.body
        assert b'"x-empty":""' in answer.body


async def test_a_request_may_come_byte_by_byte(node: Node) -> None:
    raw = request("POST", "/v1/tools/x", body=b"hello")
    async with wire(node.url) as connection, wire(node.url) as other:
        for index in range(len(raw)):
            connection.send(raw[index : index + 1])
            assert await still_open(other)  # and so it has arrived
        assert b"hello" in (await connection.answer()).body


@pytest.mark.parametrize("pause", [False, True])
@pytest.mark.parametrize("with_body", [True, False])
async def test_what_comes_behind_an_upgrade_that_is_declined_is_answered_too(node: Node, with_body: bool, pause: bool) -> None:
    upgrade = ("Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAMAAABk")
    async with wire(node.url) as connection, wire(node.url) as other:
        first = request("POST" if with_body else "GET", "/v1/tools/x", *upgrade, body=b"first" if with_body else b"")
        if pause:  # between the head and the body
            head, _, first = first.partition(b"\r\n\r\n")
            connection.send(head + b"\r\n\r\n")
            assert await still_open(other)
        connection.send(first + request("POST", "/v1/tools/x", body=b"second"))
        answer = await connection.answer()
        assert (answer.status, b"first" in answer.body) == (200, with_body)
        assert b"second" in (await connection.answer()).body


# 100 Continue


async def test_leave_to_send_a_body_is_given_when_somebody_reads_it(node: Node) -> None:
    async with wire(node.url) as connection:
        connection.send(EXPECTING)
        assert await connection.head() == (100, {})
        connection.send(b"hello")
        assert b"hello" in (await connection.answer()).body
        assert await still_open(connection)


async def test_no_leave_is_given_for_a_body_that_nobody_reads_and_the_connection_ends(nodes: Spine) -> None:
    node = await nodes.node("keyed", telling(), environ={"ASTROMESH_API_KEYS": "sk-1"})
    async with wire(node.url) as connection:
        connection.send(EXPECTING)
        answer = await connection.answer()
        assert (answer.status, answer.headers["connection"]) == (401, "close")
        assert await connection.closed() == b""


async def test_http_1_0_knows_no_leave(node: Node) -> None:
    async with wire(node.url) as connection:
        connection.send(EXPECTING.replace(b"HTTP/1.1", b"HTTP/1.0") + b"hello")
        assert (await connection.answer()).status == 200


# Connections that stay, and that do not


@pytest.mark.parametrize("version", ["1.0", "1.1"])
async def test_a_client_that_wants_no_more_sees_the_connection_end(node: Node, version: str) -> None:
    header = "Connection: " + ("close" if version == "1.1" else "keep-alive")
    async with wire(node.url) as connection:
        connection.send(request("GET", "/v1/tools/x", header).replace(b"HTTP/1.1", f"HTTP/{version}".encode()))
        answer = await connection.answer()
        assert (answer.status, answer.headers["connection"]) == (200, "close")
        assert await connection.closed() == b""


async def test_an_idle_connection_is_closed_after_its_time_and_no_earlier(nodes: Spine, monkeypatch: pytest.MonkeyPatch) -> None:
    hasty = {"idle_timeout_s": 1.0}  # less than a profile may say
    monkeypatch.setattr("app.server.limited", lambda api, name: type("Hasty", (limited(api, name),), hasty))
    node = await nodes.node("hasty", telling())
    loop = asyncio.get_running_loop()
    async with wire(node.url) as connection:
        for _ in range(3):
            assert await still_open(connection)
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.4):  # longer than the limit in all
                    await connection.reader.read(1)
        answered_at = loop.time()
        assert await still_open(connection)
        assert await connection.closed() == b""
        assert 0.9 < loop.time() - answered_at < 3


async def test_answers_have_a_date(node: Node) -> None:
    async with wire(node.url) as connection:
        async with asyncio.timeout(5):
            while True:  # uvicorn sets it on its first tick
                connection.send(request("GET", "/livez"))
                if (await connection.answer()).headers.get("date", "").endswith("gmt"):
                    break


# Several requests at once


async def test_a_pipelined_request_waits_for_the_answer_before_it(nodes: Spine) -> None:
    begun: list[str] = []
    release = asyncio.Event()

    async def slow(request: Request) -> Response:
        begun.append((await request.body()).decode()[:5])
        if len(begun) == 1:
            await release.wait()
        return PlainTextResponse(begun[-1])

    node = await nodes.node("slow", {"tools": tools(slow)})
    async with wire(node.url) as connection, wire(node.url) as other:
        connection.send(request("POST", "/v1/tools/x", body=b"first") + request("POST", "/v1/tools/x", body=b"other" * 100_000))
        connection.send(request("POST", "/v1/tools/x", body=b"third"))
        async with asyncio.timeout(5):
            while not begun:
                assert await still_open(other)
        assert begun == ["first"]
        release.set()
        assert [(await connection.answer()).body for _ in range(3)] == [b"first", b"other", b"third"]


async def test_nothing_is_answered_behind_a_last_request(node: Node) -> None:
    async with wire(node.url) as connection:
        connection.send(request("POST", "/v1/tools/x", "Connection: close", body=b"last") + request("GET", "/livez"))
        assert b"last" in (await connection.answer()).body
        assert await connection.closed() == b""


async def test_what_is_malformed_behind_good_requests_takes_none_of_their_answers(node: Node) -> None:
    chunked = b"POST /v1/tools/x HTTP/1.1\r\nHost: node\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n"
    for bad in (b"garbage\r\n\r\n", chunked):
        async with wire(node.url) as connection:
            connection.send(b"".join(request("POST", "/v1/tools/x", body=b"number %d" % number) for number in range(3)) + bad)
            for number in range(3):
                assert b"number %d" % number in (await connection.answer()).body
            assert await connection.closed() == b""


# What an answer may look like


async def test_an_answer_to_head_has_the_length_and_no_body(nodes: Spine) -> None:
    async def hello(request: Request) -> Response:
        return PlainTextResponse("hello")

    node = await nodes.node("short", {"tools": tools(hello)})
    async with wire(node.url) as connection:
        connection.send(request("HEAD", "/v1/tools/x"))
        status, headers = await connection.head()
        assert (status, headers["content-length"]) == (200, "5")
        assert await still_open(connection)


@pytest.mark.parametrize("status", [204, 304])
async def test_an_answer_without_a_body_leaves_the_connection_open(nodes: Spine, status: int) -> None:
    node = await nodes.node("empty", sending(start(status), body(b"not sent")))
    async with wire(node.url) as connection:
        connection.send(request("GET", "/v1/tools/x"))
        assert (await connection.head())[0] == status
        assert await still_open(connection)


async def test_an_answer_without_a_length_comes_in_chunks(nodes: Spine) -> None:
    node = await nodes.node("chunked", sending(start(), body(b"one", more=True), body(b"two")))
    async with wire(node.url) as connection:
        connection.send(request("GET", "/v1/tools/x"))
        answer = await connection.answer()
        assert (answer.headers["transfer-encoding"], answer.body) == ("chunked", b"onetwo")
        assert await still_open(connection)


async def test_to_http_1_0_an_answer_without_a_length_ends_with_the_connection(nodes: Spine) -> None:
    node = await nodes.node("old", sending(start(), body(b"one", more=True), body(b"two")))
    async with wire(node.url) as connection:
        connection.send(b"GET /v1/tools/x HTTP/1.0\r\n\r\n")
        _, headers = await connection.head()
        assert "transfer-encoding" not in headers
        assert await connection.closed() == b"onetwo"


async def test_the_head_of_an_answer_does_not_wait_for_its_body(nodes: Spine) -> None:
    release = asyncio.Event()

    class Hesitant:
        async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
            await send(start())
            await release.wait()
            await send(body(b"at last"))

    node = await nodes.node("hesitant", {"tools": service(Route("/v1/tools/x", Hesitant()))})
    async with wire(node.url) as connection:
        connection.send(request("GET", "/v1/tools/x"))
        assert (await connection.head())[0] == 200
        release.set()
        assert await connection.chunk() == b"at last"


@pytest.mark.parametrize("length", [b"3", b"7"])
async def test_an_answer_of_another_length_than_it_says_is_cut_and_the_log_tells(
    nodes: Spine, length: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    node = await nodes.node("lying", sending(start(200, (b"content-length", length)), body(b"hello")))
    async with wire(node.url) as connection:
        connection.send(request("GET", "/v1/tools/x"))
        assert (await connection.head())[1]["content-length"] == length.decode()
        assert len(await connection.closed()) < int(length)
    assert "Content-Length" in caplog.text


@pytest.mark.parametrize(
    "messages", [(start(200, (b"x-bad", b"a\r\nset-cookie: b")),), (body(b"no head"),), (start(299, (b"bad name", b"")),), ()]
)
async def test_an_answer_that_is_no_http_is_500(
    nodes: Spine, messages: tuple[dict[str, Any], ...], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.ERROR)
    node = await nodes.node("wrong", sending(*messages))
    async with wire(node.url) as connection:
        connection.send(request("GET", "/v1/tools/x"))
        answer = await connection.answer()
        assert (answer.status, answer.error["code"]) == (500, "internal_error")
        assert "set-cookie" not in answer.headers


async def test_an_answer_that_its_handler_leaves_unfinished_is_cut(nodes: Spine) -> None:
    node = await nodes.node("half", sending(start(), body(b"half", more=True)))
    async with wire(node.url) as connection:
        connection.send(request("GET", "/v1/tools/x"))
        await connection.head()
        assert await connection.closed() == b"4\r\nhalf\r\n"
