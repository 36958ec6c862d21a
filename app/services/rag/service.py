"""The rag service: collections in one store, documents on their way in, and searches."""

import asyncio
import logging
import re
import secrets
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

from starlette.routing import BaseRoute
from starlette.types import ASGIApp

from app.config.backend import DATABASE_URL
from app.context import current
from app.errors import BadRequest, CollectionNotFound, ConfigError, Conflict, NodeError, Problem, StoreUnavailable
from app.services.contract import Check, Facts, NodeContext
from app.services.rag.batch import Batch, asked_chunking
from app.services.rag.cutting import faults
from app.services.rag.embedder import Embedder
from app.services.rag.ingestion import Ingested, Ingestion
from app.services.rag.knowledge import Collection, Document, Embedding, Filter, Job, Name
from app.services.rag.metrics import Metrics
from app.services.rag.pipelines import read_pipelines
from app.services.rag.reading import Reader
from app.services.rag.routes import routes
from app.services.rag.search import Found, Question, Search
from app.services.rag.settings import Settings
from app.services.rag.store import KnowledgeStore
from app.tracing import span

OWNED = "memory."
"""What the names of collections begin with that belong to the principal who asks: nobody sees another's."""
REFRESH_S = 5.0
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:-]{0,139}")
_CHECK_S = 0.9
log = logging.getLogger(__name__)


class Rag:
    """Knowledge, in SQLite files of the data directory, or in the PostgreSQL database that the environment names."""

    def __init__(self, config: Mapping[str, Any], node: NodeContext) -> None:
        self.settings = Settings(**config).with_environment(node.environ)
        self.reader = Reader()
        self._node = node
        self._store = _store(node)
        self._embedder = Embedder(node.locate, self.settings)
        self._metrics = Metrics(node.metrics)
        self._search = Search(self._store, self._embedder)
        self._ingestion = Ingestion(self._store, self._embedder, self.settings, node.draining, self._metrics)
        self._told = frozenset[str]()
        self.routes: Sequence[BaseRoute] = routes(self)

    @asynccontextmanager
    async def open(self) -> AsyncIterator[None]:
        """Raises ConfigError for rag/*.rag.yaml that cannot be used and for a database that cannot be one; StoreUnavailable."""
        if wrong := [
            Problem("the profile", told, f"spec.rag.{name}", remedy=remedy) for name, told, remedy in faults(self.settings.chunking)
        ]:
            raise ConfigError(wrong)
        pipelines = read_pipelines(self._node.config_dir / "rag", self._node.environ)
        self._pipelines = {pipeline.collection: pipeline for pipeline in pipelines}
        for pipeline in pipelines:
            for warning in pipeline.warnings:
                log.warning("%s: %s", pipeline.file, warning)
        async with self._store.open():
            self._tell()
            yield

    async def run(self) -> None:
        """Work on jobs, and keep up with what other processes do to the store, until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._ingestion.run())
            group.create_task(self._keep_up())

    def facts(self) -> Facts:
        return Facts(keys=frozenset(of.name for of in self._store.names()))

    async def check(self) -> Mapping[str, Check]:
        remarks = {
            f"rag.{name}": Check("degraded", f"{pipeline.file}: {'; '.join(pipeline.warnings)}")
            for name, pipeline in self._pipelines.items()
            if pipeline.warnings
        }
        return {"rag": await self._check_store(), **remarks}

    async def _check_store(self) -> Check:
        try:
            async with asyncio.timeout(_CHECK_S):
                await self._store.probe()
        except TimeoutError:
            return Check("error", f"writing knowledge takes longer than {_CHECK_S} s; check the disk, or the database")
        except StoreUnavailable as error:
            return Check("error", error.message)
        if not self._store.vectors:
            return Check("degraded", f"knowledge is searched by words alone: {self._store.no_vectors}")
        model = self.settings.embedding_model or "none by default"
        return Check("ok", f"knowledge can be read and written; vectors by {self._store.vectors}, embedding model {model}")

    # ---- collections

    def has(self, name: str) -> bool:
        return self._of(name) in self._store.names()

    def at(self, name: str) -> ASGIApp:
        self._of(name)
        return self._node.locate("rag", name)

    async def collections(self) -> Sequence[Collection]:
        shown = ("", current().principal)
        return [each for each in await self._store.collections() if each.of.owner in shown]

    async def create(self, name: str, asked: Mapping[str, Any]) -> tuple[Collection, bool]:
        """Raises BadRequest, and Conflict where there is one with other settings than those asked for."""
        model = asked.get("embedding_model", self.settings.embedding_model) or ""
        chunking = asked_chunking(asked, self.settings.chunking)
        collection = Collection(self._of(name), asked.get("description", ""), Embedding(model) if model else None, chunking, time.time())
        new = await self._store.create(collection)
        there = await self._store.collection(collection.of)
        if not new and (other := _other(there, collection, asked)):
            remedy = "leave it as it is, delete it first, or choose another name"
            raise Conflict(f"There is a collection {name!r} with another {other}; {remedy}.", param=other)
        self._tell()
        return there, new

    async def collection(self, name: str) -> Collection:
        return await self._store.collection(self._of(name))

    async def drop(self, name: str) -> None:
        of = self._of(name)
        await self._store.collection(of)  # which says that there is none
        await self._store.drop(of)
        self._ingestion.stop(of)
        self._tell()

    # ---- documents

    async def ingest(self, batch: Batch) -> Ingested | Job:
        """What came in, where the client waits; else the job that takes it in."""
        of = self._of(batch.collection)
        try:
            collection = await self._store.collection(of)
        except CollectionNotFound:
            if not batch.create:
                raise
            collection, _ = await self.create(batch.collection, {})
        chunking = batch.chunking_for(collection.chunking)
        chars = sum(len(document.text) for document in batch.documents)
        if batch.wait if batch.wait is not None else chars <= self.settings.wait_chars:
            return await self._ingestion.put_all(of, batch.documents, chunking)
        job = Job(f"job_{secrets.token_hex(8)}", of, "running", len(batch.documents), created_at=time.time(), chunking=chunking)
        await self._store.add_job(job, batch.documents)
        self._ingestion.wake()
        return job

    async def documents(self, name: str, where: Filter, after: str, limit: int) -> Sequence[tuple[Document, int]]:
        return await self._store.documents(self._of(name), where, after, limit)

    async def document(self, name: str, document_id: str) -> tuple[Document, int]:
        return await self._store.document(self._of(name), document_id)

    async def delete(self, name: str, ids: Sequence[str] | None, where: Filter) -> int:
        return await self._store.delete(self._of(name), ids, where)

    async def query(self, name: str, question: Question) -> Found:
        collection = await self._store.collection(self._of(name))
        with span("retrieval", {"gen_ai.operation.name": "retrieval", "gen_ai.data_source.id": name}) as told:
            began = time.perf_counter()
            found = await self._search.find(collection, self._filled(name, question))
            self._metrics.searches.labels(found.mode).observe(time.perf_counter() - began)
            told.set("astromesh.rag.mode", found.mode)
            told.set("astromesh.rag.results", len(found.hits))
            return found

    # ---- jobs

    async def jobs(self, name: str, limit: int) -> Sequence[Job]:
        return await self._store.jobs(self._of(name), limit)

    async def job(self, name: str, job_id: str) -> Job:
        return await self._store.job(self._of(name), job_id)

    async def cancel(self, name: str, job_id: str) -> Job:
        of = self._of(name)
        job = await self._store.cancel(of, job_id)
        self._ingestion.stop(of, job_id)
        return job

    # ----

    def _of(self, name: str) -> Name:
        if not _NAME.fullmatch(name):
            remedy = "take 1 to 140 letters, digits and ._:-, a letter or digit first"
            raise BadRequest(f"The collection name {name[:150]!r} cannot be used; {remedy}.", param="collection")
        return Name(name, current().principal if name.startswith(OWNED) else "")

    def _filled(self, name: str, question: Question) -> Question:
        """The question with what the collection's pipeline file says where it says nothing itself."""
        pipeline = self._pipelines.get(name)
        top_k = question.top_k or (pipeline.top_k if pipeline else None) or self.settings.top_k
        threshold = pipeline.similarity_threshold if pipeline and question.threshold is None else question.threshold
        return replace(question, top_k=top_k, threshold=threshold)

    def _tell(self) -> None:
        """Have other nodes hear of collections that are new or gone."""
        names = frozenset(of.name for of in self._store.names())
        if names != self._told:
            self._told = names
            self._node.changed()

    async def _keep_up(self) -> None:
        missing = dict(self._pipelines)
        while True:
            try:
                for name, pipeline in tuple(missing.items()):
                    await self._pipeline(name, pipeline.settings)
                    del missing[name]
                await self._store.collections()
            except StoreUnavailable as error:
                log.warning("collections of other processes may not be seen for now: %s", error)
            self._tell()  # of those that are seen
            await asyncio.sleep(REFRESH_S)

    async def _pipeline(self, name: str, settings: Mapping[str, Any]) -> None:
        try:
            _, new = await self.create(name, settings)
        except StoreUnavailable:
            raise
        except NodeError as error:
            log.warning("rag/*.rag.yaml: the collection %s stays as it is: %s", name, error)
        else:
            if new:
                log.info("the collection %s was created from its file", name)


def _store(node: NodeContext) -> KnowledgeStore:
    """Only what is needed is imported. Raises ConfigError for a URL that is none."""
    if url := node.environ.get(DATABASE_URL):
        from app.postgres import parse
        from app.services.rag.postgres import PostgresStore

        return PostgresStore(parse(url))
    from app.services.rag.sqlite import SqliteStore

    return SqliteStore(node.data_dir / "rag", node.store_id)


def _other(there: Collection, wanted: Collection, asked: Mapping[str, Any]) -> str:
    """The first setting that was asked for and is another in the collection that is there, "" where there is none."""
    if "description" in asked and there.description != wanted.description:
        return "description"
    models = [each.embedding.model if each.embedding else None for each in (there, wanted)]
    if "embedding_model" in asked and models[0] != models[1]:
        return "embedding_model"
    return next((name for name in asked if name.startswith("chunk_") and there.chunking != wanted.chunking), "")
