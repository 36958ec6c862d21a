"""Spans sent to an OpenTelemetry collector (OTLP over HTTP, protobuf), where the environment names one. Needs the extra ``[otel]``.

Requests never wait for it: ended spans go into a queue of bounded length, a thread of its own sends them, and what finds the queue full is
counted and dropped.
"""

import asyncio
import logging
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from urllib.parse import urlsplit

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily
from prometheus_client.registry import Collector

from app.config.secret import ENVIRONMENT
from app.errors import ConfigError, Problem
from app.tracing import Span

QUEUE_SPANS = 4096
BATCH_SPANS = 512
PERIOD_S = 1.0
LAST_WORDS_S = 1.0
"""How long a node that stops waits for its last spans to be taken."""
TRACES_ENDPOINT, ENDPOINT = "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT"
_PATH = "/v1/traces"
log = logging.getLogger(__name__)
Send = Callable[[Sequence[Span]], str]
"""Sends spans, in a thread; returns why that failed, "" for success."""


def endpoint(environ: Mapping[str, str]) -> str:
    """The URL that spans are sent to, "" for none. Raises ConfigError for a variable that holds no URL."""
    if environ.get("OTEL_SDK_DISABLED", "").lower() == "true" or environ.get("OTEL_TRACES_EXPORTER") == "none":
        return ""
    variable = next((name for name in (TRACES_ENDPOINT, ENDPOINT) if environ.get(name, "").strip()), "")
    if not variable:
        return ""
    url = environ[variable].strip()
    try:
        parts = urlsplit(url)
        valid = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        valid = False
    if not valid:
        told = f"is {shown(url)!r}, which is no URL of a collector"
        raise ConfigError([Problem(ENVIRONMENT, told, variable, remedy="write one like http://collector:4318")])
    return url if variable == TRACES_ENDPOINT else url.rstrip("/") + _PATH


def shown(url: str) -> str:
    """The URL without what may be a password in it."""
    before, at, rest = url.rpartition("@")
    return f"{before.partition('://')[0]}://…@{rest}" if at else url


class Exporter(Collector):
    """Sends what it is offered by ``send``, batch after batch. ``counts`` says what became of the spans, ``problem`` what is wrong now, ""
    for nothing."""

    def __init__(self, url: str, send: Send, registry: CollectorRegistry) -> None:
        self._url, self._send, self._registry = shown(url), send, registry
        self._queue: deque[Span] = deque()
        self._some = asyncio.Event()
        self._full = asyncio.Event()
        self.problem = ""
        self.counts = {"sent": 0, "failed": 0, "dropped": 0}

    def collect(self) -> Iterator[CounterMetricFamily]:
        told = "Spans for the OpenTelemetry collector, by outcome."
        family = CounterMetricFamily("astromesh_trace_spans_exported", told, labels=["outcome"])
        for outcome, count in self.counts.items():
            family.add_metric([outcome], count)
        yield family

    def offer(self, span: Span) -> None:
        """Take a span that has ended, if there is room."""
        if len(self._queue) >= QUEUE_SPANS:
            self.counts["dropped"] += 1
            return
        self._queue.append(span)
        if len(self._queue) == 1:
            self._some.set()
        elif len(self._queue) == BATCH_SPANS:
            self._full.set()

    @asynccontextmanager
    async def open(self) -> AsyncIterator[None]:
        self._thread = ThreadPoolExecutor(1, "otlp")
        self._registry.register(self)
        try:
            yield
        finally:
            with suppress(TimeoutError):
                async with asyncio.timeout(LAST_WORDS_S):
                    await self._empty()
                    await asyncio.get_running_loop().run_in_executor(self._thread, bool)  # behind what is under way
            self._thread.shutdown(wait=False, cancel_futures=True)
            self._registry.unregister(self)

    async def run(self) -> None:
        """Send what comes in, a second's worth or a whole batch at a time, until cancelled."""
        while True:
            await self._some.wait()
            with suppress(TimeoutError):
                async with asyncio.timeout(PERIOD_S):
                    await self._full.wait()
            await self._empty()

    async def _empty(self) -> None:
        self._some.clear()
        self._full.clear()
        while self._queue:
            batch = [self._queue.popleft() for _ in range(min(BATCH_SPANS, len(self._queue)))]
            await asyncio.shield(asyncio.get_running_loop().run_in_executor(self._thread, self._deliver, batch))

    def _deliver(self, batch: Sequence[Span]) -> None:
        """In the thread: to the end, also when nobody waits for it any more."""
        reason = self._send(batch)
        self.counts["failed" if reason else "sent"] += len(batch)
        self._tell(reason)

    def _tell(self, reason: str) -> None:
        """Say once that the collector does not take the spans, and once that it does again."""
        if reason and not self.problem:
            log.warning("the OpenTelemetry collector at %s does not take spans: %s", self._url, reason)
        elif self.problem and not reason:
            log.info("the OpenTelemetry collector at %s takes spans again", self._url)
        self.problem = f"the OpenTelemetry collector at {self._url} does not take spans: {reason}" if reason else ""
