"""The tools service: the builtin tools, over their paths."""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

from starlette.routing import BaseRoute

from app.services.contract import Check, Facts, NodeContext
from app.services.tools.builtin import CONFIGURED, builtin_tools
from app.services.tools.registry import Registry, ToolSettings
from app.services.tools.routes import routes


class Tools:
    """The builtin tools. It keeps nothing, so any node that has it answers alike."""

    def __init__(self, config: Mapping[str, Any], node: NodeContext) -> None:
        sections = {name: config[name] for name in CONFIGURED if name in config}
        settings = ToolSettings(**{name: value for name, value in config.items() if name not in CONFIGURED})
        self._registry = Registry(builtin_tools(sections, node.locate), settings)
        self.routes: Sequence[BaseRoute] = routes(self._registry)

    @asynccontextmanager
    async def open(self) -> AsyncIterator[None]:
        yield

    async def run(self) -> None:
        return

    def facts(self) -> Facts:
        return Facts()

    async def check(self) -> Mapping[str, Check]:
        tools = self._registry.describe()
        names = ", ".join(tool["name"] for tool in tools if tool["available"])
        off = "".join(f"; {tool['name']} is off: {tool['reason']}" for tool in tools if not tool["available"])
        checks = {"tools": Check("ok", f"there is {names}{off}")}
        if trouble := await asyncio.to_thread(self._registry.trouble):
            checks["tools.configuration"] = Check("degraded", trouble)
        return checks
