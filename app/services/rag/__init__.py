"""Knowledge: collections of documents, searched by words and by meaning, for people and for agents (`knowledge_search`)."""

from app.services.rag.service import Rag

__all__ = ["Rag"]
