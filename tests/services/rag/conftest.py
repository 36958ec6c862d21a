from collections.abc import AsyncIterator, Iterator

import pytest

from app.services.rag.store import KnowledgeStore
from tests.services.rag.stores import PLACES, Place


@pytest.fixture(params=PLACES)
def place(request: pytest.FixtureRequest) -> Iterator[Place]:
    with request.param(request) as place:
        yield place


@pytest.fixture
async def store(place: Place) -> AsyncIterator[KnowledgeStore]:
    store = place.store()
    async with store.open():
        yield store


@pytest.fixture
async def other(place: Place) -> AsyncIterator[KnowledgeStore]:
    """Another store object on the same place, as another process has it."""
    store = place.store()
    async with store.open():
        yield store
