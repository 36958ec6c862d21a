"""Forwarding between real nodes on loopback: what is relayed, what is retried, and how a failure ends."""

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import pytest
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from app import sse
from app.context import current
from app.errors import Misdirected
from app.node import Node
from app.services import SERVICES
from tests.spine import Spine, service, static

METHODS = ["GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS"]
Handler = Callable[[Request], Awaitable[Response]]


@pytest.fixture
async def client() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(auto_decompress=False) as session:
        yield session


def forwards(node: Node, name: str) -> dict[str, float]:
    """How requests for a service ended that the node sent to peers."""
    samples = [sample for family in node._registry.collect() for sample in family.samples if sample.name == "astromesh_forwards_total"]
    return {sample.labels["outcome"]: sample.value for sample in samples if sample.labels["service"] == name}


def tools(handler: Handler) -> Any:
    return service(Route("/v1/tools/{rest:path}", handler, methods=METHODS))


async def echo(request: Request) -> Response:
    body = await request.body()
    told = {
        "method": request.method,
        "path": request.scope["raw_path"].decode(),
        "query": request.url.query,
        "headers": sorted([k.decode(), v.decode("latin-1")] for k, v in request.headers.raw),
        "body": body.decode("latin-1"),
        "principal": current().principal,
        "hops": current().hops,
        "request_id": current().request_id,
        "remaining_s": current().remaining_s(),
    }
    return JSONResponse(told, headers={"X-Answer": "yes"})


def named(name: str) -> Handler:
    async def answer(request: Request) -> Response:
        body = await request.body()
        return JSONResponse({"node": name, "length": len(body)})

    return answer


@asynccontextmanager
async def misbehaving(what: str, behave: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]) -> AsyncIterator[str]:
    """A peer that answers probes as a node that offers ``what``, and anything else as ``behave`` says, then drops the connection."""

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            for line in head.split(b"\r\n"):
                if line.lower().startswith(b"content-length:"):
                    await reader.readexactly(int(line.split(b":")[1]))
            if head.startswith(b"GET /v1/system/status "):
                status = json.dumps({"node_id": "bad", "services": {what: True}}).encode()
                writer.write(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: %d\r\n\r\n%s" % (len(status), status))
            else:
                await behave(reader, writer)
        finally:
            writer.close()

    server = await asyncio.start_server(handle, "127.0.0.1", 0)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"


async def test_everything_below_a_services_paths_is_relayed_as_it_came(nodes: Spine, client: aiohttp.ClientSession) -> None:
    far = await nodes.node("far", {"tools": tools(echo)})
    near = await nodes.node("near", peers={"far": (far.url, ["tools"])})
    for method in ("GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"):
        sent = {"X-Custom": "kept", "Connection": "X-Secret-Hop", "TE": "trailers"}
        async with client.request(method, f"{near.url}/v1/tools/a%2Fb/?q=1&r=%20", data=b"\x00body", headers=sent) as response:
            told = await response.json()
            assert response.status == 200
            assert response.headers["X-Answer"] == "yes"
            assert response.headers["X-Astromesh-Node"] == "far"
        assert (told["method"], told["path"], told["query"], told["body"]) == (method, "/v1/tools/a%2Fb/", "q=1&r=%20", "\x00body")
        names = [name for name, _ in told["headers"]]
        assert "x-custom" in names
        assert "te" not in names


async def test_ids_trace_and_deadline_travel_and_the_clients_key_does_not(nodes: Spine, client: aiohttp.ClientSession) -> None:
    keys = {"ASTROMESH_API_KEYS": "node:sk-node-secret,team-a:sk-team-secret"}
    far = await nodes.node("far", {"tools": tools(echo)}, environ=keys)
    near = await nodes.node("near", peers={"far": (far.url, ["tools"])}, environ=keys)
    trace = "4bf92f3577b34da6a3ce929d0e0e4736"
    sent = {
        "Authorization": "Bearer sk-team-secret",
        "X-Request-Id": "mine-1",
        "traceparent": f"00-{trace}-00f067aa0ba902b7-01",
        "X-Astromesh-Principal": "root",
        "X-Astromesh-Forwarded": "abc",
        "X-Forwarded-For": "1.2.3.4",
    }
    async with client.get(f"{near.url}/v1/tools/x", headers=sent) as response:
        told = await response.json()
        assert response.headers["X-Request-Id"] == "mine-1"
    headers = dict(told["headers"])
    assert told["principal"] == "team-a"
    assert told["hops"] == [near.node_id]
    assert told["request_id"] == "mine-1"
    assert headers["traceparent"].split("-")[1] == trace
    assert 0 < told["remaining_s"] <= 600
    assert headers["authorization"] == "Bearer sk-node-secret"
    assert "x-forwarded-for" not in headers


async def test_a_forwarded_requests_remaining_time_bounds_the_work_at_the_peer(nodes: Spine, client: aiohttp.ClientSession) -> None:
    never = asyncio.Event()

    async def hang(request: Request) -> Response:
        await never.wait()
        return Response()

    far = await nodes.node("far", {"tools": tools(hang)})
    near = await nodes.node("near", peers={"far": (far.url, ["tools"])}, api={"deadline_s": 0.3})
    async with client.post(f"{near.url}/v1/tools/x") as response:
        assert response.status == 504
        assert (await response.json())["error"]["code"] == "deadline_exceeded"


async def test_bodies_stream_both_ways_at_once(nodes: Spine, client: aiohttp.ClientSession) -> None:
    class Upper:  # plain ASGI: Starlette's StreamingResponse reads from the request too, looking for a disconnect
        async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
            message = await receive()
            await send({"type": "http.response.start", "status": 200, "headers": []})
            while message["more_body"]:
                await send({"type": "http.response.body", "body": message["body"].upper(), "more_body": True})
                message = await receive()
            await send({"type": "http.response.body", "body": message["body"].upper()})

    far = await nodes.node("far", {"tools": service(Route("/v1/tools/x", Upper(), methods=["POST"]))})
    near = await nodes.node("near", peers={"far": (far.url, ["tools"])})
    heard: asyncio.Queue[None] = asyncio.Queue()
    first = b"a" * 300_000  # over what is kept for replay, so that it streams

    async def speak() -> AsyncIterator[bytes]:
        yield first
        for _ in range(3):
            await heard.get()  # the next chunk is sent only when the answer to the one before it has arrived
            yield b"b"

    async with client.post(f"{near.url}/v1/tools/x", data=speak()) as response:
        assert await response.content.readexactly(len(first)) == first.upper()
        for _ in range(3):
            heard.put_nowait(None)
            assert await response.content.readexactly(1) == b"B"
        assert await response.content.read() == b""


async def test_events_arrive_one_by_one(nodes: Spine, client: aiohttp.ClientSession) -> None:
    more = asyncio.Semaphore(0)

    async def events(request: Request) -> Response:
        async def answer() -> AsyncIterator[bytes]:
            for number in range(3):
                yield sse.encode({"n": number})
                await more.acquire()

        return StreamingResponse(answer(), media_type="text/event-stream")

    far = await nodes.node("far", {"tools": tools(events)})
    near = await nodes.node("near", peers={"far": (far.url, ["tools"])})
    async with client.get(f"{near.url}/v1/tools/x") as response:
        for number in range(3):
            assert await response.content.readuntil(b"\n\n") == sse.encode({"n": number})
            more.release()


@pytest.mark.parametrize("size", [10, 600_000])
async def test_a_refusing_peer_is_passed_over_and_comes_back_by_a_probe(nodes: Spine, client: aiohttp.ClientSession, size: int) -> None:
    with socket.create_server(("127.0.0.2", 0)) as taken:  # an address of its own, where no other connection takes the port meanwhile
        dead = f"http://127.0.0.2:{taken.getsockname()[1]}"
    good = await nodes.node("good", {"tools": tools(named("good"))})
    near = await nodes.node("near", peers={"dead": (dead, ["tools"]), "good": (good.url, ["tools"])})
    for peer in near.peers.all():
        peer.state = "up"
    asked = next(peer for peer in near.peers.all() if peer.name == "dead")
    for _ in range(64):  # which of two idle peers is asked is drawn
        async with client.post(f"{near.url}/v1/tools/x", data=b"x" * size) as response:
            assert await response.json() == {"node": "good", "length": size}
        if asked.state == "down":
            break
    assert asked.state == "down"
    host, port = dead.removeprefix("http://").split(":")
    await nodes.node("dead", {"tools": tools(named("dead"))}, api={"host": host, "port": int(port)})
    async with asyncio.timeout(10):
        while next(peer for peer in near.peers.all() if peer.name == "dead").state != "up":
            async with client.get(f"{near.url}/v1/system/status") as response:
                await response.read()


async def test_a_peer_that_answers_421_is_passed_over(nodes: Spine, client: aiohttp.ClientSession) -> None:
    async def refuse(request: Request) -> Response:
        raise Misdirected("not me")

    one = await nodes.node("one", {"tools": tools(refuse)})
    two = await nodes.node("two", {"tools": tools(named("two"))})
    near = await nodes.node("near", peers={"one": (one.url, ["tools"]), "two": (two.url, ["tools"])})
    for _ in range(8):
        async with client.post(f"{near.url}/v1/tools/x") as response:
            assert (await response.json())["node"] == "two"


async def test_nodes_that_point_at_each_other_answer_503_and_do_not_loop(nodes: Spine, client: aiohttp.ClientSession) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    left = await nodes.node("left", peers={"right": (f"http://127.0.0.1:{port}", ["tools"])})
    right = await nodes.node("right", peers={"left": (left.url, ["tools"])}, api={"port": port})
    for near in (left, right):
        for peer in near.peers.all():  # as before the first probe: both believe the profile
            peer.facts, peer.state = None, "up"
        async with client.post(f"{near.url}/v1/tools/x") as response:
            error = (await response.json())["error"]
            assert (response.status, error["code"]) == (503, "service_unavailable")
            assert "tools" in error["message"]
            assert "Retry-After" in response.headers


async def test_a_request_passes_at_most_three_nodes(nodes: Spine, client: aiohttp.ClientSession) -> None:
    last = await nodes.node("last", {"tools": tools(echo)})
    near = await nodes.node("near", peers={"last": (last.url, ["tools"])})
    async with client.get(f"{near.url}/v1/tools/x", headers={"X-Astromesh-Forwarded": "a,b"}) as response:
        assert (await response.json())["hops"] == ["a", "b", near.node_id]
    async with client.get(f"{near.url}/v1/tools/x", headers={"X-Astromesh-Forwarded": "a,b,c"}) as response:
        assert response.status == 421
    async with client.get(f"{near.url}/v1/tools/x", headers={"X-Astromesh-Forwarded": last.node_id}) as response:
        assert response.status == 421


async def die(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.transport.abort()


async def test_a_begun_request_that_is_not_safe_to_repeat_ends_in_peer_lost(nodes: Spine, client: aiohttp.ClientSession) -> None:
    async with misbehaving("tools", die) as dying:
        near = await nodes.node("near", peers={"dying": (dying, ["tools"])})
        async with client.post(f"{near.url}/v1/tools/x", data=b"{}") as response:
            error = (await response.json())["error"]
            assert (response.status, error["code"]) == (502, "peer_lost")
            assert "dying" in error["message"]


async def doubt(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 401 Unauthorized\r\nX-Astromesh-Not-Admitted: 1\r\nContent-Length: 2\r\n\r\n{}")


async def test_a_peer_that_does_not_believe_this_node_is_passed_over_and_no_clients_key_is_blamed(
    nodes: Spine, client: aiohttp.ClientSession
) -> None:
    good = await nodes.node("good", {"tools": tools(named("good"))})
    async with misbehaving("tools", doubt) as doubting:
        near = await nodes.node("near", peers={"doubting": (doubting, ["tools"]), "good": (good.url, ["tools"])})
        for _ in range(6):
            await static(near).probe(near.peers.all()[0])
            async with client.post(f"{near.url}/v1/tools/x", data=b"{}") as response:
                assert (response.status, (await response.json())["node"]) == (200, "good")
        alone = await nodes.node("alone", peers={"doubting": (doubting, ["tools"])})
        async with client.post(f"{alone.url}/v1/tools/x", data=b"{}") as response:
            error = (await response.json())["error"]
            assert (response.status, error["code"]) == (503, "service_unavailable")
            assert "ASTROMESH_API_KEYS" in error["message"]


@pytest.mark.parametrize(("method", "what", "path"), [("GET", "tools", "/v1/tools/x"), ("POST", "inference", "/v1/chat/completions")])
async def test_what_is_safe_to_repeat_succeeds_on_another_peer(
    nodes: Spine, client: aiohttp.ClientSession, method: str, what: str, path: str
) -> None:
    good = await nodes.node("good", {what: service(Route(path, named("good"), methods=METHODS))})
    async with misbehaving(what, die) as dying:
        near = await nodes.node("near", peers={"dying": (dying, [what]), "good": (good.url, [what])})
        for _ in range(6):
            await static(near).probe(near.peers.all()[0])
            async with client.request(method, near.url + path, json={"model": "m"} if method == "POST" else None) as response:
                assert response.status == 200
                assert (await response.json())["node"] == "good"


async def test_a_run_that_its_key_records_goes_on_at_another_peer_which_waits_for_the_lost_one(
    nodes: Spine, client: aiohttp.ClientSession
) -> None:
    async def run(request: Request) -> Response:
        return JSONResponse({"prefer": request.headers.getlist("prefer")})

    agents = service(Route("/v1/agents/a/run", run, methods=METHODS), Route("/v1/agents/a/x", run, methods=METHODS))
    good = await nodes.node("good", {"agents": agents})
    async with misbehaving("agents", die) as dying:
        near = await nodes.node("near", peers={"dying": (dying, ["agents"]), "good": (good.url, ["agents"])})
        told = set()
        for path, key in [("run", {"Idempotency-Key": "k"}), ("run", {}), ("x", {"Idempotency-Key": "k"})] * 24:
            await static(near).probe(near.peers.all()[0])
            async with client.post(f"{near.url}/v1/agents/a/{path}", json={"query": "Go."}, headers=key) as response:
                body = await response.json()
                told.add((path, bool(key), response.status, tuple(body.get("prefer", ()))))
    assert told == {
        *{("run", True, 200, ()), ("run", True, 200, ("wait",))},
        *{("run", False, 200, ()), ("run", False, 502, ())},
        *{("x", True, 200, ()), ("x", True, 502, ())},
    }


async def test_an_event_stream_that_breaks_ends_in_an_error_event(nodes: Spine, client: aiohttp.ClientSession) -> None:
    async def half(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        event = b'data: {"n": 1}\n\n'
        head = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
        writer.write(head + b"%x\r\n%s\r\n" % (len(event), event))

    async with misbehaving("inference", half) as url:
        near = await nodes.node("near", peers={"half": (url, ["inference"])})
        async with client.post(f"{near.url}/v1/chat/completions", json={"model": "m", "stream": True}) as response:
            events = [event async for event in sse.decode(response.content.iter_any())]
    assert [event.name for event in events] == ["message", "error"]
    assert json.loads(events[1].data)["error"]["code"] == "peer_lost"
    assert "[DONE]" not in [event.data for event in events]


async def test_another_body_that_breaks_is_cut_so_that_the_client_notices(nodes: Spine, client: aiohttp.ClientSession) -> None:
    async def half(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 100\r\n\r\nhalf")

    async with misbehaving("tools", half) as url:
        near = await nodes.node("near", peers={"half": (url, ["tools"])})
        async with client.get(f"{near.url}/v1/tools/x") as response:
            with pytest.raises(aiohttp.ClientError):
                await response.read()


@pytest.mark.parametrize("streaming", [True, False])
async def test_a_client_that_leaves_cancels_the_work_two_hops_away(nodes: Spine, client: aiohttp.ClientSession, streaming: bool) -> None:
    begun, cancelled = asyncio.Event(), asyncio.Event()

    async def work(request: Request) -> Response:
        await request.body()

        async def answer() -> AsyncIterator[bytes]:
            begun.set()
            yield b"data: 1\n\n"
            try:
                await asyncio.Event().wait()
            finally:
                cancelled.set()

        if streaming:
            return StreamingResponse(answer(), media_type="text/event-stream")
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()
        return Response()

    far = await nodes.node("far", {"inference": service(Route("/v1/chat/completions", work, methods=["POST"]))})
    middle = await nodes.node("middle", {"tools": service()}, peers={"far": (far.url, ["inference"])})
    near = await nodes.node("near", peers={"middle": (middle.url, ["tools"])})
    asking = asyncio.create_task(client.post(f"{near.url}/v1/chat/completions", json={"model": "m"}).__aenter__())
    await asyncio.wait_for(begun.wait(), 5)
    asking.cancel()
    if streaming:
        (await asyncio.gather(asking, return_exceptions=True))[0]
    await client.close()
    await asyncio.wait_for(cancelled.wait(), 5)
    for node in (near, middle):
        await asyncio.wait_for(node._edge.wait_idle(), 5)
        assert forwards(node, "inference") == {"cancelled": 1}


async def test_forwarded_requests_are_counted_by_their_end_and_those_that_nobody_takes(nodes: Spine, client: aiohttp.ClientSession) -> None:
    one = await nodes.node("one", {"tools": tools(named("one"))})
    near = await nodes.node("near", peers={"one": (one.url, ["tools"])})
    for _ in range(2):
        async with client.post(f"{near.url}/v1/tools/x") as response:
            assert response.status == 200
    one._edge.refusing = True
    async with client.post(f"{near.url}/v1/tools/x") as response:
        assert response.status == 503
    assert forwards(near, "tools") == {"answered": 2, "not_begun": 1}
    async with client.post(f"{near.url}/v1/memory/a/history/s") as response:
        assert response.status == 503
    nobody = {name: near._registry.get_sample_value("astromesh_requests_without_peer_total", {"service": name}) for name in SERVICES}
    assert nobody == {name: float(name in ("tools", "memory")) if entry.forwarded else None for name, entry in SERVICES.items()}


async def test_what_no_peer_offers_directly_is_answered_through_one_that_reaches_it(nodes: Spine, client: aiohttp.ClientSession) -> None:
    far = await nodes.node("far", {"inference": service(Route("/v1/chat/completions", echo, methods=["POST"]))})
    middle = await nodes.node("middle", {"tools": service()}, peers={"far": (far.url, ["inference"])})
    near = await nodes.node("near", peers={"middle": (middle.url, ["tools"])})
    async with client.post(f"{near.url}/v1/chat/completions", json={"model": "m"}) as response:
        assert response.status == 200
        assert response.headers["X-Astromesh-Node"] == "far"
        assert (await response.json())["hops"] == [near.node_id, middle.node_id]


async def test_a_key_is_answered_by_the_peer_that_has_it(nodes: Spine, client: aiohttp.ClientSession) -> None:
    def models(name: str, *keys: str) -> Any:
        return service(Route("/v1/chat/completions", named(name), methods=["POST"]), keys=keys)

    one = await nodes.node("one", {"inference": models("one", "small")})
    two = await nodes.node("two", {"inference": models("two", "large")})
    peers = {"one": (one.url, ["inference"]), "two": (two.url, ["inference"])}
    near = await nodes.node("near", {"inference": models("near", "tiny")}, peers=peers)
    for model, expected in (("small", "one"), ("large", "two"), ("tiny", "near"), ("unknown", "near")):
        async with client.post(f"{near.url}/v1/chat/completions", json={"model": model}) as response:
            assert (await response.json())["node"] == expected


async def test_the_less_busy_of_two_peers_is_chosen(nodes: Spine, client: aiohttp.ClientSession) -> None:
    held = asyncio.Event()

    async def slow(request: Request) -> Response:
        await held.wait()
        return JSONResponse({"node": "slow", "length": 0})

    one = await nodes.node("one", {"tools": tools(slow)})
    two = await nodes.node("two", {"tools": tools(named("two"))})
    near = await nodes.node("near", peers={"one": (one.url, ["tools"]), "two": (two.url, ["tools"])})
    near.peers.all()[1].state = "suspect"
    waiting = [asyncio.create_task(client.post(f"{near.url}/v1/tools/x").__aenter__()) for _ in range(3)]
    async with asyncio.timeout(5):
        while len(near.peers.all()[0].in_flight) < 3:
            await static(near).probe(near.peers.all()[0])
    near.peers.all()[1].state = "up"
    for _ in range(5):
        async with client.post(f"{near.url}/v1/tools/x") as response:
            assert (await response.json())["node"] == "two"
    held.set()
    await asyncio.gather(*waiting)


async def test_lists_are_gathered_with_the_nodes_that_have_each_row(nodes: Spine, client: aiohttp.ClientSession) -> None:
    def catalogue(*names: str) -> Any:
        async def rows(request: Request) -> Response:
            return JSONResponse({"providers": [{"name": name} for name in names]})

        return service(Route("/v1/providers", rows))

    one = await nodes.node("one", {"inference": catalogue("a", "b")})
    two = await nodes.node("two", {"inference": catalogue("b")})
    with socket.create_server(("127.0.0.1", 0)) as taken:
        dead = f"http://127.0.0.1:{taken.getsockname()[1]}"
    peers = {"one": (one.url, ["inference"]), "two": (two.url, ["inference"]), "gone": (dead, ["inference"])}
    near = await nodes.node("near", peers=peers)
    async with client.get(f"{near.url}/v1/providers/") as response:
        body = await response.json()
        assert response.headers["X-Astromesh-Partial"] == "gone"
    assert body["providers"] == [{"name": "a", "nodes": ["one"]}, {"name": "b", "nodes": ["one", "two"]}]


async def test_a_silent_peer_loses_what_it_had_in_flight_and_is_passed_over(
    nodes: Spine, client: aiohttp.ClientSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.peers.static.PROBE_TIMEOUT_S", 0.1)
    monkeypatch.setattr("app.peers.static.PROBE_INTERVAL_S", 0.1)
    monkeypatch.setattr("app.peers.static.LOST_AFTER_S", 0.4)

    with socket.create_server(("127.0.0.1", 0)) as mute:  # the kernel takes the connections, and nobody ever answers
        near = await nodes.node("near", peers={"mute": (f"http://127.0.0.1:{mute.getsockname()[1]}", ["tools"])})
        async with asyncio.timeout(5), client.post(f"{near.url}/v1/tools/x", data=b"{}") as response:
            error = (await response.json())["error"]
            assert (response.status, error["code"]) == (502, "peer_lost")
        async with client.post(f"{near.url}/v1/tools/x", data=b"{}") as response:
            assert (response.status, (await response.json())["error"]["code"]) == (503, "service_unavailable")


async def test_an_answers_status_and_error_of_a_peer_are_passed_on(nodes: Spine, client: aiohttp.ClientSession) -> None:
    async def teapot(request: Request) -> Response:
        return JSONResponse({"error": {"message": "short and stout"}}, 418, {"Set-Cookie": "a=1"})

    far = await nodes.node("far", {"tools": service(Route("/v1/tools/x", teapot, methods=["POST"]))})
    near = await nodes.node("near", peers={"far": (far.url, ["tools"])})
    async with client.post(f"{near.url}/v1/tools/x") as response:
        assert response.status == 418
        assert response.headers["Set-Cookie"] == "a=1"
        assert (await response.json())["error"]["message"] == "short and stout"


async def test_a_body_of_which_a_part_was_streamed_is_never_sent_to_another_peer(nodes: Spine, client: aiohttp.ClientSession) -> None:
    class Half:
        async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
            await receive()
            raise Misdirected("not me, after all")

    two = await nodes.node("two", {"tools": tools(named("two"))})
    one = await nodes.node("one", {"tools": service(Route("/v1/tools/x", Half(), methods=["POST"]))})
    near = await nodes.node("near", peers={"one": (one.url, ["tools"]), "two": (two.url, ["tools"])})
    near.peers.all()[1].state = "suspect"  # so that the other one is asked first

    async def body() -> AsyncIterator[bytes]:
        for _ in range(10):
            yield b"x" * 100_000

    async with client.post(f"{near.url}/v1/tools/x", data=body()) as response:
        assert (response.status, (await response.json())["error"]["code"]) == (503, "service_unavailable")


async def test_a_body_over_the_limit_is_the_clients_fault_and_not_the_peers(nodes: Spine, client: aiohttp.ClientSession) -> None:
    far = await nodes.node("far", {"tools": tools(echo)})
    near = await nodes.node("near", peers={"far": (far.url, ["tools"])}, api={"max_body_bytes": 500_000})

    async def body() -> AsyncIterator[bytes]:
        for _ in range(8):
            yield b"x" * 100_000

    async with client.post(f"{near.url}/v1/tools/x", data=body()) as response:
        assert (response.status, (await response.json())["error"]["code"]) == (413, "body_too_large")
    assert near.peers.all()[0].state == "up"


async def test_a_peer_that_freezes_before_it_wants_the_body_has_begun_nothing(
    nodes: Spine, client: aiohttp.ClientSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def freeze(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        near.peers.all()[0].abort()

    good = await nodes.node("good", {"tools": tools(named("good"))})
    async with misbehaving("tools", freeze) as frozen:
        near = await nodes.node("near", peers={"frozen": (frozen, ["tools"]), "good": (good.url, ["tools"])})
        near.peers.all()[1].state = "suspect"

        async def body() -> AsyncIterator[bytes]:
            for _ in range(5):
                yield b"x" * 100_000

        async with client.post(f"{near.url}/v1/tools/x", data=body()) as response:
            assert await response.json() == {"node": "good", "length": 500_000}


async def test_headers_that_a_connection_header_names_stay_on_their_hop_and_others_keep_their_bytes(
    nodes: Spine, client: aiohttp.ClientSession
) -> None:
    far = await nodes.node("far", {"tools": tools(echo)})
    near = await nodes.node("near", peers={"far": (far.url, ["tools"])})
    reader, writer = await asyncio.open_connection("127.0.0.1", int(near.url.rsplit(":", 1)[1]))
    writer.write("GET /v1/tools/x HTTP/1.1\r\nHost: x\r\nConnection: close, X-Hop\r\nX-Hop: 1\r\nX-Title: café\r\n\r\n".encode())
    told = json.loads((await reader.read()).partition(b"\r\n\r\n")[2])
    headers = dict(told["headers"])
    assert "x-hop" not in headers
    assert headers["x-title"].encode("latin-1").decode() == "café"
    writer.close()
