"""One request from the wire and its answer, as ASGI sees them: ``receive`` and ``send``."""

import asyncio
from collections.abc import Callable

from starlette.types import Message, Scope

from app.edge.framing import Framing, IllegalAnswerError
from app.flow import Flow

CYCLE = "astromesh.cycle"
"""Where a scope's extensions hold its cycle. Its ``client_left`` is called when the client is gone: a task of each request's own
that waits for ``http.disconnect`` would say the same and cost a sixth of a forwarded request."""
HIGH_WATER = 64 * 1024
"""Bytes of a body that wait for their handler before the client is held back."""


class Cycle:
    """``constant`` are the headers of every answer; ``on_answered`` is called when it is complete."""

    __slots__ = (
        "_constant",
        "_ended",
        "_flow",
        "_news",
        "_on_answered",
        "_parts",
        "_told",
        "_waiting_bytes",
        "client_left",
        "continue_due",
        "framing",
        "gone",
        "scope",
    )

    def __init__(
        self, flow: Flow, scope: Scope, framing: Framing, constant: list[tuple[bytes, bytes]], on_answered: Callable[["Cycle"], None]
    ) -> None:
        self.scope, self.framing = scope, framing
        self._flow, self._constant, self._on_answered = flow, constant, on_answered
        self.client_left: Callable[[], None] | None = None
        self.continue_due = self.gone = False
        self._parts: list[bytes] = []
        self._waiting_bytes = 0
        self._ended = self._told = False  # the body's end has come, and the app knows
        self._news: asyncio.Event | None = None  # where the app waits; most bodies are here before their handler

    # The connection's side

    def feed(self, data: bytes) -> None:
        """Take in a part of the body; what comes after the answer is of no use to anybody."""
        if self.framing.complete:
            return
        self._parts.append(data)
        self._waiting_bytes += len(data)
        if self._waiting_bytes > HIGH_WATER:
            self._flow.read_on(False)
        self._wake()

    def end_body(self) -> None:
        self._ended = True
        self._wake()

    def leave(self) -> None:
        """The client is gone, or is told no more."""
        self.gone = True
        self._wake()
        if self.client_left is not None:
            self.client_left()

    def _wake(self) -> None:
        if self._news is not None:
            self._news.set()

    # The app's side

    async def receive(self) -> Message:
        if not self._ended and not self.gone:
            self._flow.read_on(True)
            if self.continue_due:
                self.continue_due = False
                self._flow.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        while not (self._parts or self._ended is not self._told or self.gone or self.framing.complete):
            if self._news is None:
                self._news = asyncio.Event()
            self._news.clear()
            await self._news.wait()
        if self.gone or self.framing.complete:
            return {"type": "http.disconnect"}
        body = self._parts[0] if len(self._parts) == 1 else b"".join(self._parts)
        self._parts, self._waiting_bytes = [], 0
        self._told = self._ended
        return {"type": "http.request", "body": body, "more_body": not self._ended}

    async def send(self, message: Message) -> None:
        if not self._flow.writable and not self.gone:
            await self._flow.drain()
        if self.gone:
            return
        framing = self.framing
        if message["type"] == "http.response.start" and not framing.started:
            if self.continue_due:  # whether the client sends its body after all, nobody can tell
                framing.keep_alive = self.continue_due = False
            self._flow.write(framing.head(message["status"], (*self._constant, *message.get("headers", ()))))
        elif message["type"] == "http.response.body" and framing.started and not framing.complete:
            if data := framing.body(message.get("body", b""), more=message.get("more_body", False)):
                self._flow.write(data)
            if framing.complete:
                self._wake()
                self._on_answered(self)
        else:
            raise IllegalAnswerError(f"{message['type']} is out of turn")
