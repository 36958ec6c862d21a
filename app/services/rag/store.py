"""What a store of knowledge does: one protocol, and one conformance suite that every implementation passes.

The rules: what a call has returned is on the disk; every write stands or falls whole; several processes may use a store at once, and a
job is worked on by the one that holds its lease. A lease that ran out is lost: whoever comes back with it changes nothing.
"""

from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Protocol

from app.services.rag.knowledge import Collection, Cut, Document, Filter, Hit, Job, Name, Vector


@dataclass(frozen=True, slots=True)
class Lease:
    """The right to work on a job until it runs out."""

    job: Job
    token: str


class KnowledgeStore(Protocol):
    """Every method may raise StoreUnavailable, with the remedy; those on a collection that is not there raise CollectionNotFound, but
    where they say otherwise."""

    @property
    def store_id(self) -> str:
        """The id of the store (12 hex digits): nodes with the same one see the same collections. Known once it is open."""
        ...

    @property
    def vectors(self) -> str:
        """What searches vectors, and its version ("sqlite-vec 0.1.9", "numpy 2.4.6", "pgvector 0.8.1"); "" where nothing can. Known once
        the store is open; asking imports nothing."""
        ...

    @property
    def no_vectors(self) -> str:
        """Why nothing can search vectors, and the remedy; "" where something can."""
        ...

    def open(self) -> AbstractAsyncContextManager[None]:
        """Raises StoreUnavailable; ConfigError for what a newer build has written."""
        ...

    def names(self) -> frozenset[Name]:
        """The collections that were there lately, without I/O; kept fresh by ``collections`` and by what this process creates and drops."""
        ...

    async def create(self, collection: Collection) -> bool:
        """False, and nothing changes, where there is one of that name."""
        ...

    async def collections(self) -> Sequence[Collection]: ...

    async def collection(self, of: Name) -> Collection: ...

    async def drop(self, of: Name) -> bool:
        """Delete a collection, its documents and its jobs; False where there is none."""
        ...

    async def put(self, of: Name, cuts: Sequence[Cut], model: str | None, lease: Lease | None = None) -> None:
        """Add documents, or put them in the place of those with the same ids, all or none; also of those that still wait in a job, where
        no lease is given. ``model`` is where the vectors come from; the first ones fix the collection's dimension. With a lease, the
        documents are those last taken from that job, which is that much further afterwards. Raises EmbeddingMismatch for another model
        or dimension than the collection's, LeaseLost for a lease that is."""
        ...

    async def document(self, of: Name, document_id: str) -> tuple[Document, int]:
        """A document, and the number of its chunks. Raises DocumentNotFound."""
        ...

    async def documents(self, of: Name, where: Filter, after: str, limit: int) -> Sequence[tuple[Document, int]]:
        """Those with ids above ``after``, in the order of their ids (by code point), with the numbers of their chunks. Their text is ""."""
        ...

    async def delete(self, of: Name, ids: Sequence[str] | None, where: Filter = ()) -> int:
        """Delete the documents with these ids (None: any) for which the filter holds, also those that still wait in a job; how many there
        were."""
        ...

    async def by_words(self, of: Name, query: str, where: Filter, limit: int) -> Sequence[Hit]:
        """The chunks that share a word with the query, best first; ``limit`` of them whenever so many match query and filter. No query is
        an error: it is read as words, never as an expression."""
        ...

    async def by_vector(self, of: Name, vector: Vector, where: Filter, limit: int) -> Sequence[Hit]:
        """The nearest chunks by cosine, exact, best first; ``limit`` of them whenever so many match the filter. Equal scores come in the
        order of document id and chunk. Raises EmbeddingMismatch for another dimension than the collection's."""
        ...

    async def add_job(self, job: Job, documents: Sequence[Document]) -> None:
        """Keep a job that is to be done, with all its documents; those with the same ids that wait in other jobs make room for them. One
        that is there already is left as it is."""
        ...

    async def jobs(self, of: Name, limit: int) -> Sequence[Job]:
        """Newest first."""
        ...

    async def job(self, of: Name, job_id: str) -> Job:
        """Raises JobNotFound."""
        ...

    async def cancel(self, of: Name, job_id: str) -> Job:
        """Stop a running job; what it has ingested stays, what waits is dropped. One that has ended stays as it is. Raises JobNotFound."""
        ...

    async def claim(self, lease_s: float) -> Lease | None:
        """The oldest running job that nobody holds or whose holder is gone, for so long; None where there is none."""
        ...

    async def renew(self, lease: Lease, lease_s: float) -> None:
        """Raises LeaseLost, also for a job that was cancelled."""
        ...

    async def take(self, lease: Lease, limit: int) -> Sequence[Document]:
        """The next documents that the job has not put yet, in their order; the same ones until they are put. None left: it is done."""
        ...

    async def let_go(self, lease: Lease, error: str = "", *, after_s: float = 0.0) -> None:
        """Give a running job back for another try after so long; ``error`` says what went wrong. Nothing happens to a lost lease."""
        ...

    async def finish(self, lease: Lease, error: str = "") -> None:
        """End a job: done, or failed where there is an error, and drop what still waits. Nothing happens to a lost lease."""
        ...

    async def probe(self) -> None:
        """Write something. Raises StoreUnavailable when knowledge could not be written."""
        ...
