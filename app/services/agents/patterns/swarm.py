"""swarm: agents that pass a conversation on to one another, whole; whoever has it answers, and has it when the user comes back.

The agent that was asked keeps the conversation and who has it: the others are lent it for one turn at a time, wherever they run.
"""

import logging
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from app.errors import NodeError
from app.services.agents.agent import Tool
from app.services.agents.completion import Message
from app.services.agents.fetch import fetch
from app.services.agents.loop import Ending
from app.services.agents.patterns.member import Member
from app.services.agents.toolbox import Toolbox, ToolFailed, path_of
from app.services.agents.turn import Turn
from app.services.contract import Locate

_TOLD = (
    "You are one of several agents who take part in this conversation. Where another is the one to go on, pass it on by calling {tools}: "
    "that agent sees all that has been said and answers in your place. Do not speak of passing it on; do it, or answer."
)
_PARAMETERS = {
    "type": "object",
    "properties": {"message": {"type": "string", "description": "What the other should know beyond what has been said"}},
}
log = logging.getLogger(__name__)


async def run(turn: Turn) -> Ending:
    if turn.transfers is not None:
        return await _speak(turn, [], turn.transfers)
    own, added = turn.agent.name, list[Message]()
    holder = await _holder(turn)
    for left in range(turn.settings.max_handoffs, -1, -1):
        ending = await (_speak(turn, added, left > 0) if holder == own else _lend(turn, holder, added, left > 0))
        added += ending.added
        if not ending.to:
            break
        holder = ending.to
    return replace(ending, added=_named(added, holder))


async def _lend(turn: Turn, holder: str, added: list[Message], transfers: bool) -> Ending:
    """Another agent's part."""
    try:
        return await Member(turn, holder).speak(_unnamed(turn, added), transfers)
    except NodeError as error:
        raise error.prefaced(f"The agent {holder!r}, who has the conversation, failed") from None


async def _speak(turn: Turn, added: list[Message], transfers: bool) -> Ending:
    """This agent's own part. It may pass the conversation on to the agents among its tools."""
    targets = {tool.name: tool for tool in turn.agent.tools if tool.type == "agent"}
    tools = [_function(targets, tool) for tool in turn.tools if transfers or tool["function"]["name"] not in targets]
    names = [tool["function"]["name"] for tool in tools if tool["function"]["name"] in targets]
    told = await turn.told("reasoner", _TOLD.format(tools=" or ".join(names)) if names else "")
    toolbox = _Transfers(turn.locate, turn.agent, turn.settings, turn.journal.usage, turn.metrics)
    loop = turn.ask("reasoner", toolbox, agent=turn.agent.name)
    return await loop.run([*turn.prompt(told), *_unnamed(turn, added)], tools)


def _function(targets: Mapping[str, Tool], tool: dict[str, Any]) -> dict[str, Any]:
    """A tool as the model is told of it: asking an agent is passing the conversation on to it here."""
    target = targets.get(tool["function"]["name"])
    if target is None:
        return tool
    description = target.description or f"Pass the conversation on to the agent {target.agent}."
    return {**tool, "function": {"name": target.name, "description": description, "parameters": target.parameters or _PARAMETERS}}


class _Transfers(Toolbox):
    """The tools of a member: calling an agent moves the conversation, if that agent is there to take it."""

    async def ask_agent(self, tool: Tool, arguments: Mapping[str, Any]) -> Any:
        try:
            await check_ready(self._locate, tool.agent)
        except NodeError as error:
            raise ToolFailed(f"The conversation cannot be passed on: {error.message} Go on yourself, or try another.") from None
        if self.moved_to:
            raise ToolFailed(f"The conversation has been passed on to {self.moved_to!r} already.")
        self.moved_to = tool.agent
        return f"The conversation is with the agent {tool.agent} now."


async def check_ready(locate: Locate, agent: str) -> None:
    """Raises NodeError where the agent is not there, or cannot run."""
    row = await fetch(locate("agents", agent), "GET", path_of(agent))
    if row.get("status") != "ready":
        raise NodeError(f"The agent {agent!r} is {row.get('status')}: {row.get('reason') or 'its file is broken'}.")


async def _holder(turn: Turn) -> str:
    """Who has the conversation: whoever gave its last answer, if still there."""
    own = turn.agent.name
    holder = next((message["name"] for message in reversed(turn.history) if message["role"] == "assistant" and message.get("name")), own)
    if holder != own:
        try:
            await check_ready(turn.locate, holder)
        except NodeError as error:
            log.warning("agent %s: %s had a conversation of its swarm and is not there now: %s", own, holder, error.code)
            return own
    return str(holder)


def _unnamed(turn: Turn, added: list[Message]) -> list[Message]:
    """The conversation without the names of those who gave the answers, which not every provider accepts."""
    messages = [*turn.history, *added]
    return [{key: value for key, value in each.items() if key != "name" or each["role"] != "assistant"} for each in messages]


def _named(added: list[Message], holder: str) -> list[Message]:
    """What the turn has added, with the name of who has the conversation now on its last answer."""
    if not added:  # a guardrail withheld the answer
        return added
    *before, last = added
    return [*before, {**last, "name": holder}] if last["role"] == "assistant" else added
