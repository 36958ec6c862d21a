"""Whole nodes inside the test's own loop, on real sockets, with services of the test's making: for edge, placement and forwarding."""

import asyncio
import socket
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

from starlette.routing import BaseRoute

from app.config import load
from app.node import Node
from app.peers.static import StaticPeers
from app.services.contract import Check, Facts, NodeContext
from tests.nodes import profile


class FakeService:
    """A service of given routes and facts; subclasses are made by ``service``."""

    routes: Sequence[BaseRoute] = ()
    told = Facts()

    def __init__(self, config: Mapping[str, Any], node: NodeContext) -> None:
        self.node = node

    @asynccontextmanager
    async def open(self) -> AsyncIterator[None]:
        yield

    async def run(self) -> None:
        return

    def facts(self) -> Facts:
        return self.told

    async def check(self) -> Mapping[str, Check]:
        return {}


def service(*routes: BaseRoute, keys: Sequence[str] | None = None, store_id: str | None = None) -> type[FakeService]:
    """A service class with these routes, keys (None: any) and store."""
    facts = Facts(None if keys is None else frozenset(keys), store_id)
    return type("Service", (FakeService,), {"routes": routes, "told": facts})


def free_port() -> int:
    """A port for a node whose address others have to know before it runs."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return int(taken.getsockname()[1])


def static(node: Node) -> StaticPeers:
    """The peers of a node without mesh."""
    assert isinstance(node.peers, StaticPeers)
    return node.peers


class Spine:
    """Starts nodes for one test and ends them with it."""

    def __init__(self, folder: Path, stack: AsyncExitStack) -> None:
        self._folder, self._stack = folder, stack

    async def node(
        self,
        name: str,
        services: Mapping[str, type[Any]] | None = None,
        peers: Mapping[str, tuple[str, list[str]]] | None = None,
        api: Mapping[str, Any] | None = None,
        environ: Mapping[str, str] | None = None,
        **spec: Any,
    ) -> Node:
        """A node that listens. Its peers were probed once, so that it knows them."""
        offered = dict(services or {})
        path = profile(self._folder / f"{name}.yaml", list(offered), peers=peers, api=dict(api or {}), **spec)
        settings = {"ASTROMESH_PROFILE": str(path), "ASTROMESH_DATA_DIR": str(self._folder / name), "ASTROMESH_NODE_NAME": name}
        configuration = load(settings | {"ASTROMESH_DRAIN_S": "1"} | dict(environ or {}))
        node = await self.run(Node(configuration, lambda each: offered.get(each, service())))
        for peer in node.peers.all():
            await static(node).probe(peer)
        return node

    async def run(self, node: Node) -> Node:
        """The node, listening."""
        running = asyncio.create_task(node.run(asyncio.Event()))
        self._stack.push_async_callback(_stop, running)
        waiting = asyncio.create_task(node.listening.wait())
        await asyncio.wait((running, waiting), return_when=asyncio.FIRST_COMPLETED, timeout=10)
        waiting.cancel()
        if running.done():
            await running
        return node


@asynccontextmanager
async def spine(folder: Path) -> AsyncIterator[Spine]:
    async with AsyncExitStack() as stack:
        yield Spine(folder, stack)


async def _stop(running: asyncio.Task[None]) -> None:
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
