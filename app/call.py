"""Call an ASGI app in process, streaming both ways: how services use one another, wherever the other lives.

The callee runs in a task of its own and is cancelled when the caller leaves; its ``receive`` blocks after the body until then, because
Starlette ends a stream that sees an early ``http.disconnect``. At most one chunk waits between the two, so back-pressure holds.
"""

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any
from urllib.parse import unquote

from starlette.types import ASGIApp, Message, Scope

from app.context import CURRENT, RequestContext, current
from app.errors import AnsweredError, NodeError, PeerLost

Headers = Sequence[tuple[bytes, bytes]]
_END: Message = {"type": "end"}


class Reply:
    """The answer to an in-process call: ``status``, ``headers`` (lower-case names), and the body as chunks, whole, or as JSON."""

    def __init__(self, status: int, headers: Headers, messages: "asyncio.Queue[Message]", task: "asyncio.Task[None]") -> None:
        self.status = status
        self.headers = headers
        self._messages = messages
        self._task = task

    def header(self, name: str) -> str | None:
        wanted = name.lower().encode()
        return next((value.decode("latin-1") for key, value in self.headers if key.lower() == wanted), None)

    async def chunks(self) -> AsyncGenerator[bytes, None]:
        """The body's chunks as they come. Raises what the callee raised, or PeerLost if it ended without finishing its body."""
        while True:
            message = await self._messages.get()
            if message is _END:
                await self._task
                raise PeerLost("The answer broke off before its end; ask again.")
            if chunk := message.get("body", b""):
                yield chunk
            if not message.get("more_body", False):
                return

    async def read(self) -> bytes:
        return b"".join([chunk async for chunk in self.chunks()])

    async def json(self) -> Any:
        return json.loads(await self.read())

    async def raise_for_status(self) -> None:
        """Raise AnsweredError for a status of 400 and above."""
        if self.status >= 400:
            kept = {"retry-after": "Retry-After", "x-astromesh-not-begun": "X-Astromesh-Not-Begun"}
            headers = {kept[k.decode().lower()]: v.decode("latin-1") for k, v in self.headers if k.decode().lower() in kept}
            raise AnsweredError(self.status, await self.read(), headers)


def http_scope(method: str, target: str, headers: Headers) -> Scope:
    """An ASGI HTTP scope for ``target`` (a raw path, percent-encoded, with an optional query)."""
    path, _, query = target.partition("?")
    return {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": unquote(path),
        "raw_path": path.encode("ascii"),
        "query_string": query.encode("ascii"),
        "root_path": "",
        "headers": list(headers),
        "client": None,
        "server": None,
        "state": {},
    }


@asynccontextmanager
async def call(
    app: ASGIApp, method: str, target: str, *, body: Any = None, headers: Headers = (), context: RequestContext | None = None
) -> AsyncIterator[Reply]:
    """Call ``app`` and yield its Reply once its status is known; leaving the block cancels what is still running.

    ``body`` is bytes, or a value sent as JSON. The call carries the current request's ids, trace, deadline and principal, as a request
    of its own that has passed no node yet; ``context`` overrides that. What the callee raises before its status is raised here.
    """
    sent = list(headers)
    payload = b"" if body is None else body if isinstance(body, bytes) else json.dumps(body).encode()
    if body is not None:
        sent.append((b"content-length", str(len(payload)).encode()))
        if not isinstance(body, bytes):
            sent.append((b"content-type", b"application/json"))
    messages: asyncio.Queue[Message] = asyncio.Queue(maxsize=1)
    left = asyncio.Event()
    pending: list[Message] = [{"type": "http.request", "body": payload, "more_body": False}]

    async def receive() -> Message:
        if pending:
            return pending.pop()
        await left.wait()
        return {"type": "http.disconnect"}

    async def run() -> None:
        CURRENT.set(context or replace(current(), hops=(), from_peer=False))
        try:
            await app(http_scope(method, target, sent), receive, messages.put)
        finally:
            if not left.is_set():
                await messages.put(_END)

    task = asyncio.get_running_loop().create_task(run())
    try:
        start = await messages.get()
        if start is _END:
            await task
            raise NodeError(f"{method} {target} ended without an answer.")
        yield Reply(start["status"], start.get("headers", ()), messages, task)
    finally:
        left.set()
        task.cancel()
        await asyncio.wait([task])
        if not task.cancelled():
            task.exception()
