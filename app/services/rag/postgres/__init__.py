"""Knowledge in PostgreSQL, which several nodes share: words by an inverted index, vectors by pgvector."""

from app.services.rag.postgres.store import PostgresStore

__all__ = ["PostgresStore"]
