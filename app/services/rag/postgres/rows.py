"""Values as columns, and rows as values."""

import hashlib
from dataclasses import dataclass
from typing import Any

from app.services.rag.encoding import blob as blob
from app.services.rag.encoding import canonical as canonical
from app.services.rag.encoding import chunking as chunking
from app.services.rag.encoding import chunking_blob as chunking_blob
from app.services.rag.encoding import json_blob as json_blob
from app.services.rag.encoding import mapping as mapping
from app.services.rag.encoding import text as text
from app.services.rag.knowledge import Collection, Document, Embedding, Job, Name

COLLECTION = "key, words, name, owner, description, model, dimension, chunking, created_at, documents, chunks"
JOB = "id, state, total, done, chunks, error, created_at, finished_at, chunking"


@dataclass(frozen=True, slots=True)
class Kept:
    """A collection, its key, and of how many words its chunks are."""

    key: int
    words: int
    collection: Collection


def digest(text: str) -> bytes:
    return hashlib.sha256(blob(text)).digest()


def name_digest(of: Name) -> bytes:
    return digest(f"{len(of.owner)} {of.owner}{of.name}")


def kept(row: Any) -> Kept:
    """A row of the columns COLLECTION."""
    key, words, name, owner, description, model, dimension, cut, created_at, documents, chunks = row
    embedding = None if model is None else Embedding(text(model), dimension)
    of = Name(text(name), text(owner))
    return Kept(key, words, Collection(of, text(description), embedding, chunking(cut), created_at, documents, chunks))


def job(of: Name, row: Any) -> Job:
    """A row of the columns JOB."""
    job_id, state, total, done, chunks, error, created_at, finished_at, cut = row
    return Job(text(job_id), of, state, total, done, chunks, text(error), created_at, finished_at, chunking(cut))


def document(row: Any) -> Document:
    """A row of id, text and metadata."""
    return Document(text(row[0]), text(row[1]), mapping(row[2]))
