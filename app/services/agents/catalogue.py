"""The builtin tools as the tools service describes them: asked for when an agent needs one that is not known yet, kept for a minute."""

import asyncio
import logging
import math
from collections.abc import Mapping
from typing import Any

from app.errors import NodeError
from app.services.agents.agent import Agent, Tool
from app.services.agents.fetch import fetch
from app.services.contract import Locate

_ASK_SCHEMA = {
    "type": "object",
    "properties": {"query": {"type": "string", "description": "What to ask, with all that is needed to answer it"}},
    "required": ["query"],
}
_SEARCH_SCHEMA = {
    "type": "object",
    "properties": {
        "query": {"type": "string", "description": "What to look for, in full words"},
        "top_k": {"type": "integer", "minimum": 1, "maximum": 20, "description": "How many passages, 5 when left out"},
    },
    "required": ["query"],
    "additionalProperties": False,
}
_KEPT_S = 60.0
_NO_PARAMETERS: Mapping[str, Any] = {"type": "object", "properties": {}}
log = logging.getLogger(__name__)


class Catalogue:
    """What agents' models are told about their tools."""

    def __init__(self, locate: Locate) -> None:
        self._locate = locate
        self._builtin: dict[str, Mapping[str, Any]] = {}
        self._asked_at = -math.inf

    async def announce(self, agent: Agent) -> list[dict[str, Any]]:
        """The agent's tools as OpenAI functions. Raises what the tools service raises when it has to be asked and cannot be; where only
        news of known tools is wanted, what is known goes on."""
        tools = [tool for tool in agent.tools if agent.may_call(tool.name)]
        wanted = {tool.name for tool in tools if tool.type == "builtin"}
        known = wanted <= self._builtin.keys()
        if wanted and not (known and self._fresh()):
            try:
                await self._refresh()
            except NodeError:
                if not known:
                    raise
        usable = {name for name in wanted & self._builtin.keys() if self._builtin[name].get("available", True)}
        for name in sorted(wanted - usable):
            reason = self._builtin.get(name, {}).get("reason") or "there is no such builtin tool"
            log.warning("agent %s: its model is not told of the tool %r: %s", agent.name, name, reason)
        return [self._function(tool) for tool in tools if tool.type != "builtin" or tool.name in usable]

    def _fresh(self) -> bool:
        return asyncio.get_running_loop().time() - self._asked_at < _KEPT_S

    async def _refresh(self) -> None:
        answer = await fetch(self._locate("tools", None), "GET", "/v1/tools/builtin")
        self._builtin = {tool["name"]: tool for tool in answer["tools"]}
        self._asked_at = asyncio.get_running_loop().time()

    def _function(self, tool: Tool) -> dict[str, Any]:
        known = self._builtin[tool.name] if tool.type == "builtin" else {}
        schema, told = _told_of(tool)
        parameters = tool.parameters or known.get("parameters") or schema
        description = tool.description or known.get("description") or told
        return {"type": "function", "function": {"name": tool.name, "description": description, "parameters": parameters}}


def _told_of(tool: Tool) -> tuple[Mapping[str, Any], str]:
    """The parameters and the description of a tool whose file gives none."""
    if tool.type == "agent":
        return _ASK_SCHEMA, f"Ask the agent {tool.agent}."
    if tool.type == "rag":
        return _SEARCH_SCHEMA, f"Search the knowledge in {', '.join(tool.collections)} for passages that answer a question."
    return _NO_PARAMETERS, ""
