"""Server-sent events: encode them, decode them, and stream them with keep-alives and an explicit end when something breaks."""

import asyncio
import json
import logging
import re
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

from starlette.types import Receive, Scope, Send

from app.errors import NodeError
from app.tracing import active

KEEPALIVE_S = 15.0
_LINE_END = re.compile(r"\r\n|\r|\n")  # all three end a line for a reader: text must not begin a field of its own
_COMMENT = b": keep-alive\n\n"
log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Event:
    """One event: its type ("message" where none was given) and its data, as text."""

    name: str
    data: str


def encode(data: Any, event: str | None = None) -> bytes:
    """One event. Text goes as it is, its line ends as line feeds; anything else as JSON (which has no line breaks)."""
    text = data if isinstance(data, str) else json.dumps(data, ensure_ascii=False, separators=(",", ":"))
    name = f"event: {event}\n" if event else ""
    lines = "".join(f"data: {line}\n" for line in (_LINE_END.split(text) if text is data else (text,)))
    return f"{name}{lines}\n".encode("utf-8", "backslashreplace")  # half a surrogate pair then stays what JSON calls it


def encode_error(error: NodeError) -> bytes:
    """The terminal event of a stream that broke: the one error shape, under the event name ``error``."""
    return encode(error.body(), "error")


async def decode(chunks: AsyncIterator[bytes]) -> AsyncGenerator[Event, None]:
    """The events of a byte stream (WHATWG "event stream"); comments, ids and retries are skipped, an unfinished last event is dropped."""
    name, data = "", list[str]()
    async with aclosing(lines(chunks)) as rows:
        async for line in rows:
            if not line:
                if data:
                    yield Event(name or "message", "\n".join(data))
                name, data = "", []
                continue
            field, _, value = line.partition(":")
            value = value.removeprefix(" ")
            if field == "data":
                data.append(value)
            elif field == "event":
                name = value


async def lines(chunks: AsyncIterator[bytes]) -> AsyncGenerator[str, None]:
    """Complete lines without their ends (LF or CRLF), decoded as UTF-8; text after the last end is dropped."""
    rest = b""
    async for chunk in chunks:
        *whole, rest = (rest + chunk).split(b"\n")
        for line in whole:
            yield line.removesuffix(b"\r").decode("utf-8", "replace")


class EventStream:
    """An ASGI response of encoded events. The status line waits for the first event, so that a failure before it is a proper status.

    A silent stream gets a comment every 15 s once it has begun. A failure after the first event becomes a terminal ``error`` event.
    """

    def __init__(self, events: AsyncGenerator[bytes, None], headers: dict[str, str] | None = None) -> None:
        self._events = events
        self._headers = [
            (b"content-type", b"text/event-stream; charset=utf-8"),
            (b"cache-control", b"no-cache"),
            (b"x-accel-buffering", b"no"),
        ]
        self._headers += [(key.lower().encode(), value.encode("latin-1")) for key, value in (headers or {}).items()]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with aclosing(self._events) as events:
            first = await anext(events, None)
            if first is None:
                raise NodeError("The stream ended before its first event; ask again.")
            await send({"type": "http.response.start", "status": 200, "headers": self._headers})
            await self._stream(first, events, send)
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _stream(self, first: bytes, events: AsyncIterator[bytes], send: Send) -> None:
        keepalive = asyncio.create_task(self._keep_alive(send))
        try:
            await self._send(send, first)
            async for event in events:
                await self._send(send, event)
        except NodeError as error:
            active().fail(error)
            await self._send(send, encode_error(error))
        except Exception as error:
            active().fail(error)
            log.exception("a stream failed")
            await self._send(send, encode_error(NodeError("The stream failed inside the node; its log has the reason.")))
        finally:
            keepalive.cancel()
            await asyncio.wait([keepalive])
            if not keepalive.cancelled():
                keepalive.exception()  # its send failed, as the stream's own then did

    async def _send(self, send: Send, event: bytes) -> None:
        self._last_sent = asyncio.get_running_loop().time()
        await send({"type": "http.response.body", "body": event, "more_body": True})

    async def _keep_alive(self, send: Send) -> None:
        loop = asyncio.get_running_loop()
        self._last_sent = loop.time()
        while True:
            silent = loop.time() - self._last_sent
            if silent >= KEEPALIVE_S:
                await self._send(send, _COMMENT)
            else:
                await asyncio.sleep(KEEPALIVE_S - silent)
