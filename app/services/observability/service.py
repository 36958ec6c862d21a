"""The observability service: the node's metrics, those of its process (CPU, memory, files, garbage collection, event loop), and traces."""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

from prometheus_client import GCCollector, PlatformCollector, ProcessCollector
from prometheus_client.registry import Collector
from starlette.routing import BaseRoute

from app.metrics import Histogram
from app.services.contract import Check, Facts, NodeContext
from app.services.observability.routes import routes
from app.services.observability.traces import Traces

LOOK_S = 1.0
_LAG = "How much later than asked for the event loop woke up, measured once a second."
_LAG_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)


class Observability:
    """Shows what the other parts count in ``node.metrics`` and record in ``node.traces``; itself it measures how late the event loop is."""

    def __init__(self, config: Mapping[str, Any], node: NodeContext) -> None:
        self._node = node
        self._metrics = node.metrics
        self._lag = Histogram("astromesh_event_loop_lag_seconds", _LAG, registry=node.metrics, buckets=_LAG_BUCKETS)
        self.routes: Sequence[BaseRoute] = routes(node.metrics, Traces(node.traces, node.ask_peers))

    @asynccontextmanager
    async def open(self) -> AsyncIterator[None]:
        # Each registers itself when it is made; together they add 0.1 ms to a scrape and nothing to the node's start.
        collectors: list[Collector] = [kind(registry=self._metrics) for kind in (ProcessCollector, PlatformCollector, GCCollector)]
        collectors.append(self._lag)
        async with AsyncExitStack() as stack:
            for collector in collectors:
                stack.callback(self._metrics.unregister, collector)
            yield

    async def run(self) -> None:
        clock = asyncio.get_running_loop().time
        while True:
            due = clock() + LOOK_S
            await asyncio.sleep(LOOK_S)
            self._lag.observe(max(0.0, clock() - due))

    def facts(self) -> Facts:
        return Facts()

    async def check(self) -> Mapping[str, Check]:
        traces = "traces at /v1/traces" if self._node.traces.settings.enabled else "traces are off"
        return {"observability": Check("ok", f"metrics are at /metrics, and as JSON at /v1/metrics; {traces}")}
