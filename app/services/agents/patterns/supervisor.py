"""supervisor: one model that delegates to other agents, looks at what they bring, and asks on until it answers instead of delegating."""

from app.services.agents.loop import Ending
from app.services.agents.turn import Turn

_SUPERVISOR = """You lead other agents, which you ask by calling these tools:
{agents}

Give each what it is best at, several at once where their work is independent. An agent sees nothing of this conversation: tell it all \
that it needs. Look at what it brings; where that is wrong or too little, ask it again and say what is missing, or ask another. \
When you have what it takes, answer the user and call nobody: that ends the work."""


async def run(turn: Turn) -> Ending:
    targets = {tool.name: tool.agent for tool in turn.agent.tools if tool.type == "agent"}
    functions = [tool["function"] for tool in turn.tools if tool["function"]["name"] in targets]
    agents = "\n".join(f"- {each['name']}: {each['description']}" for each in functions)
    told = await turn.told("supervisor", _SUPERVISOR.format(agents=agents), agents=sorted(targets.values()))
    return await turn.ask("supervisor").run([*turn.prompt(told), *turn.history], turn.tools)
