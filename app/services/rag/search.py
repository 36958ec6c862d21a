"""One search: by words, by vectors, or by both with their ranks fused. What it could not do it says in ``note``, never in silence."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from app.errors import BadRequest, EmbeddingMismatch, NodeError
from app.services.rag.embedder import Embedder
from app.services.rag.fusion import fuse
from app.services.rag.knowledge import Collection, Filter, Hit
from app.services.rag.store import KnowledgeStore

Mode = Literal["hybrid", "words", "vectors"]
_DEPTH = 50
"""Hits that each search gives to the fusion at least: what is far down in one list may be first in the other."""


@dataclass(frozen=True, slots=True)
class Question:
    """``top_k`` is above 0 by the time it is searched. ``mode`` None is the collection's best: hybrid where it has an embedding model and
    vectors can be searched, else words. ``model`` is the embedding model that the asker takes for granted, "" for none. Hits below
    ``threshold`` are left out, None leaves out none."""

    query: str
    top_k: int
    where: Filter = ()
    threshold: float | None = None
    mode: Mode | None = None
    model: str = ""


@dataclass(frozen=True, slots=True)
class Found:
    """``mode`` is how it was searched in the end; ``note`` says why that is less than it could be, "" where it is not.

    Scores: of hybrid the fused ranks, 1 for what is first in both; of vectors the cosine; of words BM25 as s / (1 + s).
    """

    mode: Mode
    hits: Sequence[Hit]
    note: str = ""


class Search:
    """Asks one store."""

    def __init__(self, store: KnowledgeStore, embedder: Embedder) -> None:
        self._store, self._embedder = store, embedder

    async def find(self, collection: Collection, question: Question) -> Found:
        """Raises EmbeddingMismatch where the asker means another model, BadRequest for a mode that the collection cannot have; and what
        inference raises, where the asker insists on vectors."""
        embedding = collection.embedding
        if question.model and question.model != (embedding.model if embedding else ""):
            raise _mismatch(collection, question.model)
        lacks = self._lacks(collection)
        if lacks and question.mode in ("hybrid", "vectors"):
            raise BadRequest(f"The mode {question.mode} needs vectors: {lacks}.", param="mode")
        if lacks or question.mode == "words":
            return _kept(await self._by_words(collection, question, "" if question.mode else f"searched by words alone: {lacks}"), question)
        try:
            found = await self._with_vectors(collection, question)
        except NodeError as error:
            if question.mode:
                raise
            found = await self._by_words(collection, question, f"searched by words alone: {error.message}")
        return _kept(found, question)

    def _lacks(self, collection: Collection) -> str:
        if collection.embedding is None:
            return f"the collection {collection.of.name!r} has no embedding model"
        return self._store.no_vectors

    async def _by_words(self, collection: Collection, question: Question, note: str) -> Found:
        hits = await self._store.by_words(collection.of, question.query, question.where, question.top_k)
        scored = [replace(hit, score=max(hit.score, 0.0) / (1.0 + max(hit.score, 0.0))) for hit in hits]
        return Found("words", scored, note)

    async def _with_vectors(self, collection: Collection, question: Question) -> Found:
        assert collection.embedding is not None
        vector = await self._embedder.query(collection.embedding.model, question.query)
        if question.mode == "vectors":
            return Found("vectors", await self._store.by_vector(collection.of, vector, question.where, question.top_k))
        depth = max(_DEPTH, 2 * question.top_k)
        lists = await asyncio.gather(
            self._store.by_words(collection.of, question.query, question.where, depth),
            self._store.by_vector(collection.of, vector, question.where, depth),
        )
        return Found("hybrid", fuse(lists)[: question.top_k])


def _kept(found: Found, question: Question) -> Found:
    if question.threshold is None:
        return found
    threshold = question.threshold
    return replace(found, hits=[hit for hit in found.hits if hit.score >= threshold])


def _mismatch(collection: Collection, model: str) -> EmbeddingMismatch:
    has = f"vectors of {collection.embedding.model!r}" if collection.embedding else "no vectors"
    remedy = "leave `model` out, or put its documents into a new collection that is created with that model"
    return EmbeddingMismatch(f"The collection {collection.of.name!r} has {has}, and the query means {model!r}; {remedy}.", param="model")
