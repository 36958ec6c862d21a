"""One ask of a model: told its tools, it calls for them, is told their results, and so on until it answers (ReAct, Yao et al. 2022).

The rule: what the model is told is exactly what the steps show and what is added to the conversation. Memory keeps that, and cuts it only
where it has no room.
"""

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from app.errors import NodeError
from app.services.agents.completion import Completes, Completion, Message, ToolCall
from app.services.agents.events import Event, Voice
from app.services.agents.journal import Journal
from app.services.agents.toolbox import Toolbox, ToolResult

NO_ANSWER = "The agent stopped after {limit} iterations without an answer."
_OUTCOMES = {"length": "truncated", "content_filter": "content_filter"}


class Speech(Enum):
    """Whether a listener hears the words: as they come, in one piece (where several speak at once), or not at all."""

    LIVE = "live"
    WHOLE = "whole"
    SILENT = "silent"


@dataclass(frozen=True, slots=True)
class Bounds:
    """How far the loop goes, and how many tool calls it carries out at once."""

    iterations: int
    parallel: int


@dataclass(frozen=True, slots=True)
class Ending:
    """How it ended. ``outcome``: answered, truncated, content_filter, max_iterations, tool_calls (``calls`` are for somebody else to carry
    out), or handed_off (``to`` another agent). ``added`` is what the conversation has gained, ``guardrail`` what another agent's answer was
    cut or blocked by."""

    answer: str
    outcome: str
    added: Sequence[Message]
    calls: tuple[ToolCall, ...] = ()
    to: str = ""
    guardrail: str = ""


def _never(call: ToolCall) -> bool:
    return False


@dataclass(slots=True)
class Loop:
    """One ask of whoever plays ``role`` in the agent's pattern. A call that ``ends`` it is not carried out here; after one that has moved
    the conversation the model is not asked again."""

    model: Completes
    toolbox: Toolbox
    bounds: Bounds
    journal: Journal
    role: str
    speech: Speech = Speech.LIVE
    ends: Callable[[ToolCall], bool] = _never
    notes: dict[str, str] = field(default_factory=dict)
    """More that each step is to show, such as the task."""
    added: list[Message] = field(default_factory=list)
    _step: dict[str, Any] = field(default_factory=dict)

    async def run(self, messages: Sequence[Message], tools: Sequence[dict[str, Any]] = ()) -> Ending:
        """Ask, with ``messages`` as what has been said so far."""
        request = {"tools": list(tools)} if tools else {}
        for _ in range(self.bounds.iterations):
            completion = await self._ask(messages, request)
            if not completion.tool_calls:
                return Ending(completion.content, _OUTCOMES.get(completion.finish_reason, "answered"), self.added)
            if calls := tuple(call for call in completion.tool_calls if self.ends(call)):
                return self._end_with(completion, calls)
            await self._carry_out(completion.tool_calls)
            if self.toolbox.moved_to:
                return Ending(completion.content, "handed_off", self.added, to=self.toolbox.moved_to)
        return Ending(await self._conclude(messages), "max_iterations", self.added)

    async def _ask(self, messages: Sequence[Message], request: dict[str, Any]) -> Completion:
        began, number, journal = time.perf_counter(), self.journal.begin(), self.journal
        voice = Voice(number, self.role, journal.emit) if journal.streaming and self.speech is Speech.LIVE else None
        self._step = {"step": number, "role": self.role, "model": "", **self.notes, "content": "", "tool_calls": []}
        try:
            completion = await self.model.complete({**request, "messages": [*messages, *self.added]}, voice)
        except NodeError as error:
            journal.write(self._step | {"error": error.message, "duration_ms": _ms_since(began)})
            raise
        journal.usage.model = completion.model
        journal.usage.add(completion.model, completion.tokens_in, completion.tokens_out)
        self.added.append(completion.message())
        self._step |= {"model": completion.model, "content": completion.content, "duration_ms": _ms_since(began)}
        journal.write(self._step)
        if journal.streaming and voice is None:
            await self._tell(number, completion)
        return completion

    async def _tell(self, number: int, completion: Completion) -> None:
        """What is not heard as it comes is told of when it is there."""
        voice = Voice(number, self.role, self.journal.emit)
        await voice.begin(completion.model)
        if self.speech is Speech.WHOLE and completion.content:
            await voice.say(completion.content)

    async def _carry_out(self, calls: Sequence[ToolCall]) -> None:
        """All calls of one step, some at a time; their results keep the order of the calls."""
        slots = asyncio.Semaphore(self.bounds.parallel)
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(self._call(call, slots)) for call in calls]
        for call, result in zip(calls, (task.result() for task in tasks), strict=True):
            self.added.append({"role": "tool", "tool_call_id": call.id, "name": call.name, "content": result.content})
            self._step["tool_calls"].append({**call_row(call), **result.as_json()})

    async def _call(self, call: ToolCall, slots: asyncio.Semaphore) -> ToolResult:
        async with slots:
            await self._tell_call(call)
            result = await self.toolbox.carry_out(call)
            await self.journal.emit(Event("tool_result", {"step": self._step["step"], "role": self.role, **result.as_json()}))
            return result

    async def _tell_call(self, call: ToolCall) -> None:
        told = {"id": call.id, "name": call.name, "arguments": call.arguments, "client": self.toolbox.is_client(call)}
        await self.journal.emit(Event("tool_call", {"step": self._step["step"], "role": self.role, **told}))

    def _end_with(self, completion: Completion, calls: tuple[ToolCall, ...]) -> Ending:
        """Only these calls stay in the conversation: whatever else the model wanted it asks for again when it has their results."""
        self.added[-1] = {**completion.message(), "tool_calls": [call.message_part() for call in calls]}
        for call in calls:
            self._step["tool_calls"].append({**call_row(call), "status": "client"})
        return Ending(completion.content, "tool_calls", self.added, calls)

    async def _conclude(self, messages: Sequence[Message]) -> str:
        """The iterations are used up: the model is asked once more, without tools, for what it can say."""
        completion = await self._ask(messages, {})
        if not completion.content:
            self.added[-1] = {"role": "assistant", "content": NO_ANSWER.format(limit=self.bounds.iterations)}
        elif completion.tool_calls:
            self.added[-1] = {"role": "assistant", "content": completion.content}
        answer: str = self.added[-1]["content"]
        return answer


def _ms_since(began: float) -> float:
    return round((time.perf_counter() - began) * 1000, 3)


def call_row(call: ToolCall) -> dict[str, Any]:
    return {"id": call.id, "name": call.name, "arguments": call.arguments}
