"""What a person is told when a node is not there, refuses, or is none: on stderr, with a non-zero exit and the remedy."""

import asyncio
import json
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, RedirectResponse, Response
from starlette.routing import Route

from tests.cli.command import COMMAND, Done, ctl
from tests.nodes import node, profile
from tests.support import serve

COMMANDS = (
    ("status",),
    ("doctor",),
    ("services",),
    ("agents", "list"),
    ("agents", "reload"),
    ("run", "assistant", "hello"),
    ("chat", "assistant"),
    ("peers", "list"),
    ("providers", "list"),
    ("tools", "list"),
    ("tools", "test", "calculator", "expression=1"),
    ("traces", "list"),
    ("traces", "show", "4bf92f3577b34da6a3ce929d0e0e4736"),
    ("metrics",),
    ("rag", "collections"),
    ("rag", "create", "docs"),
    ("rag", "show", "docs"),
    ("rag", "delete", "docs", "--yes"),
    ("rag", "ingest", "docs", "README.md"),
    ("rag", "query", "docs", "what"),
    ("rag", "jobs", "docs"),
    ("mesh", "status"),
    ("mesh", "nodes"),
    ("mesh", "watch"),
    ("mesh", "leave", "--yes"),
)


def closed_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return int(taken.getsockname()[1])


def refused(done: Done, *words: str) -> None:
    assert (done.code, done.out) == (1, ""), done
    assert done.err.startswith("Error: "), done
    assert not [word for word in words if word not in done.err], done


async def test_every_command_says_that_nobody_is_there_and_what_to_do() -> None:
    url = f"http://127.0.0.1:{closed_port()}"
    for command in COMMANDS:
        refused(await ctl(*command, "--url", url), f"{url} cannot be reached: Connection refused", "make run", "ASTROMESH_URL")


@pytest.mark.processes
async def test_every_command_says_that_something_else_is_there() -> None:
    async def page(request: Request) -> Response:
        return PlainTextResponse("<html>Welcome</html>", media_type="text/html")

    async with serve(Starlette(routes=[Route("/{path:path}", page, methods=["GET", "POST"])])) as url:
        for command in COMMANDS:
            refused(await ctl(*command, "--url", url), "200 OK", "text/html", "not as an Astromesh node does; check the URL")


async def test_json_of_another_shape_is_no_answer_of_a_node() -> None:
    async def other(request: Request) -> Response:
        return PlainTextResponse('{"hello": [1]}', media_type="application/json")

    async with serve(Starlette(routes=[Route("/{path:path}", other, methods=["GET", "POST"])])) as url:
        for command in (("status",), ("services",), ("agents", "list"), ("mesh", "nodes"), ("peers", "list"), ("run", "assistant", "hi")):
            done = await ctl(*command, "--url", url)
            assert done.code == 1, (command, done)
            assert done.err.startswith("Error: "), done


ODD = {
    "node_id": 1, "uptime_seconds": "long", "services": {"tools": 1}, "reaches": 3, "peers": [{"services": 3, "state": []}],
    "mesh": {"enabled": True, "node_id": [], "cluster_size": "x"}, "healthy": True, "checks": {"a": {"status": [], "message": {}}},
    "nodes": [{"load": [], "last_heartbeat": "never"}], "agents": [{"errors": 3}], "broken": 3, "loaded": 3, "providers": [{}],
    "tools": [{"parameters": {"properties": 3}}], "traces": [{"started_at": 1e300, "duration_ms": []}], "spans": [{"children": 3}],
    "histograms": {"a": {"count": []}}, "counters": {"b": {}}, "trace_id": {}, "status": 7,
}  # fmt: skip


@pytest.mark.processes
async def test_no_json_makes_a_command_fail_in_another_way() -> None:
    async def odd(request: Request) -> Response:
        return PlainTextResponse(json.dumps(ODD), media_type="application/json")

    async with serve(Starlette(routes=[Route("/{path:path}", odd, methods=["GET", "POST"])])) as url:
        for command in COMMANDS:
            done = await ctl(*command, "--url", url)  # which fails on a traceback
            assert done.code == 0 or done.err.startswith("Error: "), (command, done)
        assert "cannot read (ValueError" in (await ctl("status", "--url", url)).err


async def test_an_address_that_sends_on_is_told() -> None:
    async def moved(request: Request) -> Response:
        return RedirectResponse("https://elsewhere.example/")

    async with serve(Starlette(routes=[Route("/{path:path}", moved)])) as url:
        refused(await ctl("status", "--url", url), "sends on to https://elsewhere.example/", "--url")


@asynccontextmanager
async def answering(answer: bytes) -> AsyncIterator[str]:
    """A server that sends the same to everybody, and hangs up."""

    async def serve_one(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\n")
        writer.write(answer)
        writer.close()
        await writer.wait_closed()

    server = await asyncio.start_server(serve_one, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()
        await server.wait_closed()


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        (b"SSH-2.0-OpenSSH_9.2\r\n", "does not speak HTTP (BadStatusLine)"),
        (b"", "closed the connection before its answer was whole"),
        (b'HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{"a":', "closed the connection before its answer was whole"),
        (b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n[]", "not as an Astromesh node does"),
        (b"HTTP/1.1 500 Oh\r\nContent-Length: 2\r\n\r\n{}", "500 Oh"),
    ],
)
async def test_what_is_no_http_or_breaks_off_is_told(answer: bytes, told: str) -> None:
    async with answering(answer) as url:
        refused(await ctl("status", "--url", url), told)


async def test_https_at_a_port_that_speaks_http_is_told() -> None:
    async with answering(b"HTTP/1.1 200 OK\r\n\r\n") as url:
        refused(await ctl("status", "--url", url.replace("http:", "https:")), "does not speak TLS", "http://")


async def test_a_stream_that_breaks_off_is_no_answer() -> None:
    head = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n"
    async with answering(head + b'event: token\ndata: {"step": 1, "text": "Hel"}\n\n') as url:
        done = await ctl("run", "assistant", "hi", "--url", url)
    assert (done.code, done.out) == (1, "Hel\n")
    assert "broke off" in done.err


@pytest.mark.parametrize(
    "url", ["127.0.0.1:8000", "ftp://a", "http://", "http://a:99999", "http://a b", "http://u:p@a", "http://a?b", "http://a/ü"]
)
async def test_an_address_that_is_none_is_wrong_usage(url: str) -> None:
    done = await ctl("status", "--url", url)
    assert (done.code, done.out) == (2, "")
    assert "http://127.0.0.1:8000" in done.err or "ASTROMESH_API_KEY" in done.err


async def test_keys_come_by_option_variable_or_file_and_a_missing_one_is_told(tmp_path: Path) -> None:
    (tmp_path / "key").write_text("s3cret\n")
    (tmp_path / "empty").write_text("")
    async with node(profile(tmp_path / "n.yaml", ["tools"]), tmp_path / "data", ASTROMESH_API_KEYS="ada:s3cret") as running:
        url = {"ASTROMESH_URL": running.url}
        refused(await ctl("status", **url), "401", "ASTROMESH_API_KEY_FILE or --api-key")
        refused(await ctl("status", ASTROMESH_API_KEY="wrong", **url), "401")
        for given in ({"ASTROMESH_API_KEY": "s3cret"}, {"ASTROMESH_API_KEY_FILE": str(tmp_path / "key")}):
            assert (await ctl("status", **given, **url)).code == 0
        assert (await ctl("status", "--api-key", "s3cret", **url)).code == 0
        assert (await ctl("--api-key", "s3cret", "status", **url)).code == 0
        both = {"ASTROMESH_API_KEY": "s3cret", "ASTROMESH_API_KEY_FILE": str(tmp_path / "key")}
        refused(await ctl("status", **both, **url), "set one of the two")
        refused(await ctl("status", ASTROMESH_API_KEY_FILE=str(tmp_path / "empty"), **url), "is empty")
        refused(await ctl("status", ASTROMESH_API_KEY_FILE=str(tmp_path / "none"), **url), "No such file or directory")
        bad = await ctl("status", "--api-key", "s3cret ü", **url)
        assert bad.code == 2
        assert "s3cret" not in bad.err


async def test_what_a_node_says_of_a_service_that_nobody_has_is_passed_on(tmp_path: Path) -> None:
    async with node(profile(tmp_path / "n.yaml", []), tmp_path / "data") as running:
        for command in (("agents", "list"), ("run", "assistant", "hi"), ("tools", "test", "calculator", "expression=1")):
            refused(await ctl(*command, "--url", running.url), "answers 503", "agents" if command[0] != "tools" else "tools")
        refused(await ctl("mesh", "nodes", "--url", running.url), "answers 503", "ASTROMESH_MESH_ENABLED=true")
        refused(await ctl("mesh", "leave", "--yes", "--url", running.url), "mesh is off")


async def test_a_reader_that_leaves_ends_the_command_without_a_word(tmp_path: Path) -> None:
    async with node(profile(tmp_path / "n.yaml", []), tmp_path / "data") as running:
        script = f"{COMMAND} metrics --url {running.url} | true"
        process = await asyncio.create_subprocess_exec("sh", "-c", script, stderr=asyncio.subprocess.PIPE)
        assert (await process.communicate())[1] == b""
