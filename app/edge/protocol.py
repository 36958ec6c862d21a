"""uvicorn's HTTP/1.1 protocol with the limits it lacks: size and time of a request head, number of connections, no trailers kept.

Measured on uvicorn 0.54: it takes a head of 20 MB and waits for ever on half of one. Oversized heads are answered 431, slow ones 408,
malformed ones 400, all in the one error shape, and the connection is closed.
"""

import asyncio
import json
from typing import Any, ClassVar

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol


class LimitedProtocol(HttpToolsProtocol):
    """``limited`` makes the subclass that uvicorn instantiates for each connection."""

    max_head_bytes: ClassVar[int] = 64 * 1024
    head_timeout_s: ClassVar[float] = 10.0
    max_connections: ClassVar[int] = 10_000

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._in_head = True
        self._head_bytes = 0
        self._head_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)  # type: ignore[arg-type]
        if len(self.connections) > self.max_connections:
            self._refuse(503, "too_many_connections", f"This node has {self.max_connections} connections open already; try again later.")
            return
        self._arm_head_timer()

    def connection_lost(self, exc: Exception | None) -> None:
        self._disarm_head_timer()
        super().connection_lost(exc)

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._in_head, self._head_bytes = True, 0

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._in_head:  # what comes later is a trailer, which nothing here reads
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        self._in_head = False
        super().on_headers_complete()

    def data_received(self, data: bytes) -> None:
        if self.parser is None:
            return
        super().data_received(data)
        if not self._in_head or self.transport.is_closing():
            self._disarm_head_timer()
            return
        self._head_bytes += len(data)
        if self._head_bytes > self.max_head_bytes:
            self._refuse(431, "header_too_large", f"The request head is over {self.max_head_bytes} bytes; send fewer or shorter headers.")
        else:
            self._arm_head_timer()

    def send_400_response(self, msg: str) -> None:
        self._refuse(400, "malformed_request", f"{msg} Send a well-formed HTTP/1.1 request.")

    def _arm_head_timer(self) -> None:
        if self._head_timer is None:
            self._head_timer = self.loop.call_later(self.head_timeout_s, self._on_head_timeout)

    def _disarm_head_timer(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _on_head_timeout(self) -> None:
        self._head_timer = None
        if self._head_bytes:
            self._refuse(408, "request_timeout", f"The request head did not arrive within {self.head_timeout_s:g} s; send it at once.")
        elif not self.transport.is_closing():
            self.transport.close()

    def _refuse(self, status: int, code: str, message: str) -> None:
        kind = "server_error" if status >= 500 else "invalid_request_error"
        body = json.dumps({"error": {"message": message, "type": kind, "code": code, "param": None}}).encode()
        head = b"content-type: application/json\r\ncontent-length: %d\r\nconnection: close\r\n\r\n" % len(body)
        if not self.transport.is_closing():
            if self.cycle is None or self.cycle.response_complete:  # never into the middle of another answer
                self.transport.write(STATUS_LINE[status] + head + body)
            self.transport.close()


def limited(*, max_head_bytes: int, head_timeout_s: float, max_connections: int) -> type[LimitedProtocol]:
    """The protocol class with these limits: bytes, seconds, and open connections."""
    limits = {"max_head_bytes": max_head_bytes, "head_timeout_s": head_timeout_s, "max_connections": max_connections}
    return type("Protocol", (LimitedProtocol,), limits)
