"""One request and its answer: ids, the one error shape, deadlines, clients that leave or stop reading."""

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Callable
from typing import Any

import aiohttp
import pytest
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse

from app import sse
from app.body import require_json
from app.node import Node
from tests.edge.services import Worker, telling, tools
from tests.edge.wire import request, wire
from tests.spine import Spine

STREAM_CHUNK = b"data: " + b"x" * 100_000 + b"\n\n"


async def test_a_usable_request_id_is_kept_and_another_replaced(nodes: Spine, client: aiohttp.ClientSession) -> None:
    node = await nodes.node("ids", telling())
    for given, kept in (("mine-1.2:3_4", True), ("x" * 128, True), ("x" * 129, False), ("two words", False), ("é", False), (None, False)):
        headers = {"X-Request-Id": given} if given else {}
        async with client.get(f"{node.url}/v1/tools/x", headers=headers) as response:
            answered = response.headers["X-Request-Id"]
            assert (await response.json())["context"]["request_id"] == answered
        assert (answered == given) is kept
        assert answered.startswith("req_") is not kept


async def test_every_answer_names_its_node_also_an_error(nodes: Spine, client: aiohttp.ClientSession) -> None:
    node = await nodes.node("named", telling(), environ={"ASTROMESH_API_KEYS": "sk-1"})
    for path, status in (("/livez", 200), ("/v1/tools/x", 401)):
        async with client.get(node.url + path, headers={"X-Request-Id": "mine"}) as response:
            assert response.status == status
            assert response.headers["X-Astromesh-Node"] == "named"
            assert response.headers["X-Request-Id"] == "mine"


async def test_a_trace_goes_on_and_a_broken_one_begins_anew(nodes: Spine, client: aiohttp.ClientSession) -> None:
    node = await nodes.node("traced", telling())
    trace = "4bf92f3577b34da6a3ce929d0e0e4736"
    for given, goes_on in ((f"00-{trace}-00f067aa0ba902b7-00", True), (f"00-{trace}-{'0' * 16}-01", False), ("garbage", False)):
        async with client.get(f"{node.url}/v1/tools/x", headers={"traceparent": given, "tracestate": "a=1"}) as response:
            context = (await response.json())["context"]
        assert (context["traceparent"].split("-")[1] == trace) is goes_on
        assert context["traceparent"] != given
        assert context["tracestate"] == "a=1"


async def test_unknown_paths_and_methods_are_errors_in_the_one_shape(nodes: Spine, client: aiohttp.ClientSession) -> None:
    node = await nodes.node("plain", telling())
    cases: list[tuple[str, str, int, str]] = [
        ("GET", "/", 404, "not_found"),
        ("GET", "/v1", 404, "not_found"),
        ("GET", "/v1/nothing", 404, "not_found"),
        ("GET", "/v1/tools/nothing", 404, "not_found"),
        ("GET", "/v1/system/nothing", 404, "not_found"),
        ("DELETE", "/v1/tools/x", 405, "method_not_allowed"),
        ("POST", "/v1/system/status", 405, "method_not_allowed"),
        ("POST", "/livez", 405, "method_not_allowed"),
        ("GET", "/v1/chat/completions", 405, "method_not_allowed"),
        ("POST", "/v1/models", 405, "method_not_allowed"),
        ("DELETE", "/v1/models/some/model", 405, "method_not_allowed"),
    ]
    for method, path, status, code in cases:
        async with client.request(method, node.url + path) as response:
            assert (response.status, (await response.json())["error"]["code"]) == (status, code), (method, path)
            if status == 405:
                assert "GET" in response.headers["Allow"] or "POST" in response.headers["Allow"]


async def test_paths_answer_with_and_without_a_trailing_slash(nodes: Spine, client: aiohttp.ClientSession) -> None:
    node = await nodes.node("plain", telling())
    for path in ("/v1/tools/x", "/v1/system/status", "/v1/system/doctor", "/v1/health", "/livez", "/readyz"):
        for spelled in (path, path + "/"):
            async with client.get(node.url + spelled, allow_redirects=False) as response:
                assert response.status == 200, spelled


async def test_a_handler_that_raises_is_500_without_its_reason_and_the_node_goes_on(
    nodes: Spine, client: aiohttp.ClientSession, caplog: pytest.LogCaptureFixture
) -> None:
    async def fail(request: Request) -> Response:
        raise RuntimeError("secret detail")

    node = await nodes.node("failing", {"tools": tools(fail)})
    for _ in range(2):
        async with client.get(f"{node.url}/v1/tools/x", headers={"X-Request-Id": "find-me"}) as response:
            text = await response.text()
            assert (response.status, json.loads(text)["error"]["code"]) == (500, "internal_error")
            assert "find-me" in text
            assert "secret detail" not in text
            assert "Traceback" not in text
    assert "secret detail" in caplog.text


async def test_another_content_type_than_json_is_415_on_a_json_route(nodes: Spine, client: aiohttp.ClientSession) -> None:
    async def strict(request: Request) -> Response:
        require_json(request.headers.get("content-type", ""))
        return PlainTextResponse("taken")

    node = await nodes.node("strict", {"tools": tools(strict), "inference": tools(strict)})
    for path in ("/v1/tools/x", "/v1/chat/completions", "/v1/embeddings", "/v1/agents/a/run"):
        async with client.post(node.url + path, data=b"{}", headers={"Content-Type": "text/plain"}) as response:
            assert (response.status, (await response.json())["error"]["code"]) == (415, "unsupported_media_type")
    async with client.post(f"{node.url}/v1/tools/x", data=b"{}", headers={"Content-Type": "Application/JSON; charset=utf-8"}) as response:
        assert response.status == 200


@pytest.mark.parametrize("how", [Worker.without_reading, Worker.after_the_body])
async def test_work_past_the_deadline_is_stopped_and_answered_504(
    nodes: Spine, client: aiohttp.ClientSession, how: Callable[[Worker, Request], Any]
) -> None:
    worker = Worker()
    node = await nodes.node("late", {"tools": tools(how.__get__(worker))}, api={"deadline_s": 0.2})
    async with client.post(f"{node.url}/v1/tools/x", data=b"1") as response:
        assert (response.status, (await response.json())["error"]["code"]) == (504, "deadline_exceeded")
    assert worker.stopped.is_set()


async def test_a_stream_past_the_deadline_ends_in_an_error_event(nodes: Spine, client: aiohttp.ClientSession) -> None:
    worker = Worker()
    node = await nodes.node("late", {"tools": tools(worker.streaming)}, api={"deadline_s": 0.2})
    async with client.post(f"{node.url}/v1/tools/x", data=b"1") as response:
        events = [event async for event in sse.decode(response.content.iter_any())]
    assert [event.name for event in events] == ["message", "error"]
    assert json.loads(events[1].data)["error"]["code"] == "deadline_exceeded"
    assert worker.stopped.is_set()


async def test_a_timeout_of_the_handlers_own_is_not_called_the_deadline(nodes: Spine, client: aiohttp.ClientSession) -> None:
    async def impatient(request: Request) -> Response:
        async with asyncio.timeout(0):
            await asyncio.Event().wait()
        return Response()

    node = await nodes.node("impatient", {"tools": tools(impatient)})
    async with client.get(f"{node.url}/v1/tools/x") as response:
        assert (response.status, (await response.json())["error"]["code"]) == (500, "internal_error")


LEAVING = {
    "a GET whose handler never reads": ("without_reading", request("GET", "/v1/tools/x")),
    "a POST that waits for its first byte": ("after_the_body", request("POST", "/v1/tools/x", body=b"x")),
    "a chunked POST": (
        "after_the_body",
        b"POST /v1/tools/x HTTP/1.1\r\nHost: node\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n\r\n",
    ),
    "a POST of a long body": ("after_the_body", request("POST", "/v1/tools/x", body=b"x" * 1_000_000)),
    "a stream": ("streaming", request("POST", "/v1/tools/x", body=b"x")),
}


@pytest.mark.parametrize("case", LEAVING)
async def test_a_client_that_leaves_ends_the_work_within_100_ms(nodes: Spine, case: str) -> None:
    how, raw = LEAVING[case]
    worker = Worker()
    node = await nodes.node("left", {"tools": tools(getattr(worker, how))})
    async with wire(node.url) as connection:
        connection.send(raw)
        await asyncio.wait_for(worker.begun.wait(), 5)
    left_at = asyncio.get_running_loop().time()
    await asyncio.wait_for(worker.stopped.wait(), 5)
    assert asyncio.get_running_loop().time() - left_at < 0.1


async def test_a_client_that_leaves_within_its_body_is_no_failure_of_the_node(nodes: Spine, caplog: pytest.LogCaptureFixture) -> None:
    reading, left = asyncio.Event(), asyncio.Event()

    async def read(request: Request) -> Response:
        reading.set()
        try:
            await request.body()
        finally:
            left.set()
        return Response()

    caplog.set_level(logging.INFO)
    node = await nodes.node("left", {"tools": tools(read)})
    async with wire(node.url) as connection:
        connection.send(b"POST /v1/tools/x HTTP/1.1\r\nHost: node\r\nContent-Length: 100\r\n\r\nhalf")
        await asyncio.wait_for(reading.wait(), 5)
    await asyncio.wait_for(left.wait(), 5)
    async with wire(node.url) as other:
        other.send(request("GET", "/livez"))
        assert (await other.answer()).status == 200
    assert [record for record in caplog.records if record.levelno >= logging.ERROR] == []
    assert "/v1/tools/x 499" in caplog.text


async def test_a_client_that_reads_slowly_slows_the_handler_down(nodes: Spine) -> None:
    sent = 0

    async def pour(request: Request) -> Response:
        async def chunks() -> AsyncIterator[bytes]:
            nonlocal sent
            for _ in range(1000):
                yield STREAM_CHUNK
                sent += 1

        return StreamingResponse(chunks())

    node = await nodes.node("pouring", {"tools": tools(pour)})
    async with wire(node.url) as connection:
        connection.send(request("GET", "/v1/tools/x"))
        await connection.head()
        before = -1
        while before != sent:  # until nothing moves any more
            before = sent
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.2):
                    await asyncio.Event().wait()
        assert sent < 200
        for _ in range(1000):
            assert await connection.chunk() == STREAM_CHUNK
        assert await connection.chunk() == b""


async def test_a_client_that_stops_reading_does_not_outlive_the_deadline(nodes: Spine) -> None:
    async def pour(request: Request) -> Response:
        async def chunks() -> AsyncIterator[bytes]:
            while True:
                yield STREAM_CHUNK

        return StreamingResponse(chunks(), media_type="text/event-stream")

    node = await nodes.node("pouring", {"tools": tools(pour)}, api={"deadline_s": 0.3})
    async with wire(node.url) as connection, wire(node.url) as other:
        connection.send(request("GET", "/v1/tools/x"))
        await connection.head()
        assert await in_flight(other) == 2  # the other one is the question itself
        async with asyncio.timeout(5):
            while await in_flight(other) > 1:
                pass


async def in_flight(connection: Any) -> int:
    connection.send(request("GET", "/v1/system/status"))
    return int(json.loads((await connection.answer()).body)["in_flight"])


async def test_a_path_cannot_forge_a_log_line(nodes: Spine, client: aiohttp.ClientSession, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    node = await nodes.node("logging", telling())
    async with wire(node.url) as connection:
        connection.send(request("GET", "/v1/tools/x%0A12:00:00%20info%20all%20is%20well?key=sk-secret"))
        assert (await connection.answer()).status == 404
    lines = [record.getMessage() for record in caplog.records if record.name == "app.access"]
    assert len(lines) == 1
    assert "\n" not in lines[0]
    assert "sk-secret" not in caplog.text


async def test_requests_are_counted_by_template_not_by_what_clients_write(nodes: Spine, client: aiohttp.ClientSession) -> None:
    node = await nodes.node("counting", telling())
    for number in range(5):
        async with client.get(f"{node.url}/v1/agents/name-{number}/run"):
            pass
        async with client.request(f"ODD{number}", f"{node.url}/v1/{number}"):
            pass
    labels = {
        tuple(sample.labels.values())
        for metric in registry(node).collect()
        for sample in metric.samples
        if "_requests_total" in sample.name
    }
    assert ("GET", "/v1/agents/{}/run", "503", "") in labels
    assert not [each for each in labels if "name-1" in each[1] or "ODD" in each[0]]


def registry(node: Node) -> Any:
    return node._registry


async def test_the_services_of_a_node_without_keys_see_the_anonymous_principal(nodes: Spine, client: aiohttp.ClientSession) -> None:
    node = await nodes.node("open", telling())
    async with client.get(f"{node.url}/v1/tools/x", headers={"Authorization": "Bearer anything"}) as response:
        assert (await response.json())["context"]["principal"] == ""


async def test_the_line_for_each_request_can_be_turned_off(
    nodes: Spine, client: aiohttp.ClientSession, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    for wanted in (True, False):
        node = await nodes.node(f"logs-{wanted}", telling(), observability={"access_log": wanted})
        caplog.clear()
        for path in ("/v1/tools/x", "/v1/nothing", "/livez"):
            async with client.get(node.url + path) as response:
                await response.read()
        lines = [record.getMessage().rsplit(" ", 2)[0] for record in caplog.records if record.name == "app.access"]
        assert lines == (["GET /v1/tools/x 200", "GET /v1/nothing 404", "GET /livez 200"] if wanted else [])
