"""Writes to one collection take turns in a process, so that those who wait hold no thread and no connection."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from weakref import WeakValueDictionary

from app.errors import StoreUnavailable
from app.services.rag.knowledge import Name

_TURN_S = 30.0


class Turns:
    """``remedy`` is for who has waited too long."""

    def __init__(self, remedy: str) -> None:
        self._remedy = remedy
        self._locks: WeakValueDictionary[Name, asyncio.Lock] = WeakValueDictionary()

    @asynccontextmanager
    async def of(self, name: Name) -> AsyncIterator[None]:
        """Raises StoreUnavailable for a turn that does not come."""
        lock = self._locks.setdefault(name, asyncio.Lock())
        try:
            async with asyncio.timeout(_TURN_S):
                await lock.acquire()
        except TimeoutError:
            told = f"Writes to the collection {name.name!r} have waited for {_TURN_S:.0f} s"
            raise StoreUnavailable(f"{told}; {self._remedy}.", headers={"Retry-After": "5"}) from None
        try:
            yield
        finally:
            lock.release()
