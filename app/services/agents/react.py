"""ReAct (Yao et al. 2022) by the model's own tool calls: ask, carry out what it calls for, tell it the results, until it answers.

The rule: what the model is told is exactly what the steps show and what memory keeps (cut only where memory has no room for it).
"""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from app.services.agents.completion import Completion, Message, ToolCall
from app.services.agents.events import Emit, Event, Voice
from app.services.agents.model import Model
from app.services.agents.toolbox import Toolbox, ToolResult
from app.services.agents.usage import Usage

_NO_ANSWER = "The agent stopped after {limit} iterations without an answer."
_OUTCOMES = {"length": "truncated", "content_filter": "content_filter"}


@dataclass(frozen=True, slots=True)
class Bounds:
    """How far the loop goes. ``hand_over``: a call of a client tool ends the run, for whoever asked to carry it out."""

    iterations: int
    parallel: int
    hand_over: bool = False


@dataclass(slots=True)
class Loop:
    """One run of the loop. ``messages`` is the conversation so far; ``added`` what the run adds to it; ``steps`` one row for each turn of
    the loop; ``handed_over`` the client's calls that ended it."""

    model: Model
    toolbox: Toolbox
    bounds: Bounds
    usage: Usage
    emit: Emit
    streaming: bool
    added: list[Message] = field(default_factory=list)
    steps: list[dict[str, Any]] = field(default_factory=list)
    handed_over: tuple[ToolCall, ...] = ()

    async def run(self, messages: Sequence[Message], tools: Sequence[dict[str, Any]]) -> tuple[str, str]:
        """Returns the answer and the outcome: answered, truncated, content_filter, max_iterations or tool_calls."""
        request = {"tools": list(tools)} if tools else {}
        for _ in range(self.bounds.iterations):
            completion = await self._ask(messages, request)
            if not completion.tool_calls:
                return completion.content, _OUTCOMES.get(completion.finish_reason, "answered")
            self.handed_over = self._for_client(completion)
            if self.handed_over:
                self._hand_over(completion)
                return completion.content, "tool_calls"
            await self._carry_out(completion.tool_calls)
        return await self._conclude(messages), "max_iterations"

    async def _ask(self, messages: Sequence[Message], request: dict[str, Any]) -> Completion:
        began = time.perf_counter()
        voice = Voice(len(self.steps) + 1, self.emit) if self.streaming else None
        completion = await self.model.complete({**request, "messages": [*messages, *self.added]}, voice)
        self.usage.model = completion.model
        self.usage.add(completion.model, completion.tokens_in, completion.tokens_out)
        self.added.append(completion.message())
        step = {"step": len(self.steps) + 1, "model": completion.model, "content": completion.content, "tool_calls": []}
        self.steps.append(step | {"duration_ms": round((time.perf_counter() - began) * 1000, 3)})
        return completion

    async def _carry_out(self, calls: Sequence[ToolCall]) -> None:
        """All calls of one step, some at a time; their results keep the order of the calls."""
        slots = asyncio.Semaphore(self.bounds.parallel)
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(self._call(call, slots)) for call in calls]
        for call, result in zip(calls, (task.result() for task in tasks), strict=True):
            self.added.append({"role": "tool", "tool_call_id": call.id, "name": call.name, "content": result.content})
            self.steps[-1]["tool_calls"].append({**call_row(call), **result.as_json()})

    async def _call(self, call: ToolCall, slots: asyncio.Semaphore) -> ToolResult:
        async with slots:
            await self._tell_call(call)
            result = await self.toolbox.carry_out(call)
            await self.emit(Event("tool_result", {"step": len(self.steps), **result.as_json()}))
            return result

    async def _tell_call(self, call: ToolCall) -> None:
        told = {"id": call.id, "name": call.name, "arguments": call.arguments, "client": self.toolbox.is_client(call)}
        await self.emit(Event("tool_call", {"step": len(self.steps), **told}))

    def _for_client(self, completion: Completion) -> tuple[ToolCall, ...]:
        wanted = completion.tool_calls if self.bounds.hand_over else ()
        return tuple(call for call in wanted if self.toolbox.is_client(call))

    def _hand_over(self, completion: Completion) -> None:
        """Only the client's calls stay in the conversation: whatever else the model wanted it asks for again when it has their results."""
        self.added[-1] = {**completion.message(), "tool_calls": [call.message_part() for call in self.handed_over]}
        for call in self.handed_over:
            self.steps[-1]["tool_calls"].append({**call_row(call), "status": "client"})

    async def _conclude(self, messages: Sequence[Message]) -> str:
        """The iterations are used up: the model is asked once more, without tools, for what it can say."""
        completion = await self._ask(messages, {})
        if not completion.content:
            self.added[-1] = {"role": "assistant", "content": _NO_ANSWER.format(limit=self.bounds.iterations)}
        elif completion.tool_calls:
            self.added[-1] = {"role": "assistant", "content": completion.content}
        answer: str = self.added[-1]["content"]
        return answer


def call_row(call: ToolCall) -> dict[str, Any]:
    return {"id": call.id, "name": call.name, "arguments": call.arguments}
