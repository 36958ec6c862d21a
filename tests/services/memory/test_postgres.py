"""What is PostgreSQL's own: conversations whose time is over are deleted in batches."""

import asyncio

import pytest

from app.services.memory import postgres
from app.services.memory.conversation import WHOLE, Conversation, MemorySettings

pytestmark = pytest.mark.databases


async def test_one_sweep_deletes_all_that_is_due_however_much(postgres_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(postgres, "_EXPIRED_AT_ONCE", 3)
    due = [Conversation("a", "", f"s{number}") for number in range(10)]
    store = postgres.PostgresStore(postgres_url, MemorySettings())
    async with store.open():
        await asyncio.gather(*(store.append(of, "t", b"[]", 1e-6) for of in due))
        await store.sweep()
        assert [(await store.history(of, WHOLE)).turns for of in due] == [()] * 10
