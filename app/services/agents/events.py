"""What a run tells while it goes on: ``step``, ``token``, ``tool_call``, ``tool_result``, ``done``. A slow listener slows the run."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Event:
    """One thing that happened: its kind and its data, ready for JSON."""

    kind: str
    data: Mapping[str, Any]


Emit = Callable[[Event], Awaitable[None]]


async def silence(event: Event) -> None:
    """The listener of a run that nobody watches."""


@dataclass(slots=True)
class Voice:
    """What the model says in one step, told as it comes. Once ``begun``, somebody has heard of it. ``role`` is who says it."""

    step: int
    role: str
    emit: Emit
    begun: bool = False

    async def begin(self, model: str) -> None:
        """Say who speaks; only the first time counts."""
        if self.begun:
            return
        self.begun = True
        await self.emit(Event("step", {"step": self.step, "role": self.role, "model": model}))

    async def say(self, text: str) -> None:
        await self.emit(Event("token", {"step": self.step, "text": text}))


async def listen(run: Callable[[Emit], Awaitable[None]]) -> AsyncGenerator[Event, None]:
    """The events of ``run``, which goes on in a task of its own: closing this cancels it, and what it raises is raised here."""
    events: asyncio.Queue[Event | None] = asyncio.Queue(maxsize=1)
    left = False

    async def work() -> None:
        try:
            await run(events.put)
        finally:
            if not left:
                await events.put(None)

    task = asyncio.get_running_loop().create_task(work())
    try:
        while (event := await events.get()) is not None:
            yield event
        await task
    finally:
        left = True
        task.cancel()
        await asyncio.wait([task])
        if not task.cancelled():
            task.exception()
