"""What every store of conversations does, wherever it keeps them; tests/services/memory/test_store.py says it in full."""

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import Protocol

from app.services.memory.conversation import Conversation, History, Part, Summary
from app.services.memory.runs import Run, RunKey


class Store(Protocol):
    """Conversations and runs. Every method but ``place`` and ``store_id`` raises StoreUnavailable, with what to do, where it cannot do its
    work now; what had begun when its caller left is done whole, or not at all."""

    @property
    def place(self) -> str:
        """Where it keeps them, for people: "SQLite in /data/memory". Without any password."""
        ...

    @property
    def store_id(self) -> str | None:
        """12 hex digits, the same for all that share the place; None until a place elsewhere has told it."""
        ...

    def open(self) -> AbstractAsyncContextManager[None]:
        """Acquire on enter, release on exit. A place elsewhere that cannot be reached now is no error here. Raises ConfigError for what no
        waiting mends."""
        ...

    async def follow(self, changed: Callable[[], None]) -> None:
        """Background work: learn of a place elsewhere what is not known yet, and call ``changed`` when ``store_id`` is another."""
        ...

    async def append(self, to: Conversation, turn_id: str, messages: bytes, ttl_s: float | None) -> bool:
        """Add a turn; False when the very same one is there already. Raises Conflict when another has its id. ``ttl_s``: how long the
        conversation stays when no further turn comes; None: for ever."""
        ...

    async def history(self, of: Conversation, part: Part) -> History:
        """The newest turns, oldest first, and the summary of what was before; no turns where there is no such conversation."""
        ...

    async def summarise(self, of: Conversation, summary: Summary) -> bool:
        """Keep a summary; False where its last turn is not there, or the one that is kept covers as much."""
        ...

    async def clear(self, of: Conversation) -> int:
        """Delete a conversation with its summary and what was answered in it; the number of turns it had. Seen by all at once."""
        ...

    async def claim(self, of: RunKey, session: str, token: str, fingerprint: str) -> Run:
        """Begin a run, or go on with it (each call renews its lease), or get the one that is done. At most one of several that claim a key
        at once gets it. Raises RunUnderWay, KeyReused, and Conflict for a token whose run has been taken over or has ended."""
        ...

    async def finish(self, of: RunKey, token: str, answer: bytes) -> None:
        """Keep the answer of a run that is still its token's; one that is too large is remembered as done. Raises Conflict."""
        ...

    async def release(self, of: RunKey, token: str) -> None:
        """The run has ended without an answer: the next one may begin at once."""
        ...

    async def sweep(self) -> None:
        """Remove what is due: conversations that nobody has used for their time, runs that are too old or too many."""
        ...

    async def probe(self) -> None:
        """Write something."""
        ...
