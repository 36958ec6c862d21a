"""uvicorn's HTTP/1.1 protocol with the limits it lacks: size and time of a request head, number of connections, no trailers kept.

Measured on uvicorn 0.54: it takes a head of 20 MB and waits for ever on half of one. Oversized heads are answered 431, slow ones 408,
malformed ones 400, all in the one error shape, and the connection is closed.
"""

import asyncio
import json
from collections.abc import Callable
from typing import Any, ClassVar

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from app.config.profile import ApiSettings
from app.context import new_request_id

CONNECTION = "astromesh.connection"
"""Where a scope's extensions hold this protocol. Its ``client_left`` is called when the connection is gone: a task of each request's own
that waits for ``http.disconnect`` would say the same and cost a sixth of a forwarded request."""
LINGER_S = 60.0
"""Seconds in which a client must read at least something of what a closed connection still holds for it."""
_LONGEST_URL = 65_535
"""What httptools can parse; beyond it, it says "invalid"."""


class LimitedProtocol(HttpToolsProtocol):
    """``limited`` makes the subclass that uvicorn instantiates for each connection.

    The client owes the rest of a head that it began, and of a body whose answer is out already; ``head_timeout_s`` is the time for either.
    """

    max_head_bytes: ClassVar[int] = 64 * 1024
    head_timeout_s: ClassVar[float] = 10.0
    max_connections: ClassVar[int] = 10_000
    node_name: ClassVar[bytes] = b""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._in_head, self._in_body, self._spoken = True, False, False
        self._head_bytes = 0
        self._due: asyncio.TimerHandle | None = None
        self.client_left: Callable[[], None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)  # type: ignore[arg-type]
        if len(self.connections) > self.max_connections:
            self._refuse(503, "too_many_connections", f"This node has {self.max_connections} connections open already; try again later.")
            return
        self._watch_debt()

    def connection_lost(self, exc: Exception | None) -> None:
        self._forgive()
        super().connection_lost(exc)
        if self.client_left is not None:
            self.client_left()

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self.scope["extensions"] = {CONNECTION: self}  # type: ignore[dict-item]
        self._in_head, self._head_bytes = True, 0

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._in_head:  # what comes later is a trailer, which nothing here reads
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        self._in_head, self._in_body = False, True
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        self._in_body = False
        super().on_message_complete()
        if not self.pipeline:
            self.flow.resume_reading()  # a long body has paused it, and who does not read never hears that the client left

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self.transport.is_closing():
            self.let_go()
        self._watch_debt()

    def timeout_keep_alive_handler(self) -> None:
        super().timeout_keep_alive_handler()
        self.let_go()

    def let_go(self, unread: int = -1) -> None:
        """A closed connection stays until its client has read all that is on the way to it, which a client need never do."""
        waiting = self.transport.get_write_buffer_size()
        if waiting == unread:
            self.transport.abort()
        elif waiting:
            self.loop.call_later(LINGER_S, self.let_go, waiting)

    def data_received(self, data: bytes) -> None:
        if self.parser is None:
            return
        # A head that begins behind another request's body counts from the next chunk on: where in this one it began, nobody tells.
        counted = len(data) if self._in_head else 0
        super().data_received(data)
        self._spoken = True
        if self.parser is None:
            return
        if self._in_head:
            self._head_bytes += counted
        if self._in_head and self._head_bytes > self.max_head_bytes:
            self._refuse(431, "header_too_large", f"The request head is over {self.max_head_bytes} bytes; send fewer or shorter headers.")
        else:
            self._watch_debt()

    def send_400_response(self, msg: str) -> None:
        if self.url is not None and len(self.url) > _LONGEST_URL:
            self._refuse(431, "header_too_large", f"The request's target is over {_LONGEST_URL} bytes; send a shorter one.")
        else:
            self._refuse(400, "malformed_request", f"{msg} Send a well-formed HTTP/1.1 request.")

    def _watch_debt(self) -> None:
        answering = self.cycle is not None and not self.cycle.response_complete
        if answering or self.transport.is_closing() or not (self._in_head or self._in_body):
            self._forgive()
        elif self._due is None:
            self._due = self.loop.call_later(self.head_timeout_s, self._on_overdue)

    def _forgive(self) -> None:
        if self._due is not None:
            self._due.cancel()
            self._due = None

    def _on_overdue(self) -> None:
        self._due = None
        if self._in_head and self._spoken:
            self._refuse(408, "request_timeout", f"The request head did not arrive within {self.head_timeout_s:g} s; send it at once.")
        elif not self.transport.is_closing():
            self.transport.close()

    def _refuse(self, status: int, code: str, message: str) -> None:
        kind = "server_error" if status >= 500 else "invalid_request_error"
        body = json.dumps({"error": {"message": message, "type": kind, "code": code, "param": None}}).encode()
        head = b"content-type: application/json\r\ncontent-length: %d\r\nconnection: close\r\n" % len(body)
        head += b"x-request-id: %b\r\nx-astromesh-node: %b\r\n\r\n" % (new_request_id().encode(), self.node_name)
        if self.transport.is_closing():
            return
        if self._may_speak():
            self.transport.write(STATUS_LINE[status] + head + body)
        elif not self.pipeline and not self.cycle.response_complete:
            self.cycle.keep_alive = False  # the answer that is on its way goes out first, whole; what follows is not read
            self.parser = None  # type: ignore[assignment]
            return
        self.transport.close()
        self.let_go()

    def _may_speak(self) -> bool:
        """Whether no other answer is on its way; a request of which nothing was answered yet is given up for this one."""
        if self.cycle is None or self.cycle.response_complete:
            return True
        if self.pipeline or self.cycle.response_started or self._in_head:
            return False
        self.cycle.disconnected = True
        self.cycle.message_event.set()
        return True


def limited(api: ApiSettings, node_name: str) -> type[LimitedProtocol]:
    """The protocol class with the limits of ``api``."""
    limits = {"max_head_bytes": api.max_header_bytes, "head_timeout_s": api.header_timeout_s, "max_connections": api.max_connections}
    return type("Protocol", (LimitedProtocol,), {**limits, "node_name": node_name.encode("latin-1", "replace")})
