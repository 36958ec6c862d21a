"""What rag's values look like in JSON."""

from datetime import UTC, datetime
from typing import Any

from app.services.rag.knowledge import Collection, Document, Hit, Job


def collection_row(collection: Collection) -> dict[str, Any]:
    embedding, chunking = collection.embedding, collection.chunking
    return {
        "name": collection.of.name,
        "description": collection.description,
        "embedding": {"model": embedding.model, "dimension": embedding.dimension or None} if embedding else None,
        "chunking": {"strategy": chunking.strategy, "size": chunking.size, "overlap": chunking.overlap, "unit": chunking.unit},
        "documents": collection.documents,
        "chunks": collection.chunks,
        "created_at": _time(collection.created_at),
    }


def hit_row(hit: Hit) -> dict[str, Any]:
    return {"text": hit.text, "score": hit.score, "document_id": hit.document_id, "chunk": hit.chunk, "metadata": dict(hit.metadata)}


def document_row(document: Document, chunks: int) -> dict[str, Any]:
    return {"id": document.id, "metadata": dict(document.metadata), "chunks": chunks}


def job_row(job: Job) -> dict[str, Any]:
    return {
        "id": job.id,
        "state": job.state,
        "total": job.total,
        "done": job.done,
        "chunks": job.chunks,
        "error": job.error or None,
        "created_at": _time(job.created_at),
        "finished_at": None if job.finished_at is None else _time(job.finished_at),
    }


def _time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds")
