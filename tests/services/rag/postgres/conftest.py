from collections.abc import AsyncIterator

import pytest

from app.services.rag.postgres import PostgresStore
from tests.services.rag.postgres.opened import opened


@pytest.fixture
async def store(postgres_url: str) -> AsyncIterator[PostgresStore]:
    async with opened(postgres_url) as made:
        yield made
