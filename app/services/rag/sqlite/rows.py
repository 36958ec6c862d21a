"""Values as columns. Texts are kept as bytes (encoding.py)."""

from typing import Any

from app.services.rag.encoding import blob as blob
from app.services.rag.encoding import canonical as canonical
from app.services.rag.encoding import chunking as chunking
from app.services.rag.encoding import chunking_blob as chunking_blob
from app.services.rag.encoding import json_blob as json_blob
from app.services.rag.encoding import mapping as mapping
from app.services.rag.encoding import text as text
from app.services.rag.knowledge import Collection, Embedding, Name

COLLECTION = "name, owner, description, model, dimension, chunking, created_at, documents, chunks"


def collection(row: tuple[Any, ...]) -> Collection:
    """A row of the columns COLLECTION."""
    name, owner, description, model, dimension, cut, created_at, documents, chunks = row
    embedding = None if model is None else Embedding(text(model), dimension)
    return Collection(Name(text(name), text(owner)), text(description), embedding, chunking(cut), created_at, documents, chunks)
