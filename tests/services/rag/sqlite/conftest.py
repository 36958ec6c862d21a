from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from app.services.rag.sqlite import SqliteStore
from tests.services.rag.stores import Place, sqlite_place


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "rag"


@pytest.fixture
def place(folder: Path) -> Place:
    return sqlite_place(folder)


@pytest.fixture
async def store(folder: Path) -> AsyncIterator[SqliteStore]:
    store = SqliteStore(folder, "5" * 12)
    async with store.open():
        yield store
