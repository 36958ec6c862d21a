"""``spec.rag``: how knowledge is cut, embedded and searched where a collection or a request does not say. Defaults live here alone."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from app.services.rag.knowledge import Chunking

MODEL_VARIABLE = "ASTROMESH_EMBEDDING_MODEL"


@dataclass(frozen=True, slots=True)
class Settings:
    """Times are in seconds. ``embedding_model`` is for collections that are created without one; "" searches them by words alone.
    ``wait_chars`` is up to how much text an ingestion is answered when it is done, and not with a job."""

    embedding_model: str = ""
    chunk_size: int = 1000
    chunk_overlap: int = 150
    chunk_unit: str = "characters"
    top_k: int = 5
    max_top_k: int = 100
    max_query_chars: int = 10_000
    max_document_chars: int = 10_000_000
    wait_chars: int = 200_000
    embedding_batch: int = 64
    embedding_concurrency: int = 4
    embedding_timeout_s: float = 60.0
    job_concurrency: int = 2
    job_batch: int = 8
    lease_s: float = 30.0

    def with_environment(self, environ: Mapping[str, str]) -> "Settings":
        """These, with what the environment says, which has precedence."""
        return replace(self, embedding_model=environ.get(MODEL_VARIABLE) or self.embedding_model)

    @property
    def chunking(self) -> Chunking:
        return Chunking(size=self.chunk_size, overlap=self.chunk_overlap, unit=self.chunk_unit)
