"""The embedded store: SQLite files in the data directory, used in threads, so that a slow disk never stops the event loop."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar

from app.services.memory.conversation import Conversation, History, MemorySettings, Part, Summary
from app.services.memory.runs import Run, RunKey
from app.services.memory.sqlite_conversations import ConversationStore
from app.services.memory.sqlite_runs import RunStore

_READERS = 4
T = TypeVar("T")


class SQLiteStore:
    """Work that has begun in a thread ends there, also when its caller is gone. ``waited`` is told how long work waited for its thread."""

    def __init__(self, folder: Path, settings: MemorySettings, store_id: str, waited: Callable[[str, float], None]) -> None:
        self.place, self.store_id = f"SQLite in {folder}", store_id
        self.conversations = ConversationStore(folder, settings)
        self.runs = RunStore(folder, settings)
        self._waited = waited

    @asynccontextmanager
    async def open(self) -> AsyncIterator[None]:
        """Take a slot of the data directory. Raises StoreUnavailable, or ConfigError for files of a newer build."""
        with ExitStack() as stack:
            for store in (self.conversations, self.runs):
                store.open()
                stack.callback(store.close)
            self._writer = stack.enter_context(ThreadPoolExecutor(1, "memory-write"))
            self._reader = stack.enter_context(ThreadPoolExecutor(_READERS, "memory-read"))
            yield

    async def follow(self, changed: Callable[[], None]) -> None:
        """Everything is known from the start."""

    async def append(self, to: Conversation, turn_id: str, messages: bytes, ttl_s: float | None) -> bool:
        return await self._write(self.conversations.append, to, turn_id, messages, ttl_s)

    async def history(self, of: Conversation, part: Part) -> History:
        return await self._in_thread("read", self._reader, self.conversations.history, of, part)

    async def summarise(self, of: Conversation, summary: Summary) -> bool:
        return await self._write(self.conversations.summarise, of, summary)

    async def clear(self, of: Conversation) -> int:
        await self._write(self.runs.clear, of)
        return await self._write(self.conversations.clear, of)

    async def claim(self, of: RunKey, session: str, token: str, fingerprint: str) -> Run:
        return await self._write(self.runs.claim, of, session, token, fingerprint)

    async def finish(self, of: RunKey, token: str, answer: bytes) -> None:
        await self._write(self.runs.finish, of, token, answer)

    async def release(self, of: RunKey, token: str) -> None:
        await self._write(self.runs.release, of, token)

    async def sweep(self) -> None:
        """Also what other nodes of this data directory have deleted here."""
        for of in await self._write(self.conversations.expire):
            await self._write(self.runs.clear, of)
        await self._write(self.conversations.sweep)
        await self._write(self.runs.sweep)

    async def probe(self) -> None:
        await self._write(self.conversations.probe)

    async def _write(self, work: Callable[..., T], *arguments: Any) -> T:
        return await self._in_thread("write", self._writer, work, *arguments)

    async def _in_thread(self, kind: str, executor: ThreadPoolExecutor, work: Callable[..., T], *arguments: Any) -> T:
        asked = time.perf_counter()

        def begin() -> T:
            self._waited(kind, time.perf_counter() - asked)
            return work(*arguments)

        return await asyncio.get_running_loop().run_in_executor(executor, begin)
