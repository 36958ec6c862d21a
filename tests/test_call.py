"""Calls in process: they stream both ways, keep pace, carry the caller's context, and end with their caller."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import pytest
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route, Router
from starlette.types import Receive, Scope, Send

from app.call import call
from app.context import CURRENT, RequestContext, background, current
from app.errors import AnsweredError, NodeError, PeerLost, ProviderError


def at(handler: Any) -> Router:
    return Router([Route("/x", handler, methods=["GET", "POST"])])


async def test_method_path_query_headers_and_body_arrive() -> None:
    seen: dict[str, Any] = {}

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        seen.update(scope, body=(await receive())["body"])
        await send({"type": "http.response.start", "status": 204, "headers": []})
        await send({"type": "http.response.body"})

    async with call(app, "PUT", "/a%2Fb/c?q=%20", body={"n": 1}, headers=[(b"x-mine", b"1")]) as reply:
        assert reply.status == 204
    assert (seen["method"], seen["path"], seen["raw_path"], seen["query_string"]) == ("PUT", "/a/b/c", b"/a%2Fb/c", b"q=%20")
    headers = dict(seen["headers"])
    assert (headers[b"content-type"], headers[b"content-length"], headers[b"x-mine"]) == (b"application/json", b"8", b"1")
    assert seen["body"] == b'{"n": 1}'


async def test_an_answer_streams_and_nothing_runs_ahead_of_its_reader() -> None:
    produced = 0

    async def pour(request: Request) -> Response:
        async def chunks() -> AsyncIterator[bytes]:
            nonlocal produced
            for number in range(100):
                produced += 1
                yield b"%d," % number

        return StreamingResponse(chunks())

    async with call(at(pour), "GET", "/x") as reply:
        read = 0
        async for _ in reply.chunks():
            read += 1
            assert produced <= read + 3
    assert read == produced == 100


async def test_a_stream_that_looks_for_the_clients_leaving_is_not_ended_early() -> None:
    more = asyncio.Event()

    async def later(request: Request) -> Response:
        async def chunks() -> AsyncIterator[bytes]:
            yield b"first"
            await more.wait()
            yield b"second"

        return StreamingResponse(chunks())

    async with call(at(later), "POST", "/x", body={}) as reply:
        chunks = reply.chunks()
        assert await anext(chunks) == b"first"
        more.set()
        assert await anext(chunks) == b"second"


@pytest.mark.parametrize("how", ["leaves the block", "is cancelled", "is cancelled before the status"])
async def test_a_caller_that_leaves_ends_the_work(how: str) -> None:
    begun, stopped = asyncio.Event(), asyncio.Event()

    async def work(request: Request) -> Response:
        async def chunks() -> AsyncIterator[bytes]:
            yield b"first"
            await hang()

        async def hang() -> None:
            begun.set()
            try:
                await asyncio.Event().wait()
            finally:
                stopped.set()

        if how == "is cancelled before the status":
            await hang()
        return StreamingResponse(chunks())

    async def caller() -> None:
        async with call(at(work), "GET", "/x") as reply:
            await anext(reply.chunks())
            await begun.wait()
            if how != "leaves the block":
                await asyncio.Event().wait()

    calling = asyncio.create_task(caller())
    await asyncio.wait_for(begun.wait(), 5)
    if how != "leaves the block":
        calling.cancel()
    await asyncio.wait([calling], timeout=5)
    assert calling.done()
    assert stopped.is_set()


@pytest.mark.parametrize("failure", [ProviderError("refused", headers={"Retry-After": "3"}), ValueError("broken")])
async def test_what_the_callee_raises_before_its_status_is_raised_to_the_caller_as_it_is(failure: Exception) -> None:
    async def fail(request: Request) -> Response:
        raise failure

    with pytest.raises(type(failure)) as caught:
        async with call(at(fail), "GET", "/x"):
            pytest.fail("there is no answer")
    assert caught.value is failure


async def test_what_the_callee_raises_after_its_status_is_raised_by_the_body() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"half", "more_body": True})
        raise ProviderError("gone")

    async with call(app, "GET", "/x") as reply:
        assert reply.status == 200
        with pytest.raises(ProviderError, match="gone"):
            await reply.read()


async def test_an_answer_that_just_ends_is_an_error_and_never_a_shorter_answer() -> None:
    async def half(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"half", "more_body": True})

    async def nothing(scope: Scope, receive: Receive, send: Send) -> None:
        return

    async with call(half, "GET", "/x") as reply:
        with pytest.raises(PeerLost):
            await reply.read()
    with pytest.raises(NodeError, match="without an answer"):
        async with call(nothing, "GET", "/x"):
            pytest.fail("there is no answer")


async def test_an_error_answer_becomes_an_error_with_its_status_code_and_what_it_says_of_retrying() -> None:
    async def busy(request: Request) -> Response:
        error = {"message": "full", "type": "server_error", "code": "not_begun", "param": None}
        return JSONResponse({"error": error}, 503, {"Retry-After": "2", "X-Astromesh-Not-Begun": "1", "X-Other": "no"})

    async with call(at(busy), "GET", "/x") as reply:
        with pytest.raises(AnsweredError) as caught:
            await reply.raise_for_status()
    error = caught.value
    assert (error.status, error.code, error.message) == (503, "not_begun", "full")
    assert error.headers == {"Retry-After": "2", "X-Astromesh-Not-Begun": "1"}


async def test_a_call_carries_ids_deadline_and_principal_and_is_a_request_of_its_own() -> None:
    async def tell(request: Request) -> Response:
        seen.append(current())
        return Response()

    seen: list[RequestContext] = []
    mine = replace(background(5), principal="team-a", session="s", hops=("n1",), agent_depth=2, from_peer=True)
    token = CURRENT.set(mine)
    try:
        async with call(at(tell), "GET", "/x"):
            pass
        async with call(at(tell), "GET", "/x", context=replace(mine, session="other")):
            pass
        assert current() is mine
    finally:
        CURRENT.reset(token)
    assert seen[0] == replace(mine, hops=())
    assert not seen[0].from_peer
    assert (seen[1].session, seen[1].hops) == ("other", ("n1",))
