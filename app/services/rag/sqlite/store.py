"""Knowledge in SQLite, as a KnowledgeStore: work in threads, so that a slow disk or a blocked file never stops the event loop.

Collections are files of their own: a process that stands still while it writes one keeps others from writing that one, from reading none.
"""

import asyncio
import logging
import sqlite3
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, asynccontextmanager, contextmanager
from functools import partial
from pathlib import Path
from typing import TypeVar

from app.errors import CollectionNotFound, StoreUnavailable
from app.services.rag.knowledge import Collection, Cut, Document, Filter, Hit, Job, Name, Vector
from app.services.rag.sqlite import documents, file, jobs, words
from app.services.rag.sqlite.connections import Connections
from app.services.rag.sqlite.folder import Folder
from app.services.rag.sqlite.searcher import Searcher
from app.services.rag.sqlite.unwritten import Unwritten
from app.services.rag.store import Lease
from app.services.rag.turns import Turns

_THREADS = 4
_CLAIM_S = 0.2
"""A job of a collection that somebody else is writing can be claimed a little later."""
log = logging.getLogger(__name__)
T = TypeVar("T")
Work = Callable[[sqlite3.Connection], T]


class SqliteStore:
    """The knowledge in one folder, which several processes of a host may share.

    Work that has begun in a thread ends there, also when its caller is gone: it is done whole, or not at all.
    """

    def __init__(self, folder: Path, store_id: str) -> None:
        self._folder, self._store_id = Folder(folder), store_id
        self._searcher = Searcher()
        self._connections = Connections(self._searcher.prepare)
        self._described, self._looked = Unwritten[Collection](), Unwritten[jobs.Look | None]()
        self._turns = Turns("send fewer at once, or see what holds its file")

    @property
    def store_id(self) -> str:
        return self._store_id

    @property
    def vectors(self) -> str:
        return self._searcher.name

    @property
    def no_vectors(self) -> str:
        return self._searcher.reason

    @asynccontextmanager
    async def open(self) -> AsyncIterator[None]:
        with ExitStack() as stack:
            stack.callback(self._connections.close)
            self._readers = stack.enter_context(ThreadPoolExecutor(_THREADS, "rag-read"))
            self._writers = stack.enter_context(ThreadPoolExecutor(_THREADS, "rag-write"))
            await self._in_thread(self._writers, self._folder.prepare)
            await self._in_thread(self._readers, self._searcher.find)
            yield

    def names(self) -> frozenset[Name]:
        return self._folder.names()

    # ---- collections

    async def create(self, collection: Collection) -> bool:
        return await self._in_thread(self._writers, lambda: self._folder.add(collection))

    async def collections(self) -> Sequence[Collection]:
        return await self._in_thread(self._readers, self._collections)

    async def collection(self, of: Name) -> Collection:
        return await self._read(of, documents.collection)

    async def drop(self, of: Name) -> bool:
        return await self._in_thread(self._writers, lambda: self._drop(of))

    # ---- documents

    async def put(self, of: Name, cuts: Sequence[Cut], model: str | None, lease: Lease | None = None) -> None:
        def work(connection: sqlite3.Connection) -> None:
            chunks = documents.put(connection, cuts, model)
            if lease:
                jobs.advance(connection, lease, cuts, chunks)
            else:
                jobs.withdraw(connection, [cut.document.id for cut in cuts])

        await self._write(of, work, scrub=lease is None)  # within a job once, at its end

    async def document(self, of: Name, document_id: str) -> tuple[Document, int]:
        return await self._read(of, lambda connection: documents.get(connection, of, document_id))

    async def documents(self, of: Name, where: Filter, after: str, limit: int) -> Sequence[tuple[Document, int]]:
        return await self._read(of, lambda connection: documents.listed(connection, where, after, limit))

    async def delete(self, of: Name, ids: Sequence[str] | None, where: Filter = ()) -> int:
        def work(connection: sqlite3.Connection) -> int:
            return documents.delete(connection, ids, where) + jobs.withdraw(connection, ids, where)

        return await self._write(of, work)

    async def by_words(self, of: Name, query: str, where: Filter, limit: int) -> Sequence[Hit]:
        return await self._read(of, lambda connection: words.find(connection, query, where, limit))

    async def by_vector(self, of: Name, vector: Vector, where: Filter, limit: int) -> Sequence[Hit]:
        def work() -> Sequence[Hit]:
            with self._opened(of) as (path, connection):
                return self._searcher.search(connection, path, of, vector, where, limit)

        return await self._in_thread(self._readers, work)

    # ---- jobs

    async def add_job(self, job: Job, documents: Sequence[Document]) -> None:
        await self._write(job.of, lambda connection: jobs.add(connection, job, documents))

    async def jobs(self, of: Name, limit: int) -> Sequence[Job]:
        return await self._read(of, lambda connection: jobs.listed(connection, of, limit))

    async def job(self, of: Name, job_id: str) -> Job:
        return await self._read(of, lambda connection: jobs.get(connection, of, job_id))

    async def cancel(self, of: Name, job_id: str) -> Job:
        return await self._write(of, lambda connection: jobs.cancel(connection, of, job_id))

    async def claim(self, lease_s: float) -> Lease | None:
        return await self._in_thread(self._writers, lambda: self._claim(lease_s))

    async def renew(self, lease: Lease, lease_s: float) -> None:
        try:
            await self._write(lease.job.of, lambda connection: jobs.renew(connection, lease, lease_s), scrub=False)
        except CollectionNotFound:
            raise jobs.lost(lease) from None

    async def take(self, lease: Lease, limit: int) -> Sequence[Document]:
        try:
            return await self._read(lease.job.of, lambda connection: jobs.take(connection, lease, limit))
        except CollectionNotFound:
            raise jobs.lost(lease) from None

    async def let_go(self, lease: Lease, error: str = "", *, after_s: float = 0.0) -> None:
        await self._end(lease, lambda connection: jobs.let_go(connection, lease, error, after_s))

    async def finish(self, lease: Lease, error: str = "") -> None:
        await self._end(lease, lambda connection: jobs.finish(connection, lease, error))

    async def _end(self, lease: Lease, work: Work[None]) -> None:
        try:
            await self._write(lease.job.of, work)
        except CollectionNotFound:
            log.info("the collection of the job %s was dropped", lease.job.id)

    async def probe(self) -> None:
        await self._in_thread(self._writers, self._folder.probe)

    # ---- in threads

    async def _read(self, of: Name, work: Work[T]) -> T:
        def read() -> T:
            with self._opened(of) as (_, connection), file.transaction(connection, write=False):
                return work(connection)

        return await self._in_thread(self._readers, read)

    async def _write(self, of: Name, work: Work[T], *, scrub: bool = True) -> T:
        """One at a time for each collection, so that one whose file is blocked takes one thread and no more. What a collection that was
        dropped in the meantime has taken is gone with it, and that is said."""

        def write() -> T:
            with self._opened(of) as (path, connection):
                with file.transaction(connection, write=True):
                    done = work(connection)
                if scrub:
                    file.scrub(connection)
            if self._folder.find(of) != path:
                self._forget(path)
                raise documents.missing(of)
            return done

        async with self._turns.of(of):
            return await self._in_thread(self._writers, write)

    @contextmanager
    def _opened(self, of: Name) -> Iterator[tuple[Path, sqlite3.Connection]]:
        """The file of a collection as it is now. Raises CollectionNotFound."""
        path = self._folder.find(of)
        if path is None:
            raise documents.missing(of)
        with file.errors(path):
            try:
                with self._connections.borrow(path) as connection:
                    yield path, connection
            except (FileNotFoundError, sqlite3.Error):
                if self._folder.find(of) != path:  # dropped meanwhile, which SQLite takes for a fault of the disk
                    raise documents.missing(of) from None
                raise

    def _collections(self) -> Sequence[Collection]:
        found = self._folder.refresh()
        for each in (self._connections, self._described, self._looked):
            each.forget(set(found.values()).__contains__)
        there = list[Collection]()
        for of, path in sorted(found.items(), key=lambda each: (each[0].name, each[0].owner)):
            try:
                there.append(self._described.see(path, partial(self._looked_into, of, documents.collection)))
            except CollectionNotFound:
                continue
            except StoreUnavailable as error:
                raise error.prefaced(f"The collection {of.name!r}") from None
        return there

    def _drop(self, of: Name) -> bool:
        path = self._folder.remove(of)
        if path is None:
            return False
        self._forget(path)
        return True

    def _forget(self, path: Path) -> None:
        self._connections.forget(lambda kept: kept != path)
        self._searcher.forget(path)

    def _claim(self, lease_s: float) -> Lease | None:
        """One collection that is blocked or damaged keeps nobody from the jobs of the others."""
        waiting, failed = list[tuple[jobs.Claimable, Name]](), list[StoreUnavailable]()
        for of, path in self._folder.refresh().items():
            look = partial(self._tried, of, jobs.look, failed)
            if (found := self._looked.see(path, look, lasting=lambda look: look is not None and not look.busy)) and found.oldest:
                waiting.append((found.oldest, of))
        for oldest, of in sorted(waiting, key=lambda each: each[0]):

            def claim(connection: sqlite3.Connection, of: Name = of, oldest: jobs.Claimable = oldest) -> Lease | None:
                with file.transaction(connection, write=True, patience_s=_CLAIM_S):
                    return jobs.claim(connection, of, oldest, lease_s)

            if lease := self._tried(of, claim, failed):
                return lease
        if failed:
            raise failed[0]
        return None

    def _looked_into(self, of: Name, work: Work[T]) -> T:
        with self._opened(of) as (_, connection):
            return work(connection)

    def _tried(self, of: Name, work: Work[T | None], failed: list[StoreUnavailable]) -> T | None:
        try:
            return self._looked_into(of, work)
        except CollectionNotFound:
            return None
        except StoreUnavailable as error:
            failed.append(error)
            return None

    async def _in_thread(self, threads: ThreadPoolExecutor, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(threads, work)
