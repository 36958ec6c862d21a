"""Fixtures of many tests, and how all of them run."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import aiohttp
import pytest
from hypothesis import settings

from tests.databases.server import Server, server
from tests.spine import Spine, spine

# The same examples every time: whether a change is sound must not hang on the luck of a run. Edit the seed away to look for more.
# And no deadline for an example, which a machine with other work misses now and then.
settings.register_profile("suite", derandomize=True, deadline=None)
settings.load_profile("suite")


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    """For fixtures of every scope. What lives as long as a module keeps one event loop for its tests; the others have one each."""
    return "asyncio"


@pytest.fixture
async def nodes(tmp_path: Path) -> AsyncIterator[Spine]:
    """Starts nodes in the test's own loop."""
    async with spine(tmp_path) as made:
        yield made


@pytest.fixture
async def client() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession() as session:
        yield session


@pytest.fixture(scope="session")
def postgres() -> Iterator[Server]:
    """A real PostgreSQL with pgvector, for tests that leave it as they found it (marker databases)."""
    with server("postgres") as made:
        yield made


@pytest.fixture(scope="session")
def redis() -> Iterator[Server]:
    """A real Redis, for tests that leave it as they found it (marker databases)."""
    with server("redis") as made:
        yield made


@pytest.fixture
def postgres_url(postgres: Server) -> Iterator[str]:
    """The URL of an empty database."""
    with postgres.database() as url:
        yield url


@pytest.fixture
def redis_url(redis: Server) -> Iterator[str]:
    """The URL of an empty database."""
    with redis.database() as url:
        yield url


@pytest.fixture
def troubled_postgres() -> Iterator[Server]:
    """A PostgreSQL of the test's own, to kill and to pause."""
    with server("postgres") as made:
        yield made


@pytest.fixture
def troubled_redis() -> Iterator[Server]:
    """A Redis of the test's own, to kill and to pause."""
    with server("redis") as made:
        yield made
