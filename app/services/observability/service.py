"""The observability service: the node's metrics, those of its process (CPU, memory, files, garbage collection, event loop), and traces."""

import asyncio
import importlib
import logging
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

from prometheus_client import GCCollector, PlatformCollector, ProcessCollector
from prometheus_client.registry import Collector
from starlette.routing import BaseRoute

from app.metrics import Histogram
from app.services.contract import Check, Facts, NodeContext
from app.services.observability.otlp import Exporter, endpoint
from app.services.observability.routes import routes
from app.services.observability.traces import Traces

LOOK_S = 1.0
_LAG = "How much later than asked for the event loop woke up, measured once a second."
_LAG_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)
_NO_EXTRA = (
    "OTEL_EXPORTER_OTLP_ENDPOINT is set, but OpenTelemetry's exporter is not installed, so no spans are sent: "
    "install the extra [otel] (pip install -r requirements-all.lock), or unset the variable"
)
log = logging.getLogger(__name__)


class Observability:
    """Shows what the other parts count in ``node.metrics`` and record in ``node.traces``; itself it measures how late the event loop is."""

    def __init__(self, config: Mapping[str, Any], node: NodeContext) -> None:
        self._node = node
        self._metrics = node.metrics
        self._lag = Histogram("astromesh_event_loop_lag_seconds", _LAG, registry=node.metrics, buckets=_LAG_BUCKETS)
        self.exporter: Exporter | None = None
        self._cannot_export = ""
        self.routes: Sequence[BaseRoute] = routes(node.metrics, Traces(node.traces, node.ask_peers))

    @asynccontextmanager
    async def open(self) -> AsyncIterator[None]:
        """Raises ConfigError for a collector's address that is none."""
        url = endpoint(self._node.environ)
        # Each registers itself when it is made; together they add 0.1 ms to a scrape and nothing to the node's start.
        collectors: list[Collector] = [kind(registry=self._metrics) for kind in (ProcessCollector, PlatformCollector, GCCollector)]
        collectors.append(self._lag)
        async with AsyncExitStack() as stack:
            for collector in collectors:
                stack.callback(self._metrics.unregister, collector)
            if url and self._node.traces.settings.enabled:
                await self._export_to(url, stack)
            yield

    async def _export_to(self, url: str, stack: AsyncExitStack) -> None:
        try:
            module = await asyncio.to_thread(importlib.import_module, f"{__package__}.collector")
        except ImportError as error:
            self._cannot_export = f"{_NO_EXTRA} ({error})"
            log.warning("%s", self._cannot_export)
            return
        collector = module.Collector(url, (self._node.name, self._node.node_id))
        stack.callback(collector.close)
        self.exporter = Exporter(url, collector.send, self._metrics)
        await stack.enter_async_context(self.exporter.open())
        self._node.traces.export = self.exporter.offer
        stack.callback(setattr, self._node.traces, "export", None)

    async def run(self) -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(self._measure_lag())
            if self.exporter is not None:
                group.create_task(self.exporter.run())

    async def _measure_lag(self) -> None:
        clock = asyncio.get_running_loop().time
        while True:
            due = clock() + LOOK_S
            await asyncio.sleep(LOOK_S)
            self._lag.observe(max(0.0, clock() - due))

    def facts(self) -> Facts:
        return Facts()

    async def check(self) -> Mapping[str, Check]:
        if problem := self._cannot_export or (self.exporter.problem if self.exporter else ""):
            return {"observability": Check("degraded", problem)}
        traces = "traces at /v1/traces" if self._node.traces.settings.enabled else "traces are off"
        return {"observability": Check("ok", f"metrics are at /metrics, and as JSON at /v1/metrics; {traces}")}
