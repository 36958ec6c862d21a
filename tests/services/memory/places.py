"""Places that keep conversations, for the conformance suite: each opens stores that share one place which nobody else uses."""

import dataclasses
from collections.abc import Callable
from contextlib import AsyncExitStack
from pathlib import Path

from app.services.memory.conversation import MemorySettings
from app.services.memory.postgres import PostgresStore
from app.services.memory.redis import RedisStore
from app.services.memory.sqlite import SQLiteStore
from app.services.memory.store import Store


class Place:
    """``make`` builds a store over the place; ``open`` opens one more, with these settings."""

    def __init__(self, make: Callable[[MemorySettings], Store], stack: AsyncExitStack) -> None:
        self._make, self._stack = make, stack

    async def open(self, **settings: float) -> Store:
        store = self._make(dataclasses.replace(MemorySettings(), **settings))  # type: ignore[arg-type]
        await self._stack.enter_async_context(store.open())
        return store


def sqlite(folder: Path, stack: AsyncExitStack) -> Place:
    return Place(lambda settings: SQLiteStore(folder / "memory", settings, "5" * 12, lambda work, seconds: None), stack)


def postgres(url: str, stack: AsyncExitStack) -> Place:
    return Place(lambda settings: PostgresStore(url, settings), stack)


def redis(url: str, stack: AsyncExitStack) -> Place:
    return Place(lambda settings: RedisStore(url, settings), stack)
