"""What the agent loop adds to its model: the real agents, tools and memory services in process, and a model that answers at once by a
script. Run in a process of its own, `python -m bench.loop RUNS`; the time inside the model is taken off; prints its figures as JSON."""

import json
import statistics
import sys
import tempfile
import time
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import uvloop
import yaml
from starlette.types import ASGIApp, Receive, Scope, Send

from app.call import call
from app.context import background
from app.services.agents.service import Agents
from app.services.memory.service import Memory
from app.services.tools.service import Tools
from app.session import new_session_id
from tests.support import Neighbours, mounted, node_context

AIM_MS = 2.0
ROUNDS = 3
TURNS_PER_SESSION = 10
CASES = {
    "no tool, no memory": ("plain", "hello"),
    "one tool call, no memory": ("plain", "calculate"),
    "no tool, memory": ("remembering", "hello"),
    "one tool call, memory": ("remembering", "calculate"),
}


class ScriptedModel:
    """Calls the calculator once when the last user message asks for it, else answers; ``busy_s`` is the time that this took it."""

    def __init__(self) -> None:
        self.busy_s = 0.0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        raw = (await receive())["body"]
        began = time.perf_counter()
        answer = self._answer(json.loads(raw)["messages"][-1])
        self.busy_s += time.perf_counter() - began
        headers = [(b"content-type", b"application/json"), (b"content-length", str(len(answer)).encode())]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": answer})

    def _answer(self, last: dict[str, Any]) -> bytes:
        message: dict[str, Any] = {"role": "assistant", "content": "It is done."}
        if last["role"] == "user" and last["content"] == "calculate":
            function = {"name": "calculator", "arguments": '{"expression": "17*23"}'}
            message = {"role": "assistant", "content": None, "tool_calls": [{"id": "call_1", "type": "function", "function": function}]}
        choice = {"index": 0, "message": message, "finish_reason": "tool_calls" if message.get("tool_calls") else "stop"}
        usage = {"prompt_tokens": 20, "completion_tokens": 5, "total_tokens": 25}
        return json.dumps({"id": "1", "object": "chat.completion", "model": "scripted", "choices": [choice], "usage": usage}).encode()


def write_agents(folder: Path) -> None:
    """Two agents with a tool, one of which has memory."""
    folder.mkdir(parents=True)
    for name, memory in (("plain", {}), ("remembering", {"memory": {"conversational": {"backend": "sqlite", "max_turns": 20}}})):
        spec = {"prompts": {"system": "You are {{ agent.name }}."}, "tools": [{"name": "calculator", "type": "builtin"}], **memory}
        document = {"apiVersion": "astromesh/v1", "kind": "Agent", "metadata": {"name": name, "version": "1"}, "spec": spec}
        (folder / f"{name}.agent.yaml").write_text(yaml.safe_dump(document))


async def measure(runs: int) -> dict[str, float]:
    """ms per run and case, without the model's own time: the median over runs, of the best round, as the machine is shared."""
    with tempfile.TemporaryDirectory() as folder:
        write_agents(Path(folder) / "config" / "agents")
        async with AsyncExitStack() as stack:
            model, neighbours = ScriptedModel(), Neighbours()
            node = node_context(Path(folder), neighbours)
            neighbours.apps = {"inference": model}
            for name, service in (("tools", Tools({}, node)), ("memory", Memory({}, node)), ("agents", Agents({}, node))):
                neighbours.apps[name] = await stack.enter_async_context(mounted(service))
            taken: dict[str, list[float]] = {case: [] for case in CASES}
            for _ in range(ROUNDS):
                for case, (agent, query) in CASES.items():
                    taken[case].append(await _median_ms(neighbours.apps["agents"], model, (agent, query), runs))
    return {case: min(medians) for case, medians in taken.items()}


async def _median_ms(agents: ASGIApp, model: ScriptedModel, question: tuple[str, str], runs: int) -> float:
    agent, query = question
    took = []
    for number in range(runs):
        if number % TURNS_PER_SESSION == 0:
            session = new_session_id("5" * 12)
        body = {"query": query, "session_id": session}
        model.busy_s = 0.0
        began = time.perf_counter()
        async with call(agents, "POST", f"/v1/agents/{agent}/run", body=body, context=background()) as reply:
            await reply.raise_for_status()
            answer = await reply.json()
        took.append((time.perf_counter() - began - model.busy_s) * 1000)
        if len(answer["steps"]) != (2 if query == "calculate" else 1):
            raise RuntimeError(f"the run took another way than scripted: {answer}")
    return statistics.median(took)


if __name__ == "__main__":
    print(json.dumps(uvloop.run(measure(int(sys.argv[1])))))
