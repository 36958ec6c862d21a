"""What tools may reach: real servers of loopback, which is allowed here by name, and a resolver that changes its mind."""

import asyncio
import gzip
import socket
from collections.abc import AsyncIterator
from typing import Any

import pytest
from starlette.requests import Request as Asked
from starlette.responses import PlainTextResponse, RedirectResponse, Response, StreamingResponse
from starlette.routing import Route, Router

from app.outbound import Destinations, OutboundError, Request, ask, parse_network
from app.outbound import Response as Answer
from tests.support import serve

LOOPBACK = (parse_network("127.0.0.0/8"),)


class Server:
    """A web server that notes what it was asked. ``target`` is where /away redirects to."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, str, dict[str, str], bytes]] = []
        self.target = ""

    def app(self) -> Router:
        pages = (self.text, self.away, self.endless, self.stalled, self.packed, self.silent, self.loop)
        return Router([Route(f"/{page.__name__}", self.noted(page), methods=["GET", "POST"]) for page in pages])

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
                await asyncio.sleep(0)  # the server writes to who has left without a word: let it hear of that

        return StreamingResponse(body(), media_type="text/plain")

    async def stalled(self, request: Asked) -> Response:
        async def body() -> AsyncIterator[bytes]:
            yield b"begun"
            await asyncio.Event().wait()

        return StreamingResponse(body(), media_type="text/plain")

    async def packed(self, request: Asked) -> Response:
        return Response(gzip.compress(b"0" * 20_000_000), headers={"Content-Encoding": "gzip"}, media_type="text/plain")

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
        "http://[fec0::1]:1/",
        "http://[::127.0.0.1]:1/",
        "http://[64:ff9b:1::7f00:1]:1/",
        "http://168.63.129.16:80/metadata",
        "http://192.0.0.192:80/latest/meta-data",
        "http://\uff11\uff12\uff17.0.0.1:1/",
        "http://127。0。0。1:1/",
        "http://ⓛocalhost:1/",
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
        ("http://evil.example\\@api.example/", "is no URL"),
        ("http://\uff41\uff50\uff49.example.evil/", "may not be asked"),
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


class Names:
    """A resolver of ``rebind.example``: the first question gets the first answer, and so on; the last one is repeated."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *answers: list[str]) -> None:
        self.answers, self.asked = list(answers), 0
        loop = asyncio.get_running_loop()
        true = loop.getaddrinfo

        async def resolve(host: str, port: Any, **options: Any) -> Any:
            if host != "rebind.example":
                return await true(host, port, **options)
            self.asked += 1
            addresses = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
            return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)) for address in addresses]

        monkeypatch.setattr(loop, "getaddrinfo", resolve)


async def test_a_name_that_changes_its_address_is_asked_at_the_checked_one(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """DNS rebinding: a good address when it is looked at, a bad one if it is looked up again to connect."""
    names = Names(monkeypatch, ["127.0.0.1"], ["127.0.0.2"])
    async with serve(server.app()) as url:
        port = url.rpartition(":")[2]
        allowed = Destinations((f"rebind.example:{port}",), (parse_network("127.0.0.1/32"),))
        assert (await ask(Request("GET", f"http://rebind.example:{port}/text"), allowed)).body == b"hello"
        assert names.asked == 1
        with pytest.raises(OutboundError, match=r"rebind.example is at 127.0.0.2, which is not a public address"):
            await ask(Request("GET", f"http://rebind.example:{port}/text"), allowed)
    assert [headers["host"] for _, _, headers, _ in server.asked] == [f"rebind.example:{port}"]


async def test_a_redirect_to_a_name_that_has_changed_its_address_is_refused(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    Names(monkeypatch, ["127.0.0.1"], ["127.0.0.2"])
    async with serve(server.app()) as url:
        port = url.rpartition(":")[2]
        server.target = f"http://rebind.example:{port}/text"
        allowed = Destinations((f"rebind.example:{port}",), (parse_network("127.0.0.1/32"),))
        with pytest.raises(OutboundError, match=r"rebind.example is at 127.0.0.2"):
            await ask(Request("GET", f"http://rebind.example:{port}/away", max_redirects=1), allowed)
    assert [path for _, path, _, _ in server.asked] == ["/away"]


async def test_of_a_names_addresses_only_the_allowed_are_asked(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    Names(monkeypatch, ["127.0.0.2", "127.0.0.1"])
    async with serve(server.app()) as url:
        port = url.rpartition(":")[2]
        allowed = Destinations((f"rebind.example:{port}",), (parse_network("127.0.0.1/32"),))
        assert (await ask(Request("GET", f"http://rebind.example:{port}/text"), allowed)).body == b"hello"


async def test_a_proxy_of_the_environment_is_not_asked(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    proxy = Server()
    async with serve(server.app()) as url, serve(proxy.app()) as there:
        for name in ("http_proxy", "HTTP_PROXY", "all_proxy"):
            monkeypatch.setenv(name, there)
        monkeypatch.delenv("no_proxy", raising=False)
        assert (await ask(Request("GET", f"{url}/text"), allowing(url))).body == b"hello"
    assert not proxy.asked


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
        headers = {"Authorization": "Bearer secret", "X-Own": "1", "Content-Type": "text/plain"}
        await ask(Request("POST", f"{url}/away?status=307", headers, b"x", max_redirects=1), both)
        await ask(Request("POST", f"{url}/away?status=303", headers, b"x", max_redirects=1), both)
    kept, changed = other.asked
    assert "authorization" not in kept[2]
    assert (kept[0], kept[3], kept[2]["x-own"]) == ("POST", b"x", "1")
    assert kept[2]["content-type"] == "text/plain"
    assert (changed[0], changed[3], changed[2].get("content-type")) == ("GET", b"", None)


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
        with pytest.raises(OutboundError, match=r"did not answer within 0.2 s"):
            await ask(Request("GET", f"{url}/stalled", timeout_s=0.2), allowing(url))


async def test_a_small_body_that_unpacks_to_a_large_one_is_cut(server: Server) -> None:
    async with serve(server.app()) as url:
        answer = await ask(Request("GET", f"{url}/packed", max_bytes=5_000), allowing(url))
    assert (answer.body, answer.truncated) == (b"0" * 5_000, True)


@pytest.mark.parametrize(
    ("body", "charset", "text"),
    [
        (b"sch\xf6n", "iso-8859-1", "schön"),
        ("schön".encode("utf-16"), "utf-16", "schön"),
        (b"sch\xf6n", "utf-8", "sch\ufffdn"),
        (b"text", "no-such-charset", "text"),
        (b"text", "idna", "text"),
        (b"\x89PNG\0", "utf-8", "[5 bytes that are no text]"),
    ],
)
def test_a_body_is_told_as_text_whatever_it_says_it_is(body: bytes, charset: str, text: str) -> None:
    assert Answer(200, "http://x/", {}, body, charset, truncated=False).text() == text


async def test_nobody_there_is_an_error_that_names_the_server() -> None:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        port = bound.getsockname()[1]
        with pytest.raises(OutboundError, match=rf"http://127.0.0.1:{port} cannot be reached"):
            await ask(Request("GET", f"http://127.0.0.1:{port}/secret-path"), Destinations((f"127.0.0.1:{port}",), LOOPBACK))


@pytest.mark.parametrize(
    "headers",
    [
        {"Host": "other"},
        {"Content-Length": "1"},
        {"Keep-Alive": "1"},
        {"Proxy-Authorization": "x"},
        {"X-A": "a\r\nX-B: b"},
        {"Bad Name": "x"},
        {"é": "x"},
    ],
)
async def test_headers_of_the_connection_and_broken_ones_are_not_sent(server: Server, headers: dict[str, str]) -> None:
    async with serve(server.app()) as url:
        with pytest.raises(OutboundError):
            await ask(Request("GET", f"{url}/text", headers), allowing(url))
    assert not server.asked


async def test_an_answer_that_is_no_http_is_told_without_what_may_be_secret_in_the_url() -> None:
    async def nonsense(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"SPAM SPAM SPAM\r\n\r\n")
        writer.close()

    async with await asyncio.start_server(nonsense, "127.0.0.1", 0) as server:
        host = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
        with pytest.raises(OutboundError, match=f"http://{host} gave no usable answer") as raised:
            await ask(Request("GET", f"http://{host}/hook?key=very-secret"), allowing(f"http://{host}"))
    assert "very-secret" not in str(raised.value)


def test_a_body_is_not_decoded_as_the_name_of_a_host() -> None:
    """128 KiB of punycode take over a second."""
    body = b"abc-" + b"a" * 100
    assert Answer(200, "http://a/", {}, body, "Punycode", False).text() == body.decode()
