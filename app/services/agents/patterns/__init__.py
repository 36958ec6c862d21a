"""How an agent goes about a question, by the name of the pattern in its file."""

from collections.abc import Awaitable, Callable, Mapping

from app.services.agents.loop import Ending
from app.services.agents.patterns import parallel_fan_out, pipeline, plan_and_execute, react, supervisor, swarm
from app.services.agents.turn import Turn

Pattern = Callable[[Turn], Awaitable[Ending]]

PATTERNS: Mapping[str, Pattern] = {
    "react": react.run,
    "plan_and_execute": plan_and_execute.run,
    "parallel_fan_out": parallel_fan_out.run,
    "pipeline": pipeline.run,
    "supervisor": supervisor.run,
    "swarm": swarm.run,
}
