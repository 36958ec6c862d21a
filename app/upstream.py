"""Speak HTTP to a peer: one connection pool, raw headers, streamed bodies. The seam behind which the client library can be replaced.

The pool keeps an idle connection for 30 s, less than any node's server does (75 s), so a request does not meet a closing connection.
"""

import os
from collections.abc import AsyncIterator, Sequence
from functools import lru_cache
from types import TracebackType
from typing import Self

import aiohttp
from multidict import CIMultiDict
from yarl import URL

CONNECT_TIMEOUT_S = 2.0
POOL_IDLE_S = 30.0
Headers = Sequence[tuple[bytes, bytes]]


class NotSentError(Exception):
    """Nothing of the request has begun at the peer: refused, no such host, no TLS, or (``silent``) no connection in time."""

    def __init__(self, message: str, *, silent: bool = False) -> None:
        super().__init__(message)
        self.silent = silent


class BrokenError(Exception):
    """The connection broke after the request was on its way: what the peer did of it is unknown."""


class Answer:
    """A peer's answer: ``status``, raw ``headers``, and the body chunk by chunk as it arrives, undecoded."""

    def __init__(self, response: aiohttp.ClientResponse) -> None:
        self._response = response
        self.status = response.status
        self.headers: Headers = response.raw_headers

    def header(self, name: bytes) -> bytes | None:
        return next((value for key, value in self.headers if key.lower() == name), None)

    async def next_chunk(self) -> tuple[bytes, bool]:
        """What has arrived of the body, and whether more may follow. Raises BrokenError when it ends before its end."""
        content = self._response.content
        try:
            chunk = await content.readany()
        except (aiohttp.ClientError, OSError) as error:
            raise BrokenError(reason(error)) from error
        return chunk, bool(chunk) and not content.at_eof()

    async def read(self) -> bytes:
        whole, more = b"", True
        while more:
            chunk, more = await self.next_chunk()
            whole += chunk
        return whole

    def close(self) -> None:
        """Give the connection back if the answer was read to its end, else close it, which cancels the work at the peer."""
        self._response.close()


class Upstream:
    """An async context manager that holds the pool."""

    async def __aenter__(self) -> Self:
        connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=POOL_IDLE_S, ttl_dns_cache=2, happy_eyeballs_delay=0.1)
        self._session = aiohttp.ClientSession(
            connector=connector,
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_TIMEOUT_S, connect=CONNECT_TIMEOUT_S),
            skip_auto_headers=("User-Agent", "Accept", "Accept-Encoding", "Content-Type"),
            max_line_size=64 * 1024,
            max_field_size=64 * 1024,
            max_headers=1024,
        )
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self._session.close()

    async def send(
        self, method: str, url: str, headers: Headers, body: bytes | AsyncIterator[bytes] | None, *, expect_continue: bool = False
    ) -> Answer:
        """Send a request and return its answer once the head of it is here. ``url`` is percent-encoded and goes out as it is.

        Raises NotSentError or BrokenError. With ``expect_continue`` the body waits for the peer's 100 Continue.
        """
        sent: CIMultiDict[str] = CIMultiDict((name.decode("latin-1"), value.decode("latin-1")) for name, value in headers)
        try:
            response = await self._session.request(
                method, _parsed(url), headers=sent, data=body, allow_redirects=False, expect100=expect_continue
            )
        except aiohttp.ConnectionTimeoutError as error:
            raise NotSentError(f"no connection within {CONNECT_TIMEOUT_S:g} s", silent=True) from error
        except (aiohttp.ClientConnectorError, aiohttp.InvalidURL) as error:
            raise NotSentError(reason(error)) from error
        except (aiohttp.ClientError, OSError) as error:
            raise BrokenError(reason(error)) from error
        return Answer(response)


@lru_cache(1024)
def _parsed(url: str) -> URL:
    return URL(url, encoded=True)


def reason(error: BaseException) -> str:
    """Why a connection failed, in a few words."""
    if isinstance(error, aiohttp.ClientConnectorDNSError):
        return f"no address for {error.host}"
    if isinstance(error, aiohttp.ClientConnectorError):
        return os.strerror(error.os_error.errno).lower() if error.os_error.errno else str(error.os_error)
    return str(error) or type(error).__name__
