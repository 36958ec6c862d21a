"""One WebSocket over the upgraded stream of a request: messages in, messages out, pings, and an orderly end. The protocol itself is that of
the library websockets, which is imported when the first socket is opened."""

import asyncio
import json
import logging
from collections.abc import AsyncGenerator, Mapping
from typing import TYPE_CHECKING, Any

from starlette.types import Message, Receive, Scope, Send

from app.errors import BadRequest, UpgradeRequired
from app.frames import INTERNAL_ERROR, UPGRADE, Frames

if TYPE_CHECKING:
    from websockets.server import ServerProtocol

SUBPROTOCOL = "astromesh"
"""What a browser offers beside its key, for it wants to see one of its offers taken."""
PING_S = 20.0
"""Seconds of silence before a client is asked whether it is there, and in which it must have answered."""
CLOSING_S = 3.0
"""How long a client may take to answer a close frame. Closed before that, the connection would lose what we said last."""
_DATA = (0, 1, 2)
_HANDSHAKE = frozenset((b"connection", b"upgrade"))


class Link:
    """``open`` it, take its ``messages``, ``tell`` and ``close``, and ``finish`` when there are no more."""

    def __init__(self, receive: Receive, send: Send, max_bytes: int) -> None:
        self._receive, self._send, self._max_bytes = receive, send, max_bytes
        self._protocol: ServerProtocol
        self._writing = asyncio.Lock()
        self._heard = Frames()
        self._asked = self._leaving = False
        self._patience: asyncio.Timeout | None = None
        self._leave_by = 0.0

    async def open(self, scope: Scope) -> None:
        """Accept the upgrade. Raises UpgradeRequired for a request that asks for none, or BadRequest for one that asks in a wrong way."""
        if UPGRADE not in scope.get("extensions", ()):
            raise UpgradeRequired("This path speaks WebSocket alone; connect with a WebSocket client.", headers={"Upgrade": "websocket"})
        from websockets.datastructures import Headers
        from websockets.http11 import Request
        from websockets.protocol import State
        from websockets.server import ServerProtocol

        # It logs what is said at the level DEBUG; a logger that belongs to no tree logs nothing.
        silent = logging.Logger("websockets", logging.CRITICAL)
        headers = Headers([(name.decode("latin-1"), value.decode("latin-1")) for name, value in scope["headers"]])
        handshake = ServerProtocol(select_subprotocol=_choose, logger=silent)
        response = handshake.accept(Request(scope["raw_path"].decode("ascii"), headers))
        if response.status_code != 101:
            raise BadRequest(f"The WebSocket cannot be opened: {handshake.handshake_exc}; connect with a WebSocket client of version 13.")
        self._protocol = ServerProtocol(state=State.OPEN, max_size=self._max_bytes, logger=silent)
        answer = [(name.lower().encode(), value.encode()) for name, value in response.headers.raw_items()]
        answer = [header for header in answer if header[0].startswith(b"sec-websocket-")]
        await self._send({"type": "http.response.start", "status": 101, "headers": answer})

    async def messages(self) -> AsyncGenerator[bytes, None]:
        """What the client says, message by message, until either side has closed. Text and bytes are not told apart."""
        parts = list[bytes]()
        while (data := await self._next()) is not None:
            self._heard.feed(data)
            self._protocol.receive_data(data)
            for frame in self._protocol.events_received():
                if frame.opcode in _DATA:  # type: ignore[union-attr]  # after the handshake, all events are frames
                    parts.append(bytes(frame.data))  # type: ignore[union-attr]
                    if frame.fin:  # type: ignore[union-attr]
                        yield b"".join(parts)
                        parts.clear()
            await self._flush()
            if self._heard.closed:
                return

    async def tell(self, value: Mapping[str, Any]) -> None:
        """Send a JSON message, as soon as the client has read enough of those before it; after a close, nothing."""
        text = json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "backslashreplace")
        async with self._writing:
            if not self._leaving:
                self._protocol.send_text(text)
                await self._write()

    async def close(self, code: int, reason: str) -> None:
        """Begin to close; ``messages`` ends when the client has answered that, or takes too long."""
        async with self._writing:
            if not self._leaving:
                self._leave()
                self._protocol.send_close(code, reason)
                await self._write()

    async def finish(self) -> None:
        """End the stream, never without a close frame: a node that passes it on would take this one for lost."""
        await self.close(INTERNAL_ERROR, "no answer to a ping")
        await self._send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _next(self) -> bytes | None:
        """The next part of the client's stream, or None where it is gone."""
        while True:
            try:
                message = await self._hear()
            except TimeoutError:
                if self._asked or self._leaving:
                    return None
                self._asked = True
                self._protocol.send_ping(b"")
                await self._flush()
                continue
            self._asked = False
            if message["type"] != "http.request":
                return None
            if data := message.get("body", b""):
                return bytes(data)

    async def _hear(self) -> Message:
        """Raises TimeoutError after so much silence as there may be, which is less once this socket is being closed."""
        try:
            async with asyncio.timeout(PING_S) as self._patience:
                if self._leaving:
                    self._patience.reschedule(self._leave_by)
                return await self._receive()
        finally:
            self._patience = None

    async def _flush(self) -> None:
        async with self._writing:
            await self._write()

    async def _write(self) -> None:
        """Send what the protocol has to say, if only a pong; an empty part is its wish to end the stream."""
        parts = self._protocol.data_to_send()
        if b"" in parts and not self._leaving:
            self._leave()
        if data := b"".join(parts):
            await self._send({"type": "http.response.body", "body": data, "more_body": True})

    def _leave(self) -> None:
        self._leaving = True
        self._leave_by = asyncio.get_running_loop().time() + CLOSING_S
        if self._patience is not None and not self._patience.expired():
            self._patience.reschedule(self._leave_by)


def _choose(protocol: Any, offered: Any) -> Any:
    return SUBPROTOCOL if SUBPROTOCOL in offered else None
