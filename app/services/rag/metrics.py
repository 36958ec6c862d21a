"""What knowledge is asked and given, in numbers."""

from prometheus_client import CollectorRegistry, Counter

from app.metrics import SECONDS, Histogram


class Metrics:
    """``mode`` is how a search was made in the end: hybrid, words or vectors; ``work`` is ingestion or search."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.searches = Histogram(
            "astromesh_rag_search_seconds",
            "How long searches took, with the embedding of the question.",
            ["mode"],
            registry=registry,
            buckets=SECONDS,
        )
        self.documents = Counter("astromesh_rag_documents", "Documents that were taken in.", registry=registry)
        self.chunks = Counter("astromesh_rag_chunks", "Chunks that they were cut into.", registry=registry)
        self.jobs = Counter(
            "astromesh_rag_jobs", "Jobs that were worked on here, by how that ended: done, failed, retried.", ["outcome"], registry=registry
        )
        for outcome in ("done", "failed", "retried"):
            self.jobs.labels(outcome)  # from the start, so that Prometheus sees the first one
