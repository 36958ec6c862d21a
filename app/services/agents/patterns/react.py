"""react: one model that reasons and acts by its tools until it answers."""

from app.services.agents.loop import Ending
from app.services.agents.turn import Turn


async def run(turn: Turn) -> Ending:
    return await turn.ask("reasoner").run([*turn.prompt(), *turn.history], turn.tools)
