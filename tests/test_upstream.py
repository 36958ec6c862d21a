"""The client that speaks to peers, against servers that say what HTTP/1.1 allows and what it does not."""

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest

from app.connection import DEAD_LINE_S, HIGH_WATER, BrokenError, Connection
from app.errors import BodyTooLarge
from app.upstream import NotSentError, Upstream

Behave = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


class Peer:
    """A raw server: counts its connections and the requests' heads, and answers as ``behave`` says."""

    def __init__(self, behave: Behave) -> None:
        self._behave = behave
        self.connections = 0
        self.heads: list[bytes] = []
        self.url = ""

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            while True:
                self.heads.append(await reader.readuntil(b"\r\n\r\n"))
                await self._behave(reader, writer)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()


@asynccontextmanager
async def peer(behave: Behave) -> AsyncIterator[tuple[Peer, Upstream]]:
    made = Peer(behave)
    server = await asyncio.start_server(made.handle, "127.0.0.1", 0)
    made.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    async with server, Upstream() as upstream, asyncio.timeout(10):
        yield made, upstream


def saying(*parts: bytes, then_close: bool = False) -> Behave:
    async def behave(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for part in parts:
            writer.write(part)
            await writer.drain()
        if then_close:
            raise ConnectionError

    return behave


async def ask(upstream: Upstream, url: str, method: str = "GET") -> tuple[int, bytes]:
    answer = await upstream.send(method, url, [(b"x-a", b"1")], None)
    try:
        return answer.status, await answer.read()
    finally:
        answer.close()


LENGTH = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhe\r\n3\r\nllo\r\n0\r\nX-Trailer: dropped\r\n\r\n"


@pytest.mark.parametrize("said", [LENGTH, CHUNKED, b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n" + LENGTH])
async def test_a_connection_whose_answer_was_read_is_used_again(said: bytes) -> None:
    async with peer(saying(said)) as (made, upstream):
        for _ in range(3):
            assert await ask(upstream, f"{made.url}/a%2Fb?q=%20") == (200, b"hello")
        assert made.connections == 1
        assert made.heads[0].startswith(b"GET /a%2Fb?q=%20 HTTP/1.1\r\nhost: 127.0.0.1:")
        assert b"x-a: 1" in made.heads[0]


@pytest.mark.parametrize("cut", range(1, len(CHUNKED), 7))
async def test_an_answer_may_come_in_any_pieces(cut: int) -> None:
    async with peer(saying(CHUNKED[:cut], CHUNKED[cut:])) as (made, upstream):
        assert await ask(upstream, made.url) == (200, b"hello")


@pytest.mark.parametrize(
    ("method", "said", "expected"),
    [
        ("HEAD", b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", (200, b"")),
        ("GET", b"HTTP/1.1 204 No Content\r\n\r\n", (204, b"")),
        ("GET", b"HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n", (304, b"")),
        ("POST", b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", (200, b"")),
    ],
)
async def test_answers_without_a_body_end_with_their_head(method: str, said: bytes, expected: tuple[int, bytes]) -> None:
    async with peer(saying(said)) as (made, upstream):
        assert await ask(upstream, made.url, method) == expected
        assert await ask(upstream, made.url, method) == expected


async def test_an_answer_of_unknown_length_ends_with_its_connection() -> None:
    async with peer(saying(b"HTTP/1.0 200 OK\r\n\r\nhel", b"lo", then_close=True)) as (made, upstream):
        assert await ask(upstream, made.url) == (200, b"hello")
        assert await ask(upstream, made.url) == (200, b"hello")
        assert made.connections == 2


@pytest.mark.parametrize(
    "said",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\nhello",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"HTTP/1.1 200",
        b"\x16\x03\x01 garbage\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n" + b"X-Long: %s\r\n" % (b"a" * 1000) * 100 + b"\r\n",
        b"",
    ],
)
async def test_an_answer_that_breaks_off_or_is_none_is_broken(said: bytes) -> None:
    async with peer(saying(said, then_close=True)) as (made, upstream):
        with pytest.raises(BrokenError):
            await ask(upstream, made.url, "POST")
        assert made.connections == 1


async def test_a_kept_connection_that_the_peer_closed_meanwhile_is_replaced_where_that_is_safe() -> None:
    async def once(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if len(made.heads) % 2 == 0:  # the second request on a connection meets its end
            raise ConnectionError
        writer.write(LENGTH)

    async with peer(once) as (made, upstream):
        assert await ask(upstream, made.url) == (200, b"hello")
        assert await ask(upstream, made.url) == (200, b"hello")
        assert made.connections == 2
        with pytest.raises(BrokenError):
            await ask(upstream, made.url, "POST")


async def test_what_comes_on_an_idle_connection_is_nobodys_answer() -> None:
    async with peer(saying(LENGTH, LENGTH)) as (made, upstream):
        for _ in range(3):
            assert await ask(upstream, made.url, "POST") == (200, b"hello")


async def test_refused_and_unresolved_are_not_sent() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    async with Upstream() as upstream:
        for url, reason in ((f"http://127.0.0.1:{port}", "connection refused"), ("http://no-such-host.invalid", "no address")):
            with pytest.raises(NotSentError, match=reason):
                await ask(upstream, url)


async def test_a_peer_that_speaks_no_tls_is_not_sent() -> None:
    async with peer(saying(LENGTH)) as (made, upstream):
        with pytest.raises(NotSentError):
            await ask(upstream, made.url.replace("http:", "https:"))


async def two_parts() -> AsyncIterator[bytes]:
    yield b"a" * 10
    yield b"b" * 10


async def test_a_streamed_body_waits_for_100_continue() -> None:
    async def behave(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        assert b"expect: 100-continue" in made.heads[-1]
        writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        body = await reader.readuntil(b"0\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))

    async with peer(behave) as (made, upstream):
        answer = await upstream.send("POST", made.url, [], two_parts())
        assert await answer.read() == b"a\r\naaaaaaaaaa\r\na\r\nbbbbbbbbbb\r\n0\r\n\r\n"
        answer.close()


async def test_without_a_100_nothing_of_the_body_is_sent() -> None:
    begun = False

    async def body() -> AsyncIterator[bytes]:
        nonlocal begun
        begun = True
        yield b"never"

    async with peer(saying(b"HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n")) as (made, upstream):
        answer = await upstream.send("POST", made.url, [], body())
        assert answer.status == 503
        assert await answer.read() == b""
        answer.close()
        assert not begun


async def test_a_body_whose_source_fails_ends_the_request_with_that_error() -> None:
    async def too_long() -> AsyncIterator[bytes]:
        yield b"a"
        raise BodyTooLarge("over the limit")

    async with peer(saying(b"HTTP/1.1 100 Continue\r\n\r\n")) as (made, upstream):
        with pytest.raises(BodyTooLarge):
            await upstream.send("POST", made.url, [], too_long())


async def test_a_reader_that_pauses_holds_the_peer_back() -> None:
    written, stalled = 0, asyncio.Event()

    async def flood(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal written
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 50000000\r\n\r\n")
        for _ in range(50):
            writer.write(b"x" * 1_000_000)
            try:
                async with asyncio.timeout(0.5):
                    await writer.drain()
            except TimeoutError:
                stalled.set()
                await writer.drain()
            written += 1_000_000

    async with peer(flood) as (made, upstream):
        answer = await upstream.send("GET", made.url, [], None)
        await stalled.wait()
        assert written < 20_000_000
        chunk, more = await answer.next_chunk()
        assert HIGH_WATER < len(chunk) < 4_000_000
        assert more
        assert len(await answer.read(50_000_000)) + len(chunk) == 50_000_000
        answer.close()


async def test_leaving_in_the_middle_closes_the_connection() -> None:
    gone = asyncio.Event()

    async def endless(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n")
        await reader.read()
        gone.set()

    under_way = set[Connection]()
    async with peer(endless) as (made, upstream):
        answer = await upstream.send("GET", made.url, [], None, under_way)
        assert await answer.next_chunk() == (b"x", True)
        assert len(under_way) == 1
        answer.close()
        await gone.wait()
        assert not under_way


async def test_cancelling_a_request_that_has_no_answer_yet_closes_the_connection() -> None:
    begun, gone = asyncio.Event(), asyncio.Event()

    async def mute(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        begun.set()
        await reader.read()
        gone.set()

    async with peer(mute) as (made, upstream):
        asking = asyncio.create_task(ask(upstream, made.url, "POST"))
        await begun.wait()
        asking.cancel()
        await gone.wait()


async def test_a_connection_that_was_paused_and_left_unread_is_not_used_again() -> None:
    said = b"HTTP/1.1 200 OK\r\nContent-Length: 300000\r\n\r\n" + b"x" * 300_000
    async with peer(saying(said)) as (made, upstream):
        for _ in range(5):
            under_way = set[Connection]()
            answer = await upstream.send("GET", made.url, [], None, under_way)
            connection = next(iter(under_way))
            while not connection._complete and connection.reading:
                await asyncio.wait([asyncio.ensure_future(asyncio.to_thread(lambda: None))])
            answer.close()
            assert (await ask(upstream, made.url))[0] == 200


async def test_a_watched_line_carries_its_answer_and_is_not_used_again() -> None:
    begun, done = asyncio.Event(), asyncio.Event()

    async def late(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        begun.set()
        await done.wait()
        writer.write(b"HTTP/1.1 204 No Content\r\n\r\n")

    async with peer(late) as (made, upstream):
        under_way = set[Connection]()
        sending = asyncio.create_task(upstream.send("POST", made.url, [], b"", under_way))
        await begun.wait()
        connection = next(iter(under_way))
        connection.watch()
        line = connection.transport.get_extra_info("socket")
        assert line.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
        assert line.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == DEAD_LINE_S * 1000
        done.set()
        answer = await sending
        answer.close()
        assert (answer.status, connection.reusable) == (204, False)


@pytest.mark.parametrize("watched_first", [True, False])
async def test_a_watched_line_lets_the_reader_of_a_stream_pause(watched_first: bool) -> None:
    asked, waiting, done = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def slow(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.set()
        await waiting.wait()
        writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        await reader.readuntil(b"aaaaaaaaaa")
        asked.set()
        await done.wait()
        writer.write(b"HTTP/1.1 204 No Content\r\n\r\n")

    def user_timeout() -> int:
        return connection.transport.get_extra_info("socket").getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT)  # type: ignore[no-any-return]

    async with peer(slow) as (made, upstream):
        under_way = set[Connection]()
        sending = asyncio.create_task(upstream.send("POST", made.url, [], two_parts(), under_way))
        await asked.wait()
        connection = next(iter(under_way))
        if watched_first:
            connection.watch()
            assert user_timeout() == DEAD_LINE_S * 1000
        asked.clear()
        waiting.set()
        await asked.wait()
        if not watched_first:
            connection.watch()
        assert user_timeout() == 0
        done.set()
        (await sending).close()


async def test_an_answer_that_changes_the_protocol_is_broken() -> None:
    async with peer(saying(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n")) as (made, upstream):
        with pytest.raises(BrokenError):
            await ask(upstream, made.url, "POST")
