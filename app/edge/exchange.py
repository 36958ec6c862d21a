"""One request and its answer as the network sees them: limits on the body, the client's leaving, and how an answer that breaks ends."""

import asyncio
import json
import time
from collections.abc import Awaitable
from contextlib import suppress
from typing import Literal

from starlette.types import Message, Receive, Send

from app.edge.cycle import Cycle
from app.errors import BodyTooLarge, NodeError
from app.sse import encode_error

LAST_WORD_S = 0.5
Ending = Literal["client_gone", "body_idle", "drain"]


class Exchange:
    """Wraps ``receive`` and ``send`` of one request.

    ``end`` stops the handler from outside, through the one asyncio.Timeout that also keeps the deadline, and says why.
    """

    def __init__(self, cycle: Cycle, receive: Receive, send: Send, answer_headers: list[tuple[bytes, bytes]], body_limit: int) -> None:
        self._receive, self._send = receive, send
        self._cycle = cycle
        cycle.client_left = self._client_left
        self.answer_headers = answer_headers
        self._body_limit = body_limit
        self._scope_timeout: asyncio.Timeout | None = None
        self._received = 0
        self._body_done = self._empty_body_due = self._finished = self._sse = False
        self._at_boundary = True
        self.closing = self.expired = False
        self.status = 0
        self.ended_by: Ending | None = None
        self.principal = ""
        self.started_at = time.perf_counter()
        self.waiting_since = 0.0  # when the handler began to wait for more of the body; 0: it does not

    # The handler's side

    async def receive(self) -> Message:
        if self._body_done:
            if self._empty_body_due:
                self._empty_body_due = False
                return {"type": "http.request", "body": b"", "more_body": False}
            await asyncio.Event().wait()  # the handler is ended when the client leaves
        self.waiting_since = time.perf_counter()
        try:
            message = await self._receive()
        finally:
            self.waiting_since = 0.0
        if message["type"] == "http.disconnect":
            self.end("client_gone")
            return message
        self._received += len(message.get("body", b""))
        if self._received > self._body_limit:
            raise too_large(self._body_limit)
        self._body_done = not message.get("more_body", False)
        return message

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            await self._send({**message, "headers": self._headers(message.get("headers", ()))})
            return
        await self._send(message)  # stopped while it waits for the client to read, nothing of the message is out
        body = message.get("body", b"")
        if body:
            self._at_boundary = self._sse and body.endswith((b"\n\n", b"\r\n\r\n"))
        self._finished = not message.get("more_body", False)

    def _headers(self, headers: list[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
        answer = list(headers)
        names = {name.lower() for name, _ in answer}
        self._sse = any(name.lower() == b"content-type" and value.startswith(b"text/event-stream") for name, value in answer)
        answer += [header for header in self.answer_headers if header[0] not in names]
        if self.closing:
            answer.append((b"connection", b"close"))
        return answer

    # The node's side

    def expect_no_body(self) -> None:
        """The request has no body: a handler that asks gets its empty end at once."""
        self._body_done = self._empty_body_due = True

    def _client_left(self) -> None:
        self.end("client_gone")

    async def run(self, handler: Awaitable[None], deadline: float) -> None:
        """Run the handler until ``deadline`` (loop time) or ``end``, either of which raises TimeoutError."""
        self._scope_timeout = asyncio.timeout_at(deadline)
        try:
            async with self._scope_timeout:
                await handler
        except TimeoutError:
            self.expired = self._scope_timeout.expired()
            raise
        finally:
            self._scope_timeout = None

    def end(self, why: Ending) -> None:
        """Stop the handler now; its scope raises TimeoutError."""
        if self.ended_by is None and not self._finished and self._scope_timeout is not None and not self._scope_timeout.expired():
            self.ended_by = why
            self._scope_timeout.reschedule(asyncio.get_running_loop().time())

    async def fail(self, error: NodeError) -> None:
        """Answer with an error: as its status before the answer began; as a terminal event in a stream of events; else by cutting the
        body short, which the server shows by closing the connection."""
        with suppress(TimeoutError):  # a client that has stopped reading is not waited for
            async with asyncio.timeout(LAST_WORD_S):
                if not self.status:
                    await self._send_error(error)
                elif self._sse and self._at_boundary and not self._finished:
                    await self.send({"type": "http.response.body", "body": encode_error(error)})

    async def _send_error(self, error: NodeError) -> None:
        body = json.dumps(error.body()).encode()
        headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
        headers += [(key.lower().encode(), value.encode("latin-1")) for key, value in error.headers.items()]
        await self.send({"type": "http.response.start", "status": error.status, "headers": headers})
        await self.send({"type": "http.response.body", "body": body})

    def close(self) -> None:
        self._cycle.client_left = None


def too_large(limit: int) -> BodyTooLarge:
    return BodyTooLarge(f"The body is over {limit} bytes, the most that this node takes (spec.api.max_body_bytes); send less.")
