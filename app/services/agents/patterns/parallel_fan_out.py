"""parallel_fan_out: a planner splits the question, workers do the parts at once, a synthesizer answers. One that fails stops no other."""

import asyncio

from app.services.agents.loop import Ending
from app.services.agents.patterns.plan import draw_up
from app.services.agents.patterns.work import Work, carry_out, synthesize
from app.services.agents.turn import Turn

_PLANNER = (
    "Split what the user asks last into parts that can be worked on at the same time, none of which needs the result of another. Do not "
    "answer it yourself. Each part is for somebody who sees nothing of this conversation nor of the others: say in it all that is needed."
)


async def run(turn: Turn) -> Ending:
    tasks = await draw_up(turn, "tasks", turn.agent.max_iterations, _PLANNER, turn.history)
    slots = asyncio.Semaphore(turn.settings.parallel_workers)

    async def work(task: str) -> Work:
        async with slots:
            return await carry_out(turn, task, at_once=True)

    async with asyncio.TaskGroup() as group:
        works = [group.create_task(work(task)) for task in tasks]
    return await synthesize(turn, [each.result() for each in works])
