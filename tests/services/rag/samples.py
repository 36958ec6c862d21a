"""Small collections, documents and jobs for tests of stores."""

from collections.abc import Sequence
from typing import Any

from app.services.rag.knowledge import Chunk, Collection, Condition, Cut, Document, Embedding, Filter, Hit, Job, Name, Operator
from app.services.rag.store import KnowledgeStore

OF = Name("handbook")
MODEL = "ollama/embedder"


def collection(of: Name = OF, *, dimension: int | None = None) -> Collection:
    """Of words alone, or of vectors with so many dimensions (0: not known yet)."""
    return Collection(of, embedding=None if dimension is None else Embedding(MODEL, dimension), created_at=1000.5)


def cut(document_id: str, *texts: str, metadata: dict[str, Any] | None = None) -> Cut:
    return Cut(Document(document_id, " ".join(texts), metadata or {}), [Chunk(text) for text in texts])


def vectors(document_id: str, *given: Sequence[float], metadata: dict[str, Any] | None = None) -> Cut:
    texts = [f"chunk {number} of {document_id}" for number in range(len(given))]
    chunks = [Chunk(text, vector) for text, vector in zip(texts, given, strict=True)]
    return Cut(Document(document_id, " ".join(texts), metadata or {}), chunks)


def condition(key: str, is_: Operator, *values: Any) -> Filter:
    return (Condition(key, is_, values),)


def job(job_id: str, total: int, of: Name = OF, created_at: float = 1.0) -> Job:
    return Job(job_id, of, "running", total, created_at=created_at)


def documents(*ids: str) -> list[Document]:
    return [Document(each, f"the text of {each}") for each in ids]


def places(hits: Sequence[Hit]) -> list[tuple[str, int]]:
    return [(hit.document_id, hit.chunk) for hit in hits]


async def ids(store: KnowledgeStore, of: Name = OF, where: Filter = ()) -> list[str]:
    return [document.id for document, _ in await store.documents(of, where, "", 1000)]
