"""Services that tests of the edge mount: one that tells what arrived, and one that works until it is stopped."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import asdict, dataclass, field
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from app import sse
from app.context import current
from tests.spine import FakeService, service


async def tell(request: Request) -> Response:
    """The request as the service sees it."""
    body = await request.body()
    context = asdict(current()) | {"remaining_s": current().remaining_s(), "from_peer": current().from_peer}
    headers = {name.decode(): value.decode("latin-1") for name, value in request.headers.raw}
    return JSONResponse({"path": request.url.path, "headers": headers, "body": body.decode("latin-1"), "context": context})


def tools(handler: Any, *methods: str) -> type[FakeService]:
    return service(Route("/v1/tools/x", handler, methods=list(methods or ("GET", "POST"))))


def telling() -> dict[str, type[FakeService]]:
    return {"tools": tools(tell)}


@dataclass
class Worker:
    """Handlers that never finish by themselves: ``begun`` when one is at work, ``stopped`` when it was cancelled."""

    begun: asyncio.Event = field(default_factory=asyncio.Event)
    stopped: asyncio.Event = field(default_factory=asyncio.Event)

    async def _work(self) -> None:
        self.begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            self.stopped.set()

    async def without_reading(self, request: Request) -> Response:
        await self._work()
        return Response()

    async def after_the_body(self, request: Request) -> Response:
        await request.body()
        await self._work()
        return Response()

    async def streaming(self, request: Request) -> Response:
        await request.body()

        async def events() -> AsyncIterator[bytes]:
            yield sse.encode({"n": 1})
            await self._work()

        return StreamingResponse(events(), media_type="text/event-stream")
