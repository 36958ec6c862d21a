"""One HTTP/1.1 connection to a peer, one exchange at a time, over the parser of httptools (llhttp). No pool and no policy here."""

import asyncio
import socket
from collections.abc import AsyncIterator

import httptools

from app.call import Headers
from app.errors import NodeError
from app.flow import Batch, Flow

MAX_HEAD_BYTES = 64 * 1024
HIGH_WATER = 256 * 1024
"""Bytes of an answer that wait unread before the peer is held back."""
DEAD_LINE_S = 9
"""Long enough for a line that loses a third of its packets: eight questions go unanswered there once in ten thousand times."""
_WATCHING = (
    (socket.SOL_SOCKET, "SO_KEEPALIVE", 1),
    (socket.IPPROTO_TCP, "TCP_KEEPIDLE", 1),
    (socket.IPPROTO_TCP, "TCP_KEEPINTVL", 1),
    (socket.IPPROTO_TCP, "TCP_KEEPCNT", DEAD_LINE_S - 1),
)
_UNACKNOWLEDGED = "TCP_USER_TIMEOUT"
"""Linux: the same while something of the request is not acknowledged. Not for a streamed body: it also counts a reader's pauses."""


class BrokenError(Exception):
    """The connection broke after the request was on its way: what the peer did of it is unknown."""


class Connection(Flow):
    """``send`` a request, await ``head``, take ``next_chunk`` until there is no more, and then look at ``reusable``."""

    def __init__(self, batch: Batch) -> None:
        super().__init__(asyncio.get_running_loop(), batch)
        self._lost: BrokenError | NodeError | None = None
        self._upload: asyncio.Task[None] | None = None
        self.used = self.aborted = False
        self.begun_at = self.idle_since = 0.0
        self.watched = False

    # The exchange

    def send(
        self, method: str, head: bytes, body: bytes | AsyncIterator[bytes] | None, *, chunked: bool = False, upgrades: bool = False
    ) -> None:
        """Begin an exchange: ``head`` goes out with a whole body at once; a stream follows after the peer's 100 Continue, ``chunked``
        where its length is not in the head. One that ``upgrades`` may be answered 101: then the body is whatever the peer sends until it
        closes, and ``write`` sends to it."""
        self.begun_at = self.loop.time()
        self._parser = httptools.HttpResponseParser(self)
        self._bodyless = method == "HEAD"
        self._status, self._headers, self._head_bytes = 0, list[tuple[bytes, bytes]](), 0
        self._chunks, self._buffered = list[bytes](), 0
        self._complete = self._until_end = self.heard = self._upgraded = False
        self._upgrades = upgrades
        self._reader: asyncio.Future[None] | None = None
        self._head: asyncio.Future[None] = self.loop.create_future()
        self._continue: asyncio.Future[bool] | None = None
        self._upload = None
        if body is None or isinstance(body, bytes):
            self.write(head + body if body else head)
        else:
            self._continue = self.loop.create_future()
            self.write(head)
            self._upload = self.loop.create_task(self._stream(body, chunked))

    async def head(self) -> tuple[int, Headers]:
        """The answer's status and headers. Raises BrokenError."""
        if self._lost is not None:
            raise self._lost
        await self._head
        return self._status, self._headers

    async def next_chunk(self) -> tuple[bytes, bool]:
        """What has arrived of the body, and whether more may follow. Raises BrokenError when it ends before its end."""
        while not self._chunks and not self._complete:
            if self._lost is not None:
                raise self._lost
            self._reader = self.loop.create_future()
            await self._reader
        chunk = self._chunks[0] if len(self._chunks) == 1 else b"".join(self._chunks)
        self._chunks, self._buffered = [], 0
        self.read_on(True)
        return chunk, not self._complete

    @property
    def reusable(self) -> bool:
        """Whether another exchange may follow. Never after a streamed body, of which the peer may not have wanted all."""
        through = self._complete and self._upload is None and not self._until_end and not self._bodyless
        untouched = not self.watched and self.reading  # unread, it would never read again
        return through and self._keep_alive and self.alive and untouched

    @property
    def alive(self) -> bool:
        return self._lost is None and not self.transport.is_closing()

    def watch(self) -> None:
        """From now on the system asks the other end each second whether it is there, and breaks the connection when nothing has come back
        for DEAD_LINE_S. A busy or stopped process does not matter, its system answers: this is about the line alone."""
        self.watched = True
        line = self.transport.get_extra_info("socket")
        streams = self._upgraded or (self._upload is not None and self._continue is not None and self._continue.done())
        for level, name, value in (*_WATCHING, (socket.IPPROTO_TCP, _UNACKNOWLEDGED, 0 if streams else DEAD_LINE_S * 1000)):
            if hasattr(socket, name):
                line.setsockopt(level, getattr(socket, name), value)

    def abort(self, reason: str = "the connection was closed here") -> None:
        """Close at once, which cancels what the peer may still be doing. Whoever waits for its answer is told the reason."""
        if self._upload is not None:
            self._upload.cancel()
        self.aborted = True
        self._fail(BrokenError(reason))
        self.transport.abort()

    async def _stream(self, body: AsyncIterator[bytes], chunked: bool) -> None:
        if not await self._continue:  # type: ignore[misc]
            return
        if self.watched:
            self.watch()  # anew: from here on the peer may pause
        try:
            async for chunk in body:
                await self.drain()
                self.write(b"%x\r\n%b\r\n" % (len(chunk), chunk) if chunked else chunk)
        except NodeError as error:  # of the body's source: it is over a limit, say
            self._fail(error)
            self.transport.abort()
        else:
            if chunked:
                self.write(b"0\r\n\r\n")

    # The transport's side

    def connection_lost(self, error: Exception | None) -> None:
        self.resume_writing()
        if self.used and self._until_end and not self._complete and error is None and self._lost is None:
            self._complete = True
            self._wake()
        self._fail(BrokenError(str(error) or type(error).__name__ if error else "it closed the connection"))

    def data_received(self, data: bytes) -> None:
        if not self.used or self._complete:  # an answer that nobody asked for
            self.transport.abort()
            return
        self.heard = True
        if self._upgraded:
            self.on_body(data)
            return
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            if self._upgraded and isinstance(error, httptools.HttpParserUpgrade):
                if rest := data[error.args[0] :]:
                    self.on_body(rest)
                return
            self._fail(BrokenError(f"its answer is not HTTP/1.1: {error.__cause__ or error}"))
            self.transport.abort()

    def _fail(self, error: BrokenError | NodeError) -> None:
        if self._lost is None:
            self._lost = error
        if not self.used:
            return
        if not self._head.done():
            self._head.set_exception(self._lost)
            self._head.exception()  # looked at, also where nobody awaits it any more
        self._wake()
        if self._continue is not None and not self._continue.done():
            self._continue.set_result(False)

    def _wake(self) -> None:
        if self._reader is not None and not self._reader.done():
            self._reader.set_result(None)

    # The parser's side

    def on_message_begin(self) -> None:
        if self._complete:  # an answer that nobody asked for
            raise BrokenError("it answered twice")

    def on_header(self, name: bytes, value: bytes) -> None:
        self._head_bytes += len(name) + len(value)
        if self._head_bytes > MAX_HEAD_BYTES:
            raise BrokenError(f"the head of its answer is over {MAX_HEAD_BYTES} bytes")
        if not self._head.done():  # what comes later is a trailer
            self._headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        status = self._parser.get_status_code()
        if status == 101 and self._upgrades:
            self._status, self._keep_alive, self._until_end, self._upgraded = status, False, True, True
            if not self._head.done():
                self._head.set_result(None)
            return
        if status < 200:
            self._headers, self._head_bytes = [], 0
            if status == 100 and self._continue is not None and not self._continue.done():
                self._continue.set_result(True)
            return
        self._status = status
        self._keep_alive = self._parser.should_keep_alive()
        framed = (
            self._bodyless or status in (204, 304) or any(name in (b"content-length", b"transfer-encoding") for name, _ in self._headers)
        )
        self._until_end = not framed
        if self._continue is not None and not self._continue.done():
            self._continue.set_result(False)
        if not self._head.done():
            self._head.set_result(None)
        if self._bodyless:  # the parser cannot know that the length in this head is of a body that does not come
            self._complete = True

    def on_body(self, body: bytes) -> None:
        self._chunks.append(body)
        self._buffered += len(body)
        if self._buffered > HIGH_WATER:
            self.read_on(False)
        self._wake()

    def on_message_complete(self) -> None:
        if self._status and not self._upgraded:  # not of an interim answer
            self._complete = True
            self._wake()
