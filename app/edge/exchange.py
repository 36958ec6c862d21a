"""One request and its answer as the network sees them: limits on the body, the client's leaving, and how an answer that breaks ends."""

import asyncio
import json
import math
import time
from collections.abc import Awaitable, Iterable
from contextlib import suppress
from typing import Literal

from starlette.types import Message, Receive, Send

from app.edge.cycle import Cycle
from app.edge.quota import Account
from app.errors import BodyTooLarge, NodeError, RateLimited
from app.frames import Frames, last_words
from app.sse import encode_error
from app.tracing import UNRECORDED, Span

LAST_WORD_S = 0.5
GRACE_S = 0.25
SLOWEST_BYTES_S = 1024
"""A body that has come slower than that for GRACE_S gives way where the node has no room for others."""
Ending = Literal["client_gone", "body_idle", "body_slow", "deadline", "drain", "limited"]


class EndedError(Exception):
    """The handler was stopped from outside; the exchange's ``ended_by`` says why."""


class Exchange:
    """Wraps ``receive`` and ``send`` of one request. ``end`` stops the handler from outside, and says why.

    ``deadline`` is loop time; whoever keeps the exchange ends it then. A timer and a scope of asyncio.timeout for each cost 3 µs.
    """

    __slots__ = (
        "_at_boundary",
        "_body_done",
        "_body_limit",
        "_cancelled",
        "_cycle",
        "_empty_body_due",
        "_finished",
        "_receive",
        "_received",
        "_send",
        "_socket",
        "_sse",
        "_task",
        "account",
        "answer_headers",
        "closing",
        "deadline",
        "ended_by",
        "failure",
        "principal",
        "refusal",
        "span",
        "started_at",
        "status",
        "waiting_since",
    )

    def __init__(self, cycle: Cycle, receive: Receive, send: Send, answer_headers: list[tuple[bytes, bytes]], body_limit: int) -> None:
        self._receive, self._send = receive, send
        self._cycle = cycle
        cycle.client_left = self._client_left
        self.answer_headers = answer_headers
        self._body_limit = body_limit
        self._task: asyncio.Task[None] | None = None  # while the handler runs
        self._received = 0
        self._body_done = self._empty_body_due = self._finished = self._sse = self._cancelled = False
        self._at_boundary = True
        self._socket: tuple[Frames, Frames] | None = None  # what was heard and what was said, once it is one
        self.closing = False
        self.status = 0
        self.ended_by: Ending | None = None
        self.principal = self.failure = ""
        self.span: Span = UNRECORDED
        self.account: Account | None = None  # that of the client, where it counts
        self.refusal: NodeError | None = None  # of a question on a socket
        self.deadline = math.inf
        self.started_at = time.perf_counter()
        self.waiting_since = 0.0  # when the handler began to wait for more of the body; 0: it does not

    # The handler's side

    async def receive(self) -> Message:
        if self._socket is not None:
            return await self._hear(self._socket[0])
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

    async def _hear(self, frames: Frames) -> Message:
        """A part of a socket's stream, of which there may be any number; who sends nothing may be listening."""
        message = await self._receive()
        if message["type"] == "http.disconnect":
            self.end("client_gone")
            return message
        before = frames.messages
        frames.feed(message.get("body", b""))
        try:
            for _ in range(frames.messages - before if self.account is not None else 0):
                self.account.ask(asyncio.get_running_loop().time())  # type: ignore[union-attr]
        except RateLimited as error:
            self.refusal = error
            self.end("limited")
            await asyncio.Event().wait()  # until that has happened: the question goes no further
        return message

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            if self.status == 101:
                self._socket, self.deadline = (Frames(), Frames()), math.inf
            await self._send({"type": "http.response.start", "status": self.status, "headers": self._headers(message.get("headers", ()))})
            return
        await self._send(message)  # stopped while it waits for the client to read, nothing of the message is out
        body = message.get("body", b"")
        if self._socket is not None:
            self._socket[1].feed(body)
        elif body:
            self._at_boundary = self._sse and body.endswith((b"\n\n", b"\r\n\r\n"))
        self._finished = not message.get("more_body", False)

    def _headers(self, headers: Iterable[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
        answer = list(headers)
        given = {name.lower(): value for name, value in answer}
        self._sse = given.get(b"content-type", b"").startswith(b"text/event-stream")
        answer += [header for header in self.answer_headers if header[0] not in given]
        if self.closing and self._socket is None:
            answer.append((b"connection", b"close"))
        return answer

    # The node's side

    def expect_no_body(self) -> None:
        """The request has no body: a handler that asks gets its empty end at once."""
        self._body_done = self._empty_body_due = True

    def _client_left(self) -> None:
        self.end("client_gone")

    async def run(self, handler: Awaitable[None]) -> None:
        """Run the handler to its end, or until ``end``, which raises EndedError."""
        task = self._task = asyncio.current_task()
        try:
            await handler
        except asyncio.CancelledError as error:
            if not self._cancelled or task.uncancel() > 0:  # type: ignore[union-attr]  # whoever awaits is in a task
                raise
            self._cancelled = False
            raise EndedError from error
        finally:
            self._task = None
            if self._cancelled:  # the handler made something else of it
                task.uncancel()  # type: ignore[union-attr]

    def end(self, why: Ending) -> None:
        """Stop the handler, in the loop's next turn: it may be the caller."""
        if self.ended_by is None and not self._finished and self._task is not None:
            self.ended_by = why
            self._task.get_loop().call_soon(self._cancel)

    def _cancel(self) -> None:
        if self._task is not None:
            self._cancelled = True
            self._task.cancel()

    def dawdles(self) -> bool:
        """Whether the handler waits for a body that comes too slowly."""
        if self.ended_by is not None or not self.waiting_since:
            return False
        age_s = time.perf_counter() - self.started_at
        return age_s > GRACE_S and self._received < age_s * SLOWEST_BYTES_S

    async def fail(self, error: NodeError) -> None:
        """Answer with an error: as its status before the answer began; as a terminal event in a stream of events or a socket; else by
        cutting the body short, which the server shows by closing the connection."""
        self.failure = error.code
        with suppress(TimeoutError):  # a client that has stopped reading is not waited for
            async with asyncio.timeout(LAST_WORD_S):
                if not self.status:
                    await self._send_error(error)
                elif self._socket is not None:
                    await self._say_goodbye(error, *self._socket)
                elif self._sse and self._at_boundary and not self._finished:
                    await self.send({"type": "http.response.body", "body": encode_error(error)})

    async def _say_goodbye(self, error: NodeError, heard: Frames, said: Frames) -> None:
        """Tell a socket why it ends, and wait for its answer: what it sends to a closed connection would take our words away."""
        if said.between_messages and not self._finished:
            await self.send({"type": "http.response.body", "body": last_words(error), "more_body": True})
            while not heard.closed and (message := await self._receive())["type"] == "http.request":
                heard.feed(message["body"])

    async def _send_error(self, error: NodeError) -> None:
        body = json.dumps(error.body()).encode()
        headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
        headers += [(key.lower().encode(), value.encode("latin-1")) for key, value in error.headers.items()]
        await self.send({"type": "http.response.start", "status": error.status, "headers": headers})
        await self.send({"type": "http.response.body", "body": body})

    def close(self) -> None:
        self._cycle.client_left = None
        if self.account is not None:
            self.account.give_back()


def too_large(limit: int) -> BodyTooLarge:
    return BodyTooLarge(f"The body is over {limit} bytes, the most that this node takes (spec.api.max_body_bytes); send less.")
