"""The memory service: one store of conversations and of runs, measured and watched."""

import asyncio
import logging
import math
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from typing import Any

from starlette.routing import BaseRoute

from app.config.backend import DATABASE_URL, REDIS_URL, backend_of
from app.errors import NodeError, ServiceUnavailable, StoreUnavailable
from app.services.contract import Check, Facts, NodeContext
from app.services.memory.conversation import WHOLE, Conversation, History, MemorySettings, NewTurn, Part, Summary, encode_messages
from app.services.memory.metrics import Metrics
from app.services.memory.routes import routes
from app.services.memory.runs import Run, RunKey
from app.services.memory.semantic import Found, SemanticMemory, Wanted
from app.services.memory.store import Store
from app.tracing import Span, span

_CHECK_S = 0.9
# A check waits behind the appends of a busy node. While those succeed the store is well, and /readyz must not send the work away.
_RECENT_S = 5.0
_NEWEST = 20
"""Among so many turns is one that was stored a moment ago."""
log = logging.getLogger(__name__)


class Memory:
    """Conversations by agent, principal and session, and runs by agent, principal and key, in the store that the environment names."""

    def __init__(self, config: Mapping[str, Any], node: NodeContext) -> None:
        self._settings = MemorySettings(**config)
        self._node = node
        self._metrics = Metrics(node.metrics)
        self._store = _store(self._settings, node, self._metrics)
        self._semantic = SemanticMemory(node.locate)
        self._appended_at = -math.inf
        self.routes: Sequence[BaseRoute] = routes(self)

    @asynccontextmanager
    async def open(self) -> AsyncIterator[None]:
        """Open the store. Raises what that raises."""
        async with self._store.open():
            yield

    async def run(self) -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(self._store.follow(self._node.changed))
            group.create_task(self._sweep())

    async def _sweep(self) -> None:
        """Remove, now and then, what is due."""
        told = False
        while True:
            await asyncio.sleep(self._settings.sweep_interval_s)
            try:
                with self._counted("write"):
                    await self._store.sweep()
                told = False
            except StoreUnavailable as error:
                if not told:  # once for each time that the store is away
                    log.warning("what is due to be deleted stays for now: %s", error)
                told = True

    def facts(self) -> Facts:
        return Facts(keys=None, store_id=self._store.store_id)

    async def check(self) -> Mapping[str, Check]:
        try:
            async with asyncio.timeout(_CHECK_S):
                with self._counted("write"):
                    await self._store.probe()
        except TimeoutError:
            return {"memory": self._slow()}
        except StoreUnavailable as error:
            return {"memory": Check("error", error.message)}
        return {"memory": Check("ok", f"conversations can be read and written: {self._store.place}")}

    async def history(self, of: Conversation, part: Part = WHOLE) -> History:
        with self._span("search_memory", of) as told, self._counted("read"):
            history = await self._store.history(of, part)
            told.set("gen_ai.memory.record.count", len(history.turns))
            return history

    async def append(self, to: Conversation, turn: NewTurn) -> bool:
        encoded = encode_messages(turn.messages, self._settings.max_turn_bytes)
        with self._span("upsert_memory", to), self._counted("write"):
            added = await self._store.append(to, turn.turn_id, encoded, turn.ttl_s)
        self._appended_at = asyncio.get_running_loop().time()
        if turn.semantic:
            await self._semantic.remember(to, turn.turn_id, turn.messages, turn.ttl_s)
            await self._forget_if_gone(to, turn.turn_id)
        return added

    async def _forget_if_gone(self, of: Conversation, turn_id: str) -> None:
        """Whoever deleted the conversation since the turn was stored has looked into semantic memory too early to find it."""
        try:
            for most in (1, _NEWEST):
                with self._counted("read"):
                    newest = await self._store.history(of, Part(max_turns=most))
                if turn_id in [turn.turn_id for turn in newest.turns]:
                    return
            await self._semantic.forget(of, turn_id)
        except NodeError as error:
            log.warning("a turn may be found by semantic memory although it was deleted: %s; delete its conversation again", error)

    async def summarise(self, of: Conversation, summary: Summary) -> bool:
        with self._span("upsert_memory", of), self._counted("write"):
            return await self._store.summarise(of, summary)

    async def clear(self, of: Conversation) -> int:
        """Delete a conversation, first from semantic memory: what fails there leaves it as it was, to be deleted again. A turn that another
        node stored meanwhile is deleted from there afterwards."""
        with self._span("delete_memory", of), self._counted("write"):
            try:
                await self._semantic.forget(of)
            except ServiceUnavailable as error:
                if error.code != ServiceUnavailable.code:
                    raise
                log.warning("a conversation is deleted without a look into semantic memory: %s", error)
                return await self._store.clear(of)
            count = await self._store.clear(of)
            await self._semantic.forget(of)
            return count

    async def recollect(self, agent: str, wanted: Wanted) -> Found:
        return await self._semantic.find(agent, wanted)

    async def forget(self, agent: str) -> bool:
        return await self._semantic.forget_all(agent)

    def _span(self, operation: str, of: Conversation) -> Span:
        """The span of one access to the store, by OpenTelemetry's conventions for generative AI."""
        noted = {
            "gen_ai.operation.name": operation,
            "gen_ai.memory.store.id": self._store.store_id,
            "gen_ai.agent.name": of.agent,
            "gen_ai.conversation.id": of.session,
        }
        return span(operation, noted)

    @property
    def run_lease_s(self) -> float:
        return self._settings.run_lease_s

    async def claim_run(self, of: RunKey, session: str, token: str, fingerprint: str) -> Run:
        with self._counted("write"):
            return await self._store.claim(of, session, token, fingerprint)

    async def finish_run(self, of: RunKey, token: str, answer: bytes) -> None:
        with self._counted("write"):
            await self._store.finish(of, token, answer)

    async def release_run(self, of: RunKey, token: str) -> None:
        with self._counted("write"):
            await self._store.release(of, token)

    def _slow(self) -> Check:
        ago_s = asyncio.get_running_loop().time() - self._appended_at
        told = f"writing a conversation takes longer than {_CHECK_S} s"
        if ago_s <= _RECENT_S:
            return Check("degraded", f"{told}, but one was written {ago_s:.1f} s ago; many are waiting for {self._store.place}")
        return Check("error", f"{told}; look after {self._store.place}")

    @contextmanager
    def _counted(self, work: str) -> Iterator[None]:
        try:
            yield
        except StoreUnavailable:
            self._metrics.failed(work)
            raise


def _store(settings: MemorySettings, node: NodeContext, metrics: Metrics) -> Store:
    """The store that the environment names; only what it needs is imported. Raises ConfigError for a URL that is none."""
    backend = backend_of(node.environ)
    if backend == "postgres":
        from app.services.memory.postgres import PostgresStore

        return PostgresStore(node.environ[DATABASE_URL], settings)
    if backend == "redis":
        from app.services.memory.redis import RedisStore

        return RedisStore(node.environ[REDIS_URL], settings)
    from app.services.memory.sqlite import SQLiteStore

    return SQLiteStore(node.data_dir / "memory", settings, node.store_id, metrics.waited)
