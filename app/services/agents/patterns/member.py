"""Another agent of a swarm, lent the conversation for one turn, wherever it runs: its steps, words and tokens count as this run's."""

import json
from contextlib import aclosing
from typing import Any

from app.call import call
from app.errors import AnsweredError, PeerLost, ServiceUnavailable
from app.services.agents.completion import Message
from app.services.agents.events import Event
from app.services.agents.loop import Ending
from app.services.agents.toolbox import deeper, path_of
from app.services.agents.turn import Turn
from app.sse import decode


class Member:
    """An agent by its name, for the turn of the agent that was asked."""

    def __init__(self, turn: Turn, agent: str) -> None:
        self._turn, self._agent = turn, agent
        self._numbers: dict[int, int] = {}
        """Its steps' numbers -> those that they have here."""

    async def speak(self, messages: list[Message], transfers: bool) -> Ending:
        """Its part of the conversation. Raises what its run raises."""
        context = deeper()
        if context.agent_depth > self._turn.settings.max_depth:
            limit = self._turn.settings.max_depth
            raise ServiceUnavailable(f"Agents may call agents {limit} deep (spec.agents.max_depth); {self._agent!r} is one too far.")
        carried = {"messages": messages, "transfers": transfers}
        body = {"query": self._turn.query or "-", "context": dict(self._turn.variables.get("context") or {}), "swarm": carried}
        headers = [(b"accept", b"text/event-stream")] if self._turn.journal.streaming else []
        app = self._turn.locate("agents", self._agent)
        async with call(app, "POST", f"{path_of(self._agent)}/run", body=body, headers=headers, context=context) as reply:
            await reply.raise_for_status()
            if not self._turn.journal.streaming:
                return self._ending(await reply.json())
            async with aclosing(reply.chunks()) as chunks, aclosing(decode(chunks)) as events:
                async for event in events:
                    if event.name == "error":
                        raise AnsweredError(502, event.data.encode())
                    if event.name == "done":
                        return self._ending(json.loads(event.data))
                    await self._pass_on(event.name, json.loads(event.data))
        raise PeerLost(f"The part of the agent {self._agent!r} broke off before its end; ask again.")

    async def _pass_on(self, kind: str, data: dict[str, Any]) -> None:
        named = {} if kind == "token" else {"agent": self._agent}
        await self._turn.journal.emit(Event(kind, {**data, "step": self._number(data["step"]), **named}))

    def _number(self, step: int) -> int:
        if step not in self._numbers:
            self._numbers[step] = self._turn.journal.begin()
        return self._numbers[step]

    def _ending(self, result: dict[str, Any]) -> Ending:
        for step in result["steps"]:
            self._turn.journal.write({**step, "step": self._number(step["step"]), "agent": self._agent})
        usage = self._turn.journal.usage
        usage.merge(result["usage"]["by_model"])
        usage.model = result["usage"]["model"] or usage.model
        return Ending(result["answer"], result["outcome"], result["swarm"]["messages"], to=result["swarm"]["to"] or "")
