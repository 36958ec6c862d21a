"""Nodes whose agents are talked to over WebSockets: a model that tells what it was asked, and clients that are the library websockets'."""

import asyncio
import json
from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from starlette.requests import Request
from starlette.routing import Route
from starlette.types import Receive, Scope, Send
from websockets.asyncio.client import ClientConnection

from app.context import current
from app.node import Node
from app.services.agents import Agents
from app.sse import EventStream, encode
from tests.services.agents.world import agent_file
from tests.spine import FakeService, Spine, service

AGENTS = {"agents": cast(type[FakeService], Agents)}
PATIENCE_S = 10.0


@dataclass
class Model:
    """Says what it was asked. Asked "wait", it says a word and then nothing until it is ``stopped``; asked "flood", it never ends."""

    begun: asyncio.Event = field(default_factory=asyncio.Event)
    stopped: asyncio.Event = field(default_factory=asyncio.Event)
    said: int = 0
    principals: list[str] = field(default_factory=list)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        asked = (await Request(scope, receive).json())["messages"][-1]["content"]
        self.principals.append(current().principal)
        await EventStream(self._chunks(asked))(scope, receive, send)

    async def _chunks(self, asked: str) -> AsyncGenerator[bytes, None]:
        yield _chunk("You said: ")
        try:
            while asked == "flood":
                self.said += 1
                yield _chunk("x" * 10_000)
            if asked == "wait":
                self.begun.set()
                await asyncio.Event().wait()
        finally:
            if asked in ("wait", "flood"):
                self.stopped.set()
        yield _chunk(asked)
        yield _chunk("", finish="stop")
        yield encode("[DONE]")


def _chunk(text: str, finish: str | None = None) -> bytes:
    choice = {"index": 0, "delta": {"role": "assistant", "content": text}, "finish_reason": finish}
    return encode({"id": "c", "object": "chat.completion.chunk", "created": 0, "model": "m", "choices": [choice]})


@dataclass
class Stack:
    """A gateway, a worker and the model behind it."""

    gateway: Node
    worker: Node
    model: Model

    @property
    def address(self) -> str:
        return socket_url(self.gateway.url)


def socket_url(url: str, agent: str = "tester") -> str:
    return f"{url.replace('http://', 'ws://')}/v1/ws/agent/{agent}"


async def stack(nodes: Spine, folder: Path, api: Mapping[str, Any] | None = None, environ: Mapping[str, str] | None = None) -> Stack:
    agent_file(folder)
    model = Model()
    environ = {**(environ or {}), "ASTROMESH_CONFIG_DIR": str(folder / "config")}
    behind = {"inference": service(Route("/v1/chat/completions", cast(Any, model), methods=["POST"]))}
    worker = await nodes.node("worker", {**AGENTS, **behind}, environ=environ)
    gateway = await nodes.node("gateway", peers={"worker": (worker.url, ["agents"])}, api=api, environ=environ)
    return Stack(gateway, worker, model)


async def ask(client: ClientConnection, query: Any = "hello", **more: Any) -> list[dict[str, Any]]:
    """Send a question, and its events to the last."""
    await client.send(json.dumps({"query": query, **more}))
    return await events(client)


async def events(client: ClientConnection) -> list[dict[str, Any]]:
    """The events of one question, which end with ``done`` or ``error``."""
    found = list[dict[str, Any]]()
    async with asyncio.timeout(PATIENCE_S):
        while not found or found[-1]["type"] not in ("done", "error"):
            found.append(json.loads(await client.recv()))
    return found
