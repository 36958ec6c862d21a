"""The memory service: a store of conversations, called in threads so that a slow disk never stops the event loop."""

import asyncio
import logging
import math
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, asynccontextmanager
from typing import Any, TypeVar

from starlette.routing import BaseRoute

from app.errors import StoreUnavailable
from app.services.contract import Check, Facts, NodeContext
from app.services.memory.conversation import Conversation, History, MemorySettings, encode_messages
from app.services.memory.metrics import Metrics
from app.services.memory.routes import routes
from app.services.memory.runs import Run, RunKey, RunStore
from app.services.memory.store import ConversationStore
from app.tracing import Span, span

_READERS = 4
_CHECK_S = 0.9
# A check waits behind the appends of a busy node. While those succeed the disk is well, and /readyz must not send the work away.
_RECENT_S = 5.0
log = logging.getLogger(__name__)
T = TypeVar("T")


class Memory:
    """Conversations by agent, principal and session, in ``<data_dir>/memory``.

    Work that has begun in a thread ends there, also when its caller is gone: a cancelled append is in the history whole, or not at all.
    """

    def __init__(self, config: Mapping[str, Any], node: NodeContext) -> None:
        self._settings = MemorySettings(**config)
        self._node = node
        self._store = ConversationStore(node.data_dir / "memory", self._settings)
        self._runs = RunStore(node.data_dir / "memory", self._settings)
        self._appended_at = -math.inf
        self._metrics = Metrics(node.metrics)
        self.routes: Sequence[BaseRoute] = routes(self)

    @asynccontextmanager
    async def open(self) -> AsyncIterator[None]:
        """Take a slot of the data directory. Raises StoreUnavailable, or ConfigError for files of a newer build."""
        with ExitStack() as stack:
            for store in (self._store, self._runs):
                store.open()
                stack.callback(store.close)
            self._writer = stack.enter_context(ThreadPoolExecutor(1, "memory-write"))
            self._reader = stack.enter_context(ThreadPoolExecutor(_READERS, "memory-read"))
            yield

    async def run(self) -> None:
        """Remove, now and then, what other nodes of this data directory have deleted here."""
        while True:
            await asyncio.sleep(self._settings.sweep_interval_s)
            try:
                await self._in_thread(self._writer, self._store.sweep)
                await self._in_thread(self._writer, self._runs.sweep)
            except StoreUnavailable as error:
                log.warning("rows of deleted conversations stay for now: %s", error)

    def facts(self) -> Facts:
        return Facts(keys=None, store_id=self._node.store_id)

    async def check(self) -> Mapping[str, Check]:
        try:
            async with asyncio.timeout(_CHECK_S):
                await self._in_thread(self._writer, self._store.probe)
        except TimeoutError:
            return {"memory": self._slow()}
        except StoreUnavailable as error:
            return {"memory": Check("error", error.message)}
        return {"memory": Check("ok", "conversations can be read and written")}

    async def history(self, of: Conversation, max_turns: int | None = None) -> History:
        with self._span("search_memory", of) as told:
            history = await self._in_thread(self._reader, self._store.history, of, max_turns)
            told.set("gen_ai.memory.record.count", len(history.turns))
            return history

    async def append(self, to: Conversation, turn_id: str, messages: list[dict[str, Any]]) -> bool:
        encoded = encode_messages(messages, self._settings.max_turn_bytes)
        with self._span("upsert_memory", to):
            added = await self._in_thread(self._writer, self._store.append, to, turn_id, encoded)
        self._appended_at = asyncio.get_running_loop().time()
        return added

    async def clear(self, of: Conversation) -> int:
        with self._span("delete_memory", of):
            await self._in_thread(self._writer, self._runs.clear, of)
            return await self._in_thread(self._writer, self._store.clear, of)

    def _span(self, operation: str, of: Conversation) -> Span:
        """The span of one access to the store, by OpenTelemetry's conventions for generative AI."""
        noted = {
            "gen_ai.operation.name": operation,
            "gen_ai.memory.store.id": self._node.store_id,
            "gen_ai.agent.name": of.agent,
            "gen_ai.conversation.id": of.session,
        }
        return span(operation, noted)

    @property
    def run_lease_s(self) -> float:
        return self._settings.run_lease_s

    async def claim_run(self, of: RunKey, session: str, token: str, fingerprint: str) -> Run:
        return await self._in_thread(self._writer, self._runs.claim, of, session, token, fingerprint)

    async def finish_run(self, of: RunKey, token: str, answer: bytes) -> None:
        await self._in_thread(self._writer, self._runs.finish, of, token, answer)

    async def release_run(self, of: RunKey, token: str) -> None:
        await self._in_thread(self._writer, self._runs.release, of, token)

    def _slow(self) -> Check:
        ago_s = asyncio.get_running_loop().time() - self._appended_at
        told = f"writing a conversation takes longer than {_CHECK_S} s"
        if ago_s <= _RECENT_S:
            return Check("degraded", f"{told}, but one was written {ago_s:.1f} s ago; many are waiting for the disk")
        return Check("error", f"{told}; check the disk of the data directory")

    async def _in_thread(self, executor: ThreadPoolExecutor, work: Callable[..., T], *arguments: Any) -> T:
        kind, asked = "read" if executor is self._reader else "write", time.perf_counter()

        def begin() -> T:
            self._metrics.waited(kind, time.perf_counter() - asked)
            return work(*arguments)

        try:
            return await asyncio.get_running_loop().run_in_executor(executor, begin)
        except StoreUnavailable:
            self._metrics.failed(kind)
            raise
