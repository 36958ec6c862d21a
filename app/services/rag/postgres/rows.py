"""Values as columns, and rows as values."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from app.services.rag.knowledge import Chunking, Collection, Document, Embedding, Job, Name

COLLECTION = "key, words, name, owner, description, model, dimension, chunking, created_at, documents, chunks"
JOB = "id, state, total, done, chunks, error, created_at, finished_at, chunking"


@dataclass(frozen=True, slots=True)
class Kept:
    """A collection, its key, and of how many words its chunks are."""

    key: int
    words: int
    collection: Collection


def blob(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


def text(blob: bytes) -> str:
    return blob.decode("utf-8", "surrogatepass")


def json_blob(value: Any) -> bytes:
    return blob(json.dumps(value, ensure_ascii=False, separators=(",", ":")))


def mapping(of: bytes) -> Mapping[str, Any]:
    found: dict[str, Any] = json.loads(text(of))
    return found


def digest(text: str) -> bytes:
    return hashlib.sha256(blob(text)).digest()


def name_digest(of: Name) -> bytes:
    return digest(f"{len(of.owner)} {of.owner}{of.name}")


def chunking_blob(chunking: Chunking) -> bytes:
    return json_blob(asdict(chunking))


def chunking(of: bytes) -> Chunking:
    found = dict(mapping(of))
    return Chunking(**{**found, "separators": tuple(found["separators"])})


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
