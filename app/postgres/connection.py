"""A connection in a transaction, as the stores of services use it."""

from collections.abc import Iterable, Sequence
from typing import Any, Protocol


class Connection(Protocol):
    """What is used of an asyncpg connection. Statements have $1, $2, … as parameters; a script of several has none."""

    async def execute(self, query: str, *args: Any, timeout: float | None = None) -> str: ...

    async def executemany(self, command: str, args: Iterable[Sequence[Any]], *, timeout: float | None = None) -> None: ...

    async def fetch(self, query: str, *args: Any, timeout: float | None = None) -> list[Any]: ...

    async def fetchrow(self, query: str, *args: Any, timeout: float | None = None) -> Any: ...

    async def fetchval(self, query: str, *args: Any, timeout: float | None = None) -> Any: ...
