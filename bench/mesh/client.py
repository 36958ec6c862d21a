"""A client of the gateway: a chat completion every so often, whether or not the last one has been answered, each of which may be repeated
by the nodes. Keeps what failed and what took long."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import aiohttp

LONG_S = 0.5
TIMEOUT_S = 30.0
_QUESTION = {"model": "default", "messages": [{"role": "user", "content": "What is 17*23?"}]}


@dataclass(slots=True)
class Asked:
    """``long`` has (monotonic start, seconds) of each answer that took over LONG_S."""

    count: int = 0
    failures: list[str] = field(default_factory=list)
    long: list[tuple[float, float]] = field(default_factory=list)
    slowest_s: float = 0.0

    def last_long_start(self, since: float) -> float | None:
        return max((start for start, _ in self.long if start >= since), default=None)


@asynccontextmanager
async def asking(url: str, every_s: float) -> AsyncIterator[Asked]:
    """Ask until the block ends, and then wait for the answers that are missing."""
    asked = Asked()
    timeout = aiohttp.ClientTimeout(total=TIMEOUT_S)
    async with aiohttp.ClientSession(timeout=timeout, connector=aiohttp.TCPConnector(limit=0)) as http, asyncio.TaskGroup() as group:
        asker = group.create_task(_ask_on(group, http, url, every_s, asked))
        try:
            yield asked
        finally:
            asker.cancel()


async def _ask_on(group: asyncio.TaskGroup, http: aiohttp.ClientSession, url: str, every_s: float, asked: Asked) -> None:
    while True:
        group.create_task(_ask(http, url, asked))
        await asyncio.sleep(every_s)


async def _ask(http: aiohttp.ClientSession, url: str, asked: Asked) -> None:
    start = time.monotonic()
    asked.count += 1
    try:
        async with http.post(f"{url}/v1/chat/completions", json=_QUESTION) as response:
            body = await response.read()
            if response.status != 200:
                asked.failures.append(f"{response.status}: {body[:300]!r}")
    except (aiohttp.ClientError, TimeoutError) as error:
        asked.failures.append(f"{type(error).__name__}: {error}")
    took = time.monotonic() - start
    asked.slowest_s = max(asked.slowest_s, took)
    if took > LONG_S:
        asked.long.append((start, took))
