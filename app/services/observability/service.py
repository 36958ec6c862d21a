"""The observability service: the node's metrics, and those of its process (CPU, memory, files, garbage collection, event loop)."""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

from prometheus_client import GCCollector, PlatformCollector, ProcessCollector
from prometheus_client.registry import Collector
from starlette.routing import BaseRoute

from app.metrics import Histogram
from app.services.contract import Check, Facts, NodeContext
from app.services.observability.routes import routes

LOOK_S = 1.0
_LAG = "How much later than asked for the event loop woke up, measured once a second."
_LAG_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)


class Observability:
    """Shows what the other parts count in ``node.metrics``; itself it measures how late the event loop is."""

    def __init__(self, config: Mapping[str, Any], node: NodeContext) -> None:
        self._metrics = node.metrics
        self._lag = Histogram("astromesh_event_loop_lag_seconds", _LAG, registry=node.metrics, buckets=_LAG_BUCKETS)
        self.routes: Sequence[BaseRoute] = routes(node.metrics)

    @asynccontextmanager
    async def open(self) -> AsyncIterator[None]:
        # Each registers itself when it is made; together they add 0.1 ms to a scrape and nothing to the node's start.
        collectors: list[Collector] = [kind(registry=self._metrics) for kind in (ProcessCollector, PlatformCollector, GCCollector)]
        collectors.append(self._lag)
        try:
            yield
        finally:
            for collector in collectors:
                self._metrics.unregister(collector)

    async def run(self) -> None:
        clock = asyncio.get_running_loop().time
        while True:
            due = clock() + LOOK_S
            await asyncio.sleep(LOOK_S)
            self._lag.observe(max(0.0, clock() - due))

    def facts(self) -> Facts:
        return Facts()

    async def check(self) -> Mapping[str, Check]:
        return {"observability": Check("ok", "metrics are at /metrics, and as JSON at /v1/metrics")}
