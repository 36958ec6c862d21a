"""The values of rag: a collection holds documents, a document its chunks, and a search finds chunks. No I/O."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

Vector = Sequence[float]
Operator = Literal["eq", "ne", "gt", "gte", "lt", "lte", "exists"]
JobState = Literal["running", "done", "failed", "cancelled"]


@dataclass(frozen=True, slots=True)
class Name:
    """The key of a collection. ``owner`` is "" for knowledge that everybody shares, and a principal for what is that principal's own."""

    name: str
    owner: str = ""


@dataclass(frozen=True, slots=True)
class Embedding:
    """The model that all vectors of a collection come from. ``dimension`` is 0 until the first vector is known."""

    model: str
    dimension: int = 0


@dataclass(frozen=True, slots=True)
class Chunking:
    """How to cut documents: ``strategy`` is recursive (headings, paragraphs, sentences, words), sentence or fixed; ``size`` and ``overlap``
    are in ``unit``, characters or tokens. ``separators`` are what recursive cuts at instead, the strongest first."""

    strategy: str = "recursive"
    size: int = 1000
    overlap: int = 150
    unit: str = "characters"
    separators: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Collection:
    """A collection as it is kept. ``embedding`` is None where it is searched by words alone. Times are seconds since the epoch."""

    of: Name
    description: str = ""
    embedding: Embedding | None = None
    chunking: Chunking = field(default_factory=Chunking)
    created_at: float = 0.0
    documents: int = 0
    chunks: int = 0


@dataclass(frozen=True, slots=True)
class Chunk:
    """A piece of a document. ``vector`` is None in a collection without embeddings, else of the collection's dimension."""

    text: str
    vector: Vector | None = None


@dataclass(frozen=True, slots=True)
class Document:
    """A document as it was given. ``id`` is unique in its collection, ``metadata`` a JSON object."""

    id: str
    text: str
    metadata: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Cut:
    """A document and its chunks, in the order of the text: chunk n is ``chunks[n]``."""

    document: Document
    chunks: Sequence[Chunk]


@dataclass(frozen=True, slots=True)
class Condition:
    """One condition on metadata. It holds when the value at ``key``, or one element of it where it is a list, is in the relation ``is_`` to
    one of ``values``; ``ne`` when none is equal (also where the key is absent). Numbers compare with numbers and texts with texts alone,
    and true is not 1. ``exists`` has the value True or False."""

    key: str
    is_: Operator
    values: tuple[Any, ...]


Filter = tuple[Condition, ...]
"""All conditions must hold; () lets everything through."""


@dataclass(frozen=True, slots=True)
class Hit:
    """A chunk that was found. ``score`` grows with relevance: of words BM25 or the store's own rank, of vectors the cosine (-1 to 1)."""

    document_id: str
    chunk: int
    text: str
    score: float
    metadata: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Job:
    """An ingestion. ``total`` and ``done`` count documents, ``chunks`` what they were cut into; ``error`` says why it failed, or why the
    last try did while it goes on. ``chunking`` and ``created_at`` are as it was given."""

    id: str
    of: Name
    state: JobState
    total: int
    done: int = 0
    chunks: int = 0
    error: str = ""
    created_at: float = 0.0
    finished_at: float | None = None
    chunking: Chunking = field(default_factory=Chunking)
