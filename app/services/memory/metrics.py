"""How conversations get to the disk and back, in numbers."""

from prometheus_client import CollectorRegistry, Counter

from app.metrics import Histogram


class Metrics:
    """``work`` is ``read`` or ``write``."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._waits = Histogram(
            "astromesh_memory_queue_wait_seconds",
            "How long reading or writing a conversation waited for its turn at the disk.",
            ["work"],
            registry=registry,
        )
        self._failures = Counter(
            "astromesh_memory_failures", "Times that conversations could not be read or written.", ["work"], registry=registry
        )

        for work in ("read", "write"):
            self._failures.labels(work)  # from the start, so that Prometheus sees the first one

    def waited(self, work: str, seconds: float) -> None:
        self._waits.labels(work).observe(seconds)

    def failed(self, work: str) -> None:
        self._failures.labels(work).inc()
