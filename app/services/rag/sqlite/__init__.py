"""Knowledge in SQLite: one file for each collection, shared by several processes of one host."""

from app.services.rag.sqlite.store import SqliteStore

__all__ = ["SqliteStore"]
