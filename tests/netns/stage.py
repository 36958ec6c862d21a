"""Nodes of a mesh in namespaces of their own, a client that never stops asking one of them, and what all views say."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import aiohttp
from aiohttp import web

from tests.meshes import FAST, Meshed
from tests.netns.network import Network, Place, network
from tests.nodes import RunningNode, profile, start

SHIPPED: Mapping[str, Any] = {
    "enabled": True, "heartbeat_interval": 5, "gossip_interval": 2, "gossip_fanout": 3, "failure_timeout": 15, "dead_timeout": 30,
}  # fmt: skip
EVERYTHING = ("agents", "tools", "memory", "inference")
HANGS_S = 12.0
"""What takes longer than this hangs. Most lost requests are given up after some 5 s, the last ones after about 10 s."""
PACE_S = 0.1
"""Between looks, and between a client's requests: the machine is small."""
CHAT = {"model": "default", "messages": [{"role": "user", "content": "What is 17*23?"}]}


@dataclass
class Client:
    """A client that asks on and on, and what it got: seconds of the answers, and what was no answer at all."""

    took: list[float] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    served_by: set[str] = field(default_factory=set)

    async def was_served(self, times: int = 5) -> bool:
        return len(self.took) >= times

    def assert_content(self, slowest_s: float = HANGS_S) -> None:
        """Every request so far was answered, and none of them hung."""
        assert self.took, "the client got no answer at all"
        assert not self.failures, self.failures
        assert max(self.took) < slowest_s, f"a request took {max(self.took):.1f} s"


class Stage(Meshed):
    """Starts each node in the place of its name; ``timings`` are its mesh's. The first one is the seed of the others."""

    def __init__(
        self, folder: Path, stack: AsyncExitStack, http: aiohttp.ClientSession, network: Network, timings: Mapping[str, Any]
    ) -> None:
        super().__init__(folder, stack, http, {})
        self.network, self._timings = network, timings
        self._started: list[RunningNode] = []

    async def node(self, name: str, services: Sequence[str] = (), *, data: str = "", api: bool = True, **environ: str) -> RunningNode:
        place = self.place(name)
        url = f"http://{place.address}:8000"
        mesh = {**self._timings, "seeds": [self.seed] if self.seed not in ("", url) else []}
        path = profile(self._folder / f"{name}.yaml", list(services), mesh=mesh, public=api)
        listening = {"ASTROMESH_HOST": "0.0.0.0", "ASTROMESH_PORT": "8000"}
        self.seed = self.seed or url
        running = await start(self._stack, path, self._folder / (data or name), place.inside, **{**listening, **environ})
        running.url = url
        self._started.append(running)
        return running

    def logs(self) -> str:
        """The end of what each node wrote, but for the requests that went well."""
        told = ((node.url, [line for line in node.log if " POST " not in line or " 200 " not in line]) for node in self._started)
        return "\n".join("\n".join((f"== {url}", *lines[-40:])) for url, lines in told)

    def place(self, name: str) -> Place:
        return self.network.place(name)

    async def rows(self, node: RunningNode) -> list[dict[str, Any]]:
        """The view of a node, whole: a duplicate has its own row."""
        found: list[dict[str, Any]] = (await self.get(node, "/v1/mesh/state"))["nodes"]
        return found

    async def until(self, condition: Callable[[], Awaitable[Any]], what: str, within_s: float = 20.0) -> Any:
        async def paced() -> Any:
            if not (value := await condition()):
                await asyncio.sleep(PACE_S)
            return value

        return await super().until(paced, what, within_s)

    async def sees(self, node: RunningNode, **statuses: str) -> bool:
        """Whether the node's view has exactly these members, each in one row, in these states."""
        rows = [(row["name"], row["status"]) for row in await self.rows(node)]
        return sorted(rows) == sorted((name.replace("_", "-"), status) for name, status in statuses.items())

    async def nobody_dies(self, nodes: Iterable[RunningNode], for_s: float) -> None:
        """Look at all views for this long."""
        until = time.monotonic() + for_s
        while time.monotonic() < until:
            for node in nodes:
                dead = [row["name"] for row in await self.rows(node) if row["status"] == "dead"]
                assert not dead, f"{node.url} believes {dead} dead"
            await asyncio.sleep(5 * PACE_S)

    @asynccontextmanager
    async def slow_model(self) -> AsyncIterator[str]:
        """An OpenAI-compatible server at the hub, and its URL: asked to "wait" it does so for ever, else it answers at once."""
        runner = web.AppRunner(_model(), handler_cancellation=True, shutdown_timeout=0)
        await runner.setup()
        listener = self.network.hub_socket()
        listener.bind((self.network.hub.address, 9000))
        try:
            await web.SockSite(runner, listener).start()
            yield f"http://{self.network.hub.address}:9000"
        finally:
            await runner.cleanup()

    @asynccontextmanager
    async def asking(self, node: RunningNode, path: str = "/v1/chat/completions", body: Any = CHAT) -> AsyncIterator[Client]:
        """A client that asks the node as long as the block runs."""
        client = Client()
        async with aiohttp.ClientSession(connector=_connector(self.network), timeout=aiohttp.ClientTimeout(total=60)) as http:
            task = asyncio.create_task(_ask(client, http, node.url + path, body))
            try:
                yield client
                await self.until(partial(client.was_served, len(client.took) + 2), "what the client asked last is answered", 2 * HANGS_S)
            finally:
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)


async def _ask(client: Client, http: aiohttp.ClientSession, url: str, body: Any) -> None:
    while True:
        begun = time.monotonic()
        try:
            async with http.post(url, json=body) as response:
                told = await response.text()
                client.served_by.add(response.headers.get("X-Astromesh-Node", ""))
                if response.status != 200:
                    client.failures.append(f"{response.status}: {told}")
        except (aiohttp.ClientError, TimeoutError) as error:
            client.failures.append(repr(error))
        client.took.append(time.monotonic() - begun)
        await asyncio.sleep(PACE_S)


def _model() -> web.Application:
    async def health(_: web.Request) -> web.Response:
        return web.Response()

    async def models(_: web.Request) -> web.Response:
        return web.json_response({"object": "list", "data": [{"id": "slow", "object": "model", "owned_by": "test"}]})

    async def complete(request: web.Request) -> web.Response:
        if "wait" in str((await request.json())["messages"][-1]["content"]):
            await asyncio.Event().wait()
        message = {"role": "assistant", "content": "done"}
        told = {"id": "c1", "object": "chat.completion", "created": 0, "model": "slow"}
        return web.json_response({**told, "choices": [{"index": 0, "message": message, "finish_reason": "stop"}]})

    app = web.Application()
    app.add_routes([web.get("/health", health), web.get("/v1/models", models), web.post("/v1/chat/completions", complete)])
    return app


def _connector(network: Network) -> aiohttp.TCPConnector:
    return aiohttp.TCPConnector(socket_factory=network.hub_socket)


@asynccontextmanager
async def staged(folder: Path, timings: Mapping[str, Any] = FAST) -> AsyncIterator[Stage]:
    """A stage without nodes, whose client sits at the hub."""
    with network() as made:
        async with AsyncExitStack() as stack:
            timeout = aiohttp.ClientTimeout(total=60)
            http = await stack.enter_async_context(aiohttp.ClientSession(connector=_connector(made), timeout=timeout))
            stage = Stage(folder, stack, http, made, timings)
            try:
                yield stage
            except BaseException as failure:
                failure.add_note(stage.logs())
                raise
