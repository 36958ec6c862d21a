"""Knowledge in PostgreSQL, as a KnowledgeStore: one database for all collections and all nodes.

Who writes a collection holds its row until the end, so that what is put stands or falls whole and is counted right; who reads sees one
state. A collection is written by one at a time in this process before it comes to the database, so that waiting takes no connections.
"""

import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from app.errors import CollectionNotFound, StoreUnavailable
from app.postgres import Address, Connection, Database, Patience
from app.services.rag.knowledge import Collection, Cut, Document, Filter, Hit, Job, Name, Vector
from app.services.rag.postgres import collections, documents, jobs, rows, vectors, words
from app.services.rag.postgres.tables import KNOWLEDGE
from app.services.rag.store import Lease
from app.services.rag.turns import Turns

PATIENCE = Patience()
log = logging.getLogger(__name__)


class PostgresStore:
    """The knowledge in one database, which any number of nodes share."""

    def __init__(self, address: Address, patience: Patience = PATIENCE) -> None:
        self._database = Database(address, KNOWLEDGE, patience)
        self._names = frozenset[Name]()
        self._looked, self._vectors = False, ""
        self._no_vectors = f"The database {address} has not been reached yet; check that it runs."
        self._turns = Turns("send fewer at once")

    @property
    def store_id(self) -> str:
        """Where the database is away when the node starts, "" until it has been reached once."""
        return self._database.store_id

    @property
    def vectors(self) -> str:
        return self._vectors

    @property
    def no_vectors(self) -> str:
        return "" if self._vectors else self._no_vectors

    @asynccontextmanager
    async def open(self) -> AsyncIterator[None]:
        """A database that is away stops nobody: every call tries anew."""
        async with self._database.open():
            if self.store_id:
                try:
                    await self.collections()
                except StoreUnavailable as error:
                    log.warning("%s", error)
            yield

    async def until_ready(self) -> None:
        """Try until the database has been reached once, and what is there is known. For the background work of the service."""
        await self._database.until_ready()
        try:
            await self.collections()
        except StoreUnavailable as error:
            log.warning("%s", error)

    def names(self) -> frozenset[Name]:
        return self._names

    # ---- collections

    async def create(self, collection: Collection) -> bool:
        async with self._transaction() as connection:
            made = await collections.create(connection, collection)
        self._names |= {collection.of}
        return made

    async def collections(self) -> Sequence[Collection]:
        async with self._transaction() as connection:
            found = await collections.listed(connection)
        self._names = frozenset(each.of for each in found)
        return found

    async def collection(self, of: Name) -> Collection:
        async with self._reading(of) as (_, there):
            return there.collection

    async def drop(self, of: Name) -> bool:
        async with self._turns.of(of), self._transaction() as connection:
            dropped = await collections.drop(connection, of)
        self._names -= {of}
        return dropped

    # ---- documents

    async def put(self, of: Name, cuts: Sequence[Cut], model: str | None, lease: Lease | None = None) -> None:
        async with self._writing(of) as (connection, there):
            chunks = await documents.put(connection, there, cuts, model, self.no_vectors)
            if lease:
                await jobs.advance(connection, there, lease, cuts, chunks)
            else:
                await jobs.withdraw(connection, there, [cut.document.id for cut in cuts])

    async def document(self, of: Name, document_id: str) -> tuple[Document, int]:
        async with self._reading(of) as (connection, there):
            return await documents.get(connection, there, document_id)

    async def documents(self, of: Name, where: Filter, after: str, limit: int) -> Sequence[tuple[Document, int]]:
        async with self._reading(of) as (connection, there):
            return await documents.listed(connection, there, where, after, limit)

    async def delete(self, of: Name, ids: Sequence[str] | None, where: Filter = ()) -> int:
        async with self._writing(of) as (connection, there):
            return await documents.delete(connection, there, ids, where) + await jobs.withdraw(connection, there, ids, where)

    async def by_words(self, of: Name, query: str, where: Filter, limit: int) -> Sequence[Hit]:
        async with self._reading(of) as (connection, there):
            return await words.find(connection, there, query, where, limit)

    async def by_vector(self, of: Name, vector: Vector, where: Filter, limit: int) -> Sequence[Hit]:
        async with self._reading(of) as (connection, there):
            if self.no_vectors:
                raise StoreUnavailable(self.no_vectors)
            return await vectors.find(connection, there, vector, where, limit)

    # ---- jobs

    async def add_job(self, job: Job, documents: Sequence[Document]) -> None:
        async with self._writing(job.of) as (connection, there):
            await jobs.add(connection, there, job, documents)

    async def jobs(self, of: Name, limit: int) -> Sequence[Job]:
        async with self._reading(of) as (connection, there):
            return await jobs.listed(connection, there, limit)

    async def job(self, of: Name, job_id: str) -> Job:
        async with self._reading(of) as (connection, there):
            return await jobs.get(connection, there, job_id)

    async def cancel(self, of: Name, job_id: str) -> Job:
        async with self._found(of) as (connection, there):
            return await jobs.cancel(connection, there, job_id)

    async def claim(self, lease_s: float) -> Lease | None:
        async with self._transaction() as connection:
            return await jobs.claim(connection, lease_s)

    async def renew(self, lease: Lease, lease_s: float) -> None:
        async with self._leased(lease) as (connection, there):
            await jobs.renew(connection, there, lease, lease_s)

    async def take(self, lease: Lease, limit: int) -> Sequence[Document]:
        async with self._leased(lease) as (connection, there):
            return await jobs.take(connection, there, lease, limit)

    async def let_go(self, lease: Lease, error: str = "", *, after_s: float = 0.0) -> None:
        try:
            async with self._found(lease.job.of) as (connection, there):
                await jobs.let_go(connection, there, lease, error, after_s)
        except CollectionNotFound:
            log.info("the collection of the job %s was dropped", lease.job.id)

    async def finish(self, lease: Lease, error: str = "") -> None:
        try:
            async with self._found(lease.job.of) as (connection, there):
                await jobs.finish(connection, there, lease, error)
        except CollectionNotFound:
            log.info("the collection of the job %s was dropped", lease.job.id)

    async def probe(self) -> None:
        await self._database.probe()

    # ---- transactions

    @asynccontextmanager
    async def _transaction(self, *, snapshot: bool = False) -> AsyncIterator[Connection]:
        if not self._looked:
            async with self._database.transaction() as connection:
                self._vectors, self._no_vectors = await vectors.find_extension(connection, self._database.address)
            self._looked = True
        async with self._database.transaction(snapshot=snapshot) as connection:
            yield connection

    @asynccontextmanager
    async def _found(self, of: Name, *, snapshot: bool = False, lock: bool = False) -> AsyncIterator[tuple[Connection, rows.Kept]]:
        """A transaction, and the collection in it. Raises CollectionNotFound."""
        async with self._transaction(snapshot=snapshot) as connection:
            yield connection, await collections.find(connection, of, lock=lock)

    @asynccontextmanager
    async def _reading(self, of: Name) -> AsyncIterator[tuple[Connection, rows.Kept]]:
        async with self._found(of, snapshot=True) as found:
            yield found

    @asynccontextmanager
    async def _writing(self, of: Name) -> AsyncIterator[tuple[Connection, rows.Kept]]:
        async with self._turns.of(of), self._found(of, lock=True) as found:
            yield found

    @asynccontextmanager
    async def _leased(self, lease: Lease) -> AsyncIterator[tuple[Connection, rows.Kept]]:
        """As ``_found``, but that a lease is lost with its collection."""
        try:
            async with self._found(lease.job.of) as found:
                yield found
        except CollectionNotFound:
            raise jobs.lost(lease) from None
