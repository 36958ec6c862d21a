"""Another agent of a swarm, lent the conversation for one turn, wherever it runs: its steps, words and tokens count as this run's, and the
guardrails of the agent that was asked are over its own."""

import json
from contextlib import aclosing
from typing import Any

from app.call import call
from app.errors import AnsweredError, PeerLost, ServiceUnavailable
from app.services.agents.completion import Message
from app.services.agents.events import Event
from app.services.agents.guardrails.guardrail import Screened
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
        self._guards = turn.guards
        self._passing: Screened | None = None
        """The text that is being told, of the step ``_speaking``."""
        self._speaking = 0
        self._screened: dict[str, str] = {}
        """Whole texts of its models -> what may be shown of them."""

    async def speak(self, messages: list[Message], transfers: bool) -> Ending:
        """Its part of the conversation. Raises what its run raises, and Blocked."""
        self._guards.check_cost({"messages": messages})
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
                return await self._ending(await reply.json())
            async with aclosing(reply.chunks()) as chunks, aclosing(decode(chunks)) as events:
                async for event in events:
                    if event.name == "error":
                        raise AnsweredError(502, event.data.encode())
                    if event.name == "done":
                        await self._tell_rest()
                        return await self._ending(json.loads(event.data))
                    await self._pass_on(event.name, json.loads(event.data))
        raise PeerLost(f"The part of the agent {self._agent!r} broke off before its end; ask again.")

    async def _pass_on(self, kind: str, data: dict[str, Any]) -> None:
        number = self._number(data["step"])
        if kind == "token":
            await self._pass_words(number, data["text"])
            return
        await self._tell_rest()
        await self._turn.journal.emit(Event(kind, {**data, "step": number, "agent": self._agent}))

    async def _pass_words(self, number: int, words: str) -> None:
        if self._guards.judges_output:
            return  # they are told when they have been judged
        if number != self._speaking:
            await self._tell_rest()
        if self._passing is None:
            self._passing, self._speaking = self._guards.screened(), number
        await self._tell(number, self._passing.feed(words))
        self._passing.check()

    async def _tell_rest(self) -> None:
        """What has waited: a step's words are at their end."""
        text, self._passing = self._passing, None
        if text is not None:
            await self._tell(self._speaking, text.finish())
            text.check()

    async def _tell(self, number: int, words: str) -> None:
        if words:
            await self._turn.journal.emit(Event("token", {"step": number, "text": words}))

    def _number(self, step: int) -> int:
        if step not in self._numbers:
            self._numbers[step] = self._turn.journal.begin()
        return self._numbers[step]

    async def _ending(self, result: dict[str, Any]) -> Ending:
        usage = self._turn.journal.usage
        usage.merge(result["usage"]["by_model"])
        usage.model = result["usage"]["model"] or usage.model
        for step in result["steps"]:
            number, content = self._number(step["step"]), await self._shown(step["content"])
            if self._turn.journal.streaming and self._guards.judges_output:
                await self._tell(number, content)
            self._turn.journal.write({**step, "step": number, "content": content, "agent": self._agent})
        answer, added = await self._shown(result["answer"]), [await self._kept(message) for message in result["swarm"]["messages"]]
        outcome = "truncated" if self._guards.cut_by and result["outcome"] == "answered" else result["outcome"]
        return Ending(answer, outcome, added, to=result["swarm"]["to"] or "", guardrail=result.get("guardrail") or "")

    async def _kept(self, message: Message) -> Message:
        content = message.get("content")
        said = message["role"] == "assistant" and isinstance(content, str)
        return {**message, "content": await self._shown(str(content))} if said else message

    async def _shown(self, text: str) -> str:
        """Raises Blocked."""
        if text not in self._screened:
            self._screened[text] = await self._guards.screen(text)
        return self._screened[text]
