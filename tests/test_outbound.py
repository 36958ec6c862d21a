"""What tools may reach: real servers of loopback, which is allowed here by name, and a resolver that changes its mind."""

import asyncio
import socket
from collections.abc import AsyncIterator
from typing import Any

import pytest
from starlette.requests import Request as Asked
from starlette.responses import PlainTextResponse, RedirectResponse, Response, StreamingResponse
from starlette.routing import Route, Router

from app.outbound import Destinations, OutboundError, Request, ask, parse_network
from tests.support import serve

LOOPBACK = (parse_network("127.0.0.0/8"),)


class Server:
    """A web server that notes what it was asked. ``target`` is where /away redirects to."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, str, dict[str, str], bytes]] = []
        self.target = ""

    def app(self) -> Router:
        routes = [("/text", self.text), ("/away", self.away), ("/endless", self.endless), ("/silent", self.silent), ("/loop", self.loop)]
        return Router([Route(path, self.noted(handler), methods=["GET", "POST"]) for path, handler in routes])

    def noted(self, handler: Any) -> Any:
        async def note(request: Asked) -> Response:
            self.asked.append((request.method, request.url.path, dict(request.headers), await request.body()))
            answer: Response = await handler(request)
            return answer

        return note

    async def text(self, request: Asked) -> Response:
        return PlainTextResponse("hello")

    async def away(self, request: Asked) -> Response:
        return RedirectResponse(self.target, int(request.query_params.get("status", "302")))

    async def loop(self, request: Asked) -> Response:
        return RedirectResponse("/loop")

    async def endless(self, request: Asked) -> Response:
        async def body() -> AsyncIterator[bytes]:
            while True:
                yield b"x" * 1024

        return StreamingResponse(body(), media_type="text/plain")

    async def silent(self, request: Asked) -> Response:
        await asyncio.Event().wait()
        raise AssertionError


@pytest.fixture
def server() -> Server:
    return Server()


def allowing(url: str) -> Destinations:
    return Destinations((url.removeprefix("http://"),), LOOPBACK, "Ask the operator.")


async def test_an_allowed_host_is_asked_and_answers(server: Server) -> None:
    async with serve(server.app()) as url:
        answer = await ask(Request("POST", f"{url}/text", {"X-Own": "1"}, b"body"), allowing(url))
    assert (answer.status, answer.body, answer.truncated) == (200, b"hello", False)
    [(method, _, headers, body)] = server.asked
    assert (method, headers["x-own"], body) == ("POST", "1", b"body")


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1:1/",
        "http://localhost:1/",
        "http://127.1:1/",
        "http://2130706433:1/",
        "http://0x7f000001:1/",
        "http://[::1]:1/",
        "http://[::ffff:127.0.0.1]:1/",
        "http://[64:ff9b::7f00:1]:1/",
        "http://[2002:7f00:1::]:1/",
        "http://169.254.169.254:80/latest/meta-data",
        "http://10.0.0.1:1/",
        "http://192.168.1.1:1/",
        "http://100.64.0.1:1/",
        "http://0.0.0.0:1/",
        "http://224.0.0.1:1/",
        "http://[fe80::1]:1/",
        "http://[fd00::1]:1/",
    ],
)
async def test_what_is_not_public_is_not_asked_however_it_is_written(url: str) -> None:
    with pytest.raises(OutboundError, match="not a public address"):
        await ask(Request("GET", url), Destinations(("*:1", "*:80")))


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("http://other.example:80/", "may not be asked; allowed is api.example, .*Ask the operator"),
        ("http://api.example:8080/", "may not be asked"),
        ("http://api.example@evil.example/", "user or password"),
        ("http://evil.example/#@api.example", "may not be asked"),
        ("file:///etc/passwd", "no http or https URL"),
        ("http:///x", "no http or https URL"),
        ("http://api.example:99999/", "no URL"),
        ("//api.example", "no http or https URL"),
    ],
)
async def test_a_host_that_is_not_allowed_is_refused_by_name_with_the_remedy(url: str, told: str) -> None:
    with pytest.raises(OutboundError, match=told):
        await ask(Request("GET", url), Destinations(("api.example", "*.wiki.example"), (), "Ask the operator."))


def test_a_pattern_matches_parts_of_a_name_and_the_usual_ports() -> None:
    allowed = Destinations(("*.wiki.example", "[2001:db8::1]:8080"))
    allowed.check("https://en.wiki.example/")
    allowed.check("http://EN.Wiki.Example/")
    for url in ("https://wiki.example/", "https://en.wiki.example.evil/", "https://en.wiki.example:8443/"):
        with pytest.raises(OutboundError):
            allowed.check(url)


async def test_a_name_that_changes_its_address_is_asked_at_the_checked_one_or_not_at_all(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """DNS rebinding: public when it is looked at, loopback when it is connected to."""
    asked = list[str]()
    loop = asyncio.get_running_loop()
    true = loop.getaddrinfo

    async def rebinding(host: str, port: Any, **options: Any) -> Any:
        asked.append(host)
        address = "93.184.216.34" if len(asked) % 2 else "127.0.0.1"
        return (
            [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port))]
            if host == "rebind.example"
            else await true(host, port, **options)
        )

    monkeypatch.setattr(loop, "getaddrinfo", rebinding)
    async with serve(server.app()) as url:
        port = url.rpartition(":")[2]
        asked.append("an answer before")
        with pytest.raises(OutboundError, match=r"rebind.example is at 127.0.0.1, which is not a public address"):
            await ask(Request("GET", f"http://rebind.example:{port}/text"), Destinations((f"rebind.example:{port}",)))
    assert not server.asked


async def test_a_redirect_is_checked_like_a_request(server: Server) -> None:
    inner = Server()
    async with serve(server.app()) as url, serve(inner.app()) as forbidden:
        server.target = f"{forbidden}/text"
        with pytest.raises(OutboundError, match="may not be asked"):
            await ask(Request("GET", f"{url}/away", max_redirects=3), allowing(url))
        server.target = "http://169.254.169.254/latest"
        with pytest.raises(OutboundError, match="not a public address"):
            await ask(Request("GET", f"{url}/away", max_redirects=3), Destinations((url.removeprefix("http://"), "*"), LOOPBACK))
    assert not inner.asked


async def test_credentials_do_not_follow_a_redirect_to_another_origin(server: Server) -> None:
    other = Server()
    async with serve(server.app()) as url, serve(other.app()) as there:
        server.target = f"{there}/text"
        both = Destinations((url.removeprefix("http://"), there.removeprefix("http://")), LOOPBACK)
        headers = {"Authorization": "Bearer secret", "X-Own": "1"}
        await ask(Request("POST", f"{url}/away?status=307", headers, b"x", max_redirects=1), both)
        await ask(Request("POST", f"{url}/away?status=303", headers, b"x", max_redirects=1), both)
    kept, changed = other.asked
    assert "authorization" not in kept[2]
    assert (kept[0], kept[3], kept[2]["x-own"]) == ("POST", b"x", "1")
    assert (changed[0], changed[3]) == ("GET", b"")


async def test_redirects_in_a_circle_end(server: Server) -> None:
    async with serve(server.app()) as url:
        with pytest.raises(OutboundError, match="redirects more than 4 times"):
            await ask(Request("GET", f"{url}/loop", max_redirects=4), allowing(url))


async def test_an_endless_answer_is_cut_and_a_silent_server_is_given_up(server: Server) -> None:
    async with serve(server.app()) as url:
        answer = await ask(Request("GET", f"{url}/endless", max_bytes=5_000), allowing(url))
        assert (len(answer.body), answer.truncated) == (5_000, True)
        with pytest.raises(OutboundError, match=r"did not answer within 0.2 s"):
            await ask(Request("GET", f"{url}/silent", timeout_s=0.2), allowing(url))


async def test_nobody_there_is_an_error_that_names_the_server() -> None:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        port = bound.getsockname()[1]
        with pytest.raises(OutboundError, match=rf"http://127.0.0.1:{port} cannot be reached"):
            await ask(Request("GET", f"http://127.0.0.1:{port}/secret-path"), Destinations((f"127.0.0.1:{port}",), LOOPBACK))


@pytest.mark.parametrize("headers", [{"Host": "other"}, {"Content-Length": "1"}, {"X-A": "a\r\nX-B: b"}, {"Bad Name": "x"}])
async def test_headers_of_the_connection_and_broken_ones_are_not_sent(server: Server, headers: dict[str, str]) -> None:
    async with serve(server.app()) as url:
        with pytest.raises(OutboundError):
            await ask(Request("GET", f"{url}/text", headers), allowing(url))
    assert not server.asked
