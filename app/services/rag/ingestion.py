"""Documents on their way in: cut, embedded, and put; at once for who waits, or as a job that outlives the request and the process."""

import asyncio
import hashlib
import json
import logging
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from app.context import CURRENT, background
from app.errors import LeaseLost, ModelNotFound, NodeError, StoreUnavailable
from app.services.rag.cutting import cut
from app.services.rag.embedder import Embedder
from app.services.rag.knowledge import Chunk, Chunking, Cut, Document, Name
from app.services.rag.metrics import Metrics
from app.services.rag.settings import Settings
from app.services.rag.store import KnowledgeStore, Lease

LOOK_S = 2.0
"""Another process of this store may have taken a job and died, or have been given one while it has enough."""
_RETRY_S = (1.0, 2.0, 5.0, 15.0, 30.0, 60.0)
_PASSES = frozenset({408, 421, 425, 429})
log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Ingested:
    """What came in, counted."""

    documents: int
    chunks: int


def id_of(text: str, metadata: Mapping[str, Any]) -> str:
    """The id of a document that was given none: of the same document the same one, so that sending it again adds nothing."""
    told = json.dumps([text, dict(metadata)], sort_keys=True)
    return f"d_{hashlib.blake2b(told.encode(), digest_size=12).hexdigest()}"


class Ingestion:
    """Puts documents into one store; ``run`` works on its jobs."""

    def __init__(self, store: KnowledgeStore, embedder: Embedder, settings: Settings, draining: asyncio.Event, metrics: Metrics) -> None:
        self._store, self._embedder, self._settings, self._draining, self._metrics = store, embedder, settings, draining, metrics
        self._wake = asyncio.Event()
        self._tries: dict[str, int] = {}
        self._stopped: dict[tuple[Name, str], asyncio.Event] = {}

    async def put(self, of: Name, documents: Sequence[Document], chunking: Chunking | None, lease: Lease | None = None) -> Ingested:
        """Cut and embed documents and put them, all or none. Raises what the store and inference raise."""
        collection = await self._store.collection(of)
        pieces = await asyncio.to_thread(_cut, documents, chunking or collection.chunking)
        model = collection.embedding.model if collection.embedding and self._store.vectors else None
        texts = [text for piece in pieces for text in piece]
        vectors = iter(await self._embedder.embed(model, texts)) if model else None
        cuts = [
            Cut(document, [Chunk(text, next(vectors) if vectors else None) for text in piece])
            for document, piece in zip(documents, pieces, strict=True)
        ]
        await self._store.put(of, cuts, model, lease)
        self._metrics.documents.inc(len(documents))
        self._metrics.chunks.inc(len(texts))
        return Ingested(len(documents), len(texts))

    async def put_all(self, of: Name, documents: Sequence[Document], chunking: Chunking) -> Ingested:
        """All or none where it is little text; else in parts, those before one that fails stay."""
        if sum(len(document.text) for document in documents) <= self._settings.wait_chars:
            return await self.put(of, documents, chunking)
        step = self._settings.job_batch
        parts = [await self.put(of, documents[at : at + step], chunking) for at in range(0, len(documents), step)]
        return Ingested(sum(part.documents for part in parts), sum(part.chunks for part in parts))

    def wake(self) -> None:
        """There is a new job."""
        self._wake.set()

    def stop(self, of: Name, job_id: str | None = None) -> None:
        """A job was cancelled, or all of a collection were. Another process hears of that when it renews its lease."""
        for (collection, job), stopped in self._stopped.items():
            if collection == of and job_id in (None, job):
                stopped.set()

    async def run(self) -> None:
        """Work on jobs until cancelled; one that fails stops no other."""
        async with asyncio.TaskGroup() as group:
            for _ in range(self._settings.job_concurrency):
                group.create_task(self._work())

    async def _work(self) -> None:
        while True:
            lease = await self._next()
            CURRENT.set(background(86_400.0))
            try:
                await self._job(lease)
            except LeaseLost:  # cancelled, in other hands, or its next documents have been deleted: whoever is free takes it up
                with suppress(NodeError):
                    await self._store.let_go(lease)
            except StoreUnavailable as error:
                log.warning("the job %s goes on when its lease ends: %s", lease.job.id, error)
            except Exception:
                log.exception("the job %s failed", lease.job.id)
                with suppress(NodeError):
                    await self._store.finish(lease, "an internal error; the node's log has it")

    async def _next(self) -> Lease:
        """A job to work on, leased."""
        while True:
            self._wake.clear()
            try:
                if not self._draining.is_set() and (lease := await self._claim()):
                    return lease
            except StoreUnavailable as error:
                log.error("jobs stand still: %s", error)
            await _wait(self._wake, LOOK_S)

    async def _claim(self) -> Lease | None:
        """A thread that claims goes on when this is cancelled: what it got is let go, or nobody would have the job until the lease ends."""
        claiming = asyncio.ensure_future(self._store.claim(self._settings.lease_s))
        try:
            return await asyncio.shield(claiming)
        except asyncio.CancelledError:
            with suppress(NodeError):
                if lease := await claiming:
                    await self._store.let_go(lease)
            raise

    async def _job(self, lease: Lease) -> None:
        stopped = self._stopped[lease.job.of, lease.job.id] = asyncio.Event()
        work, renewing = asyncio.create_task(self._documents(lease)), asyncio.create_task(self._renew(lease, stopped))
        try:
            await asyncio.wait((work, renewing), return_when=asyncio.FIRST_COMPLETED)
            await (work if work.done() else renewing)
        except asyncio.CancelledError:
            with suppress(NodeError):
                await asyncio.shield(self._store.let_go(lease))
            raise
        except (LeaseLost, StoreUnavailable):
            raise
        except NodeError as error:
            await self._failed(lease, error)
        finally:
            self._stopped.pop((lease.job.of, lease.job.id), None)
            work.cancel()
            renewing.cancel()
            await asyncio.wait((work, renewing))

    async def _documents(self, lease: Lease) -> None:
        """All that the job still has, unless the node shuts down."""
        while documents := await self._store.take(lease, self._settings.job_batch):
            await self.put(lease.job.of, documents, lease.job.chunking, lease)
            self._tries.pop(lease.job.id, None)
            if self._draining.is_set():
                await self._store.let_go(lease)
                return
        await self._store.finish(lease)
        self._metrics.jobs.labels("done").inc()

    async def _renew(self, lease: Lease, stopped: asyncio.Event) -> None:
        """Keep the lease. Raises LeaseLost."""
        while True:
            await _wait(stopped, self._settings.lease_s / 3)
            stopped.clear()
            try:
                await self._store.renew(lease, self._settings.lease_s)
            except StoreUnavailable as error:
                log.warning("the lease of job %s was not renewed: %s", lease.job.id, error)

    async def _failed(self, lease: Lease, error: NodeError) -> None:
        """What may pass is tried again, later and later; what will not ends the job."""
        if error.status < 500 and error.status not in _PASSES and not await self._is_away(lease, error):
            self._tries.pop(lease.job.id, None)
            self._metrics.jobs.labels("failed").inc()
            await self._store.finish(lease, error.message)
            return
        tried = self._tries[lease.job.id] = self._tries.get(lease.job.id, 0) + 1
        after_s = _RETRY_S[min(tried, len(_RETRY_S)) - 1]
        self._metrics.jobs.labels("retried").inc()
        # Not the message: a provider may quote the text in it.
        log.warning("the job %s goes on in %g s: status %s, %s", lease.job.id, after_s, error.status, error.code)
        await self._store.let_go(lease, error.message, after_s=after_s)

    async def _is_away(self, lease: Lease, error: NodeError) -> bool:
        """Whether what is missing is a model that has given vectors before: a node that has it may be back later."""
        if error.code != ModelNotFound.code:
            return False
        embedding = (await self._store.collection(lease.job.of)).embedding
        return embedding is not None and embedding.dimension > 0


async def _wait(event: asyncio.Event, at_most_s: float) -> None:
    with suppress(TimeoutError):
        async with asyncio.timeout(at_most_s):
            await event.wait()


def _cut(documents: Sequence[Document], chunking: Chunking) -> list[list[str]]:
    return [cut(document.text, chunking) for document in documents]
