"""kill -9 between the acknowledgement and the reply, at every point that differs, of a real gateway process: exactly one reply.

The one window that cannot be closed: the platform has taken a message, and the node dies before it knows. The status closes it.
"""

import asyncio
import json
import signal
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route, Router

from tests import nodes
from tests.nodes import RunningNode, profile
from tests.services.channels.graph import FakeGraph, channels_yaml, payload, signed, text_message
from tests.support import serve

HOOK = "/v1/channels/whatsapp/webhook"


@dataclass
class Worker:
    """A peer with the agents service, whose runs wait until they are let go."""

    go: asyncio.Event = field(default_factory=asyncio.Event)
    asked: asyncio.Event = field(default_factory=asyncio.Event)
    keys: list[str] = field(default_factory=list)

    async def status(self, request: Request) -> Response:
        services = {"api": True, "agents": True}
        return JSONResponse({"node_id": "w" * 16, "node_name": "worker", "services": services, "reaches": [], "status": "ready"})

    async def run(self, request: Request) -> Response:
        self.keys.append(request.headers["idempotency-key"])
        self.asked.set()
        await self.go.wait()
        return JSONResponse({"answer": "The answer."})

    def app(self) -> Router:
        return Router([Route("/v1/system/status", self.status), Route("/v1/agents/{name}/run", self.run, methods=["POST"])])


class World:
    """A gateway process between a fake worker and a fake Graph API, killed and started again over one data directory."""

    def __init__(self, folder: Path, stack: AsyncExitStack) -> None:
        self.folder, self.stack = folder, stack
        self.graph, self.worker = FakeGraph(), Worker()

    async def prepare(self) -> None:
        graph, worker = (
            await self.stack.enter_async_context(serve(self.graph)),
            await self.stack.enter_async_context(serve(self.worker.app())),
        )
        (self.folder / "config").mkdir()
        (self.folder / "config" / "channels.yaml").write_text(channels_yaml(graph))
        peers = {"worker": (worker, ["agents"])}
        self.profile = profile(self.folder / "gateway.yaml", ["channels"], peers=peers, channels={"uncertain_after_s": 2.0})
        self.client = await self.stack.enter_async_context(aiohttp.ClientSession())

    async def start(self) -> RunningNode:
        config = {"ASTROMESH_CONFIG_DIR": str(self.folder / "config")}
        return await nodes.start(self.stack, self.profile, self.folder / "data", **config)

    async def deliver(self, node: RunningNode, raw: bytes) -> None:
        async with self.client.post(node.url + HOOK, data=raw, headers=signed(raw)) as answer:
            assert answer.status == 200, await answer.text()

    async def outbox(self, node: RunningNode, state: str) -> list[Any]:
        """The letters in that state, once there are some."""
        async with asyncio.timeout(30):
            while True:
                async with self.client.get(f"{node.url}/v1/channels/whatsapp/outbox?state={state}") as answer:
                    if found := json.loads(await answer.text())["outbox"]:
                        return list(found)


async def kill(node: RunningNode) -> None:
    node.signal(signal.SIGKILL)
    await node.exit_code()


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with AsyncExitStack() as stack:
        made = World(tmp_path, stack)
        await made.prepare()
        yield made


async def test_killed_right_after_the_acknowledgement(world: World) -> None:
    node = await world.start()
    await world.deliver(node, payload(text_message("wamid.1", "hello")))
    await kill(node)
    world.worker.go.set()
    await world.start()
    await world.graph.until(lambda graph: len(graph.taken) == 1)
    assert world.graph.texts == ["The answer."]


async def test_killed_while_the_agent_works(world: World) -> None:
    node = await world.start()
    await world.deliver(node, payload(text_message("wamid.1", "hello")))
    await asyncio.wait_for(world.worker.asked.wait(), 20)
    await kill(node)
    world.worker.go.set()
    again = await world.start()
    await world.deliver(again, payload(text_message("wamid.1", "hello")))  # the platform, which is not sure either
    await world.graph.until(lambda graph: len(graph.taken) == 1)
    await world.outbox(again, "sent")
    assert world.graph.texts == ["The answer."]
    assert len(set(world.worker.keys)) == 1  # whoever keeps records of runs gives the second one the first one's answer


async def test_killed_before_the_platform_had_taken_the_reply(world: World) -> None:
    """It refuses for now, and the node dies before it tries again."""
    world.graph.script = [(503, {"error": {"message": "later"}})]
    world.worker.go.set()
    node = await world.start()
    await world.deliver(node, payload(text_message("wamid.1", "hello")))
    await world.graph.until(lambda graph: graph.asked == 1)
    await kill(node)
    await world.start()
    await world.graph.until(lambda graph: len(graph.taken) == 1)
    assert world.graph.texts == ["The answer."]


async def test_killed_after_the_platform_took_the_reply_and_before_it_said_so_the_status_settles_it(world: World) -> None:
    world.graph.script = ["hang"]
    world.worker.go.set()
    node = await world.start()
    await world.deliver(node, payload(text_message("wamid.1", "hello")))
    await world.graph.until(lambda graph: len(graph.taken) == 1)
    await kill(node)
    again = await world.start()
    token = world.graph.taken[0]["biz_opaque_callback_data"]
    status = {"id": "wamid.out1", "status": "delivered", "biz_opaque_callback_data": token}
    await world.deliver(again, payload(text_message("wamid.2", "and then?"), statuses=(status,)))
    await world.graph.until(lambda graph: len(graph.taken) == 2)
    assert [sent["context"]["message_id"] for sent in world.graph.taken] == ["wamid.1", "wamid.2"]  # each was answered once


async def test_without_a_status_that_open_window_is_settled_by_the_configured_choice(world: World) -> None:
    world.graph.script = ["hang"]
    world.worker.go.set()
    node = await world.start()
    await world.deliver(node, payload(text_message("wamid.1", "hello")))
    await world.graph.until(lambda graph: len(graph.taken) == 1)
    await kill(node)
    again = await world.start()
    await world.outbox(again, "uncertain")
    await world.graph.until(lambda graph: len(graph.taken) == 2)  # send_again, two seconds later
    assert len({sent["biz_opaque_callback_data"] for sent in world.graph.taken}) == 1


async def test_acknowledgements_do_not_wait_for_agents(world: World) -> None:
    """The agent answers nobody; the platform is answered at once all the same, a hundred times."""
    node = await world.start()
    async with asyncio.timeout(20):
        for number in range(100):
            await world.deliver(node, payload(text_message(f"wamid.{number}", "hello", sender=f"49{number}")))
    assert not world.graph.taken
