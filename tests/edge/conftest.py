from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest

from tests.spine import Spine, spine


@pytest.fixture
async def nodes(tmp_path: Path) -> AsyncIterator[Spine]:
    async with spine(tmp_path) as made:
        yield made


@pytest.fixture
async def client() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession() as session:
        yield session
