"""Speak HTTP to peers: a pool of connections, raw headers, streamed bodies. The seam under forwarding: nothing above knows the wire.

A client of our own, because forwarding is what the node is for: a general one took two fifths of a forwarded request's time, and does not
say whether a request had begun. The pool keeps an idle connection for 30 s, less than any node's server does (75 s), so that a request
does not meet a closing one.
"""

import asyncio
import os
import socket
import ssl
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Callable
from functools import lru_cache, partial
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit

from app.call import Headers
from app.connection import BrokenError, Connection
from app.flow import Batch

CONNECT_TIMEOUT_S = 2.0
POOL_IDLE_S = 30.0
SWEEP_S = 10.0
MAX_IDLE = 256
"""Idle connections kept for one peer."""
_SAFE = frozenset(("GET", "HEAD", "OPTIONS", "PUT", "DELETE"))
_WITH_BODY = frozenset(("POST", "PUT", "PATCH"))
Origin = tuple[str, str, int]
Body = bytes | AsyncIterator[bytes] | None


class NotSentError(Exception):
    """Nothing of the request has begun at the peer: refused, no such host, no TLS, or (``silent``) no connection in time."""

    def __init__(self, message: str, *, silent: bool = False) -> None:
        super().__init__(message)
        self.silent = silent


class Answer:
    """A peer's answer: ``status``, ``headers`` with lower-case names, and the body chunk by chunk as it arrives, undecoded."""

    __slots__ = ("_close", "_closed", "_connection", "headers", "next_chunk", "status")

    def __init__(self, head: tuple[int, Headers], close: Callable[[], None], connection: Connection) -> None:
        self.status, self.headers = head
        self.next_chunk = connection.next_chunk
        self._connection = connection
        self._close, self._closed = close, False

    def header(self, name: bytes) -> bytes | None:
        return next((value for key, value in self.headers if key == name), None)

    async def read(self, limit: int = 4 * 1024 * 1024) -> bytes:
        """The body, whole. Raises BrokenError for one of more than ``limit`` bytes, too."""
        whole, more = bytearray(), True
        while more:
            chunk, more = await self.next_chunk()
            whole += chunk
            if len(whole) > limit:
                raise BrokenError(f"its answer is over {limit} bytes")
        return bytes(whole)

    async def write(self, data: bytes) -> None:
        """Send to a peer that has upgraded the connection, once it has read enough of what was sent before."""
        await self._connection.drain()
        self._connection.write(data)

    def close(self) -> None:
        """Give the connection back if the answer was read to its end, else close it, which cancels the work at the peer."""
        if not self._closed:
            self._closed = True
            self._close()


class Upstream:
    """An async context manager that holds the pool."""

    def __init__(self) -> None:
        self._idle: defaultdict[Origin, list[Connection]] = defaultdict(list)
        self._open: set[Connection] = set()
        self._batch = Batch()
        self._swept_at = time.monotonic()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for connection in self._open:
            connection.abort()
        self._idle.clear()

    async def send(self, method: str, url: str, headers: Headers, body: Body, under_way: set[Connection] | None = None) -> Answer:
        """Send a request and return its answer once the head of it is here. ``url`` is percent-encoded and goes out as it is.

        A streamed body waits for the peer's 100 Continue; a request with an Upgrade header may be answered 101. The connection is in
        ``under_way`` until the answer is closed. Raises NotSentError or BrokenError; a kept connection that turns out to be closed costs
        nothing where a repetition is safe.
        """
        end = url.find("/", 8)  # behind "https://"
        base, target = (url[:end], url[end:]) if end > 0 else (url, "/")
        origin, authority = _parsed(base)
        lines = [b"%b %b HTTP/1.1\r\nhost: %b\r\n" % (method.encode(), target.encode("ascii"), authority)]
        lines += [b"%b: %b\r\n" % header for header in headers]
        whole = body is None or isinstance(body, bytes)
        chunked = not (whole or any(name == b"content-length" for name, _ in headers))
        if isinstance(body, bytes) or (body is None and method in _WITH_BODY):
            lines.append(b"content-length: %d\r\n" % len(body or b""))
        elif not whole:
            lines.append(b"transfer-encoding: chunked\r\nexpect: 100-continue\r\n" if chunked else b"expect: 100-continue\r\n")
        lines.append(b"\r\n")
        head = b"".join(lines)
        upgrades = method == "GET" and any(name == b"upgrade" for name, _ in headers)
        under_way = self._open if under_way is None else under_way
        connection = self._kept(origin) or await _connect(origin, self._batch)
        while True:
            kept, connection.used = connection.used, True
            self._open.add(connection)
            under_way.add(connection)
            try:
                connection.send(method, head, body, chunked=chunked, upgrades=upgrades)
                return Answer(await connection.head(), partial(self._close, origin, connection, under_way), connection)
            except BaseException as error:
                under_way.discard(connection)
                stale = isinstance(error, BrokenError) and kept and not connection.heard and not connection.aborted
                self._drop(connection)
                if not (stale and whole and method in _SAFE):
                    raise
            connection = await _connect(origin, self._batch)

    def _close(self, origin: Origin, connection: Connection, under_way: set[Connection]) -> None:
        if under_way is not self._open:
            under_way.discard(connection)
        now = time.monotonic()
        if not connection.reusable:
            self._drop(connection)
        else:
            connection.idle_since = now
            idle = self._idle[origin]
            idle.append(connection)
            if len(idle) > MAX_IDLE:
                self._drop(idle.pop(0))
        if now - self._swept_at > SWEEP_S:
            self._sweep(now)

    def _sweep(self, now: float) -> None:
        """Close what has been idle too long, at peers that are asked no more, too."""
        self._swept_at = now
        for origin, idle in list(self._idle.items()):
            while idle and (idle[0].idle_since < now - POOL_IDLE_S or not idle[0].alive):
                self._drop(idle.pop(0))
            if not idle:
                del self._idle[origin]

    def _kept(self, origin: Origin) -> Connection | None:
        """The connection used last, if it is still good."""
        idle = self._idle.get(origin)
        while idle:
            connection = idle.pop()
            if connection.alive and connection.idle_since > time.monotonic() - POOL_IDLE_S:
                return connection
            self._drop(connection)
        return None

    def _drop(self, connection: Connection) -> None:
        self._open.discard(connection)
        connection.abort()


async def _connect(origin: Origin, batch: Batch) -> Connection:
    """A new connection, to whichever address of the name takes it. Raises NotSentError."""
    scheme, host, port = origin
    context = _tls() if scheme == "https" else None
    try:
        async with asyncio.timeout(CONNECT_TIMEOUT_S):
            _, connection = await asyncio.get_running_loop().create_connection(partial(Connection, batch), host, port, ssl=context)
    except TimeoutError as error:
        raise NotSentError(f"no connection within {CONNECT_TIMEOUT_S:g} s", silent=True) from error
    except OSError as error:
        raise NotSentError(_reason(error, host)) from error
    except ValueError as error:  # UnicodeError, too: a name that cannot be looked up
        raise NotSentError(f"no address for {host}: {error}") from error
    return connection


@lru_cache(1)
def _tls() -> ssl.SSLContext:
    return ssl.create_default_context()


@lru_cache(1024)
def _parsed(base: str) -> tuple[Origin, bytes]:
    """(origin, authority) of an absolute URL without its path."""
    parts = urlsplit(base)
    port = parts.port or (443 if parts.scheme == "https" else 80)
    return (parts.scheme, parts.hostname or "", port), parts.netloc.encode("ascii")


def _reason(error: OSError, host: str) -> str:
    """Why there is no connection, in a few words."""
    if isinstance(error, socket.gaierror):
        return f"no address for {host}"
    if isinstance(error, ssl.SSLError):
        return f"no TLS: {error.reason or error}"
    # The event loops put words of their own around the system's.
    return os.strerror(error.errno).lower() if error.errno else str(error).lower()
