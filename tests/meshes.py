"""Nodes of a mesh as processes on loopback, on free ports, gossiping ten times as often as is shipped; and what is asked of them."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp

from tests.nodes import RunningNode, profile, start

FAST: Mapping[str, Any] = {
    "enabled": True, "heartbeat_interval": 0.5, "gossip_interval": 0.2, "gossip_fanout": 3, "failure_timeout": 4.3, "dead_timeout": 11.5,
}  # fmt: skip
WORKER = ("agents", "tools", "memory")
PATIENCE_S = 20.0


class Meshed:
    """Starts the nodes of one mesh. The first one is the seed of the others."""

    def __init__(self, folder: Path, stack: AsyncExitStack, http: aiohttp.ClientSession, environ: Mapping[str, str]) -> None:
        self._folder, self._stack, self._environ = folder, stack, environ
        self.http = http
        self.seed = ""

    async def node(self, name: str, services: Sequence[str] = (), *, data: str = "", api: bool = True, **environ: str) -> RunningNode:
        """Start a node of this name; ``data`` names its data directory where that is not its own, ``api`` whether it has a public one."""
        mesh = {**FAST, "seeds": [self.seed] if self.seed else []}
        path = profile(self._folder / f"{name}.yaml", list(services), mesh=mesh, public=api)
        running = await start(self._stack, path, self._folder / (data or name), **{**self._environ, **environ})
        self.seed = self.seed or running.url
        return running

    async def get(self, node: RunningNode, path: str) -> Any:
        async with self.http.get(node.url + path) as response:
            return await response.json()

    async def members(self, node: RunningNode) -> dict[str, str]:
        """By shown name: the status that the node gives each member."""
        return {row["name"]: row["status"] for row in (await self.get(node, "/v1/mesh/state"))["nodes"]}

    async def until(self, condition: Callable[[], Any], what: str, within_s: float = PATIENCE_S) -> Any:
        """The first true value of an awaited condition, asked again and again."""
        try:
            async with asyncio.timeout(within_s):
                while True:
                    try:
                        if value := await condition():
                            return value
                    except aiohttp.ClientError:
                        pass
        except TimeoutError:
            raise AssertionError(f"{what}: not within {within_s:g} s") from None

    async def together(self, *nodes: RunningNode, count: int = 0, within_s: float = PATIENCE_S) -> None:
        """Until each of the nodes sees so many members (as many as there are nodes), all alive, and could use each of them."""

        async def complete() -> bool:
            for node in nodes:
                status = await self.get(node, "/v1/system/status")
                if sorted((await self.members(node)).values()) != ["alive"] * (count or len(nodes)):
                    return False
                if any(peer["state"] != "up" for peer in status["peers"]):
                    return False
            return True

        await self.until(complete, f"{len(nodes)} nodes see one mesh", within_s)

    async def run(self, node: RunningNode, query: str, session: str | None = None) -> tuple[int, Any, str]:
        """Ask the shipped agent: (status, body, the node that served it)."""
        body = {"query": query} | ({"session_id": session} if session else {})
        async with self.http.post(f"{node.url}/v1/agents/assistant/run", json=body) as response:
            return response.status, await response.json(), response.headers["X-Astromesh-Node"]


@asynccontextmanager
async def meshed(folder: Path, **environ: str) -> AsyncIterator[Meshed]:
    async with AsyncExitStack() as stack:
        timeout = aiohttp.ClientTimeout(total=30)
        http = await stack.enter_async_context(aiohttp.ClientSession(timeout=timeout))
        yield Meshed(folder, stack, http, environ)
