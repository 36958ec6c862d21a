"""What the node is built around: behaviour of its libraries measured once. When an upgrade changes one of these, a workaround can go."""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import aiohttp
import uvicorn
import yaml
from jsonschema import Draft202012Validator
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Mount, Route
from starlette.types import Receive, Scope, Send

from tests.support import serve


async def ok(request: Request) -> Response:
    return PlainTextResponse("ok")


async def test_a_starlette_mount_redirects_its_own_path_so_paths_are_absolute_here() -> None:
    app = Starlette(routes=[Mount("/v1/memory", routes=[Route("/", ok, methods=["POST"])])])
    async with serve(app) as url, aiohttp.ClientSession() as client:
        async with client.post(f"{url}/v1/memory", allow_redirects=False) as response:
            assert response.status == 307


async def test_a_starlette_mount_never_runs_the_lifespan_of_what_it_mounts() -> None:
    entered: list[str] = []

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        entered.append("inner")
        yield

    outer = Starlette(routes=[Mount("/", app=Starlette(lifespan=lifespan))])
    async with outer.router.lifespan_context(outer):
        assert entered == []


async def test_uvicorn_does_not_cancel_a_handler_whose_client_left_and_its_send_then_raises_nothing() -> None:
    begun, left, sent = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        begun.set()
        await left.wait()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"to nobody"})
        sent.set()

    async with serve(app) as url:
        _, writer = await asyncio.open_connection("127.0.0.1", int(url.rsplit(":", 1)[1]))
        writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        await asyncio.wait_for(begun.wait(), 5)
        writer.transport.abort()
        left.set()
        await asyncio.wait_for(sent.wait(), 5)


async def test_uvicorn_takes_a_head_of_two_megabytes() -> None:
    async with serve(Starlette(routes=[Route("/", ok)])) as url:
        reader, writer = await asyncio.open_connection("127.0.0.1", int(url.rsplit(":", 1)[1]))
        writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n" + b"X-Long: %s\r\n" % (b"a" * 1000) * 2000 + b"\r\n")
        assert b" 200 " in await asyncio.wait_for(reader.readline(), 10)
        writer.close()


async def test_uvicorn_waits_for_an_open_stream_when_it_is_told_to_stop_with_its_listener_closed_already() -> None:
    async def stream(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"begun", "more_body": True})
        await asyncio.Event().wait()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        server = uvicorn.Server(uvicorn.Config(stream, lifespan="off", log_config=None, ws="none"))
        serving = asyncio.create_task(server._serve(sockets=[listener]))
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        await asyncio.wait_for(reader.readuntil(b"begun"), 5)
        server.should_exit = True
        done, _ = await asyncio.wait([serving], timeout=0.5)
        assert not done
        with socket.socket() as late:
            assert late.connect_ex(("127.0.0.1", port)) != 0
        server.force_exit = True
        writer.transport.abort()
        for task in server.server_state.tasks:
            task.cancel()
        await asyncio.wait_for(serving, 5)


def test_pyyaml_reads_on_as_true_and_a_version_as_a_number_and_keeps_the_last_of_two_equal_keys() -> None:
    assert yaml.safe_load("{a: on, b: 1.10, c: 1, c: 2}") == {"a": True, "b": 1.1, "c": 2}


def test_jsonschema_applies_no_defaults() -> None:
    value: dict[str, object] = {}
    Draft202012Validator({"properties": {"a": {"default": 1}}}).validate(value)
    assert value == {}
