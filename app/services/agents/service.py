"""The agents service: loads the agents at start and when they change, and runs them with what the node's other services give."""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

from starlette.routing import BaseRoute

from app.services.agents.agent_routes import AgentRoutes
from app.services.agents.editor import Editor
from app.services.agents.library import Library
from app.services.agents.metrics import Metrics
from app.services.agents.routes import Routes
from app.services.agents.run import Runner
from app.services.agents.settings import Orchestration, Settings
from app.services.agents.store import AgentStore
from app.services.contract import Check, Facts, NodeContext


class Agents:
    """``config`` is ``spec.agents``, and under ``defaults`` the profile's ``spec.defaults``."""

    def __init__(self, config: Mapping[str, Any], node: NodeContext) -> None:
        settings = Settings(**{key: value for key, value in config.items() if key != "defaults"})
        defaults = Orchestration().filled(config.get("defaults", {}).get("orchestration", {}))
        self._store = AgentStore(node.data_dir / "agents")
        self._library = Library(node.config_dir / "agents", defaults, node.environ, self._store)
        self._editor = Editor(self._library, self._store, defaults, node)
        runner = Runner(node.locate, settings, Metrics(node.metrics))
        runs = Routes(self._editor, runner, node, settings.message_bytes)
        self._routes = [*AgentRoutes(self._library, self._editor).all(), *runs.all()]

    @property
    def routes(self) -> Sequence[BaseRoute]:
        return self._routes

    @asynccontextmanager
    async def open(self) -> AsyncIterator[None]:
        await asyncio.to_thread(self._store.sweep)
        await asyncio.to_thread(self._library.load)
        yield

    async def run(self) -> None:
        await self._editor.watch()

    def facts(self) -> Facts:
        return Facts(keys=frozenset(self._library.agents))

    async def check(self) -> Mapping[str, Check]:
        return self._library.check()
