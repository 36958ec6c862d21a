"""plan_and_execute: a planner writes the steps, a worker carries them out one after the other, a synthesizer answers.

A step that fails is planned around, a few times; the steps carried out in all are at most the agent's max_iterations.
"""

from app.services.agents.loop import Ending
from app.services.agents.patterns.plan import draw_up
from app.services.agents.patterns.work import Work, carry_out, listed, synthesize
from app.services.agents.turn import Turn

_REPLANS = 3
_PLANNER = (
    "Plan how to get at what the user asks last. Do not answer it yourself. Each step is carried out on its own, by somebody who sees the "
    "results of the steps before it but nothing else of this conversation: say in it all that is needed. Take as few steps as will do."
)
_AGAIN = "This has been done so far:\n{done}\n\nThe last of it failed. Plan the steps that are still needed, by another way."
_UNFINISHED = "The work had to end here, after {count} steps and {replans} changes of the plan. Not done: {left}"


async def run(turn: Turn) -> Ending:
    limit, replans = turn.agent.max_iterations, 0
    works: list[Work] = []
    steps = await draw_up(turn, "steps", limit, _PLANNER, turn.history)
    while steps and len(works) < limit:
        works.append(await carry_out(turn, steps[0], works))
        if works[-1].done:
            steps = steps[1:]
        elif replans == _REPLANS or len(works) == limit:
            break
        else:
            replans += 1
            steps = await _plan_again(turn, works, limit - len(works))
    left = "; ".join(steps)
    return await synthesize(turn, works, _UNFINISHED.format(count=len(works), replans=replans, left=left) if left else "")


async def _plan_again(turn: Turn, works: list[Work], limit: int) -> list[str]:
    return await draw_up(turn, "steps", limit, _PLANNER, turn.history_with(_AGAIN.format(done=listed(works))))
