"""An OpenTelemetry collector of the tests: takes OTLP over HTTP on loopback, as protobuf, and keeps the spans."""

import asyncio
import gzip
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from aiohttp import web
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest, ExportTraceServiceResponse


class Sink:
    """``spans`` are what came in, ``resources`` the attributes of who sent them; it answers with ``status``, and waits while ``stuck``."""

    def __init__(self) -> None:
        self.url = ""
        self.status = 200
        self.spans: list[Any] = []
        self.resources: list[dict[str, str]] = []
        self.headers: list[dict[str, str]] = []
        self.requests = 0
        self.go_on = asyncio.Event()
        self.go_on.set()
        self._grown = asyncio.Condition()

    async def take(self, request: web.Request) -> web.Response:
        raw = await request.read()
        if request.headers.get("content-encoding") == "gzip" and raw[:2] == b"\x1f\x8b":
            raw = gzip.decompress(raw)
        self.requests += 1
        self.headers.append({name.lower(): value for name, value in request.headers.items()})
        async with self._grown:
            self._grown.notify_all()
        await self.go_on.wait()
        if self.status == 200:
            assert request.content_type == "application/x-protobuf"
            for each in ExportTraceServiceRequest.FromString(raw).resource_spans:
                self.resources.append({attribute.key: attribute.value.string_value for attribute in each.resource.attributes})
                self.spans += [span for scope in each.scope_spans for span in scope.spans]
        async with self._grown:
            self._grown.notify_all()
        return web.Response(
            status=self.status, body=ExportTraceServiceResponse().SerializeToString(), content_type="application/x-protobuf"
        )

    async def until(self, count: int) -> None:
        """Return once so many spans are here."""
        async with asyncio.timeout(10), self._grown:
            await self._grown.wait_for(lambda: len(self.spans) >= count)

    async def until_asked(self, count: int) -> None:
        async with asyncio.timeout(10), self._grown:
            await self._grown.wait_for(lambda: self.requests >= count)


@asynccontextmanager
async def sink() -> AsyncIterator[Sink]:
    made = Sink()
    app = web.Application()
    app.router.add_post("/v1/traces", made.take)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    made.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    try:
        yield made
    finally:
        made.go_on.set()
        await runner.cleanup()


def attributes(span: Any) -> dict[str, Any]:
    """A protobuf span's attributes as plain values."""
    return {each.key: getattr(each.value, each.value.WhichOneof("value")) for each in span.attributes}
